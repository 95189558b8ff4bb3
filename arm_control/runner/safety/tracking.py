"""Tracking: the expected position of tip and joints, and joints whose readings do not change.

A healthy servo follows its targets after a delay and with a lag of the first order:

    y(t + dt) = target + (y(t) - target) exp(-dt / lag),    reading(t) = y(t - delay)

All joints of an arm share one delay and one lag, both unknown. The tip's position is computed for every delay and lag
that an arm may have; those that have fitted best over the last seconds give the expected position. What no delay and
lag explain, such as a servo that is stuck, half as fast or swapped with another, shows within tenths of a second.
"""

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from envs.arm import Arm
from envs.imperfections import PRESETS

# The latest and the slowest arm that is allowed, unless it is described as slower: the widest ranges among the presets.
MAX_DELAY_S = max(arm.action_delay_s[1] + arm.observation_delay_s[1] for arm in PRESETS.values())  # 0.25
MAX_LAG_S = max(arm.servo_lag_s[1] for arm in PRESETS.values())  # 0.1
# Each about twice the one before, and so on: a lag in between is near to one of them with another delay.
LAGS_S = (0.0, 0.02, 0.045, MAX_LAG_S)
# Between two delays: at the 2.5 m/s that the default arm's tip reaches, half of it is 12 mm.
STEP_S = 0.01
# Over which the tip's deviation is averaged: less than the 0.4 s that a move of 90 degrees takes at full speed.
WINDOW_S = 0.3
# Over which it is averaged to choose delay and lag: several moves.
FIT_S = 5.0
# A reading that changes by less stands still: one step of an encoder with 4,096 a turn is 0.088 degrees.
STILL_DEG = 0.1


def memory_s(max_delay_s: float, max_lag_s: float) -> float:
    """How long ago a command is that every allowed arm has carried out by now, but for e^-2 = 14 % of it, in s."""
    return max_delay_s + 2.0 * max_lag_s


def allowed_lags_s(max_lag_s: float) -> list[float]:
    """The lags that are compared, up to the largest that is allowed, in s."""
    lags = list(LAGS_S)
    while lags[-1] < max_lag_s:
        lags.append(min(2.0 * lags[-1], max_lag_s))
    return lags


