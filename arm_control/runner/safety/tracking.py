"""Tracking: the expected motion of tip and joints, and joints whose readings do not change.

A healthy servo follows its targets after a delay and with a first-order lag:

    y(t + dt) = target + (y(t) - target) exp(-dt / lag),    reading(t) = y(t - delay)

All joints of an arm share one delay and one lag, both unknown. The tip position is computed for every delay and lag in
the allowed range; the pair with the best fit over the last seconds gives the expected position. A deviation that no
pair explains, such as that of a servo that is stuck, half as fast or swapped with another, shows within tenths of a
second.
"""

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from envs.arm import Arm
from envs.imperfections import PRESETS

# The longest delay and lag of a healthy arm, unless `--imperfections` says more: the widest ranges among the presets.
MAX_DELAY_S = max(arm.action_delay_s[1] + arm.observation_delay_s[1] for arm in PRESETS.values())  # 0.25
MAX_LAG_S = max(arm.servo_lag_s[1] for arm in PRESETS.values())  # 0.1
# Each about twice the one before: a lag in between resembles one of them with another delay.
LAGS_S = (0.0, 0.02, 0.045, MAX_LAG_S)
# Longest step between two delays: at 2.5 m/s, the highest tip speed of the default arm, half of it is 12 mm.
STEP_S = 0.01
# Time constant with which the tip's deviation is averaged: less than the 0.4 s of a move of 90 degrees at full speed.
WINDOW_S = 0.3
# Time constant with which it is averaged to choose delay and lag: several moves.
FIT_S = 5.0
# A reading that changes by less is constant: one step of an encoder with 4,096 steps per turn is 0.088 degrees.
STILL_DEG = 0.1


def memory_s(max_delay_s: float, max_lag_s: float) -> float:
    """Time in s after which every healthy arm has followed a target, except for e^-2 = 14 % of it."""
    return max_delay_s + 2.0 * max_lag_s


def allowed_lags_s(max_lag_s: float) -> list[float]:
    """The lags that are compared, in s, up to the longest one allowed."""
    lags = list(LAGS_S)
    while lags[-1] < max_lag_s:
        lags.append(min(2.0 * lags[-1], max_lag_s))
    return lags


