"""An ideal arm behind a `Safety`, and the default arm's link ends from rotation matrices."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from arm_control.drivers.base import JointState
from arm_control.runner.safety import Safety, SafetySettings
from envs.arm import RADIANS, Arm
from envs.limits import Box, JointLimits

ARM = Arm()
LOW, HIGH = ARM.limits.lower_deg, ARM.limits.upper_deg
START = [20.0, 30.0, 40.0]
STILL = [0.0, 0.0, 0.0]
PERIOD_S = 1 / 30
EVERYWHERE: Box = (-9.0, -9.0, -9.0, 9.0, 9.0, 9.0)


def reading(now_s: float = 0.0, angles: list[float] | None = None, **more: Any) -> JointState:
    return JointState(now_s, START if angles is None else angles, more.pop("speeds", STILL), **more)


class Follower:
    """An arm that reaches each target at once, and the safety in front of it."""

    def __init__(
        self,
        start: list[float] = START,
        period_s: float = PERIOD_S,
        limits: JointLimits = ARM.limits,
        **settings: Any,
    ) -> None:
        self.safety = Safety(ARM, limits, period_s, SafetySettings(**settings))
        self.now_s = 0.0
        self.safety.start(reading(0.0, list(start)), 0.0)
        self.sent = [list(self.safety.target_deg)]

    def tick(
        self,
        command: list[float] | None,
        state: Callable[[JointState], JointState] = lambda state: state,
        follow: bool = False,
        ticks: int = 1,
    ) -> None:
        """One period: a reading, which `state` may modify, and an action; None continues the last one."""
        self.now_s += self.safety.period_s
        here = JointState(self.now_s, self.sent[-1], list(self.safety.speed_deg_s))
        self.safety.reads(state(here), self.now_s)
        safety = self.safety
        sent = safety.go_on() if command is None else safety.admit(command, follow=follow, ticks=ticks)
        self.sent.append(sent)

    def step(self, command: list[float], ticks: int) -> None:
        """A command that holds for several periods."""
        self.tick(command, ticks=ticks)
        for _ in range(ticks - 1):
            self.tick(None)

    def ticks(self, count: int, command: list[float], **more: Any) -> "Follower":
        for _ in range(count):
            self.tick(command, **more)
        return self

    @property
    def check(self) -> str | None:
        return None if self.safety.fault is None else self.safety.fault.check

    @property
    def speeds(self) -> np.ndarray:
        return np.diff(self.sent, axis=0) / self.safety.period_s

    def assert_within_limits(self) -> None:
        limits, period_s = self.safety.limits, self.safety.period_s
        sent = np.array(self.sent)
        speeds = np.vstack([np.zeros(3), self.speeds])
        assert (sent >= limits.lower_deg).all()
        assert (sent <= limits.upper_deg).all()
        rounding = 1e-10 / period_s
        assert (abs(speeds) <= np.array(limits.max_speed_deg_s) + rounding).all()
        changes = abs(np.diff(speeds, axis=0))
        assert (changes <= np.array(limits.max_acceleration_deg_s2) * period_s + 2 * rounding).all()

    def assert_stops(self) -> None:
        """Assert that from now on it only slows down, and then rests, whatever the actions are."""
        before, limits = len(self.sent) - 2, self.safety.limits
        pairs = zip(self.safety.speed_deg_s, limits.max_acceleration_deg_s2, strict=True)
        needed = math.ceil(max(abs(speed) / limit for speed, limit in pairs) / self.safety.period_s)
        for angle in (90.0, 0.0, math.nan, 45.0):
            self.ticks(needed // 4 + 10, [angle] * 3)
        speeds = self.speeds[before:]
        assert (abs(speeds[1:]) <= abs(speeds[:-1]) + 1e-6).all()
        assert (speeds[1:] * speeds[:-1] >= -1e-6).all()  # never in reverse
        assert (speeds[needed + 2 :] == 0.0).all()
        assert not self.safety.moving
        self.assert_within_limits()


def turned(axis: str, angle_deg: float) -> np.ndarray:
    c, s = math.cos(angle_deg * RADIANS), math.sin(angle_deg * RADIANS)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]] if axis == "z" else [[c, 0, s], [0, 1, 0], [-s, 0, c]])


def link_ends(angles_deg: list[float]) -> list[np.ndarray]:
    """The ends of the default arm's links: column 0.2 m, turntable 0.05 m, upper arm 0.25 m, forearm 0.2 m."""
    frame, place, ends = np.eye(3), np.array([0.0, 0.0, 0.2]), []
    for axis, angle, length in zip("zyy", angles_deg, (0.05, 0.25, 0.2), strict=True):
        frame = frame @ turned(axis, angle)
        place = place + frame @ [0.0, 0.0, length]
        ends.append(place)
    return ends


poses = st.lists(st.floats(0.0, 90.0), min_size=3, max_size=3)
