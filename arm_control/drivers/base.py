"""The interface between a control loop and an arm: `Driver`, what it reads, and how a driver is declared."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from envs.arm import Arm
from envs.imperfections import Imperfections
from envs.limits import JointLimits


class DriverError(RuntimeError):
    """The arm cannot be reached, or does not follow commands; one line with the likely cause."""


class TorqueLeftOnError(DriverError):
    """Enabling the arm failed, and the torque of some servos is, or may be, on."""


@dataclass(frozen=True, slots=True)
class JointState:
    """A reading: monotonic time in s, angles in degrees, speeds in degrees/s, in the order of `joint_names`.

    Optional, for arms that measure them: temperatures in degrees Celsius, loads as a signed fraction of the servo's
    largest, voltages in V, and servo alarms, such as "shoulder: overload".
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
    """The interface of an arm to a control loop. Every method may raise DriverError."""

    joint_names: tuple[str, ...]
    limits: JointLimits
    """Joint limits of this arm, in the same degrees as its readings and targets."""
    calibration_sha256: str | None
    """Hash of the calibration that its degrees depend on; None for an arm without calibration."""
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
        """Release the connection without changing the torque; closing twice is fine."""


@dataclass(frozen=True, slots=True)
class OpeningContext:
    """The session that a driver is opened for, beside the options of the command line."""

    period_s: float
    """The control period: time between two targets."""
    start_deg: tuple[float, ...] | None
    """Pose in which a simulated arm starts; None for the arm's default pose."""
    imperfections: Imperfections
    """Dynamics of a simulated arm, or those expected of a real one."""
    now_s: Callable[[], float]
    """The clock of the control loop, by which readings are stamped."""


@dataclass(frozen=True, slots=True)
class DriverType:
    """A driver as its entry point declares it: how it is opened, and the properties that a command needs beforehand.

    An entry point may also name a bare function of the arm and the options, for a real arm that needs no context.
    """

    open: Callable[[Arm, Mapping[str, str], OpeningContext], Driver]
    """Connects to the arm. Raises ValueError for unknown options, DriverError if the arm cannot be reached."""
    simulated: bool = False
    """True for a simulation, in which one control period passes with each `write`.

    Then `--pace fast`, `--arm` and every preset of `--imperfections` apply, there is no table unless one is given,
    real-time priority is not requested, and recordings can be re-simulated."""