class ExpectedMotion:
    """The expected motion of an arm that follows its targets, and the deviation of its tip from it.

        expected.start(angles_deg, now_s)
        while True:                                  # once per control period
            expected.sent(target_deg, now_s)         # the target that has been acting since the last tick
            expected.compare(angles_deg)             # the present reading

    `tip_off_m` is the deviation of the tip in metres, averaged over WINDOW_S; `angles_deg` are the expected angles.
    """

    def __init__(
        self, arm: Arm, period_s: float, max_delay_s: float = MAX_DELAY_S, max_lag_s: float = MAX_LAG_S
    ) -> None:
        """Targets come once per `period_s`; delay and lag of a healthy arm are up to `max_delay_s` and `max_lag_s`."""
        self._arm = arm
        self._period_s = period_s
        # The expected motion is stored in rows. A row lasts up to STEP_S, and is 1/n of a period or n periods.
        if period_s > STEP_S:
            self._row_s = period_s / math.ceil(period_s / STEP_S - 1e-9)
        else:
            self._row_s = period_s * math.floor(STEP_S / period_s + 1e-9)
        self._rows = math.ceil(max_delay_s / self._row_s) + 1
        lags_s = allowed_lags_s(max_lag_s)
        self._left = [math.exp(-self._row_s / lag_s) if lag_s else 0.0 for lag_s in lags_s]
        # Tip positions and angles without delay, by row (the newest last) and lag. The row at a delay before the newest
        # is where the arm should be with that delay. The buffers are longer, so that rows rarely move to the front.
        self._tips_m = np.zeros((8 * self._rows, len(lags_s), 3))
        self._rows_deg = np.zeros((8 * self._rows, len(lags_s), arm.joint_count))
        # Weights of a new value in the exponentially weighted means: 1 - exp(-dt / time constant).
        self._recent_fraction = -math.expm1(-max(period_s, self._row_s) / WINDOW_S)
        self._fit_fraction = -math.expm1(-max(period_s, self._row_s) / FIT_S)
        self._forgotten = -math.expm1(-period_s / memory_s(max_delay_s, max_lag_s))
        self._row_forgotten = -math.expm1(-self._row_s / memory_s(max_delay_s, max_lag_s))

    def start(self, angles_deg: Sequence[float], now_s: float) -> None:
        """Start with an arm at rest at these angles."""
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
        """Advance the expected motion to `now_s`, with the target that was sent a period ago."""
        # The excess of elapsed time over control periods, as an exponentially weighted mean. It is unknown whether the
        # arm moved in it: a real one does, a simulated one stands still while a tick is late.
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
        """Allow for a last target that did not reach the arm, which then gets the next one a period later."""
        self._late_s += self._period_s

    def _add_row(self, target_deg: Sequence[float]) -> None:
        # At the end of the buffers, move the rows that are still needed to the front.
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
        # The tip's speed without lag, averaged.
        speed_m_s = math.dist(tips[0], self._tips_m[self._end - 1, 0]) / self._row_s
        self._speed_m_s += self._row_forgotten * (speed_m_s - self._speed_m_s)
        self._tips_m[self._end] = tips
        self._rows_deg[self._end] = self._y_deg
        self._end += 1

    def compare(self, angles_deg: Sequence[float]) -> None:
        """Compare the present reading with the expected motion of every delay and lag."""
        if not self._is_due:
            return
        self._is_due = False
        # The distance of the measured tip from the expected one, (delays, lags) in metres.
        first = self._end - self._rows
        gap_m = self._tips_m[first : self._end] - self._arm.tip_position(angles_deg)
        distance_m = np.sqrt(np.einsum("dlx,dlx->dl", gap_m, gap_m))
        # mean <- mean + fraction (distance - mean)
        self._recent_m += self._recent_fraction * (distance_m - self._recent_m)
        self._fit_m += self._fit_fraction * (distance_m - self._fit_m)
        # The delay and lag with the best fit.
        best_row, best_lag = divmod(int(self._fit_m.argmin()), len(self._left))
        self.angles_deg = self._rows_deg[first + best_row, best_lag].tolist()
        # A moving tip deviates by its speed times the uncertainty of the time; twice that is allowed, because the mean
        # deviation decays a window later than the means of time and speed.
        unknown_m = 2.0 * abs(self._late_s) * self._speed_m_s
        self.tip_off_m = float(self._recent_m[best_row, best_lag]) - unknown_m


class StillJoints:
    """Finds joints whose readings stay constant while their targets move."""

    def __init__(self, joints: int, max_delay_s: float = MAX_DELAY_S, max_lag_s: float = MAX_LAG_S) -> None:
        """Delay and lag of a healthy arm are up to `max_delay_s` and `max_lag_s`."""
        self._joints = joints
        self._memory_s = memory_s(max_delay_s, max_lag_s)

    def start(self, angles_deg: Sequence[float], now_s: float) -> None:
        """Start with an arm at rest at these angles."""
        # The last reading of each joint that differed from the one before, and when it was taken.
        self._angles_deg = list(angles_deg)
        self._since_s = [now_s] * self._joints
        # Targets that a healthy arm may not have followed yet, with their times.
        self._pending: deque[tuple[float, Sequence[float]]] = deque()
        # The range of the targets that each joint should have followed since its reading last changed.
        self._lowest_deg = [math.inf] * self._joints
        self._highest_deg = [-math.inf] * self._joints

    def sent(self, target_deg: Sequence[float], now_s: float) -> None:
        """Add a target; it counts from the time at which every healthy arm has followed it."""
        self._pending.append((now_s, list(target_deg)))
        while self._pending[0][0] < now_s - self._memory_s:
            sent_s, target = self._pending.popleft()
            for joint, angle in enumerate(target):
                if sent_s >= self._since_s[joint]:
                    self._lowest_deg[joint] = min(self._lowest_deg[joint], angle)
                    self._highest_deg[joint] = max(self._highest_deg[joint], angle)

    def find(self, angles_deg: Sequence[float], now_s: float, max_deg: float) -> int | None:
        """A joint whose reading is constant while its target moved by more than `max_deg`; None if there is none."""
        still = None
        for joint, angle in enumerate(angles_deg):
            if abs(angle - self._angles_deg[joint]) > STILL_DEG:
                self._angles_deg[joint] = angle
                self._since_s[joint] = now_s
                self._lowest_deg[joint] = math.inf
                self._highest_deg[joint] = -math.inf
            elif self._highest_deg[joint] - self._lowest_deg[joint] > max_deg:
                still = joint
        return still
