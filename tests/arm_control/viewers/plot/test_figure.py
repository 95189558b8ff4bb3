"""Plots of trajectories: panels, lines, texts, and whole files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from recordings import durations

from arm_control.recording.schema import Event, Tick
from arm_control.viewers.common.trajectory import Episode, TicksInMemory, Trajectory
from arm_control.viewers.plot.figure import broken, runs_of, save_plot, shortened, trajectory_figure
from envs.arm import Arm


def a_trajectory(
    *, took_us: float = 0.0, angle_deg: float = 20.0, bands: tuple[str, ...] = ("pass",) * 20
) -> Trajectory:
    """An arm at `angle_deg` with targets 5 degrees above, a tick each 0.1 s; stopped at the first fault."""
    ticks = [
        Tick(
            time_s=at / 10,
            phase="run",
            band=band,
            angle_deg=[angle_deg] * 3,
            speed_deg_s=[7.0, 8.0, 9.0],
            target_deg=[angle_deg + 5.0] * 3,
            goal_m=(0.2, 0.2, 0.3),
            **durations(took_us),
        )
        for at, band in enumerate(bands)
    ]
    stops = [bands.index("refuse") / 10] if "refuse" in bands else []
    events = [Event(time_s, "refusal", "too fast") for time_s in stops]
    return Trajectory("stays", Arm(), 0.1, TicksInMemory(ticks), events=events, tolerance_m=0.01)


def labels(trajectories: list[Trajectory]) -> list[str]:
    """The labels of the panels, from the top."""
    return [axes.get_ylabel().split("\n")[0] for axes in trajectory_figure(trajectories).axes]


def line(axes: Any, label: str) -> list[float]:
    """The values of one line of a panel."""
    [found] = [line for line in axes.get_lines() if line.get_label() == label]
    return list(found.get_ydata())


class TestTexts:
    """Names in figures."""

    def test_dollar_signs_are_text(self, tmp_path: Path) -> None:
        """A name with an invalid formula can be drawn."""
        trajectory = a_trajectory()
        trajectory.name = r"a$\frac$b"
        save_plot([trajectory], tmp_path / "out.png")

    @pytest.mark.parametrize(
        ("text", "longest", "shown"),
        [
            ("ab", 5, "ab"),
            ("abcdef", 5, "ab..."),
            ("a\nb\x1b\u202e", 5, "a\ufffdb\ufffd\ufffd"),
            ("\x00" * 99, 4, "\ufffd..."),
        ],
    )
    def test_long_and_unprintable_texts(self, text: str, longest: int, shown: str) -> None:
        """Long texts are cut, and unprintable characters replaced."""
        assert shortened(text, longest) == shown


class TestLines:
    """Runs of levels, and gaps."""

    def test_runs_of_a_level_have_their_first_and_last_index(self) -> None:
        """A level that does not occur has none."""
        bands = ["pass", "clamp", "clamp", "pass", "clamp"]
        assert runs_of(bands, "clamp") == [(1, 2), (4, 4)]
        assert runs_of(bands, "refuse") == []

    def test_a_line_is_interrupted_where_ticks_are_missing(self) -> None:
        """One NaN separates the ticks before and after the gap."""
        ticks = [Tick(**fields) for fields in ({**tick_fields(at / 10)} for at in (*range(10), *range(100, 110)))]
        segment = Trajectory("gap", Arm(), 0.1, TicksInMemory(ticks)).segment(0.0, 20.0)
        times, values = broken(segment, segment.time_s)
        assert np.flatnonzero(np.isnan(values)).tolist() == np.flatnonzero(np.isnan(times)).tolist() == [10]


def tick_fields(time_s: float) -> dict[str, Any]:
    """A tick without a reading or a goal."""
    return {"time_s": time_s, "phase": "run", "band": "pass", **durations()}


class TestPanels:
    """Contents of the panels."""

    def test_each_joint_has_a_panel(self) -> None:
        """With measured and commanded angles."""
        trajectory = a_trajectory()
        panels = trajectory_figure([trajectory]).axes
        for joint in panels[:3]:
            assert line(joint, "measured") == [20.0] * 20
            assert line(joint, "commanded") == [25.0] * 20
        segment = trajectory.sample(0.0)
        assert np.asarray(panels[3].get_lines()[0].get_ydata())[0] == pytest.approx(float(segment.error_mm[0]))
        assert line(panels[4], trajectory.arm.joint_names[1]) == [8.0] * 20

    def test_timings_and_levels_have_panels_if_recorded(self) -> None:
        """Trajectories without timings have neither panel."""
        joints = list(Arm().joint_names)
        assert labels([a_trajectory()]) == [*joints, "tip to goal", "speed"]
        assert labels([a_trajectory(took_us=50.0)]) == [*joints, "tip to goal", "speed", "safety", "times"]
        assert labels([a_trajectory(took_us=50.0), a_trajectory(took_us=70.0)])[-2:] == ["times", "times"]

    def test_a_fault_is_marked_with_its_reason(self) -> None:
        """A vertical line at its time, and a text."""
        figure = trajectory_figure([a_trajectory(bands=("pass",) * 4 + ("clamp",) * 2 + ("refuse",) * 4)])
        assert "stopped: too fast" in [text.get_text() for text in figure.axes[0].texts]
        assert any(np.asarray(line.get_xdata()).tolist() == [0.6, 0.6] for line in figure.axes[0].get_lines())

    @pytest.mark.parametrize(("goals", "marked"), [(1, False), (5, True), (1000, False)])
    def test_goals_are_marked_unless_there_are_too_many(self, goals: int, marked: bool) -> None:
        """Five are, a thousand are not; a single one needs no mark."""
        episodes = [Episode(f"goal {at}", 1.9 * at / goals, 1.9 * (at + 1) / goals) for at in range(goals)]
        trajectory = a_trajectory()
        trajectory.episodes = episodes
        upright = [
            line
            for line in trajectory_figure([trajectory]).axes[0].get_lines()
            if np.asarray(line.get_ydata()).tolist() == [0, 1]
        ]
        assert len(upright) == (goals if marked else 0)

    def test_the_title_says_if_ticks_were_thinned(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A figure with all ticks has no such note."""
        assert "not all" not in str(trajectory_figure([a_trajectory()]).get_suptitle())
        monkeypatch.setattr("arm_control.viewers.plot.figure.MOST_TICKS", 5)
        assert "not all ticks are drawn" in str(trajectory_figure([a_trajectory()]).get_suptitle())

    def test_two_trajectories_have_different_colours(self) -> None:
        """Each has one line of measured angles in a joint's panel."""
        joint = trajectory_figure([a_trajectory(), a_trajectory(angle_deg=60.0)]).axes[0]
        low, high = (
            [line for line in joint.get_lines() if np.asarray(line.get_ydata()).tolist() == [angle] * 20]
            for angle in (20, 60)
        )
        assert len(low) == len(high) == 1
        assert low[0].get_color() != high[0].get_color()

    def test_ticks_without_readings_can_be_plotted(self, tmp_path: Path) -> None:
        """A recording without any reading or goal."""
        ticks = [Tick(**tick_fields(at / 10)) for at in range(5)]
        save_plot([Trajectory("blind", Arm(), 0.1, TicksInMemory(ticks))], tmp_path / "out.png")
        with Image.open(tmp_path / "out.png") as picture:
            assert picture.format == "PNG"


class TestSavePlot:
    """Writing a PNG."""

    def test_the_file_is_a_whole_png_or_there_is_none(self, tmp_path: Path) -> None:
        """With a blue line on white; other endings and missing folders leave no file."""
        save_plot([a_trajectory()], tmp_path / "out.png")
        with Image.open(tmp_path / "out.png") as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        assert (pixels.min(axis=-1) > 240).mean() > 0.7  # paper
        assert (pixels[..., 2] > pixels[..., 0] + 100).sum() > 500  # the blue line
        for name, expected in (("out.pdf", "ending in .png"), ("missing/out.png", "cannot write")):
            with pytest.raises((ValueError, OSError), match=expected):
                save_plot([a_trajectory()], tmp_path / name)
        assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
