"""`arm-control replay`: the choice of a viewer, invalid input, damaged recordings and output."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from helpers import Rejected
from mcap.reader import make_reader
from other_arms import KUKA
from recordings import foreign

from arm_control.cli import main
from arm_control.commands import replay as watching
from arm_control.commands.replay import Replay, choose_viewer
from arm_control.recording.reading import read_recording
from arm_control.recording.schema import EVENT, Event
from arm_control.recording.writer import RecordingFile
from arm_control.viewers.common.live import LiveArm
from arm_control.viewers.common.trajectory import Trajectory

LONG_S = 60


@pytest.fixture(scope="module")
def recording(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "run.mcap"
    words = ["run", str(tiny_policy), "--random", "2", "--pace", "fast", "--seconds-per-goal", "1"]
    assert main([*words, "--record", str(path)]) == 0
    return path


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """The viewers that were opened, with what they received; they return at once."""
    seen: list[tuple[str, Any]] = []

    def serve(shown: LiveArm | list[Trajectory], **address: Any) -> None:
        seen.append(("web", shown))

    def show_window(shown: LiveArm | Trajectory) -> None:
        seen.append(("window", [shown] if isinstance(shown, Trajectory) else shown))

    monkeypatch.setattr("arm_control.viewers.web.pages.serve", serve)
    monkeypatch.setattr("arm_control.viewers.window.window.show_window", show_window)
    return seen


class TestShownSources:
    """Sources and flags that viewers receive."""

    def test_controllers_are_live_or_recorded_first(self, shown: list[tuple[str, Any]]) -> None:
        """One controller is live; with `--goals` or beside another one it is recorded first."""
        for words in (["ik"], ["ik", "--goals", "2"], ["ik", "zero"]):
            assert main(["replay", *words, "--viewer", "web"]) == 0
        (_, live), (_, played), (_, compared) = shown
        assert isinstance(live, LiveArm)
        assert [episode.name for episode in played[0].episodes] == ["goal 1 of 2", "goal 2 of 2"]
        assert [trajectory.name for trajectory in compared] == ["ik", "zero"]
        assert len(compared[0].episodes) == watching.GOALS

    def test_two_controllers_have_the_same_goals(self, shown: list[tuple[str, Any]]) -> None:
        """Three different goals, which depend on the seed."""
        assert main(["replay", "ik", "zero", "--viewer", "web", "--goals", "3", "--seed", "5"]) == 0
        assert main(["replay", "ik", "--viewer", "web", "--goals", "3", "--seed", "6"]) == 0
        first, second, other = (
            trajectory.segment(0.0, 100.0).goal_m for _, trajectories in shown for trajectory in trajectories
        )
        assert (first == second).all()
        assert len({tuple(goal) for goal in first}) == 3
        assert not (first == other).any()

    def test_every_viewer_plays_a_recording(self, shown: list[tuple[str, Any]], recording: Path) -> None:
        """Alone in the browser and the window, and beside a controller."""
        for viewer in ("web", "window"):
            assert main(["replay", str(recording), "--viewer", viewer]) == 0
        assert main(["replay", str(recording), "ik", "--viewer", "web"]) == 0
        assert [viewer for viewer, _ in shown] == ["web", "window", "web"]
        for _, trajectories in shown:
            assert isinstance(trajectories[0], Trajectory)
            assert trajectories[0].name == "run.mcap"

    def test_a_controller_beside_a_recording_has_its_goals_at_the_same_times(
        self, shown: list[tuple[str, Any]], recording: Path
    ) -> None:
        """It starts from the recorded pose and reaches each goal."""
        for words in ([recording, "ik"], ["ik", recording]):
            assert main(["replay", *map(str, words), "--viewer", "web"]) == 0
        (_, (recorded, simulated)), (_, (first, second)) = shown
        assert (first.name, second.name) == ("ik", "run.mcap")
        assert simulated.length_s == pytest.approx(recorded.length_s, abs=recorded.period_s)
        for episode in recorded.episodes:
            before_next = recorded.sample(episode.end_s - 2 * recorded.period_s)
            beside = simulated.sample(episode.end_s - 2 * recorded.period_s)
            assert (beside.goal_m == before_next.goal_m).all()
            assert beside.error_mm[0] < 1.0 < before_next.error_mm[0]  # one of them has learned nothing
        np.testing.assert_allclose(simulated.sample(0.0).angle_deg, recorded.sample(0.0).angle_deg, atol=1e-6)


def only_an_event(path: Path, recording: Path) -> None:
    with path.open("wb") as stream:
        file = RecordingFile(stream)
        file.add(EVENT, 10**9, msgspec.json.encode(Event(1.0, "end", "nothing happened")))
        file.add_metadata(read_recording(recording).metadata)
        file.finish()


class TestChoiceOfViewer:
    """The choice of a viewer by flags."""

    @pytest.mark.parametrize("display", [True, False])
    def test_the_window_is_the_default_with_a_display(
        self, shown: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch, display: bool
    ) -> None:
        """For one source; otherwise the browser is."""
        monkeypatch.setattr("envs.scene.has_display", lambda: display)
        assert main(["replay", "ik"]) == 0
        assert main(["replay", "ik", "zero"]) == 0
        assert main(["replay", "ik", "--viewer", "web"]) == 0
        assert [viewer for viewer, _ in shown] == ["window" if display else "web", "web", "web"]

    @pytest.mark.parametrize("viewer", [None, "web", "page", "video", "plot"])
    def test_the_file_ending_selects_the_viewer(self, viewer: Any) -> None:
        """.mp4, .png and .html; another `--viewer` is an error."""
        endings = {".mp4": "video", ".MP4": "video", ".png": "plot", ".html": "page"}
        for ending, meant in endings.items():
            command = Replay(("ik",), viewer, f"x{ending}")
            if viewer in (None, meant) or (viewer == "web" and meant == "page"):
                assert choose_viewer(command).name == meant
            else:
                with pytest.raises(ValueError, match="--save: expected a file ending in"):
                    choose_viewer(command)

    def test_port_and_host_select_the_browser(
        self, shown: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Although there is a display."""
        monkeypatch.setattr("envs.scene.has_display", lambda: True)
        assert main(["replay", "ik", "--port", "9000"]) == 0
        assert main(["replay", "ik", "--host", "127.0.0.1"]) == 0
        assert [viewer for viewer, _ in shown] == ["web", "web"]


