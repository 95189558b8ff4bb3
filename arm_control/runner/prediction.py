"""What an arm would read if targets were sent as in training: a Smith predictor (Smith 1957, "Closer control of loops
with dead time")."""

import math
from collections import deque
from collections.abc import Sequence

from envs.imperfections import Imperfections


class Predictor:
    """Keeps a policy from noticing that its targets come interpolated, and so later than they did in training.

    In training the arm gets a policy's target all at once. Interpolated, it gets there up to a step later, and a policy
    that was trained without that delay sees too little movement, asks for more, and overshoots. So it is told what the
    arm reads and, added to it, what a servo makes of the difference between both targets: late by the arm's delay, and
    following with its lag (first order). At rest that is nothing.
    """

    def __init__(self, arm: Imperfections, joints: int, period_s: float) -> None:
        """For ticks of `period_s` on an arm that is, in the middle, like this; nothing has moved yet."""
        self._lag_s = arm.mean_lag_s
        whole, part = divmod(arm.mean_delay_s / period_s, 1.0)
        # What is left of a difference after the part of a tick in which an older one still counts, and after the rest.
        self._left = math.exp(-part * period_s / self._lag_s), math.exp((part - 1.0) * period_s / self._lag_s)
        self._waiting: deque[list[float]] = deque(maxlen=2 + int(whole))
        self._joints = joints
        self.forget()

    def forget(self) -> None:
        """Begin anew, with an arm whose targets rest."""
        self._waiting.extend([[0.0] * self._joints] * (self._waiting.maxlen or 2))
        self.angles_deg = [0.0] * self._joints
        self.speeds_deg_s = [0.0] * self._joints
        self._rests = True  # both targets have been the same so far: at the policy's own rate they always are

    def tick(self, ahead_deg: Sequence[float]) -> None:
        """A tick has passed in which the policy's own target was so far ahead of the one that was sent."""
        if self._rests and not any(ahead_deg):
            return
        self._rests = False
        self._waiting.append(list(ahead_deg))
        older = self._waiting[0]
        newer = self._waiting[1]
        left_older, left_newer = self._left
        middle = [ahead + left_older * (angle - ahead) for ahead, angle in zip(older, self.angles_deg, strict=True)]
        gaps = [left_newer * (ahead - angle) for ahead, angle in zip(newer, middle, strict=True)]
        self.angles_deg = [ahead - gap for ahead, gap in zip(newer, gaps, strict=True)]
        self.speeds_deg_s = [gap / self._lag_s for gap in gaps]

    def angles(self, read_deg: Sequence[float]) -> list[float]:
        """The angles to tell the policy, in degrees."""
        if self._rests:
            return list(read_deg)
        return [angle + ahead for angle, ahead in zip(read_deg, self.angles_deg, strict=True)]

    def speeds(self, read_deg_s: Sequence[float]) -> list[float]:
        """The speeds to tell the policy, in degrees/s."""
        if self._rests:
            return list(read_deg_s)
        return [speed + ahead for speed, ahead in zip(read_deg_s, self.speeds_deg_s, strict=True)]
