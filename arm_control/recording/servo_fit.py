"""Fitting delay and lag to the motion of one joint: lag_s * y'(t) = target(t - delay_s) - y(t)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from arm_control.recording.identification_motion import LEAST_READINGS, Motion

Array = NDArray[np.float64]

# Search range.
LONGEST_DELAY_S = 0.6
LONGEST_LAG_S = 0.5
SHORTEST_LAG_S = 0.003
# A reading farther from the model than this, and far more than others, is excluded; at most this fraction.
BAD_READING_DEG = 2.0
BAD_FRACTION = 0.05
# Requirements on the motion of a joint.
LEAST_TRAVEL_DEG = 60.0
LEAST_SPAN_DEG = 5.0
LEAST_EXPLAINED = 0.7
REST_S = 0.5  # the arm is at rest after targets have been constant for so long
BLOCK_S = 1.0
TIMING_S = 2e-4  # accuracy of the times in a recording


@dataclass(frozen=True)
class JointFit:
    """Measured values of one joint. If it could not be measured, `unmeasured` gives the reason and the rest is None."""

    name: str
    travel_deg: float
    unmeasured: str | None = None
    delay_s: float | None = None
    lag_s: float | None = None
    covariance: tuple[tuple[float, float], tuple[float, float]] | None = None  # of delay and lag, in s^2
    explained: float | None = None
    rms_deg: float | None = None
    noise_deg: float | None = None
    resolution_deg: float | None = None


class ServoModel:
    """The angles of a joint that follows its targets with a lag: `model(times_s)` in degrees, in the servo's own time.

    lag_s * y'(t) = target(t) - y(t)
    """

    def __init__(self, sent_s: Array, target_deg: Array, lag_s: float) -> None:
        """`sent_s` and `target_deg` are (targets,); the joint is at rest on the first target."""
        self._sent_s = sent_s
        self._target_deg = target_deg
        self._lag_s = lag_s
        # Angles when targets arrive: y[k + 1] = keep[k] y[k] + (1 - keep[k]) target[k]. The affine maps are composed
        # in spans of 2, 4, 8 and so on, until the initial angle no longer matters.
        keep = np.concatenate(([0.0], np.exp(-np.diff(sent_s) / lag_s)))
        angle = np.concatenate((target_deg[:1], (1.0 - keep[1:]) * target_deg[:-1]))
        span = 1
        while span < len(angle) and keep.max() > 1e-9:
            angle[span:] += keep[span:] * angle[:-span]
            keep[span:] *= keep[:-span]
            span *= 2
        self._angle_deg = angle

    def __call__(self, times_s: Array) -> Array:
        """Return the angles at these times."""
        last = np.maximum(np.searchsorted(self._sent_s, times_s, "right") - 1, 0)
        passed_s = np.maximum(times_s - self._sent_s[last], 0.0)
        target = self._target_deg[last]
        angles: Array = target + (self._angle_deg[last] - target) * np.exp(-passed_s / self._lag_s)
        return angles


@dataclass(frozen=True)
class Samples:
    """Usable readings of one joint, with all its targets."""

    motion: Motion
    target: Array
    """(targets,)."""
    times_s: Array
    """(readings,)."""
    angle: Array
    """(readings,)."""

    def __getitem__(self, chosen: NDArray[np.bool_]) -> "Samples":
        """Return the selected readings."""
        return Samples(self.motion, self.target, self.times_s[chosen], self.angle[chosen])

    @property
    def held_deg(self) -> Array:
        """The target in effect at each reading."""
        held: Array = self.target[np.searchsorted(self.motion.sent_s, self.times_s, "right") - 1]
        return held

    def search(self) -> tuple[float, float]:
        """Return the least-squares delay and lag, in s."""
        return _search(self.motion, self.target, self.times_s, self.angle)

    def residual(self, delay_s: float, lag_s: float) -> Array:
        """Return the residual of each reading for a delay and a lag, without the offset."""
        return _residual(self.motion, self.target, lag_s, self.times_s - delay_s, self.angle)


def fit_joint(motion: Motion, joint: int) -> JointFit:
    """Fit delay and lag of one joint; `unmeasured` says why they cannot be determined."""
    name = motion.names[joint]
    usable = motion.usable & np.isfinite(motion.angle_deg[:, joint])
    samples = Samples(motion, motion.target_deg[:, joint], motion.read_s[usable], motion.angle_deg[usable][:, joint])
    travel_deg = float(np.abs(np.diff(samples.held_deg)).sum()) if len(samples.times_s) else 0.0
    fault = _motion_fault(samples, travel_deg)
    if fault is not None:
        return JointFit(name, travel_deg, fault)
    # Fit, then fit again without outliers.
    delay_s, lag_s = samples.search()
    residual = samples.residual(delay_s, lag_s)
    bad = np.abs(residual) > max(BAD_READING_DEG, 8.0 * float(np.median(np.abs(residual))))
    if 0 < bad.sum() <= BAD_FRACTION * len(bad):
        samples = samples[~bad]
        delay_s, lag_s = samples.search()
        residual = samples.residual(delay_s, lag_s)
    # The fraction of the difference from the targets that the model accounts for.
    behind = samples.angle - samples.held_deg
    spread = float(np.mean((behind - behind.mean()) ** 2))
    explained = 1.0 - float(np.mean(residual**2)) / spread if spread > 0.0 else 0.0
    fault = _fit_fault(delay_s, lag_s, explained)
    if fault is not None:
        return JointFit(name, travel_deg, fault)
    resolution = _resolution_deg(samples.angle)
    return JointFit(
        name,
        travel_deg,
        delay_s=delay_s,
        lag_s=lag_s,
        covariance=_covariance(samples, delay_s, lag_s),
        explained=explained,
        rms_deg=float(np.sqrt(np.mean(residual**2))),
        noise_deg=_noise_deg(samples, resolution),
        resolution_deg=resolution,
    )


def _motion_fault(samples: Samples, travel_deg: float) -> str | None:
    """The reason why a joint moved too little to be measured; None if it moved enough."""
    count = len(samples.times_s)
    if count < LEAST_READINGS:
        return f"expected at least {LEAST_READINGS} usable readings, got {count}"
    span_deg = float(np.ptp(samples.held_deg))
    if travel_deg < LEAST_TRAVEL_DEG or span_deg < LEAST_SPAN_DEG:
        return (
            f"expected at least {LEAST_TRAVEL_DEG:g} degrees of motion over a range of {LEAST_SPAN_DEG:g}, "
            f"got {travel_deg:.0f} over {span_deg:.1f}: record a run over several goals"
        )
    return None


def _fit_fault(delay_s: float, lag_s: float, explained: float) -> str | None:
    """The reason why a fit is unusable; None if it is usable."""
    if explained < LEAST_EXPLAINED:
        return (
            f"a delay and a lag explain only {100 * max(0.0, explained):.0f} % of how it differs from its targets, "
            f"expected {100 * LEAST_EXPLAINED:.0f}: was it blocked, its torque off, or so slow a motion lost in noise?"
        )
    if delay_s > 0.99 * LONGEST_DELAY_S or lag_s > 0.99 * LONGEST_LAG_S:
        return (
            f"expected a delay below {LONGEST_DELAY_S:g} s and a lag below {LONGEST_LAG_S:g} s, "
            f"got {delay_s:.2f} and {lag_s:.2f} or more"
        )
    return None


def _residual(motion: Motion, target: Array, lag_s: float, times_s: Array, angle: Array) -> Array:
    residual = angle - ServoModel(motion.sent_s, target, lag_s)(times_s)
    return np.asarray(residual - residual.mean())


def _search(motion: Motion, target: Array, times_s: Array, angle: Array) -> tuple[float, float]:
    """Return the least-squares delay and lag.

    With stepwise targets, the sum of squares ripples along the line of constant delay + lag, so that line is searched
    finely.
    """

    def costs(lag_s: float, some: slice) -> Callable[[float], float]:
        model = ServoModel(motion.sent_s, target, lag_s)
        then_s = times_s[some]
        there = angle[some]
        return lambda delay_s: float(np.var(there - model(then_s - delay_s)))

    few = slice(None, None, math.ceil(len(times_s) / 2000))
    many = slice(None, None, math.ceil(len(times_s) / 20_000))
    # A grid over both.
    lags = np.geomspace(SHORTEST_LAG_S, LONGEST_LAG_S, 16)
    step_s = max(0.5 * motion.period_s, 0.01)
    delays = np.arange(0.0, LONGEST_DELAY_S + step_s, step_s)
    table = []
    for lag in lags:
        cost = costs(float(lag), few)
        table.append([cost(float(delay)) for delay in delays])
    at, column = np.unravel_index(int(np.argmin(table)), (len(lags), len(delays)))
    sum_s = float(lags[at] + delays[column])  # well determined, unlike its division

    def best_delay(lag_s: float, some: slice = many) -> tuple[float, float]:
        """Return the delay of the lowest cost for a lag, both in seconds, and that cost."""
        cost = costs(lag_s, some)
        middle = sum_s - lag_s
        reach = 1.5 * step_s + 0.2 * lag_s
        low = min(max(0.0, middle - reach), LONGEST_DELAY_S)
        high = min(max(0.0, middle + reach), LONGEST_DELAY_S)
        places = np.linspace(low, high, 2 + math.ceil(8.0 * reach / max(motion.period_s, 0.5 * lag_s)))
        return _golden_section(cost, *_around(places, [cost(float(place)) for place in places]))

    # Golden sections over the lag, and for each lag over the delay.
    log_lags = np.linspace(math.log(SHORTEST_LAG_S), math.log(LONGEST_LAG_S), 48)
    around = _around(log_lags, [best_delay(math.exp(log_lag), few)[1] for log_lag in log_lags])
    lag_s = math.exp(_golden_section(lambda log_lag: best_delay(math.exp(log_lag))[1], *around)[0])
    return best_delay(lag_s)[0], lag_s


def _around(places: Array, costs: list[float]) -> tuple[float, float]:
    """Return the neighbours of the place with the lowest cost."""
    best = int(np.argmin(costs))
    return float(places[max(best - 1, 0)]), float(places[min(best + 1, len(places) - 1)])


def _golden_section(cost: Callable[[float], float], low: float, high: float, steps: int = 16) -> tuple[float, float]:
    """Return the minimum between two places, to 0.05 % of their distance, and the cost there."""
    # Two places inside, by the golden ratio: one of them is reused in the next, smaller interval.
    ratio = 0.5 * (math.sqrt(5.0) - 1.0)
    first = high - ratio * (high - low)
    second = low + ratio * (high - low)
    at_first = cost(first)
    at_second = cost(second)
    for _ in range(steps):
        if at_first <= at_second:
            high = second
            second = first
            at_second = at_first
            first = high - ratio * (high - low)
            at_first = cost(first)
        else:
            low = first
            first = second
            at_first = at_second
            second = low + ratio * (high - low)
            at_second = cost(second)
    best = [(cost(low), low), (at_first, first), (at_second, second), (cost(high), high)]  # an edge may be the least
    least, place = min(best)
    return place, least


def _covariance(samples: Samples, delay_s: float, lag_s: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Covariance of both: H^-1 (sum of g g^T over blocks of time) H^-1, with H = J^T J and g = J^T residual."""
    # J by central differences.
    small_s = 1e-3
    part = 0.05
    later = samples.residual(delay_s + small_s, lag_s)
    earlier = samples.residual(delay_s - small_s, lag_s)
    slower = samples.residual(delay_s, lag_s * (1 + part))
    faster = samples.residual(delay_s, lag_s * (1 - part))
    jacobian = np.stack(((later - earlier) / (2.0 * small_s), (slower - faster) / (2.0 * part * lag_s)), axis=1)
    # The sum of g over each block of time.
    pulls = jacobian * samples.residual(delay_s, lag_s)[:, None]
    since_s = samples.times_s - samples.times_s[0]
    _, block = np.unique(np.floor(since_s / BLOCK_S), return_inverse=True)
    sums = np.zeros((int(block.max()) + 1, 2))
    np.add.at(sums, block, pulls)
    inverse = np.linalg.pinv(jacobian.T @ jacobian)
    count = max(len(sums), 4)
    covariance = inverse @ (sums.T @ sums) @ inverse * count / (count - 3) + TIMING_S**2 * np.eye(2)
    return ((float(covariance[0, 0]), float(covariance[0, 1])), (float(covariance[1, 0]), float(covariance[1, 1])))


