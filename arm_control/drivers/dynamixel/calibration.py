"""Calibration: the relation of each servo's ticks to the degrees of its joint, as a file with its own hash.

`arm-control calibrate` writes it, and the driver reads it. After an edit by hand it needs a new hash:
`arm-control calibrate --restamp FILE`.
"""

import hashlib
import math
from pathlib import Path
from typing import Any

import msgspec

from arm_control.drivers.dynamixel.control_table import MODEL_NUMBER, TICKS_PER_TURN
from arm_control.process.printing import printable
from arm_control.runs.files import write_text
from envs.arm import Arm
from envs.files import read_text
from envs.limits import ROUNDING, JointLimits
from envs.urdf import LIMIT_ROUNDING_RAD

SCHEMA_VERSION = 1
LARGEST_FILE = 1_000_000
LARGEST_ID = 252
LAST_TICK = TICKS_PER_TURN - 1
# Of a servo whose horn is the joint; gears, belts and linkages between them are not supported.
TICKS_PER_DEGREE = TICKS_PER_TURN / 360.0
# Relative error of a scale: what two poses set by hand may have, and far from the smallest gear ratio.
SCALE_TOLERANCE = 0.03
LEAST_RANGE_DEG = 1.0
ROUNDING_DEG = 1e-6 + math.degrees(LIMIT_ROUNDING_RAD)  # of limits written in radians
LONGEST_NAME = 256  # characters
LONGEST_QUOTE = 200


class JointCalibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One joint and its servo: degrees = direction (tick - zero_tick) / ticks_per_degree.

    `lower_deg` and `upper_deg` are the range of this built arm, which may be narrower than that of its URDF.
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
        """The tick nearest to an angle. Raises ValueError or OverflowError for one that is not finite."""
        return round(self.zero_tick + self.direction * angle_deg * self.ticks_per_degree)

    @property
    def tick_range(self) -> tuple[int, int]:
        """The least and the largest tick of the joint's range."""
        low, high = sorted((self.ticks(self.lower_deg), self.ticks(self.upper_deg)))
        return low, high

    def check(self) -> None:
        """Raise ValueError, in one line, for values out of range."""
        # The servo.
        where = f"joint {self.name!r}"
        if not 0 <= self.servo_id <= LARGEST_ID:
            raise ValueError(f"{where}: expected a servo id from 0 to {LARGEST_ID}, got {self.servo_id}")
        if not self.name.isprintable() or len(self.name) > LONGEST_NAME:
            raise ValueError(f"{where}: expected a printable name of at most {LONGEST_NAME} characters")
        if self.model_number != MODEL_NUMBER:
            raise ValueError(f"{where}: unknown model number {self.model_number}; expected {MODEL_NUMBER} (XL430-W250)")
        if self.direction not in (1, -1):
            raise ValueError(f"{where}: expected direction 1 or -1, got {self.direction}")
        # The relation of ticks to degrees.
        scale = self.ticks_per_degree
        if not abs(scale / TICKS_PER_DEGREE - 1.0) <= SCALE_TOLERANCE:  # NaN compares as false
            raise ValueError(
                f"{where}: ticks_per_degree {scale:g}; expected the servo's {TICKS_PER_DEGREE:.4g} within "
                f"{100 * SCALE_TOLERANCE:g} % (the joint is the servo's horn, without gears): calibrate again"
            )
        if not abs(self.zero_tick) <= 1e6:
            raise ValueError(f"{where}: expected a finite zero_tick up to a million, got {self.zero_tick}")
        # The limits, and the range within one turn of the servo.
        try:
            JointLimits.of_joints([self])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if self.upper_deg - self.lower_deg < LEAST_RANGE_DEG:
            raise ValueError(
                f"{where}: expected a range of at least {LEAST_RANGE_DEG:g} degree, got {self.lower_deg:g} to "
                f"{self.upper_deg:g}"
            )
        low, high = self.tick_range
        if low < 0 or high > LAST_TICK:
            raise ValueError(
                f"{where}: {self.lower_deg:g} to {self.upper_deg:g} degrees are ticks {low} to {high}, which cross the "
                f"servo's edge (0 to {LAST_TICK}): take the horn off, turn it by about {_better_turn(low, high)} "
                "degrees, mount it, and calibrate again"
            )