class ExpectedMotion:
    """Where an arm should be by now that follows the targets, and how far its tip is from there.

        expected.start(angles_deg, now_s)
        while True:                                  # once a period
            expected.sent(target_deg, now_s)         # the target that has acted since the last tick
            expected.compare(angles_deg)             # what is read now

    `tip_off_m` is the deviation of the tip, averaged over WINDOW_S; `angles_deg` is where the joints should be.
    """

    def __init__(
        self, arm: Arm, period_s: float, max_delay_s: float = MAX_DELAY_S, max_lag_s: float = MAX_LAG_S
    ) -> None:
        """Targets come once in `period_s`; delay and lag of a healthy arm are up to `max_delay_s` and `max_lag_s`."""
        self._arm = arm
        self._period_s = period_s
        # Rows of the expected motion are whole parts of a period, or whole periods, of up to STEP_S.
        if period_s > STEP_S:
            self._row_s = period_s / math.ceil(period_s / STEP_S - 1e-9)
        else:
            self._row_s = period_s * math.floor(STEP_S / period_s + 1e-9)
        self._rows = math.ceil(max_delay_s / self._row_s) + 1
        lags_s = allowed_lags_s(max_lag_s)
        self._left = [math.exp(-self._row_s / lag_s) if lag_s else 0.0 for lag_s in lags_s]
        # For each lag, by time, the newest last: a row for each delay, and older ones before them.
        self._tips_m = np.zeros((8 * self._rows, len(lags_s), 3))
        self._rows_deg = np.zeros((8 * self._rows, len(lags_s), arm.joint_count))
        self._recent_fraction = -math.expm1(-max(period_s, self._row_s) / WINDOW_S)
        self._fit_fraction = -math.expm1(-max(period_s, self._row_s) / FIT_S)
        self._forgotten = -math.expm1(-period_s / memory_s(max_delay_s, max_lag_s))
        self._row_forgotten = -math.expm1(-self._row_s / memory_s(max_delay_s, max_lag_s))

    def start(self, angles_deg: Sequence[float], now_s: float) -> None:
        """Begin with an arm that rests here."""
        self.angles_deg = list(angles_deg)
        self.tip_off_m = 0.0
        self._y_deg = [list(angles_deg) for _ in self._left]
        self._tips_m[: self._rows] = self._arm.tip_position(angles_deg)
        self._rows_deg[: self._rows] = self.angles_deg
        self._end = self._rows
        self._recent_m = np.zeros((self._rows, len(self._left)))
        self._fit_m = np.zeros((self._rows, len(self._left)))
        self._is_due = False
        self._row_at_s = self._tick_at_s = now_s
        self._late_s = 0.0
        self._speed_m_s = 0.0

    def sent(self, target_deg: Sequence[float], now_s: float) -> None:
        """The target that was sent a period ago has acted until now."""
        # By how much more than the periods the time has advanced lately. Nobody knows whether the arm moved on in it:
        # a real one did, a simulated one stands still while a tick is late.
        self._late_s += now_s - self._tick_at_s - self._period_s - self._forgotten * self._late_s
        self._tick_at_s = now_s
        rows = round((now_s - self._row_at_s) / self._row_s)
        if rows < 1:
            return
        self._row_at_s += rows * self._row_s
        for _ in range(min(rows, 2 * self._rows)):
            self._add_row(target_deg)
        self._is_due = True

    def lost(self) -> None:
        """The last target may not have reached the arm, which then gets the next one a period later."""
        self._late_s += self._period_s

    def _add_row(self, target_deg: Sequence[float]) -> None:
        if self._end == len(self._tips_m):
            self._tips_m[: self._rows] = self._tips_m[-self._rows :]
            self._rows_deg[: self._rows] = self._rows_deg[-self._rows :]
            self._end = self._rows
        tips = []
        for lag, left in enumerate(self._left):
            # y <- target + (y - target) exp(-dt / lag)
            pairs = zip(self._y_deg[lag], target_deg, strict=True)
            self._y_deg[lag] = [target + left * (y - target) for y, target in pairs]
            tips.append(self._arm.tip_position(self._y_deg[lag]))
        speed_m_s = math.dist(tips[0], self._tips_m[self._end - 1, 0]) / self._row_s
        self._speed_m_s += self._row_forgotten * (speed_m_s - self._speed_m_s)
        self._tips_m[self._end] = tips
        self._rows_deg[self._end] = self._y_deg
        self._end += 1

    def compare(self, angles_deg: Sequence[float]) -> None:
        """Take in where the arm reads as being."""
        if not self._is_due:
            return
        self._is_due = False
        first = self._end - self._rows
        gap_m = self._tips_m[first : self._end] - self._arm.tip_position(angles_deg)
        distance_m = np.sqrt(np.einsum("dlx,dlx->dl", gap_m, gap_m))
        # Exponentially weighted means, for every delay and lag.
        self._recent_m += self._recent_fraction * (distance_m - self._recent_m)
        self._fit_m += self._fit_fraction * (distance_m - self._fit_m)
        best_row, best_lag = divmod(int(self._fit_m.argmin()), len(self._left))
        self.angles_deg = self._rows_deg[first + best_row, best_lag].tolist()
        # A tip that moves is off by its speed times whatever is not known of the time; twice, since the deviation is
        # forgotten a window later than the time and the speed are.
        unknown_m = 2.0 * abs(self._late_s) * self._speed_m_s
        self.tip_off_m = float(self._recent_m[best_row, best_lag]) - unknown_m


class StillJoints:
    """Finds joints whose readings have stood still although their targets moved."""

    def __init__(self, joints: int, max_delay_s: float = MAX_DELAY_S, max_lag_s: float = MAX_LAG_S) -> None:
        """Delay and lag of a healthy arm are up to `max_delay_s` and `max_lag_s`."""
        self._joints = joints
        self._memory_s = memory_s(max_delay_s, max_lag_s)

    def start(self, angles_deg: Sequence[float], now_s: float) -> None:
        """Begin with an arm that rests here."""
        self._angles_deg = list(angles_deg)
        self._since_s = [now_s] * self._joints
        # Targets that an arm which is allowed may not have followed yet.
        self._pending: deque[tuple[float, Sequence[float]]] = deque()
        # Over which range each joint should have moved since its reading last changed.
        self._lowest_deg = [math.inf] * self._joints
        self._highest_deg = [-math.inf] * self._joints

    def sent(self, target_deg: Sequence[float], now_s: float) -> None:
        """A target that has been sent; those that any arm has followed by now count."""
        self._pending.append((now_s, list(target_deg)))
        while self._pending[0][0] < now_s - self._memory_s:
            sent_s, target = self._pending.popleft()
            for joint, angle in enumerate(target):
                if sent_s >= self._since_s[joint]:
                    self._lowest_deg[joint] = min(self._lowest_deg[joint], angle)
                    self._highest_deg[joint] = max(self._highest_deg[joint], angle)

    def find(self, angles_deg: Sequence[float], now_s: float, most_deg: float) -> int | None:
        """A joint that has not moved while its target moved by more than `most_deg`; None if there is none."""
        still = None
        for joint, angle in enumerate(angles_deg):
            if abs(angle - self._angles_deg[joint]) > STILL_DEG:
                self._angles_deg[joint] = angle
                self._since_s[joint] = now_s
                self._lowest_deg[joint] = math.inf
                self._highest_deg[joint] = -math.inf
            elif self._highest_deg[joint] - self._lowest_deg[joint] > most_deg:
                still = joint
        return still
