"""Calibration files: conversion to ticks, validation of any content, hashes, and clipping to the servo's range."""

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arm_control import cli
from arm_control.drivers.dynamixel.calibration import (
    LARGEST_FILE,
    TICKS_PER_DEGREE,
    Calibration,
    JointCalibration,
    clip_to_servo,
    load_calibration,
    parse_calibration,
)
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
    """A file whose first joint has changed values, with the hash of the changed content."""
    first, *others = calibration().joints
    fields = msgspec.to_builtins(first) | changes
    return Calibration("arm3", (JointCalibration(**fields), *others)).to_json().encode()


joints = st.builds(
    joint,
    zero_tick=st.floats(1024.0, 3000.0),
    direction=st.sampled_from([1, -1]),
    ticks_per_degree=st.floats(0.971 * TICKS_PER_DEGREE, TICKS_PER_DEGREE),
)


class TestConversion:
    """Degrees to ticks and back."""

    @given(joints, st.floats(0.0, 90.0))
    def test_degrees_and_ticks_are_each_others_inverse(self, one: JointCalibration, angle_deg: float) -> None:
        """Degrees come back to half a tick, and ticks exactly."""
        tick = one.ticks(angle_deg)
        assert abs(one.degrees(tick) - angle_deg) <= 0.5 / one.ticks_per_degree * (1 + 1e-9)
        assert one.ticks(one.degrees(tick)) == tick

    @given(joints, st.integers(0, 4095))
    def test_every_tick_is_kept(self, one: JointCalibration, tick: int) -> None:
        """Each of the 4096 ticks is the nearest one to its own angle."""
        assert one.ticks(one.degrees(tick)) == tick


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


def rejected(data: bytes) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        parse_calibration(data)
    assert type(error.value) is ValueError
    text = str(error.value)
    assert text.splitlines() == [text]
    assert len(text) < 600
    return text


FIELDS = [*msgspec.to_builtins(joint())]


class TestFile:
    """Writing and reading a file."""

    @given(joints)
    def test_a_file_is_read_back_exactly(self, one: JointCalibration) -> None:
        """Values and hash survive JSON without rounding."""
        whole = Calibration("arm3", (one,))
        again = parse_calibration(whole.to_json().encode())
        assert again == whole
        assert again.sha256 == whole.sha256

    def test_an_edited_file_is_rejected_until_restamped(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The error names `calibrate --restamp`, which accepts valid edits only."""
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

    def test_files_that_cannot_be_read(self, tmp_path: Path) -> None:
        """Missing files, folders, pipes and invalid names are errors with the reason."""
        with pytest.raises(ValueError, match="does not exist; 'arm-control calibrate' makes one"):
            load_calibration(tmp_path / "absent.json")
        with pytest.raises(ValueError, match="Is a directory"):
            load_calibration(tmp_path)
        with pytest.raises(ValueError, match="calibration a\0b"):
            load_calibration("a\0b")
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ValueError, match="not a regular file"):
            load_calibration(tmp_path / "pipe")

    def test_an_invalid_calibration_is_not_written(self, tmp_path: Path) -> None:
        """Saving checks first, and leaves no file."""
        file = tmp_path / "calibration.json"
        with pytest.raises(ValueError, match="direction"):
            Calibration("arm3", (joint(direction=2),)).save(file)
        assert not file.exists()


class TestInvalidContent:
    """Any content that is no calibration is a ValueError of one short line."""

    @given(st.binary(max_size=300))
    def test_arbitrary_bytes(self, data: bytes) -> None:
        """Random bytes raise nothing but that error."""
        rejected(data)

    @given(json_values)
    def test_arbitrary_json(self, value: Any) -> None:
        """Random JSON values raise nothing but that error."""
        rejected(json.dumps(value).encode("utf-8", "surrogatepass"))

    @given(st.sampled_from([*FIELDS, "arm", "schema_version", "joints", "extra"]), json_values)
    def test_any_changed_value_is_detected(self, field: str, value: Any) -> None:
        """Every field that is replaced by another value makes the file invalid."""
        content = json.loads(calibration().to_json())
        place = content["joints"][0] if field in FIELDS else content
        before = place.get(field)
        place[field] = value
        if value == before:
            return
        rejected(json.dumps(content).encode("utf-8", "surrogatepass"))

    @given(st.data())
    def test_a_wrong_byte_is_detected_or_harmless(self, data: st.DataObject) -> None:
        """A file with one changed byte is rejected or equal to the original."""
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
    def test_hostile_files(self, data: bytes) -> None:
        """Deep nesting, huge sizes and numbers, and invalid Unicode are rejected."""
        rejected(data)

    @pytest.mark.parametrize(
        ("changes", "message"),
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
    def test_impossible_values_are_rejected_despite_a_valid_hash(self, changes: dict[str, Any], message: str) -> None:
        """The error names the value and what is accepted."""
        assert message in rejected(stamped(**changes))


class TestArm:
    """A calibration belongs to one arm."""

    def test_names_and_limits_must_fit_the_arm(self) -> None:
        """Other joint names, and limits wider than the arm's, are rejected."""
        calibration().check_arm(ARM)
        # One of before limits were rounded to whole degrees: 1.5708 rad.
        Calibration(
            "arm3", tuple(msgspec.structs.replace(one, upper_deg=90.0002) for one in calibration().joints)
        ).check_arm(ARM)
        for changes, message in (
            ({"upper_deg": 91.0}, "more than the arm's 0 to 90"),
            ({"lower_deg": -1.0}, "more than the arm's 0 to 90"),
            ({"max_speed_deg_s": 400.0}, "more than the arm's 341.999"),
            ({"name": "neck"}, "expected 'arm3' with"),
        ):
            first, *others = calibration().joints
            other = Calibration("arm3", (JointCalibration(**msgspec.to_builtins(first) | changes), *others))
            with pytest.raises(ValueError, match="joint") as error:
                other.check_arm(ARM)
            assert message in str(error.value)
        with pytest.raises(ValueError, match="is of 'arm4'"):
            Calibration("arm4", calibration().joints).check_arm(ARM)


class TestClipping:
    """Ranges of joints that turn as far as a servo measures, or further."""

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
        self, mounted: float, direction: int, range_deg: tuple[float, float]
    ) -> None:
        """Computed by hand: 4096 ticks a turn, of which ticks 0 to 4095 exist."""
        low, high = clip_to_servo(-180.0, 180.0, mounted, direction)
        assert (low, high) == pytest.approx(range_deg, abs=1e-9)
        joint(zero_tick=mounted, direction=direction, lower_deg=low, upper_deg=high).check()

    @given(st.floats(0.0, 4095.0), st.sampled_from([1, -1]), st.floats(-400.0, 0.0), st.floats(1.0, 400.0))
    def test_a_clipped_range_is_within_the_servo_and_the_joint(
        self, zero: float, direction: int, low: float, high: float
    ) -> None:
        """For any mounting and range, both ends stay within both."""
        clipped_low, clipped_high = clip_to_servo(low, high, zero, direction)
        assert low <= clipped_low
        assert clipped_high <= high
        ticks = [zero + direction * angle * 4096 / 360 for angle in (clipped_low, clipped_high)]
        assert min(ticks) >= -1e-6
        assert max(ticks) <= 4095 + 1e-6
