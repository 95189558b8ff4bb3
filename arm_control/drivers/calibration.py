"""Calibration: how the ticks of each servo stand to the degrees of its joint, as a file with its own hash.

`arm-control calibrate` writes it, the Dynamixel driver obeys it. Edited by hand it wants a new hash:
`arm-control calibrate --restamp FILE`.
"""

import hashlib
import math
from pathlib import Path
from typing import Any

import msgspec

from arm_control.drivers.control_table import TICKS_PER_TURN
from arm_control.run_folder import write_text
from envs.arm import Arm
from envs.limits import JointLimits

SCHEMA_VERSION = 1
LARGEST_FILE = 1_000_000
LARGEST_ID = 252
LAST_TICK = TICKS_PER_TURN - 1
TICKS_PER_DEGREE = TICKS_PER_TURN / 360.0  # of a servo whose horn is the joint
ROUNDING_DEG = 1e-6  # of limits that were written in radians


class JointCalibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One joint and its servo: degrees = direction (tick - zero_tick) / ticks_per_degree.

    `lower_deg` and `upper_deg` are how far this built arm may go, which may be less than its description says.
    """

    name: str
    servo_id: int
    model_number: int
    zero_tick: float
    direction: int
    ticks_per_degree: float
    lower_deg: float
    upper_deg: float
    max_speed_deg_s: float
    max_acceleration_deg_s2: float

    def degrees(self, tick: float) -> float:
        """The joint's angle when the servo reads `tick`."""
        return self.direction * (tick - self.zero_tick) / self.ticks_per_degree

    def ticks(self, angle_deg: float) -> int:
        """The whole tick nearest to an angle. Raises ValueError or OverflowError for one that is not finite."""
        return round(self.zero_tick + self.direction * angle_deg * self.ticks_per_degree)

    @property
    def tick_range(self) -> tuple[int, int]:
        """The least and the largest tick of the joint's range."""
        low, high = sorted((self.ticks(self.lower_deg), self.ticks(self.upper_deg)))
        return low, high

    def check(self) -> None:
        """Raise ValueError, in one line, for values that no joint has."""
        where = f"joint {self.name!r}"
        if not 0 <= self.servo_id <= LARGEST_ID:
            raise ValueError(f"{where}: wanted a servo id from 0 to {LARGEST_ID}, got {self.servo_id}")
        if not 0 <= self.model_number <= 0xFFFF:
            raise ValueError(f"{where}: wanted a model number from 0 to 65535, got {self.model_number}")
        if self.direction not in (1, -1):
            raise ValueError(f"{where}: wanted direction 1 or -1, got {self.direction}")
        numbers = (self.zero_tick, self.ticks_per_degree, self.lower_deg, self.upper_deg)
        if not all(math.isfinite(number) and abs(number) <= 1e6 for number in numbers):
            raise ValueError(f"{where}: wanted finite ticks and degrees up to a million, got {numbers}")
        if self.ticks_per_degree <= 0.0:
            raise ValueError(f"{where}: wanted ticks_per_degree above 0, got {self.ticks_per_degree}")
        JointLimits((self.lower_deg,), (self.upper_deg,), (self.max_speed_deg_s,), (self.max_acceleration_deg_s2,))
        low, high = self.tick_range
        if low < 0 or high > LAST_TICK:
            raise ValueError(
                f"{where}: {self.lower_deg:g} to {self.upper_deg:g} degrees are ticks {low} to {high}, which cross the "
                f"servo's edge (0 to {LAST_TICK}): take the horn off, turn it by about {_better_turn(low, high)} "
                "degrees, mount it, and calibrate again"
            )


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One built arm: its name, and its joints in their order."""

    arm: str
    joints: tuple[JointCalibration, ...]
    schema_version: int = SCHEMA_VERSION

    @property
    def joint_names(self) -> tuple[str, ...]:
        """The joints' names in their order."""
        return tuple(joint.name for joint in self.joints)

    @property
    def limits(self) -> JointLimits:
        """What this built arm may do."""
        return JointLimits(
            tuple(joint.lower_deg for joint in self.joints),
            tuple(joint.upper_deg for joint in self.joints),
            tuple(joint.max_speed_deg_s for joint in self.joints),
            tuple(joint.max_acceleration_deg_s2 for joint in self.joints),
        )

    @property
    def sha256(self) -> str:
        """The hash of all that it says, whatever the file looks like."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()

    def check(self) -> None:
        """Raise ValueError, in one line, for what no arm has."""
        for what, found in (
            ("name", self.joint_names),
            ("servo id", tuple(joint.servo_id for joint in self.joints)),
        ):
            if not found or len(set(found)) != len(found):
                raise ValueError(f"wanted joints, each with its own {what}, got {list(found)}")
        for joint in self.joints:
            joint.check()

    def check_arm(self, arm: Arm) -> None:
        """Raise ValueError unless it is one of this arm, and nowhere wider than the arm's description."""
        if (self.arm, self.joint_names) != (arm.name, arm.joint_names):
            raise ValueError(
                f"the calibration is of {self.arm!r} with joints {list(self.joint_names)}, "
                f"wanted {arm.name!r} with {list(arm.joint_names)}"
            )
        ours, its = self.limits, arm.limits
        for name, mine, most in zip(self.joint_names, ours.by_joint, its.by_joint, strict=True):
            (low, high, *fast), (least, largest, *fastest) = mine, most
            if low < least - ROUNDING_DEG or high > largest + ROUNDING_DEG:
                raise ValueError(
                    f"joint {name!r}: the calibration allows {low:g} to {high:g} degrees, more than the arm's "
                    f"{least:g} to {largest:g}"
                )
            if any(a > b * (1.0 + 1e-9) for a, b in zip(fast, fastest, strict=True)):
                raise ValueError(
                    f"joint {name!r}: the calibration allows {fast[0]:g} degrees/s and {fast[1]:g} degrees/s^2, more "
                    f"than the arm's {fastest[0]:g} and {fastest[1]:g}"
                )

    def to_json(self) -> str:
        """The file's text: the calibration at full precision, and its hash."""
        content = msgspec.to_builtins(self) | {"sha256": self.sha256}
        return msgspec.json.format(msgspec.json.encode(content), indent=2).decode() + "\n"

    def save(self, path: str | Path) -> None:
        """Write the whole file or nothing. Raises ValueError for a calibration that makes no sense, OSError."""
        self.check()
        write_text(Path(path), self.to_json())


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """What is in the file."""

    schema_version: int
    arm: str
    joints: tuple[JointCalibration, ...]
    sha256: str = ""


