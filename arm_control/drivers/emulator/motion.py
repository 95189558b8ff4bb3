"""Motion of an emulated servo: a velocity profile towards the goal, and a shaft that follows the profile with a lag.

Positions are ticks (4096 a turn), speeds ticks/s, times s. ROBOTIS e-Manual, XL430-W250, "What is the Profile".
"""

from dataclasses import dataclass
from math import copysign

from envs.limits import next_speed, stopping_speed

AT_REST_TICKS = 0.01
AT_REST_TICKS_S = 1.0
SINK_LAG_S = 0.03  # with which a shaft without torque takes up the speed at which it sinks
LAST_TICK = 4095.0


@dataclass
class Profile:
    """The trajectory that a servo plans: rectangular or trapezoidal in speed, or a step without a speed limit.

    `fastest` and `acceleration` are the registers' values when the goal came; 0 means none.
    """

    target: float
    position: float
    speed: float = 0.0
    fastest: float = 0.0
    acceleration: float = 0.0

    def hold(self, position: float) -> None:
        """Make a position the target, reached and at rest."""
        self.target = position
        self.position = position
        self.speed = 0.0
        self.fastest = 0.0
        self.acceleration = 0.0

    def start(self, target: float, fastest: float, acceleration: float) -> None:
        """Plan from the present state towards a new target."""
        self.target = float(target)
        self.fastest = fastest
        self.acceleration = acceleration

    @property
    def is_done(self) -> bool:
        """True if the trajectory has reached its target."""
        return self.position == self.target

    def step(self, dt: float) -> None:
        """Advance the trajectory by one time step."""
        gap = self.target - self.position
        # Step profile: no speed limit.
        if not self.fastest:
            self.position = self.target
        if not gap or not self.fastest:
            self.speed = 0.0
            return
        if self.acceleration:
            # Trapezoidal: the speed from which it can still stop at the target, changed by at most a dt.
            change = self.acceleration * dt
            wanted = copysign(stopping_speed(abs(gap), change, self.acceleration), gap)
            speed = next_speed(wanted, self.speed, self.fastest, change)
        else:
            # Rectangular: full speed until the target.
            speed = copysign(min(self.fastest, abs(gap) / dt), gap)
        self.position += speed * dt
        self.speed = speed
        if abs(self.target - self.position) < AT_REST_TICKS and abs(speed) < 10.0 + self.acceleration * dt:
            self.position = self.target
            self.speed = 0.0


@dataclass
class Shaft:
    """Where the servo's horn is, and how fast it turns."""

    position: float
    speed: float = 0.0
    stuck: bool = False

    def follow(self, profile: Profile, steps: int, dt: float, *, lag_s: float, fastest: float) -> None:
        """Follow the profile for some time steps, as a critically damped second-order system.

        x'' = w^2 (trajectory - x) - 2 w x', with w = 2 / lag: it stays `lag_s` behind a trajectory of constant speed.
        """
        position = self.position
        speed = self.speed
        rate = 2.0 / lag_s
        for _ in range(steps):
            profile.step(dt)
            gap = profile.position - position
            if self.stuck:
                speed = 0.0
            elif abs(gap) < AT_REST_TICKS and abs(speed) < AT_REST_TICKS_S:
                position = profile.position
                speed = 0.0
            else:
                speed += (rate * gap - 2.0 * speed) * rate * dt
                speed = max(-fastest, min(fastest, speed))
                position += speed * dt
            if not speed and profile.is_done:
                break  # at rest: the remaining steps change nothing
        self.position = position
        self.speed = speed

    def sink(self, sag: float, steps: int, dt: float) -> None:
        """Move without torque for some time steps: the speed approaches `sag`, until the end of the servo's turn."""
        for _ in range(steps):
            self.speed += (sag - self.speed) * min(1.0, dt / SINK_LAG_S)
            position = self.position + self.speed * dt
            below = self.speed < 0.0 and position < 0.0
            above = self.speed > 0.0 and position > LAST_TICK
            if self.stuck or below or above:
                self.speed = 0.0
                break
            self.position = position
            if not sag and abs(self.speed) < AT_REST_TICKS_S:
                self.speed = 0.0
                break
