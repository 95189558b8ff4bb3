"""Drivers: the arm on the other end of a control loop."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class JointState:
    """A reading: monotonic time in s, angles in degrees, speeds in degrees/s, in the order of `joint_names`."""

    stamp_s: float
    angles_deg: list[float]
    speeds_deg_s: list[float]


class Driver(Protocol):
    """What a control loop needs of an arm."""

    joint_names: tuple[str, ...]

    def enable(self) -> None:
        """Switch the torque on, holding the present pose."""

    def read(self) -> JointState:
        """The present state."""

    def write(self, target_deg: list[float]) -> None:
        """Send target angles in degrees."""

    def park(self) -> None:
        """Bring the arm to rest in a safe pose."""

    def close(self) -> None:
        """Let go of the arm; closing twice is fine."""


# Every driver by the name that the command line gives it.
DRIVERS = ("sim",)