def parse_calibration(data: bytes, *, hashed: bool = True) -> Calibration:
    """Read a calibration; its hash may be wrong or missing unless `hashed`. Raises ValueError, in one line."""
    if len(data) > LARGEST_FILE:
        raise ValueError(f"wanted up to {LARGEST_FILE:,} bytes, got {len(data):,}")
    try:
        version = msgspec.json.decode(data, type=dict[str, Any]).get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"it has schema version {_short(version)}, this program reads {SCHEMA_VERSION}: calibrate again, or "
                "update arm-control"
            )
        file = msgspec.json.decode(data, type=_File)
        calibration = Calibration(file.arm, file.joints)
        sha256 = calibration.sha256
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError(f"it is no calibration: {_short(error)}") from None
    try:
        calibration.check()
    except ValueError as error:
        raise ValueError(_one_line(error)) from None
    if hashed and file.sha256 != sha256:
        raise ValueError(
            f"its hash is {sha256[:12]}, the file says {_short(file.sha256[:12]) or 'none'}: it was changed after it "
            "was made; if by you, and on purpose: arm-control calibrate --restamp FILE"
        )
    return calibration


def load_calibration(path: str | Path, *, hashed: bool = True) -> Calibration:
    """Read a calibration file. Raises ValueError, in one line, for one that is missing, damaged or changed."""
    try:
        if not Path(path).is_file():
            raise ValueError(
                "it is no file" if Path(path).exists() else "there is none; 'arm-control calibrate' makes one"
            )
        with open(path, "rb") as file:
            return parse_calibration(file.read(LARGEST_FILE + 1), hashed=hashed)
    except OSError as error:
        raise ValueError(f"cannot read calibration {path}: {error.strerror}") from None
    except ValueError as error:
        text = str(error).replace("--restamp FILE", f"--restamp {path}")
        raise ValueError(f"calibration {path}: {text}") from None


def _better_turn(low: int, high: int) -> int:
    """By how many degrees the range's middle is off the servo's."""
    return round(abs((low + high) / 2.0 - TICKS_PER_TURN / 2.0) / TICKS_PER_DEGREE)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


def _short(value: object) -> str:
    text = _one_line(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
