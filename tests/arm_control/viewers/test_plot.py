"""Plots of motions and learning curves: what is drawn, and that there is no file unless it is whole."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from arm_control.evaluation.metrics import LADDER_MM
from arm_control.recording.schema import Event, Tick
from arm_control.viewers.motion import Episode, Motion, TicksInMemory
from arm_control.viewers.plot import broken, curves_of, motion_figure, runs_of, save_curves, save_plot, shortened
from envs.arm import Arm

TIMES = ("read_us", "decide_us", "safety_us", "write_us")


def a_motion(*, took_us: float = 0.0, angle_deg: float = 20.0, bands: tuple[str, ...] = ("pass",) * 20) -> Motion:
    """An arm that stays at `angle_deg`, told 5 degrees more, a tick each 0.1 s; stopped at the first refusal."""
    times: dict[str, Any] = dict.fromkeys(TIMES, took_us)
    ticks = [
        Tick(
            time_s=at / 10,
            phase="run",
            band=band,
            angle_deg=[angle_deg] * 3,
            speed_deg_s=[7.0, 8.0, 9.0],
            target_deg=[angle_deg + 5.0] * 3,
            goal_m=(0.2, 0.2, 0.3),
            period_error_us=took_us,
            **times,
        )
        for at, band in enumerate(bands)
    ]
    stops = [bands.index("refuse") / 10] if "refuse" in bands else []
    events = [Event(time_s, "refusal", "too fast") for time_s in stops]
    return Motion("stays", Arm(), 0.1, TicksInMemory(ticks), events=events, tolerance_m=0.01)


def labels(motions: list[Motion]) -> list[str]:
    """Of the panels, from above."""
    return [axes.get_ylabel().split("\n")[0] for axes in motion_figure(motions).axes]


def line(axes: Any, label: str) -> list[float]:
    """The heights of one of the lines of a panel."""
    [found] = [line for line in axes.get_lines() if line.get_label() == label]
    return list(found.get_ydata())


def test_a_panel_a_joint_shows_what_was_measured_and_told() -> None:
    motion = a_motion()
    panels = motion_figure([motion]).axes
    for joint in panels[:3]:
        assert line(joint, "measured") == [20.0] * 20
        assert line(joint, "commanded") == [25.0] * 20
    stretch = motion.moment(0.0)
    assert np.asarray(panels[3].get_lines()[0].get_ydata())[0] == pytest.approx(float(stretch.error_mm[0]))
    assert line(panels[4], motion.arm.joint_names[1]) == [8.0] * 20


def test_times_and_safety_have_panels_only_where_they_were_recorded() -> None:
    joints = list(Arm().joint_names)
    assert labels([a_motion()]) == [*joints, "tip to goal", "speed"]
    assert labels([a_motion(took_us=50.0)]) == [*joints, "tip to goal", "speed", "safety", "times"]
    assert labels([a_motion(took_us=50.0), a_motion(took_us=70.0)])[-2:] == ["times", "times"]


def test_a_refusal_is_marked_at_its_time_and_told() -> None:
    figure = motion_figure([a_motion(bands=("pass",) * 4 + ("clamp",) * 2 + ("refuse",) * 4)])
    assert "stopped: too fast" in [text.get_text() for text in figure.axes[0].texts]
    assert any(np.asarray(line.get_xdata()).tolist() == [0.6, 0.6] for line in figure.axes[0].get_lines())


@pytest.mark.parametrize(("goals", "marked"), [(1, False), (5, True), (1000, False)])
def test_goals_are_marked_unless_their_lines_would_hide_the_curves(goals: int, marked: bool) -> None:
    episodes = [Episode(f"goal {at}", 1.9 * at / goals, 1.9 * (at + 1) / goals) for at in range(goals)]
    motion = a_motion()
    motion.episodes = episodes
    upright = [
        line for line in motion_figure([motion]).axes[0].get_lines() if np.asarray(line.get_ydata()).tolist() == [0, 1]
    ]
    assert len(upright) == (goals if marked else 0)


def test_a_plot_says_that_ticks_were_left_out_only_if_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "not all" not in str(motion_figure([a_motion()]).get_suptitle())
    monkeypatch.setattr("arm_control.viewers.plot.MOST_TICKS", 5)
    assert "not all ticks are drawn" in str(motion_figure([a_motion()]).get_suptitle())


def test_a_name_may_have_dollars_in_it(tmp_path: Path) -> None:
    motion = a_motion()
    motion.name = r"a$\frac$b"
    save_plot([motion], tmp_path / "out.png")


@pytest.mark.parametrize(
    ("text", "longest", "shown"),
    [
        ("ab", 5, "ab"),
        ("abcdef", 5, "ab..."),
        ("a\nb\x1b\u202e", 5, "a\ufffdb\ufffd\ufffd"),
        ("\x00" * 99, 4, "\ufffd..."),
    ],
)
def test_texts_fit_and_have_only_characters_that_are_seen(text: str, longest: int, shown: str) -> None:
    assert shortened(text, longest) == shown


def test_two_motions_are_told_apart() -> None:
    joint = motion_figure([a_motion(), a_motion(angle_deg=60.0)]).axes[0]
    low, high = (
        [line for line in joint.get_lines() if np.asarray(line.get_ydata()).tolist() == [angle] * 20]
        for angle in (20, 60)
    )
    assert len(low) == len(high) == 1
    assert low[0].get_color() != high[0].get_color()


def test_bands_are_found_where_they_begin_and_end() -> None:
    bands = ["pass", "clamp", "clamp", "pass", "clamp"]
    assert runs_of(bands, "clamp") == [(1, 2), (4, 4)]
    assert runs_of(bands, "refuse") == []


def test_a_line_is_interrupted_where_ticks_are_missing() -> None:
    ticks = [Tick(**fields) for fields in ({**tick_fields(at / 10)} for at in (*range(10), *range(100, 110)))]
    stretch = Motion("gap", Arm(), 0.1, TicksInMemory(ticks)).stretch(0.0, 20.0)
    times, values = broken(stretch, stretch.time_s)
    assert np.flatnonzero(np.isnan(values)).tolist() == np.flatnonzero(np.isnan(times)).tolist() == [10]


def tick_fields(time_s: float) -> dict[str, Any]:
    """A tick without a reading or a goal."""
    return {"time_s": time_s, "phase": "run", "band": "pass", "period_error_us": 0.0, **dict.fromkeys(TIMES, 0.0)}


def test_nothing_but_ticks_without_readings_can_be_drawn(tmp_path: Path) -> None:
    ticks = [Tick(**tick_fields(at / 10)) for at in range(5)]
    save_plot([Motion("blind", Arm(), 0.1, TicksInMemory(ticks))], tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.format == "PNG"


def test_the_picture_is_a_png_and_written_whole_or_not_at_all(tmp_path: Path) -> None:
    save_plot([a_motion()], tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert (pixels.min(axis=-1) > 240).mean() > 0.7  # paper
    assert (pixels[..., 2] > pixels[..., 0] + 100).sum() > 500  # the blue line
    for name, wanted in (("out.pdf", "ends in .png"), ("missing/out.png", "cannot write")):
        with pytest.raises((ValueError, OSError), match=wanted):
            save_plot([a_motion()], tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


def test_what_has_no_learning_curve_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    [metrics] = run.glob("metrics*")
    rows = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("")
    with pytest.raises(ValueError, match=r"no learning curve yet: it has not reported once"):
        save_curves([run], tmp_path / "out.png")
    metrics.write_text(rows[0])
    save_curves([run], tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises((ValueError, OSError), match="nowhere"):
        save_curves([tmp_path / "nowhere"], tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_seeds_of_one_configuration_are_one_curve_with_its_interval(tiny_run: Path, tmp_path: Path) -> None:
    for name, seed, step_s in (("a", 0, 1.0), ("b", 1, 2.0), ("c", 2, 4.0), ("other", 0, 3.0)):
        shutil.copytree(tiny_run, tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text()) | {"seed": seed}
        if name == "other":
            config["reward"] = "sparse"
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        row = {"step": 0, "updates": 0, **{f"success_{mm}_mm": 0.5 for mm in LADDER_MM}}
        rows = [row | {"elapsed_s": at * 10.0, "mean_error_mm": 100.0 - step_s * 10 * at} for at in (0, 1, 2)]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folders = [tmp_path / name for name in ("a", "b", "c", "other")]
    together, alone = curves_of([*folders, folders[0]]).items()
    names = ", ".join(map(str, folders[:3]))
    assert together[0] == f"ddpg, 3 seeds, 95 % interval: {names}"
    assert alone[0] == f"ddpg, 1 seed: {folders[3]}"
    error, low, high = together[1].error[:, -1]
    assert (error, low, high) == pytest.approx(((0.25 * 80 + 60 + 0.25 * 20) / 1.5, 20, 80))  # interquartile mean
    assert alone[1].error[:, -1] == pytest.approx([40, 40, 40])
    save_curves(folders, tmp_path / "out.png")
    blue, orange = (picture_has(tmp_path / "out.png", colour) for colour in ((0, 114, 178), (213, 94, 0)))
    assert min(blue, orange) > 300


def picture_has(path: Path, colour: tuple[int, int, int]) -> int:
    """How many of its pixels are of this colour."""
    return int((np.abs(np.asarray(Image.open(path).convert("RGB")).astype(int) - colour).max(axis=-1) < 30).sum())
