"""Compensation for interpolated targets: a Smith predictor (Smith 1957, "Closer control of loops with dead time")."""

import math
from collections import deque
from collections.abc import Sequence

from envs.imperfections import Imperfections


class Predictor:
    """Predicts the readings that an arm would give if it received the policy's targets as in training.

    In training, the arm receives a policy's target at once. Interpolated, the target arrives up to a policy step later:
    a policy trained without that delay would observe too little motion, command more of it, and overshoot. Its input is
    therefore the reading plus the response of a servo, with a delay and a first-order lag, to the lead u of the
    policy's own target over the interpolated one:

        lag y'(t) = u(t - delay) - y(t)

    The correction is y for angles (degrees) and y' for speeds (degrees/s). It is zero at rest, and at the policy's own
    rate.
    """

    def __init__(self, arm: Imperfections, joints: int, period_s: float) -> None:
        """Use the mean delay and lag of an arm, for ticks of `period_s`; the targets are at rest."""
        self._lag_s = arm.mean_lag_s
        # The delay is n whole ticks and a fraction of one. Within a tick, u is the value of n + 1 ticks ago during that
        # fraction, then the value of n ticks ago. Each part leaves exp(-dt / lag) of the difference between y and u.
        whole_ticks, fraction = divmod(arm.mean_delay_s / period_s, 1.0)
        self._decay_older = math.exp(-fraction * period_s / self._lag_s)
        self._decay_newer = math.exp((fraction - 1.0) * period_s / self._lag_s)
        self._delayed_deg: deque[list[float]] = deque(maxlen=2 + int(whole_ticks))
        self._joints = joints
        self.reset()

    def reset(self) -> None:
        """Restart with targets at rest."""
        zeros = [0.0] * self._joints
        self._delayed_deg.extend([zeros] * (self._delayed_deg.maxlen or 2))
        self.angles_deg = zeros
        self.speeds_deg_s = zeros
        # True until the first lead that is not zero: there is none at the policy's own rate.
        self._is_zero = True

    def tick(self, lead_deg: Sequence[float]) -> None:
        """Advance by one tick, in which the policy's own target had this lead over the target that was sent."""
        if self._is_zero and not any(lead_deg):
            return
        self._is_zero = False
        self._delayed_deg.append(list(lead_deg))
        angles_deg = []
        speeds_deg_s = []
        for older, newer, angle in zip(self._delayed_deg[0], self._delayed_deg[1], self.angles_deg, strict=True):
            # y <- u + (y - u) exp(-dt / lag), for both parts of the tick; y' = (u - y) / lag
            middle = older + self._decay_older * (angle - older)
            gap = self._decay_newer * (newer - middle)
            angles_deg.append(newer - gap)
            speeds_deg_s.append(gap / self._lag_s)
        self.angles_deg = angles_deg
        self.speeds_deg_s = speeds_deg_s

    def angles(self, read_deg: Sequence[float]) -> list[float]:
        """The angles for the policy's input in degrees, from those that were read."""
        if self._is_zero:
            return list(read_deg)
        return [angle + correction for angle, correction in zip(read_deg, self.angles_deg, strict=True)]

    def speeds(self, read_deg_s: Sequence[float]) -> list[float]:
        """The speeds for the policy's input in degrees/s, from those that were read."""
        if self._is_zero:
            return list(read_deg_s)
        return [speed + correction for speed, correction in zip(read_deg_s, self.speeds_deg_s, strict=True)]
