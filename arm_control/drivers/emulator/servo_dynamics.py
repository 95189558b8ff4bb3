"""Dynamics and sensors of an emulated servo: lag, delay, noise and sag."""

from dataclasses import dataclass

from arm_control.drivers.dynamixel.control_table import (
    TICKS_PER_TURN,
)


@dataclass(frozen=True)
class ServoDynamics:
    """Dynamics and sensor errors of emulated servos. Raises ValueError for values out of range."""

    lag_s: float = 0.05
    """Lag behind a goal that moves at constant speed; the servo is a critically damped second-order system."""
    delay_s: float = 0.0
    """Time between receiving a goal and acting on it."""
    noise_deg: float = 0.0
    """Standard deviation of the reported positions."""
    sag_deg_s: float = 0.0
    """Speed without torque, until the end of the servo's turn; positive: towards higher ticks."""
    keeps_goal: bool = False
    """When the torque is switched on, move to the goal that was written before instead of holding the present
    position. The e-Manual does not specify it, so a driver must be safe either way."""

    def __post_init__(self) -> None:
        if not 0.005 <= self.lag_s <= 1.0:
            raise ValueError(f"lag: expected 0.005 to 1 s, got {self.lag_s}")
        if not 0.0 <= self.delay_s <= 1.0:
            raise ValueError(f"delay: expected 0 to 1 s, got {self.delay_s}")
        if not 0.0 <= self.noise_deg <= 10.0:
            raise ValueError(f"noise: expected 0 to 10 degrees, got {self.noise_deg}")
        if not -360.0 <= self.sag_deg_s <= 360.0:
            raise ValueError(f"sag: expected -360 to 360 degrees/s, got {self.sag_deg_s}")

    @property
    def noise_ticks(self) -> float:
        """The standard deviation of the reported positions in ticks."""
        return self.noise_deg / 360.0 * TICKS_PER_TURN

    @property
    def sag_ticks_s(self) -> float:
        """The speed without torque in ticks/s."""
        return self.sag_deg_s / 360.0 * TICKS_PER_TURN