def _resolution_deg(angle: Array) -> float | None:
    """Return the step of the readings; None if it is too fine to be detected."""
    values = np.unique(np.round(angle, 7))
    if len(values) < 10:
        return None
    step = float(np.diff(values).min())
    # Refine the smallest step, which contains rounding, over the whole range.
    step = float(np.ptp(values)) / max(1, round(float(np.ptp(values)) / step))
    off = (values - values[0]) / step
    return step if step > 1e-4 and np.all(np.abs(off - np.round(off)) < 0.05) else None


def _noise_deg(samples: Samples, resolution: float | None) -> float | None:
    """Return the standard deviation of the readings while the targets rest; None if they never do."""
    motion = samples.motion
    times_s = samples.times_s
    moves_s = motion.sent_s[1:][np.abs(np.diff(samples.target)) > 1e-3]
    before = np.searchsorted(moves_s, times_s, "right")
    since_s = times_s - np.concatenate(([motion.sent_s[0]], moves_s))[before]
    resting = since_s > REST_S
    pairs = resting[1:] & resting[:-1] & (np.diff(times_s) < 1.5 * motion.period_s)
    if pairs.sum() < 20:
        return None
    # Noise variance: half the variance of the differences, less d^2 / 12 for a resolution of d.
    variance = 0.5 * float(np.mean(np.diff(samples.angle)[pairs] ** 2)) - (resolution or 0.0) ** 2 / 12.0
    return math.sqrt(max(0.0, variance))
