"""Calibration files, whatever is in them; and the command that makes them, with servos moved by hand."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from locations import ROOT

from arm_control import cli
from arm_control.commands.calibrate import fit_joint
from arm_control.drivers.dynamixel.calibration import (
    LARGEST_FILE,
    TICKS_PER_DEGREE,
    Calibration,
    JointCalibration,
    clip_to_servo,
    load_calibration,
    parse_calibration,
)
from arm_control.drivers.emulator.emulated_arm import make_calibration
from arm_control.drivers.emulator.emulator import Emulator
from arm_control.drivers.emulator.protocol import Instruction, make_packet
from envs.arm import Arm

ARM = Arm()


def joint(**changes: Any) -> JointCalibration:
    fields: dict[str, Any] = {
        "name": "base_yaw",
        "servo_id": 1,
        "model_number": 1060,
        "zero_tick": 1024.0,
        "direction": 1,
        "ticks_per_degree": TICKS_PER_DEGREE,
        "lower_deg": 0.0,
        "upper_deg": 90.0,
        "max_speed_deg_s": 300.0,
        "max_acceleration_deg_s2": 2000.0,
    }
    return JointCalibration(**fields | changes)


def calibration() -> Calibration:
    return Calibration("arm3", tuple(joint(name=name, servo_id=id) for id, name in enumerate(ARM.joint_names, 1)))


def stamped(**changes: Any) -> bytes:
    """The file of an arm whose first joint is another, with the hash that belongs to it."""
    first, *others = calibration().joints
    fields = msgspec.to_builtins(first) | changes
    return Calibration("arm3", (JointCalibration(**fields), *others)).to_json().encode()


joints = st.builds(
    joint,
    zero_tick=st.floats(1024.0, 3000.0),
    direction=st.sampled_from([1, -1]),
    ticks_per_degree=st.floats(0.971 * TICKS_PER_DEGREE, TICKS_PER_DEGREE),
)


@given(joints, st.floats(0.0, 90.0))
def test_degrees_and_ticks_are_each_others_inverse(one: JointCalibration, angle_deg: float) -> None:
    tick = one.ticks(angle_deg)
    assert abs(one.degrees(tick) - angle_deg) <= 0.5 / one.ticks_per_degree * (1 + 1e-9)
    assert one.ticks(one.degrees(tick)) == tick


@given(joints, st.integers(0, 4095))
def test_every_tick_is_kept(one: JointCalibration, tick: int) -> None:
    assert one.ticks(one.degrees(tick)) == tick


@given(joints)
def test_a_file_says_all_there_is_at_full_precision(one: JointCalibration) -> None:
    whole = Calibration("arm3", (one,))
    again = parse_calibration(whole.to_json().encode())
    assert again == whole
    assert again.sha256 == whole.sha256


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


def refused(data: bytes) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        parse_calibration(data)
    assert type(error.value) is ValueError
    text = str(error.value)
    assert text.splitlines() == [text]
    assert len(text) < 600
    return text


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_in_one_line(data: bytes) -> None:
    refused(data)


@given(json_values)
def test_any_json_is_refused_in_one_line(value: Any) -> None:
    refused(json.dumps(value).encode("utf-8", "surrogatepass"))


FIELDS = [*msgspec.to_builtins(joint())]


@given(st.sampled_from([*FIELDS, "arm", "schema_version", "joints", "extra"]), json_values)
def test_any_value_in_any_place_is_refused_or_changes_the_hash(field: str, value: Any) -> None:
    content = json.loads(calibration().to_json())
    place = content["joints"][0] if field in FIELDS else content
    before = place.get(field)
    place[field] = value
    if value == before:
        return
    refused(json.dumps(content).encode("utf-8", "surrogatepass"))


@given(st.data())
def test_a_file_with_a_wrong_byte_is_refused_or_means_the_same(data: st.DataObject) -> None:
    text = bytearray(calibration().to_json().encode())
    place = data.draw(st.integers(0, len(text) - 1))
    text[place] = data.draw(st.integers(0, 255))
    try:
        assert parse_calibration(bytes(text)) == calibration()
    except ValueError as error:
        assert str(error).splitlines() == [str(error)]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b" " * (LARGEST_FILE + 1),
        b'{"schema_version": 1e999}',
        b'{"schema_version": 1' + b"0" * 5000 + b"}",
        b'{"schema_version": 1, "arm": "\\ud800", "joints": []}',
        b"\xff\xfe{}",
    ],
)
def test_hostile_files_are_refused_in_one_line(data: bytes) -> None:
    refused(data)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"servo_id": 253}, "servo id from 0 to 252, got 253"),
        ({"servo_id": 2}, "each with its own servo id"),
        ({"name": "elbow"}, "each with its own name"),
        ({"direction": 0}, "direction 1 or -1, got 0"),
        ({"ticks_per_degree": 0.0}, "ticks_per_degree 0; expected the servo's 11.38 within 3 %"),
        ({"ticks_per_degree": -TICKS_PER_DEGREE}, "expected the servo's"),
        ({"ticks_per_degree": 5e-324}, "expected the servo's"),
        ({"ticks_per_degree": 2.6 * TICKS_PER_DEGREE, "upper_deg": 30.0}, "expected the servo's"),
        ({"ticks_per_degree": 1.04 * TICKS_PER_DEGREE}, "expected the servo's"),
        ({"ticks_per_degree": 1023 / 300}, "expected the servo's"),
        ({"zero_tick": 1e300}, "finite zero_tick"),
        ({"model_number": -1}, "unknown model number -1"),
        ({"model_number": 1020}, "unknown model number 1020"),
        ({"lower_deg": 90.0}, "lower < upper"),
        ({"lower_deg": 45.0, "upper_deg": 45.1}, "a range of at least 1 degree"),
        ({"lower_deg": -1e300}, "angles from -36000 to 36000"),
        ({"max_speed_deg_s": 0.0}, "positive speeds"),
        ({"max_speed_deg_s": 5e-324}, "speeds from 0.1"),
        ({"max_acceleration_deg_s2": 1e-200}, "accelerations from 0.1"),
        ({"name": "base\x1b[2Jyaw"}, "printable name"),
        ({"name": "x" * 20_000}, "at most 256 characters"),
        ({"zero_tick": 3500.0}, "ticks 3500 to 4524, which cross the servo's edge (0 to 4095): take the horn off"),
        ({"zero_tick": 1000.0, "direction": -1}, "ticks -24 to 1000, which cross"),
    ],
)
def test_what_no_arm_has_is_refused_though_its_hash_is_right(changes: dict[str, Any], said: str) -> None:
    assert said in refused(stamped(**changes))


def test_a_calibration_is_of_one_arm_and_never_wider() -> None:
    calibration().check_arm(ARM)
    # One of before limits were rounded to whole degrees: 1.5708 rad.
    Calibration(
        "arm3", tuple(msgspec.structs.replace(one, upper_deg=90.0002) for one in calibration().joints)
    ).check_arm(ARM)
    for changes, said in (
        ({"upper_deg": 91.0}, "more than the arm's 0 to 90"),
        ({"lower_deg": -1.0}, "more than the arm's 0 to 90"),
        ({"max_speed_deg_s": 400.0}, "more than the arm's 341.999"),
        ({"name": "neck"}, "wanted 'arm3' with"),
    ):
        first, *others = calibration().joints
        other = Calibration("arm3", (JointCalibration(**msgspec.to_builtins(first) | changes), *others))
        with pytest.raises(ValueError, match="joint") as error:
            other.check_arm(ARM)
        assert said in str(error.value)
    with pytest.raises(ValueError, match="is of 'arm4'"):
        Calibration("arm4", calibration().joints).check_arm(ARM)


def test_a_file_changed_by_hand_is_refused_until_stamped_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "calibration.json"
    calibration().save(file)
    assert load_calibration(file) == calibration()
    file.write_text(file.read_text().replace('"upper_deg": 90.0', '"upper_deg": 80.0', 1))
    with pytest.raises(ValueError, match=f"arm-control calibrate --restamp {file}") as error:
        load_calibration(file)
    assert calibration().sha256[:12] in str(error.value)
    assert cli.main(["calibrate", "--restamp", str(file)]) == 0
    assert "hash" in capsys.readouterr().out
    again = load_calibration(file)
    assert again.joints[0].upper_deg == 80.0
    file.write_text(file.read_text().replace('"upper_deg": 80.0', '"upper_deg": 95.0', 1))
    before = file.read_bytes()
    assert cli.main(["calibrate", "--restamp", str(file)]) == 2
    assert "more than the arm's 0 to 90" in capsys.readouterr().err
    assert file.read_bytes() == before


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is none; 'arm-control calibrate' makes one"):
        load_calibration(tmp_path / "absent.json")
    with pytest.raises(ValueError, match="Is a directory"):
        load_calibration(tmp_path)
    with pytest.raises(ValueError, match="calibration a\0b"):
        load_calibration("a\0b")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        load_calibration(tmp_path / "pipe")


def test_a_calibration_that_cannot_be_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    with pytest.raises(ValueError, match="direction"):
        Calibration("arm3", (joint(direction=2),)).save(file)
    assert not file.exists()


# Two poses.


@given(st.floats(0.0, 4095.0), st.sampled_from([1, -1]), st.floats(-2.0, 2.0))
def test_two_poses_give_zero_and_direction_to_half_of_what_they_are_off(
    zero: float, direction: int, off_deg: float
) -> None:
    far = zero + direction * (90.0 + off_deg) * TICKS_PER_DEGREE
    got_zero, got_direction, scale, got_off_deg = fit_joint((0.0, zero), (90.0, far))
    assert got_direction == direction
    assert abs(got_zero - zero) <= abs(off_deg) / 2 * TICKS_PER_DEGREE + 1e-6
    assert got_off_deg == pytest.approx(abs(off_deg) / 2, abs=1e-6)
    assert scale == pytest.approx(TICKS_PER_DEGREE * (1 + off_deg / 90.0))


@pytest.mark.parametrize("turned_deg", [0.0, 45.0, -80.0, 93.0, 180.0])
def test_poses_that_no_joint_has_are_refused(turned_deg: float) -> None:
    with pytest.raises(ValueError, match="wanted 90 within 3 %"):
        fit_joint((0.0, 1000.0), (90.0, 1000.0 + turned_deg * TICKS_PER_DEGREE))


@pytest.mark.parametrize(("near", "far"), [(3600.0, 528.0), (500.0, 3572.0)])
def test_a_servo_that_passes_its_edge_must_be_mounted_anew(near: float, far: float) -> None:
    with pytest.raises(ValueError, match=r"passes its edge, from .* take the horn off"):
        fit_joint((0.0, near), (90.0, far))


# The command.


class Person(io.StringIO):
    """Standard input of someone who does a thing before each answer; in the end it is closed."""

    def __init__(self, acts: Sequence[Callable[[], object]], answers: Sequence[str] | None = None) -> None:
        super().__init__()
        self._acts, self._answers = list(acts), list(answers or ["\n"] * len(acts))

    def readline(self, size: int | None = -1, /) -> str:
        """The next answer."""
        if not self._acts:
            return ""
        self._acts.pop(0)()
        return self._answers.pop(0)


def hands(emulator: Emulator, poses: Sequence[tuple[int, float]]) -> list[Callable[[], object]]:
    """Moves servos one after the other."""
    return [lambda id=id, ticks=ticks: emulator.turn(id, ticks) for id, ticks in poses]  # type: ignore[misc]


RIGHT = [(1, 1000), (1, 2024), (2, 3000), (2, 1976), (3, 1500), (3, 2530)]


def calibrate(emulator: Emulator, out: Path, person: io.StringIO, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    monkeypatch.setattr(sys, "stdin", person)
    return cli.main(["calibrate", "--port", emulator.path, "--out", str(out), *more])


@pytest.mark.slow
def test_a_person_calibrates_an_arm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "calibration.json"
    with Emulator() as emulator:
        emulator.set_register("operating_mode", 2, 4)
        emulator.set_register("homing_offset", 3, 100)
        assert calibrate(emulator, out, Person(hands(emulator, RIGHT)), monkeypatch) == 0
        said = capsys.readouterr()
        assert said.err == ""
        assert "Move shoulder (servo 2) to 90 degrees and press Enter" in said.out
        assert "servo 2: operating mode was 4, is now 3" in said.out
        assert "servo 3: homing offset was 100, is now 0" in said.out
        assert [emulator.register("torque_enable", id) for id in (1, 2, 3)] == [0, 0, 0]
        made = load_calibration(out)
        made.check_arm(ARM)
        base, shoulder, elbow = made.joints
        assert (base.servo_id, base.zero_tick, base.direction) == (1, 1000.0, 1)
        assert (shoulder.servo_id, shoulder.zero_tick, shoulder.direction) == (2, 3000.0, -1)
        assert elbow.zero_tick == 1503.0  # 6 ticks too far at 90 degrees: half of it on each side
        assert made.limits == ARM.limits
        assert made.sha256[:12] in said.out
        # A second time only if asked to, and with servos in another order.
        assert calibrate(emulator, out, Person([]), monkeypatch) == 2
        assert "exists already" in capsys.readouterr().err
        order = [(3, 1000), (3, 2024), (2, 3000), (2, 1976), (1, 1500), (1, 2530)]
        more = ("--overwrite", "--ids", "3,2,1")
        assert calibrate(emulator, out, Person(hands(emulator, order)), monkeypatch, *more) == 0
        assert [one.servo_id for one in load_calibration(out).joints] == [3, 2, 1]


@pytest.mark.slow
def test_wrong_answers_and_poses_are_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "calibration.json"
    with Emulator() as emulator:
        poses = [(1, 1000), (1, 1500), (1, 1000), (2, 1000), *RIGHT, RIGHT[-1]]
        answers = ["\n"] * 10 + ["what?\n"]
        acts = hands(emulator, poses)
        acts[9], acts[10] = acts[10], acts[9]
        answers[9], answers[10] = answers[10], answers[9]
        assert calibrate(emulator, out, Person(acts, answers), monkeypatch) == 0
    said = capsys.readouterr().out
    assert "the servo turned by 43.9 degrees, wanted 90 within 3 %; once more" in said
    assert "servo 2 turned more: are --ids in the order of the joints?" in said
    assert "wanted Enter alone, got 'what?'" in said
    assert load_calibration(out).joints[0].zero_tick == 1000.0


@pytest.mark.slow
def test_an_arm_that_is_on_is_let_go_only_once_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "calibration.json"
    with Emulator() as emulator:
        emulator.answer(make_packet(2, Instruction.WRITE, bytes([64, 0, 1])))
        assert calibrate(emulator, out, Person([]), monkeypatch) == 2
        said = capsys.readouterr()
        assert "Hold the arm, and press Enter to switch it off" in said.out
        assert "standard input ended before the arm was calibrated: nothing was written" in said.err
        assert emulator.register("torque_enable", 2) == 1
        acts = [lambda: None, *hands(emulator, RIGHT)]
        assert calibrate(emulator, out, Person(acts), monkeypatch) == 0
        assert emulator.register("torque_enable", 2) == 0


@pytest.mark.slow
@pytest.mark.parametrize("done", range(6))
def test_nothing_is_written_if_input_ends_anywhere(
    done: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Emulator() as emulator:
        person = Person(hands(emulator, RIGHT[:done]))
        assert calibrate(emulator, tmp_path / "calibration.json", person, monkeypatch) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
        assert list(tmp_path.iterdir()) == []
        assert [emulator.register("torque_enable", id) for id in (1, 2, 3)] == [0, 0, 0]


@pytest.mark.slow
def test_arms_that_cannot_be_calibrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "calibration.json"

    def said(emulator: Emulator, person: io.StringIO, *more: str) -> str:
        assert calibrate(emulator, out, person, monkeypatch, *more) == 2
        text = capsys.readouterr().err
        assert len(text.splitlines()) == 1
        assert not out.exists()
        return text

    with Emulator(ids=(1, 2, 3, 4)) as emulator:
        text = said(emulator, Person([]))
        assert "wanted a servo for each of base_yaw, shoulder, elbow; answering at 1000000 baud: 1 (model 1060)" in text
        assert "--ids names 1, 2, 9" in said(emulator, Person([]), "--ids", "1,2,9")
        assert "different servo ids" in said(emulator, Person([]), "--ids", "1,1,2")
        assert "different servo ids" in said(emulator, Person([]), "--ids", "a")
        edge = hands(emulator, [(1, 3600), (1, 528)])
        assert "base_yaw (servo 1): between 0 and 90 degrees the servo passes its edge" in said(
            emulator, Person(edge), "--ids", "1,2,3"
        )
        emulator.set_register("max_position_limit", 1, 1500)
        assert "takes goals from 0 to 1500 ticks, its range is 1000 to 2024" in said(
            emulator, Person(hands(emulator, RIGHT[:2])), "--ids", "1,2,3"
        )
        emulator.set_register("model_number", 2, 1020)
        assert "servo 2 is of model 1020" in said(emulator, Person([]), "--ids", "1,2,3")
        emulator.inject("encoder", 3)
        assert "servo 3 reports motor encoder" in said(emulator, Person([]), "--ids", "1,3,4")
        absent = ["calibrate", "--port", emulator.path, "--out", str(tmp_path / "absent" / "file.json")]
        assert cli.main(absent) == 2
        assert "there is no folder" in capsys.readouterr().err


def test_a_person_who_gives_up_leaves_nothing_behind(tmp_path: Path) -> None:
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


# Joints that turn as far as a servo can, or further.


def full_turn(tmp_path: Path, low: str = "-3.141592653589793", high: str = "3.141592653589793") -> Path:
    """The default arm, whose base turns all the way round."""
    file = tmp_path / "turn.urdf"
    limit = 'lower="0" upper="1.5707963267948966"'
    file.write_text(ARM.urdf_text.replace(limit, f'lower="{low}" upper="{high}"', 1))
    return file


@pytest.mark.parametrize(
    ("mounted", "direction", "range_deg"),
    [
        # 4096 ticks a turn: from tick 2048, 2048 ticks down and 2047 up.
        (2048.0, 1, (-180.0, 2047 / 4096 * 360)),
        (2048.0, -1, (-2047 / 4096 * 360, 180.0)),
        # 10 degrees beside the middle.
        (2048.0 + 4096 / 36, 1, (-180.0, 2047 / 4096 * 360 - 10)),
    ],
)
def test_a_range_is_clipped_to_what_the_servo_measures(
    mounted: float, direction: int, range_deg: tuple[float, float]
) -> None:
    low, high = clip_to_servo(-180.0, 180.0, mounted, direction)
    assert (low, high) == pytest.approx(range_deg, abs=1e-9)
    joint(zero_tick=mounted, direction=direction, lower_deg=low, upper_deg=high).check()


@given(st.floats(0.0, 4095.0), st.sampled_from([1, -1]), st.floats(-400.0, 0.0), st.floats(1.0, 400.0))
def test_a_clipped_range_is_within_the_servo_and_the_joint(
    zero: float, direction: int, low: float, high: float
) -> None:
    clipped_low, clipped_high = clip_to_servo(low, high, zero, direction)
    assert low <= clipped_low
    assert clipped_high <= high
    ticks = [zero + direction * angle * 4096 / 360 for angle in (clipped_low, clipped_high)]
    assert min(ticks) >= -1e-6
    assert max(ticks) <= 4095 + 1e-6


@pytest.mark.slow
def test_a_joint_of_a_whole_turn_is_calibrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its range is what the servo can measure, and the person is told; mounted far from the middle it is refused."""
    out = tmp_path / "calibration.json"
    arm = ("--arm", str(full_turn(tmp_path)))
    with Emulator() as emulator:
        poses = [(1, 2000), (1, 3024), *RIGHT[2:]]
        assert calibrate(emulator, out, Person(hands(emulator, poses)), monkeypatch, *arm) == 0
        said = capsys.readouterr().out
        assert "base_yaw (servo 1): its range of -180 to 180 degrees is clipped to -175.78 to 180.00" in said
        base = load_calibration(out).joints[0]
        assert base.tick_range == (0, 4048)
        far = [(1, 1000), (1, 2024)]
        assert calibrate(emulator, out, Person(hands(emulator, far)), monkeypatch, *arm, "--overwrite") == 2
        assert "turn it by about 92 degrees" in capsys.readouterr().err


def test_an_emulated_joint_of_a_whole_turn_is_clipped_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error, beside the default joints, of which nothing is said."""
    made = make_calibration(Arm(full_turn(tmp_path)), (1, 2, 3))
    assert made.joints[0].tick_range == (0, 4095)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("base_yaw: its range of -180 to 180 degrees is clipped to -180.00 to 179.91")
    assert said.err.count("\n") == 1
