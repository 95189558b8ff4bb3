"""Measuring a calibration: the fit of two poses, and the command on emulated servos that are turned by hand."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from locations import ROOT

from arm_control import cli
from arm_control.drivers.dynamixel.calibration import TICKS_PER_DEGREE, load_calibration
from arm_control.drivers.dynamixel.measuring import fit_joint
from arm_control.drivers.emulator.emulated_arm import make_calibration
from arm_control.drivers.emulator.emulator import Emulator
from arm_control.drivers.emulator.protocol import Instruction, make_packet
from envs.arm import Arm

ARM = Arm()


def full_turn(tmp_path: Path) -> Path:
    """The default arm with a base that turns from -180 to 180 degrees."""
    file = tmp_path / "turn.urdf"
    range_rad = 'lower="0" upper="1.5707963267948966"'
    file.write_text(ARM.urdf_text.replace(range_rad, 'lower="-3.141592653589793" upper="3.141592653589793"', 1))
    return file


class TestFit:
    """A joint's calibration from two poses, an angle and a tick each."""

    @given(st.floats(0.0, 4095.0), st.sampled_from([1, -1]), st.floats(-2.0, 2.0))
    def test_the_error_is_split_between_both_poses(self, zero: float, direction: int, off_deg: float) -> None:
        """Zero and direction are exact to half of what the poses are off."""
        far = zero + direction * (90.0 + off_deg) * TICKS_PER_DEGREE
        got_zero, got_direction, scale, got_off_deg = fit_joint((0.0, zero), (90.0, far))
        assert got_direction == direction
        assert abs(got_zero - zero) <= abs(off_deg) / 2 * TICKS_PER_DEGREE + 1e-6
        assert got_off_deg == pytest.approx(abs(off_deg) / 2, abs=1e-6)
        assert scale == pytest.approx(TICKS_PER_DEGREE * (1 + off_deg / 90.0))

    @pytest.mark.parametrize("turned_deg", [0.0, 45.0, -80.0, 93.0, 180.0])
    def test_impossible_poses_are_rejected(self, turned_deg: float) -> None:
        """The measured scale must be within 3 % of the encoder's."""
        with pytest.raises(ValueError, match="expected 90 within 3 %"):
            fit_joint((0.0, 1000.0), (90.0, 1000.0 + turned_deg * TICKS_PER_DEGREE))

    @pytest.mark.parametrize(("near", "far"), [(3600.0, 528.0), (500.0, 3572.0)])
    def test_a_servo_that_passes_its_edge_must_be_remounted(self, near: float, far: float) -> None:
        """The error describes how to mount the horn."""
        with pytest.raises(ValueError, match=r"passes its edge, from .* take the horn off"):
            fit_joint((0.0, near), (90.0, far))


class Person(io.StringIO):
    """Standard input of a person who performs an act before each line; it ends after the last."""

    def __init__(self, acts: Sequence[Callable[[], object]], replies: Sequence[str] | None = None) -> None:
        super().__init__()
        self._acts, self._replies = list(acts), list(replies or ["\n"] * len(acts))

    def readline(self, size: int | None = -1, /) -> str:
        """The next line of input."""
        if not self._acts:
            return ""
        self._acts.pop(0)()
        return self._replies.pop(0)


def hands(emulator: Emulator, poses: Sequence[tuple[int, float]]) -> list[Callable[[], object]]:
    """Acts that turn servos, one after the other."""
    return [lambda id=id, ticks=ticks: emulator.turn(id, ticks) for id, ticks in poses]  # type: ignore[misc]


RIGHT = [(1, 1000), (1, 2024), (2, 3000), (2, 1976), (3, 1500), (3, 2530)]