def clip_to_servo(lower_deg: float, upper_deg: float, zero_tick: float, direction: int) -> tuple[float, float]:
    """The part of a joint's range that a servo with this mounting can measure: ticks 0 to 4095."""
    # degrees = direction (tick - zero_tick) / ticks_per_degree
    first_deg, last_deg = sorted(direction * (tick - zero_tick) / TICKS_PER_DEGREE for tick in (0, LAST_TICK))
    return max(lower_deg, first_deg), min(upper_deg, last_deg)


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
        """The limits of this built arm."""
        return JointLimits.of_joints(self.joints)

    @property
    def sha256(self) -> str:
        """The hash of the content, independent of the file's formatting."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()

    def check(self) -> None:
        """Raise ValueError, in one line, for values out of range, and for joints that share a name or a servo."""
        if not self.arm.isprintable() or len(self.arm) > LONGEST_NAME:
            raise ValueError(
                f"expected a printable arm name of at most {LONGEST_NAME} characters, got {self.arm[:80]!r}"
            )
        ids = tuple(joint.servo_id for joint in self.joints)
        for what, found in (("name", self.joint_names), ("servo id", ids)):
            if not found or len(set(found)) != len(found):
                raise ValueError(f"expected joints, each with its own {what}, got {list(found)}")
        for joint in self.joints:
            joint.check()

    def check_arm(self, arm: Arm) -> None:
        """Raise ValueError unless it is of this arm, and its limits are nowhere wider than the arm's."""
        if (self.arm, self.joint_names) != (arm.name, arm.joint_names):
            raise ValueError(
                f"the calibration is of {self.arm!r} with joints {list(self.joint_names)}, "
                f"expected {arm.name!r} with {list(arm.joint_names)}"
            )
        for joint, (low, high, max_speed, max_acceleration) in zip(self.joints, arm.limits.by_joint, strict=True):
            if joint.lower_deg < low - ROUNDING_DEG or joint.upper_deg > high + ROUNDING_DEG:
                raise ValueError(
                    f"joint {joint.name!r}: the calibration allows {joint.lower_deg:g} to {joint.upper_deg:g} degrees, "
                    f"more than the arm's {low:g} to {high:g}"
                )
            too_fast = joint.max_speed_deg_s > max_speed * (1.0 + ROUNDING)
            too_hard = joint.max_acceleration_deg_s2 > max_acceleration * (1.0 + ROUNDING)
            if too_fast or too_hard:
                raise ValueError(
                    f"joint {joint.name!r}: the calibration allows {joint.max_speed_deg_s:g} degrees/s and "
                    f"{joint.max_acceleration_deg_s2:g} degrees/s^2, more than the arm's {max_speed:g} and "
                    f"{max_acceleration:g}"
                )

    def to_json(self) -> str:
        """The text of the file: the calibration at full precision, and its hash."""
        content = msgspec.to_builtins(self) | {"sha256": self.sha256}
        return msgspec.json.format(msgspec.json.encode(content), indent=2).decode() + "\n"

    def save(self, path: str | Path) -> None:
        """Write the file, atomically. Raises ValueError for values out of range, and OSError."""
        self.check()
        write_text(Path(path), self.to_json())


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """The content of the file."""

    schema_version: int
    arm: str
    joints: tuple[JointCalibration, ...]
    sha256: str = ""


def parse_calibration(data: bytes, *, hashed: bool = True) -> Calibration:
    """Read a calibration; its hash may be wrong or missing unless `hashed`. Raises ValueError, in one line."""
    if len(data) > LARGEST_FILE:
        raise ValueError(f"expected at most {LARGEST_FILE:,} bytes, got {len(data):,}")
    try:
        # The version first: other versions may have other fields.
        version = msgspec.json.decode(data, type=dict[str, Any]).get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"it has schema version {printable(version, LONGEST_QUOTE)}, this program reads {SCHEMA_VERSION}: "
                "calibrate again, or update arm-control"
            )
        file = msgspec.json.decode(data, type=_File)
        calibration = Calibration(file.arm, file.joints)
        sha256 = calibration.sha256
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError(f"it is not a calibration: {printable(error, LONGEST_QUOTE)}") from None
    try:
        calibration.check()
    except ValueError as error:
        raise ValueError(printable(error)) from None
    if hashed and file.sha256 != sha256:
        raise ValueError(
            f"its hash is {sha256[:12]}, the file has {printable(file.sha256[:12]) or 'none'}: it was edited after "
            "the calibration; if that was intended: arm-control calibrate --restamp FILE"
        )
    return calibration


def load_calibration(path: str | Path, *, hashed: bool = True) -> Calibration:
    """Read a calibration file. Raises ValueError, in one line, for one that is missing, damaged or changed."""
    try:
        return parse_calibration(read_text(path, LARGEST_FILE).encode(), hashed=hashed)
    except FileNotFoundError:
        raise ValueError(f"calibration {path} does not exist; 'arm-control calibrate' makes one") from None
    except OSError as error:
        raise ValueError(f"cannot read calibration {path}: {error.strerror}") from None
    except ValueError as error:
        text = str(error).replace("--restamp FILE", f"--restamp {path}")
        raise ValueError(f"calibration {path}: {text}") from None


def _better_turn(low: int, high: int) -> int:
    """The angle in degrees by which the middle of the range differs from that of the servo's turn."""
    return round(abs((low + high) / 2.0 - TICKS_PER_TURN / 2.0) / TICKS_PER_DEGREE)