class TestBadInput:
    """One line on standard error, and exit code 2."""

    @pytest.mark.parametrize("viewer", [["--viewer", "web"], ["--save", "out.png"], ["--verify"]], ids=" ".join)
    def test_files_that_are_no_recordings(
        self,
        rejected: Rejected,
        recording: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        viewer: list[str],
    ) -> None:
        """The line has the file and the reason, for every viewer."""
        monkeypatch.chdir(tmp_path)
        Path("empty.mcap").touch()
        Path("text.mcap").write_text("a,b\n1,2\n")
        Path("folder.mcap").mkdir()
        Path("other.mcap").write_bytes(foreign(b"{}", "their.Thing"))
        only_an_event(Path("nothing.mcap"), recording)
        Path("cut.mcap").write_bytes(recording.read_bytes()[:3000])
        for name, message in (
            ("missing.mcap", "no recording missing.mcap"),
            ("empty.mcap", "is no MCAP file"),
            ("text.mcap", "is no MCAP file"),
            ("folder.mcap", "folder.mcap"),
            ("other.mcap", "is no recording of arm-control"),
            ("nothing.mcap", "holds no tick, so there is nothing to see"),
            ("cut.mcap", "cut.mcap"),
        ):
            line = rejected("replay", name, *viewer)
            assert name in line
            assert message in line
        assert not Path("out.png").exists()

    def test_recordings_of_another_arm(self, rejected: Rejected, recording: Path, tmp_path: Path) -> None:
        """Alone and beside a controller; no file is made."""
        out = tmp_path / "out.png"
        line = rejected("replay", recording, "--arm", KUKA, "--save", out)
        assert "arm3" in line
        assert KUKA in line
        line = rejected("replay", recording, "ik", "--arm", KUKA, "--save", out)
        assert "arm3" in line
        assert not out.exists()

    @pytest.mark.parametrize("flags", [("--goals", "3"), ("--env", "ArmTrack-v0"), ("--imperfections", "xl430")])
    def test_flags_that_a_recording_determines(
        self, rejected: Rejected, recording: Path, tmp_path: Path, flags: tuple[str, str]
    ) -> None:
        """Goals, environment and imperfections."""
        line = rejected("replay", recording, *flags, "--save", tmp_path / "out.png")
        assert f"{flags[0]}: determined by the recording {recording}" in line

    @pytest.mark.parametrize(
        "flags",
        [
            ("--goals", "3"),
            ("--seed", "7"),
            ("--env", "ArmTrack-v0"),
            ("--arm", KUKA),
            ("--imperfections", "xl430"),
        ],
    )
    def test_flags_that_learning_curves_do_not_use(
        self, rejected: Rejected, tiny_run: Path, tmp_path: Path, flags: tuple[str, str]
    ) -> None:
        """Goals, seed, environment, arm and imperfections."""
        line = rejected("replay", tiny_run, *flags, "--save", tmp_path / "out.png")
        assert f"{flags[0]}: has no effect on the learning curves of runs" in line

    def test_an_invalid_host(self, rejected: Rejected, recording: Path) -> None:
        """Malformed, unknown and foreign addresses."""
        for host in ("\u00e9\u00e9..x", "nowhere.invalid", "192.0.2.1"):
            assert f"cannot be opened on {host}" in rejected("replay", recording, "--viewer", "web", "--host", host)

    def test_a_missing_display(self, rejected: Rejected, monkeypatch: pytest.MonkeyPatch) -> None:
        """The line suggests the web viewer."""
        monkeypatch.delenv("DISPLAY", raising=False)
        line = rejected("replay", "ik", "--viewer", "window")
        assert "requires a display, and there is none" in line
        assert "--viewer web" in line

    def test_a_port_in_use(self, rejected: Rejected, recording: Path) -> None:
        """The line names the port and its flag."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            line = rejected("replay", recording, "--viewer", "web", "--port", port)
        assert f"port {port} is in use" in line
        assert "--port" in line.replace(f"port {port}", "")

    @pytest.mark.parametrize("encoder", ["no-such-ffmpeg", "/bin/true", "/bin/false"])
    def test_a_missing_or_useless_ffmpeg(self, recording: Path, tmp_path: Path, encoder: str) -> None:
        """The line names the program, and no file is left."""
        words = [sys.executable, "-m", "arm_control.cli", "replay", recording, "--save", tmp_path / "x.mp4"]
        environment = os.environ | {"IMAGEIO_FFMPEG_EXE": encoder}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 2
        assert done.stderr.startswith("arm-control: error: ")
        assert done.stderr.count("\n") == 1
        assert "no ffmpeg was found" in done.stderr or f"{encoder} has no codec for it" in done.stderr
        assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def damaged(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording with a damaged chunk in the middle, which its index does not show."""
    path = tmp_path_factory.mktemp("damaged") / "run.mcap"
    words = ["run", str(tiny_policy), "--random", "2", "--pace", "fast", "--seconds-per-goal", "10"]
    assert main([*words, "--record", str(path)]) == 0
    with path.open("rb") as stream:
        summary = make_reader(stream).get_summary()
    assert summary is not None
    data, at = path.read_bytes(), summary.chunk_indexes[1].chunk_start_offset + 1000
    path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
    return path


