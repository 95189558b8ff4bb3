"""Drivers: the arm on the other end of a control loop."""

import math
from dataclasses import dataclass
from typing import Protocol

from envs.limits import JointLimits


class DriverError(RuntimeError):
    """An arm that cannot be reached, or does not do what it is told; in one line, with the likely cause."""


class TorqueLeftOnError(DriverError):
    """An arm that could not be enabled, some of whose servos have, or may have, their torque on."""


@dataclass(frozen=True, slots=True)
class JointState:
    """A reading: monotonic time in s, angles in degrees, speeds in degrees/s, in the order of `joint_names`.

    The rest is told by arms that can: temperatures in degrees Celsius, loads as a share of the largest (1: all that the
    servo has, signed), voltages in V, and what servos themselves complain of, such as "shoulder: overload".
    """

    stamp_s: float
    angles_deg: list[float]
    speeds_deg_s: list[float]
    temperatures_c: list[float] | None = None
    loads: list[float] | None = None
    voltages_v: list[float] | None = None
    alerts: tuple[str, ...] = ()


def round_down(rate_hz: float) -> float:
    """A positive rate with three significant digits, so that the rate that a message names is allowed."""
    digit = 10.0 ** (math.floor(math.log10(rate_hz)) - 2)
    return math.floor(rate_hz / digit) * digit


class Driver(Protocol):
    """What a control loop needs of an arm. All of it may raise DriverError."""

    joint_names: tuple[str, ...]
    limits: JointLimits
    """What this arm allows, in the same degrees as its readings and targets."""
    calibration_sha256: str | None
    """Which calibration says what its degrees are; None for an arm that needs none."""
    fastest_rate_hz: float
    """The highest rate, in Hz, at which it can be read and written to.

    A driver may also have `rate_hint`, a text that says how to reach a higher rate."""

    def enable(self) -> None:
        """Switch the torque on, holding the present pose.

        If that fails the torque is off again, or TorqueLeftOnError says that it may not be.
        """

    def read(self) -> JointState:
        """The present state."""

    def write(self, target_deg: list[float]) -> None:
        """Send target angles in degrees."""

    def disable(self) -> None:
        """Switch the torque off: an arm that is not at rest in a safe pose falls."""

    def close(self) -> None:
        """Let go of the arm without touching its torque; closing twice is fine."""