def calibrate(emulator: Emulator, out: Path, person: io.StringIO, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    """Run the command with a person at standard input; returns the exit code."""
    monkeypatch.setattr(sys, "stdin", person)
    return cli.main(["calibrate", "--port", emulator.path, "--out", str(out), *more])


class TestCommand:
    """`arm-control calibrate` with a person who turns the servos."""

    @pytest.mark.slow
    def test_a_person_calibrates_an_arm(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """From servos with other settings to a file, which is replaced only if requested."""
        out = tmp_path / "calibration.json"
        with Emulator() as emulator:
            emulator.set_register("operating_mode", 2, 4)
            emulator.set_register("homing_offset", 3, 100)
            assert calibrate(emulator, out, Person(hands(emulator, RIGHT)), monkeypatch) == 0
            printed = capsys.readouterr()
            assert printed.err == ""
            assert "Move shoulder (servo 2) to 90 degrees and press Enter" in printed.out
            assert "servo 2: operating mode was 4, is now 3" in printed.out
            assert "servo 3: homing offset was 100, is now 0" in printed.out
            assert [emulator.register("torque_enable", id) for id in (1, 2, 3)] == [0, 0, 0]
            made = load_calibration(out)
            made.check_arm(ARM)
            base, shoulder, elbow = made.joints
            assert (base.servo_id, base.zero_tick, base.direction) == (1, 1000.0, 1)
            assert (shoulder.servo_id, shoulder.zero_tick, shoulder.direction) == (2, 3000.0, -1)
            assert elbow.zero_tick == 1503.0  # 6 ticks too far at 90 degrees: half of it on each side
            assert made.limits == ARM.limits
            assert made.sha256[:12] in printed.out
            # A second time only with --overwrite, and with servos in another order.
            assert calibrate(emulator, out, Person([]), monkeypatch) == 2
            assert "exists already" in capsys.readouterr().err
            order = [(3, 1000), (3, 2024), (2, 3000), (2, 1976), (1, 1500), (1, 2530)]
            more = ("--overwrite", "--ids", "3,2,1")
            assert calibrate(emulator, out, Person(hands(emulator, order)), monkeypatch, *more) == 0
            assert [one.servo_id for one in load_calibration(out).joints] == [3, 2, 1]

    @pytest.mark.slow
    def test_invalid_input_and_poses_are_repeated(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Input other than Enter, wrong angles and other servos are reported."""
        out = tmp_path / "calibration.json"
        with Emulator() as emulator:
            poses = [(1, 1000), (1, 1500), (1, 1000), (2, 1000), *RIGHT, RIGHT[-1]]
            replies = ["\n"] * 10 + ["what?\n"]
            acts = hands(emulator, poses)
            acts[9], acts[10] = acts[10], acts[9]
            replies[9], replies[10] = replies[10], replies[9]
            assert calibrate(emulator, out, Person(acts, replies), monkeypatch) == 0
        printed = capsys.readouterr().out
        assert "the servo turned by 43.9 degrees, expected 90 within 3 %; once more" in printed
        assert "servo 2 turned more: are --ids in the order of the joints?" in printed
        assert "expected Enter alone, got 'what?'" in printed
        assert load_calibration(out).joints[0].zero_tick == 1000.0

    @pytest.mark.slow
    def test_torque_goes_off_after_a_confirmation(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Without it the torque stays on and nothing is written."""
        out = tmp_path / "calibration.json"
        with Emulator() as emulator:
            emulator.reply(make_packet(2, Instruction.WRITE, bytes([64, 0, 1])))
            assert calibrate(emulator, out, Person([]), monkeypatch) == 2
            printed = capsys.readouterr()
            assert "Hold the arm, and press Enter to switch it off" in printed.out
            assert "standard input ended before the arm was calibrated: nothing was written" in printed.err
            assert emulator.register("torque_enable", 2) == 1
            acts = [lambda: None, *hands(emulator, RIGHT)]
            assert calibrate(emulator, out, Person(acts), monkeypatch) == 0
            assert emulator.register("torque_enable", 2) == 0

    @pytest.mark.slow
    @pytest.mark.parametrize("done", range(6))
    def test_nothing_is_written_if_input_ends_anywhere(
        self, done: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """One line on standard error, and the torque is off."""
        with Emulator() as emulator:
            person = Person(hands(emulator, RIGHT[:done]))
            assert calibrate(emulator, tmp_path / "calibration.json", person, monkeypatch) == 2
            assert len(capsys.readouterr().err.splitlines()) == 1
            assert list(tmp_path.iterdir()) == []
            assert [emulator.register("torque_enable", id) for id in (1, 2, 3)] == [0, 0, 0]

    @pytest.mark.slow
    def test_arms_that_cannot_be_calibrated(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Missing, wrong or alarmed servos and bad mounting are one line each."""
        out = tmp_path / "calibration.json"

        def message(emulator: Emulator, person: io.StringIO, *more: str) -> str:
            assert calibrate(emulator, out, person, monkeypatch, *more) == 2
            text = capsys.readouterr().err
            assert len(text.splitlines()) == 1
            assert not out.exists()
            return text

        with Emulator(ids=(1, 2, 3, 4)) as emulator:
            text = message(emulator, Person([]))
            assert (
                "expected a servo for each of base_yaw, shoulder, elbow; replying at 1000000 baud: 1 (model 1060)"
                in text
            )
            assert "--ids names 1, 2, 9" in message(emulator, Person([]), "--ids", "1,2,9")
            assert "different servo ids" in message(emulator, Person([]), "--ids", "1,1,2")
            assert "different servo ids" in message(emulator, Person([]), "--ids", "a")
            edge = hands(emulator, [(1, 3600), (1, 528)])
            assert "base_yaw (servo 1): between 0 and 90 degrees the servo passes its edge" in message(
                emulator, Person(edge), "--ids", "1,2,3"
            )
            emulator.set_register("max_position_limit", 1, 1500)
            assert "takes goals from 0 to 1500 ticks, its range is 1000 to 2024" in message(
                emulator, Person(hands(emulator, RIGHT[:2])), "--ids", "1,2,3"
            )
            emulator.set_register("model_number", 2, 1020)
            assert "servo 2 is of model 1020" in message(emulator, Person([]), "--ids", "1,2,3")
            emulator.inject("encoder", 3)
            assert "servo 3 reports motor encoder" in message(emulator, Person([]), "--ids", "1,3,4")
            absent = ["calibrate", "--port", emulator.path, "--out", str(tmp_path / "absent" / "file.json")]
            assert cli.main(absent) == 2
            assert "there is no folder" in capsys.readouterr().err

    def test_ctrl_c_leaves_no_file(self, tmp_path: Path) -> None:
        """Exit code 130, and the torque is off."""
        with Emulator() as emulator:
            program = subprocess.Popen(
                [sys.executable, "-m", "arm_control.cli", "calibrate", "--port", emulator.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": f"{ROOT}"},
                text=True,
            )
            with program:
                assert program.stdout is not None
                assert program.stderr is not None
                while not program.stdout.readline().startswith("Move base_yaw"):
                    pass
                program.send_signal(signal.SIGINT)
                assert program.stderr.read().split("\n") == ["", "interrupted: nothing was written", ""]
            assert program.returncode == 130
            assert list(tmp_path.iterdir()) == []
            assert [emulator.register("torque_enable", id) for id in (1, 2, 3)] == [0, 0, 0]

    @pytest.mark.slow
    def test_a_joint_of_a_whole_turn_is_calibrated(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Its range is clipped to the servo's, with a message; mounted far from the middle it is an error."""
        out = tmp_path / "calibration.json"
        arm = ("--arm", str(full_turn(tmp_path)))
        with Emulator() as emulator:
            poses = [(1, 2000), (1, 3024), *RIGHT[2:]]
            assert calibrate(emulator, out, Person(hands(emulator, poses)), monkeypatch, *arm) == 0
            printed = capsys.readouterr().out
            assert "base_yaw (servo 1): its range of -180 to 180 degrees is clipped to -175.78 to 180.00" in printed
            base = load_calibration(out).joints[0]
            assert base.tick_range == (0, 4048)
            far = [(1, 1000), (1, 2024)]
            assert calibrate(emulator, out, Person(hands(emulator, far)), monkeypatch, *arm, "--overwrite") == 2
            assert "turn it by about 92 degrees" in capsys.readouterr().err


class TestEmulatedArm:
    """Calibrations of emulated arms are computed, not measured."""

    def test_a_joint_of_a_whole_turn_is_clipped_with_a_message(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Only that joint is mentioned, on standard error."""
        made = make_calibration(Arm(full_turn(tmp_path)), (1, 2, 3))
        assert made.joints[0].tick_range == (0, 4095)
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("base_yaw: its range of -180 to 180 degrees is clipped to -180.00 to 179.91")
        assert printed.err.count("\n") == 1