class TestDamage:
    """Damaged recordings."""

    def test_a_truncated_recording_is_shown_up_to_its_end(
        self, tiny_policy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """With a warning that counts the lost bytes."""
        whole, cut = tmp_path / "whole.mcap", tmp_path / "cut.mcap"
        words = ["run", str(tiny_policy), "--random", "1", "--pace", "fast", "--seconds-per-goal", str(LONG_S)]
        assert main([*words, "--record", str(whole)]) == 0
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        capfd.readouterr()
        assert main(["replay", str(cut), "--save", str(tmp_path / "cut.png")]) == 0
        out, error = capfd.readouterr()
        assert re.fullmatch(r"cut\.mcap is damaged: \d+ bytes \(.+\)\n", error)
        shown = re.fullmatch(rf"{tmp_path}/cut\.png: cut\.mcap, ([\d.]+) s\n", out)
        assert shown is not None
        assert 0.1 * LONG_S < float(shown[1]) < 0.9 * LONG_S

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["out.png", "out.mp4", "out.html"])
    def test_damage_found_while_reading_is_reported(
        self, damaged: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
    ) -> None:
        """At the end of a plot, a video and a page."""
        capfd.readouterr()
        assert main(["replay", str(damaged), "--save", str(tmp_path / name)]) == 0
        assert re.fullmatch(r"run\.mcap is damaged: \d+ bytes \(a damaged chunk\)\n", capfd.readouterr().err)

    def test_damage_found_before_ctrl_c_is_reported(
        self, damaged: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Exit code 130."""

        def looks_and_stops(trajectories: list[Trajectory], **_: Any) -> None:
            trajectories[0].segment(0.0, trajectories[0].length_s)
            raise KeyboardInterrupt

        monkeypatch.setattr("arm_control.viewers.web.pages.serve", looks_and_stops)
        capfd.readouterr()
        assert main(["replay", str(damaged), "--viewer", "web"]) == 130
        assert "run.mcap is damaged: " in capfd.readouterr().err


class TestOutput:
    """Served pages and written files."""

    @pytest.mark.slow
    def test_the_page_is_served_until_ctrl_c(self, recording: Path) -> None:
        """Exit code 130, without a traceback."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = [
            sys.executable,
            "-m",
            "arm_control.cli",
            "replay",
            str(recording),
            "--viewer",
            "web",
            "--port",
            str(port),
        ]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert f"http://127.0.0.1:{port}" in line, line
            with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=30) as answer:
                assert b"<html" in answer.read().lower()
            process.send_signal(signal.SIGINT)
            out, error = process.communicate(timeout=60)
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == 130
        assert "Traceback" not in error
        assert out == ""

    @pytest.mark.parametrize("name", ["out.png", "out.html"])
    def test_a_failed_replay_keeps_the_older_file(
        self, recording: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
    ) -> None:
        """Plots and pages are written whole or not at all."""
        path = tmp_path / name
        capfd.readouterr()
        assert main(["replay", str(recording), "--save", str(path)]) == 0
        out, error = capfd.readouterr()
        assert out.startswith(f"{path}: run.mcap, ")
        assert error == ""
        assert [file.name for file in tmp_path.iterdir()] == [name]
        before = path.read_bytes()
        cut = tmp_path / "cut.mcap"
        shutil.copy(recording, cut)
        os.truncate(cut, 100)
        assert main(["replay", str(cut), "--save", str(path)]) == 2
        assert path.read_bytes() == before
