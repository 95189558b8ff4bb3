"""`arm-control identify`: how late and how slow an arm's servos are, measured from a recording of its motion.

Every joint is taken for a dead time, a first-order lag and an offset: lag_s * y'(t) = target(t - delay_s) - y(t).
Targets hold until the next one is sent, so the answer of that model is exact at any time: the recording's own uneven
times are used as they are. Delay and lag are those of the least squares between model and readings, found on a grid and
then by golden sections, one within the other.

| | how |
|---|---|
| interval (95 %) | from the curvature, the residuals of each second taken together (a sandwich estimate) |
| pooled | the joints' mean, weighted by their covariances; its interval is widened if they disagree |
| explained | the share of the difference between reading and present target that the model accounts for |
| noise | from one reading to the next, while the targets rest; what the resolution causes is taken off |
| resolution | the smallest step between readings, if all steps are multiples of it |

An interval knows nothing of what the model lacks.

How far the pooled values were off, at worst, on simulated arms of known delay (0 to 200 ms) and lag (19 to 100 ms) that
moved between random poses for half a minute, at the fastest that the arm allows:

| readings | at 100 and 200 Hz | at 30 Hz, lag 35 ms or more | at 30 Hz, lag 19 ms |
|---|---|---|---|
| noise and resolution of `xl430` | 1 ms | 1.5 ms | delay 11 ms, lag 4 ms |
| all of `xl430`, at its worst | 1.5 ms | 4 ms | delay 15 ms, lag 5 ms |
| all of `rough`, at its worst | 4 ms | 10 ms | delay 7 ms, lag 16 ms |

The last column's servos are at the end of their torque and speed, which the model has not; slower motion mends it, such
as with `run --max-speed 150 --max-acceleration 800`, and so does a higher rate. There, and with play, intervals are too
narrow.

Sensor delay and actuation delay cannot be distinguished: both shift readings against targets equally.
What is called delay is their sum.
"""

import math
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arm_control.process.printing import printable_lines
from arm_control.recording.reading import Recording, read_recording
from arm_control.recording.schema import Tick, joint_names, of_simulated_arm
from envs.imperfections import BOUNDS, FORMAT, FORMAT_VERSION, IDEAL_LAG_S, PRESETS, Imperfections

Array = NDArray[np.float64]

LONGEST_DELAY_S, LONGEST_LAG_S = 0.6, 0.5  # what is searched
SHORTEST_LAG_S = 0.003
SETTLE_S = 1.0  # until it no longer matters where an arm was
HOLE_S = 0.25  # ticks that are missing for longer are not guessed
BAD_READING_DEG, BAD_SHARE = 2.0, 0.05  # farther from the model than this, and far more than others; at most so many
LEAST_TRAVEL_DEG, LEAST_SPAN_DEG, LEAST_READINGS = 60.0, 5.0, 100  # of a joint, to say anything about it
LEAST_EXPLAINED = 0.7
REST_S = 0.5  # targets that have not moved for so long: the arm is at rest
ACCURACY_S = 0.005  # within a preset's range, or as near to it as this
HIGH_RATE_HZ = 100.0
BLOCK_S = 1.0
TIMING_S = 2e-4  # the times in a recording are no more exact than this
NORMAL_95 = 1.96


@dataclass(frozen=True)
class Motion:
    """What a recording says of targets and readings, as arrays over its ticks."""

    names: list[str]
    period_s: float
    sent_s: Array
    """When each target was sent (targets,)."""
    target_deg: Array
    """(targets, joints)."""
    read_s: Array
    """When each reading was taken (readings,)."""
    angle_deg: Array
    """(readings, joints); NaN for what is no number."""
    usable: NDArray[np.bool_]
    """Readings (readings,) that the targets before them account for."""
    computing_s: float
    """From a reading to the target that answers it: the median."""


@dataclass(frozen=True)
class JointFit:
    """What was measured of one joint. Where `unmeasured` says why it was not, the rest is None."""

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


def identify(log: str | Path) -> dict[str, Any]:
    """Delay, lag and what goes with them, from a recording's file, as plain values; times in s, angles in degrees.

    Raises ValueError for a file that cannot be read, a shadow run, too little motion, and motion that no delay and lag
    account for.
    """
    try:
        return identify_recording(read_recording(log)) | {"recording": str(log)}
    except ValueError as error:
        text = str(error)
        raise ValueError(text if str(log) in text else f"{log}: {text}") from None


def identify_recording(recording: Recording) -> dict[str, Any]:
    """The same of a recording that is in memory. Raises ValueError, without the file's name."""
    motion = read_motion(recording)
    joints = [fit_joint(motion, joint) for joint in range(len(motion.names))]
    measured = [fit for fit in joints if fit.unmeasured is None]
    if not measured:
        raise ValueError("no joint can be measured: " + "; ".join(f"{fit.name}: {fit.unmeasured}" for fit in joints))
    delay, lag = pool(measured)
    noises = [fit.noise_deg for fit in measured if fit.noise_deg is not None]
    steps = [fit.resolution_deg for fit in measured if fit.resolution_deg is not None]
    values = {
        "action_delay_s": _within(
            "action_delay_s", delay["low"] + motion.computing_s, delay["high"] + motion.computing_s
        ),
        "servo_lag_s": _within("servo_lag_s", lag["low"], lag["high"]),
    }
    if steps:
        values["resolution_deg"] = _within("resolution_deg", min(steps), max(steps))
    if noises:
        values["angle_noise_deg"] = _within("angle_noise_deg", min(noises), max(noises))
    Imperfections(**values)  # type: ignore[arg-type]  # lists are pairs too; raises for what it would not take
    presets = compare_presets(delay, lag, motion.computing_s)
    recorded = recording.metadata.get("imperfections", "")
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "imperfections": values,
        "driver": recording.metadata.get("driver", ""),
        "simulated": of_simulated_arm(recording.metadata),
        "recorded_imperfections": "custom" if recorded.startswith("{") else recorded,
        "whole": recording.whole,
        "lost": recording.lost,
        "length_s": float(motion.read_s[-1] - motion.read_s[0]),
        "rate_hz": 1.0 / motion.period_s,
        "readings": len(motion.read_s),
        "readings_used": int(motion.usable.sum()),
        "joints": [asdict(fit) | _spreads(fit) for fit in joints],
        "delay_s": delay,
        "lag_s": lag,
        "computing_s": motion.computing_s,
        "presets": presets,
        "preset": min(presets, key=lambda name: (presets[name]["off_by_s"], presets[name]["width_s"])),
    }


# What the recording says.


def read_motion(recording: Recording) -> Motion:
    """Targets and readings of a recording. Raises ValueError if there are none to compare."""
    metadata, ticks = recording.metadata, recording.ticks
    if metadata.get("shadow") == "true":
        raise ValueError("it is of a shadow run, in which nothing was sent to the arm: record one without --shadow")
    sent = [tick for tick in ticks if tick.target_deg is not None]
    read = [tick for tick in ticks if tick.angle_deg is not None]
    if len(sent) < LEAST_READINGS or len(read) < LEAST_READINGS:
        raise ValueError(
            f"wanted at least {LEAST_READINGS} targets and readings, got {len(sent)} and {len(read)}: "
            "record a run over several goals"
        )
    # On a simulated arm a period begins with the reading and the target at once, whatever computing took.
    simulated = of_simulated_arm(metadata)
    begun_s = np.array([tick.time_s for tick in sent])
    if np.any(np.diff(begun_s) <= 0.0):
        raise ValueError("its ticks are not in the order of time")
    computing_s = np.array([0.0 if simulated else _computing_s(tick) for tick in sent])
    period_s = _period_s(metadata, begun_s)
    late_s = np.array([1e-6 * tick.period_error_us for tick in sent])
    sent_s, target_deg, holes = _fill(
        begun_s + computing_s, np.array([tick.target_deg for tick in sent]), late_s, period_s
    )
    read_s = np.array([tick.time_s if tick.stamp_s is None else tick.stamp_s for tick in read])
    in_order = np.argsort(read_s, kind="stable")
    read_s, angle_deg = read_s[in_order], np.array([tick.angle_deg for tick in read], dtype=np.float64)[in_order]
    # Whatever was refused came before the hold; the arm may then have been anywhere.
    holes += [(tick.time_s - SETTLE_S, tick.time_s) for tick in ticks if tick.phase == "hold"]
    return Motion(
        joint_names(metadata) or [f"joint {number}" for number in range(1, angle_deg.shape[1] + 1)],
        period_s,
        sent_s,
        target_deg,
        read_s,
        angle_deg,
        _usable(read_s, [(sent_s[0], sent_s[0]), *holes]),
        float(np.median(computing_s)),
    )


def _computing_s(tick: Tick) -> float:
    """From the beginning of a tick to the target's being sent."""
    return 1e-6 * (tick.read_us + tick.decide_us + tick.safety_us)


def _period_s(metadata: dict[str, str], begun_s: Array) -> float:
    """As it was meant to be, if that is near to what it was. Raises ValueError for one that no loop has."""
    between_s = float(np.median(np.diff(begun_s)))
    if not 1e-4 <= between_s <= 1.0:
        raise ValueError(f"wanted ticks at 1 to 10000 Hz, got one every {between_s:g} s")
    try:
        period_s = float(metadata.get("period_s", math.nan))
    except ValueError:
        period_s = math.nan
    return period_s if 0.1 * between_s <= period_s <= 10.0 * between_s else between_s


def _fill(
    sent_s: Array, target_deg: Array, late_s: Array, period_s: float
) -> tuple[Array, Array, list[tuple[float, float]]]:
    """Targets with those between that the recording lacks, and the holes in which they are no more than a guess.

    A tick that began late left no other out: by how much is in it.
    """
    gaps_s = np.diff(sent_s) - np.maximum(late_s[1:], 0.0)
    times, targets, holes = [sent_s], [target_deg], []
    for index in np.flatnonzero(gaps_s > 1.5 * period_s):
        start_s, end_s = float(sent_s[index]), float(sent_s[index + 1])
        if gaps_s[index] > HOLE_S:
            holes.append((start_s, end_s))
            continue
        shares = np.arange(1, round(gaps_s[index] / period_s)) / round(gaps_s[index] / period_s)
        times.append(start_s + shares * gaps_s[index])
        targets.append(target_deg[index] + shares[:, None] * (target_deg[index + 1] - target_deg[index]))
    times_s = np.concatenate(times)
    order = np.argsort(times_s, kind="stable")
    return times_s[order], np.concatenate(targets)[order], holes


def _usable(read_s: Array, holes: list[tuple[float, float]]) -> NDArray[np.bool_]:
    """Readings that are not in a hole, nor in the time after it that the arm needs to forget it."""
    edges = np.zeros(len(read_s) + 1)
    for start_s, end_s in holes:
        edges[np.searchsorted(read_s, start_s, "left")] += 1
        edges[np.searchsorted(read_s, end_s + SETTLE_S, "left")] -= 1
    usable: NDArray[np.bool_] = np.cumsum(edges[:-1]) == 0
    return usable


# One joint.


class Answer:
    """How a joint of a given lag answers its targets: `answer(times_s)` in degrees, in the servo's own time."""

    def __init__(self, sent_s: Array, target_deg: Array, lag_s: float) -> None:
        """`sent_s` and `target_deg` are (targets,); the joint is at rest on the first target."""
        self._sent_s, self._target_deg, self._lag_s = sent_s, target_deg, lag_s
        # Angles when targets come: y[k + 1] = keep[k] y[k] + (1 - keep[k]) target[k]. Affine maps, put together two by
        # two, four by four and so on, until nothing is left of what was before.
        keep = np.concatenate(([0.0], np.exp(-np.diff(sent_s) / lag_s)))
        angle = np.concatenate((target_deg[:1], (1.0 - keep[1:]) * target_deg[:-1]))
        span = 1
        while span < len(angle) and keep.max() > 1e-9:
            angle[span:] += keep[span:] * angle[:-span]
            keep[span:] *= keep[:-span]
            span *= 2
        self._angle_deg = angle

    def __call__(self, times_s: Array) -> Array:
        """The angles at these times."""
        last = np.maximum(np.searchsorted(self._sent_s, times_s, "right") - 1, 0)
        passed_s = np.maximum(times_s - self._sent_s[last], 0.0)
        target = self._target_deg[last]
        answer: Array = target + (self._angle_deg[last] - target) * np.exp(-passed_s / self._lag_s)
        return answer


def fit_joint(motion: Motion, joint: int) -> JointFit:
    """Delay and lag of one joint, or why they cannot be told."""
    name, target = motion.names[joint], motion.target_deg[:, joint]
    angle = motion.angle_deg[:, joint]
    good = motion.usable & np.isfinite(angle)
    times_s, angle = motion.read_s[good], angle[good]
    holding = np.searchsorted(motion.sent_s, times_s, "right") - 1
    travel = float(np.abs(np.diff(target[holding])).sum()) if len(times_s) else 0.0
    if len(times_s) < LEAST_READINGS:
        return JointFit(name, travel, f"wanted at least {LEAST_READINGS} usable readings, got {len(times_s)}")
    if travel < LEAST_TRAVEL_DEG or np.ptp(target[holding]) < LEAST_SPAN_DEG:
        return JointFit(
            name,
            travel,
            f"wanted at least {LEAST_TRAVEL_DEG:g} degrees of motion over a range of {LEAST_SPAN_DEG:g}, "
            f"got {travel:.0f} over {np.ptp(target[holding]):.1f}: record a run over several goals",
        )
    delay_s, lag_s = _search(motion, target, times_s, angle)
    residual = _residual(motion, target, lag_s, times_s - delay_s, angle)
    bad = np.abs(residual) > max(BAD_READING_DEG, 8.0 * float(np.median(np.abs(residual))))
    if 0 < bad.sum() <= BAD_SHARE * len(bad):
        times_s, angle, holding = times_s[~bad], angle[~bad], holding[~bad]
        delay_s, lag_s = _search(motion, target, times_s, angle)
        residual = _residual(motion, target, lag_s, times_s - delay_s, angle)
    behind = angle - target[holding]
    spread = float(np.mean((behind - behind.mean()) ** 2))
    explained = 1.0 - float(np.mean(residual**2)) / spread if spread > 0.0 else 0.0
    if explained < LEAST_EXPLAINED:
        return JointFit(
            name,
            travel,
            f"a delay and a lag explain only {100 * max(0.0, explained):.0f} % of how it differs from its targets, "
            f"wanted {100 * LEAST_EXPLAINED:.0f}: was it blocked, its torque off, or so slow a motion lost in noise?",
        )
    if delay_s > 0.99 * LONGEST_DELAY_S or lag_s > 0.99 * LONGEST_LAG_S:
        return JointFit(
            name,
            travel,
            f"wanted a delay below {LONGEST_DELAY_S:g} s and a lag below {LONGEST_LAG_S:g} s, "
            f"got {delay_s:.2f} and {lag_s:.2f} or more",
        )
    resolution = _resolution_deg(angle)
    return JointFit(
        name,
        travel,
        None,
        delay_s,
        lag_s,
        _covariance(motion, target, times_s, angle, delay_s, lag_s),
        explained,
        float(np.sqrt(np.mean(residual**2))),
        _noise_deg(motion, target, times_s, angle, resolution),
        resolution,
    )


def _residual(motion: Motion, target: Array, lag_s: float, times_s: Array, angle: Array) -> Array:
    residual = angle - Answer(motion.sent_s, target, lag_s)(times_s)
    return np.asarray(residual - residual.mean())


def _search(motion: Motion, target: Array, times_s: Array, angle: Array) -> tuple[float, float]:
    """The delay and the lag of least squares.

    Targets in steps make the squares ripple along the line of equal delay + lag, so that line is searched closely.
    """

    def costs(lag_s: float, some: slice) -> Callable[[float], float]:
        answer, then_s, there = Answer(motion.sent_s, target, lag_s), times_s[some], angle[some]
        return lambda delay_s: float(np.var(there - answer(then_s - delay_s)))

    few, many = (slice(None, None, math.ceil(len(times_s) / most)) for most in (2000, 20_000))
    lags = np.geomspace(SHORTEST_LAG_S, LONGEST_LAG_S, 16)
    step_s = max(0.5 * motion.period_s, 0.01)
    delays = np.arange(0.0, LONGEST_DELAY_S + step_s, step_s)
    table = [[cost(float(delay)) for delay in delays] for cost in (costs(float(lag), few) for lag in lags)]
    at, column = np.unravel_index(int(np.argmin(table)), (len(lags), len(delays)))
    sum_s = float(lags[at] + delays[column])  # is told well; how it divides, less well

    def best_delay(lag_s: float, some: slice = many) -> tuple[float, float]:
        cost, middle, reach = costs(lag_s, some), sum_s - lag_s, 1.5 * step_s + 0.2 * lag_s
        low, high = (min(max(0.0, edge), LONGEST_DELAY_S) for edge in (middle - reach, middle + reach))
        places = np.linspace(low, high, 2 + math.ceil(8.0 * reach / max(motion.period_s, 0.5 * lag_s)))
        return _golden(cost, *_around(places, [cost(float(place)) for place in places]))

    log_lags = np.linspace(math.log(SHORTEST_LAG_S), math.log(LONGEST_LAG_S), 48)
    around = _around(log_lags, [best_delay(math.exp(log_lag), few)[1] for log_lag in log_lags])
    lag_s = math.exp(_golden(lambda log_lag: best_delay(math.exp(log_lag))[1], *around)[0])
    return best_delay(lag_s)[0], lag_s


def _around(places: Array, costs: list[float]) -> tuple[float, float]:
    """The neighbours of the place that costs least."""
    best = int(np.argmin(costs))
    return float(places[max(best - 1, 0)]), float(places[min(best + 1, len(places) - 1)])


def _golden(cost: Callable[[float], float], low: float, high: float, steps: int = 16) -> tuple[float, float]:
    """Where the cost is least between two places, and how much it is there; to 0.05 % of their distance."""
    ratio = 0.5 * (math.sqrt(5.0) - 1.0)
    first, second = high - ratio * (high - low), low + ratio * (high - low)
    at_first, at_second = cost(first), cost(second)
    for _ in range(steps):
        if at_first <= at_second:
            high, second, at_second = second, first, at_first
            first = high - ratio * (high - low)
            at_first = cost(first)
        else:
            low, first, at_first = first, second, at_second
            second = low + ratio * (high - low)
            at_second = cost(second)
    best = [(cost(low), low), (at_first, first), (at_second, second), (cost(high), high)]  # an edge may be the least
    least, place = min(best)
    return place, least


def _covariance(
    motion: Motion, target: Array, times_s: Array, angle: Array, delay_s: float, lag_s: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Of delay and lag: H^-1 (sum of g g^T over blocks of time) H^-1, with H = J^T J and g = J^T residual."""
    small_s, share = 1e-3, 0.05

    def residual(delay: float, lag: float) -> Array:
        return _residual(motion, target, lag, times_s - delay, angle)

    by_delay = (residual(delay_s + small_s, lag_s) - residual(delay_s - small_s, lag_s)) / (2.0 * small_s)
    by_lag = (residual(delay_s, lag_s * (1 + share)) - residual(delay_s, lag_s * (1 - share))) / (2.0 * share * lag_s)
    jacobian = np.stack((by_delay, by_lag), axis=1)
    pulls = jacobian * residual(delay_s, lag_s)[:, None]
    _, block = np.unique(np.floor((times_s - times_s[0]) / BLOCK_S), return_inverse=True)
    sums = np.zeros((int(block.max()) + 1, 2))
    np.add.at(sums, block, pulls)
    inverse = np.linalg.pinv(jacobian.T @ jacobian)
    count = max(len(sums), 4)
    covariance = inverse @ (sums.T @ sums) @ inverse * count / (count - 3) + TIMING_S**2 * np.eye(2)
    return ((float(covariance[0, 0]), float(covariance[0, 1])), (float(covariance[1, 0]), float(covariance[1, 1])))


def _resolution_deg(angle: Array) -> float | None:
    """The step of the readings; None if it is too fine to be seen."""
    values = np.unique(np.round(angle, 7))
    if len(values) < 10:
        return None
    step = float(np.diff(values).min())
    # A smallest step has its own rounding; over the whole range it does not show.
    step = float(np.ptp(values)) / max(1, round(float(np.ptp(values)) / step))
    off = (values - values[0]) / step
    return step if step > 1e-4 and np.all(np.abs(off - np.round(off)) < 0.05) else None


def _noise_deg(motion: Motion, target: Array, times_s: Array, angle: Array, resolution: float | None) -> float | None:
    """Standard deviation of the readings while the targets rest; None if they never do."""
    moves = motion.sent_s[1:][np.abs(np.diff(target)) > 1e-3]
    before = np.searchsorted(moves, times_s, "right")
    since_s = times_s - np.concatenate(([motion.sent_s[0]], moves))[before]
    resting = since_s > REST_S
    pairs = resting[1:] & resting[:-1] & (np.diff(times_s) < 1.5 * motion.period_s)
    if pairs.sum() < 20:
        return None
    variance = 0.5 * float(np.mean(np.diff(angle)[pairs] ** 2)) - (resolution or 0.0) ** 2 / 12.0
    return math.sqrt(max(0.0, variance))


# All joints.


def pool(fits: list[JointFit]) -> tuple[dict[str, float], dict[str, float]]:
    """Delay and lag of all joints: each a "value" and the ends of its interval, "low" and "high", in s."""
    weights = [np.linalg.inv(np.array(fit.covariance)) for fit in fits]
    values = [np.array([fit.delay_s, fit.lag_s]) for fit in fits]
    covariance = np.linalg.inv(np.sum(weights, axis=0))
    mean = covariance @ np.sum([weight @ value for weight, value in zip(weights, values, strict=True)], axis=0)
    if len(fits) > 1:
        gaps = [value - mean for value in values]
        disagreement = sum(float(gap @ weight @ gap) for weight, gap in zip(weights, gaps, strict=True))
        covariance = covariance * max(1.0, disagreement / (2 * len(fits) - 2))  # Birge's ratio
    delay, lag = (
        _interval(float(value), math.sqrt(variance)) for value, variance in zip(mean, np.diag(covariance), strict=True)
    )
    return delay, lag


def _interval(value: float, deviation: float) -> dict[str, float]:
    return {
        "value": value,
        "low": max(0.0, value - NORMAL_95 * deviation),
        "high": value + NORMAL_95 * deviation,
    }


def _spreads(fit: JointFit) -> dict[str, Any]:
    """A joint's intervals, in place of its covariance."""
    if fit.covariance is None or fit.delay_s is None or fit.lag_s is None:
        return {"delay_s": None, "lag_s": None}
    (delay, _), (_, lag) = fit.covariance
    return {"delay_s": _interval(fit.delay_s, math.sqrt(delay)), "lag_s": _interval(fit.lag_s, math.sqrt(lag))}


def compare_presets(delay: dict[str, float], lag: dict[str, float], computing_s: float) -> dict[str, dict[str, Any]]:
    """For each preset its ranges of delay (both kinds) and lag, whether what was measured is in them, and how far off.

    As near as the interval's half, or `ACCURACY_S`, counts as in it.
    """
    presets: dict[str, dict[str, Any]] = {}
    for name, preset in PRESETS.items():
        pairs = zip(preset.action_delay_s, preset.observation_delay_s, strict=True)
        ranges = {
            "delay_s": tuple(action + observation for action, observation in pairs),
            "lag_s": tuple(bound or IDEAL_LAG_S for bound in preset.servo_lag_s),
        }
        off_s, inside = 0.0, True
        for key, measured, more in (("delay_s", delay, computing_s), ("lag_s", lag, 0.0)):
            low, high = ranges[key]
            value, slack = measured["value"] + more, max(ACCURACY_S, measured["high"] - measured["value"])
            beyond = max(0.0, low - value, value - high)
            inside = inside and beyond <= slack
            off_s += max(0.0, beyond - slack)
        width_s = sum(high - low for low, high in ranges.values())
        presets[name] = {**ranges, "inside": inside, "off_by_s": off_s, "width_s": width_s}
    return presets


def _within(name: str, low: float, high: float) -> list[float]:
    """A range, within what `Imperfections` takes."""
    lowest, highest = BOUNDS.get(name, (0.0, math.inf))
    return [round(min(max(value, lowest), highest), 5) for value in (low, high)]


# For people.


def format_identification(figures: dict[str, Any], saved: str | None = None) -> str:
    """The figures as a table for people; `saved` is the file that they are written to."""
    lines = [
        f"{figures['recording']}: {figures['length_s']:.1f} s at {figures['rate_hz']:.4g} Hz, "
        f"{figures['readings_used']} of {figures['readings']} readings used"
    ]
    if not figures["whole"]:
        lines.append(f"it was cut short or is damaged; unreadable: {figures['lost'] or 'nothing that is there'}")
    if figures["simulated"]:
        lines.append(f"of a simulated arm, {figures['recorded_imperfections'] or 'ideal'}")
    lines.append(f"{'':<12}{'delay':>24}{'servo lag':>24}{'explained':>11}{'noise':>9}{'resolution':>12}")
    for fit in figures["joints"]:
        if fit["unmeasured"]:
            lines.append(f"{fit['name']:<12}  not measured: {fit['unmeasured']}")
            continue
        noise = "-" if fit["noise_deg"] is None else f"{fit['noise_deg']:.3f}"
        step = "-" if fit["resolution_deg"] is None else f"{fit['resolution_deg']:.3f}"
        lines.append(
            f"{fit['name']:<12}{_ms(fit['delay_s']):>24}{_ms(fit['lag_s']):>24}{100 * fit['explained']:>9.1f} %"
            f"{noise:>9}{step:>12}"
        )
    lines.append(f"{'all':<12}{_ms(figures['delay_s']):>24}{_ms(figures['lag_s']):>24}")
    lines.append("times in ms with 95 % intervals, noise and resolution in degrees; the delay is that of actions and")
    lines.append("readings together, which cannot be told apart")
    if any(not fit["unmeasured"] and fit["noise_deg"] is None for fit in figures["joints"]):
        lines.append("-: for the noise a joint has to rest for a while")
    if figures["computing_s"]:
        lines.append(f"from a reading to its target: {1000 * figures['computing_s']:.2f} ms, not in the delay above")
    if figures["rate_hz"] < HIGH_RATE_HZ:
        lines.append(f"delay and lag are told apart better in a run with --rate {HIGH_RATE_HZ:g} or more")
    lines.append("")
    for name, preset in figures["presets"].items():
        (least_delay, delay), (least_lag, lag) = preset["delay_s"], preset["lag_s"]
        off = "" if preset["inside"] else f", off by {1000 * preset['off_by_s']:.0f} ms"
        lines.append(
            f"  {name:<8} delay {1000 * least_delay:.0f} to {1000 * delay:.0f} ms, "
            f"lag {1000 * least_lag:.0f} to {1000 * lag:.0f} ms: {'inside' if preset['inside'] else 'outside'}{off}"
        )
    nearest = figures["preset"]
    if figures["presets"][nearest]["inside"]:
        lines.append(f"the nearest preset is {nearest}")
    else:
        lines.append(f"no preset has such delay and lag; the nearest is {nearest}")
    noise, most = max(figures["imperfections"].get("angle_noise_deg", [0.0])), PRESETS[nearest].angle_noise_deg[1]
    if noise > most + 0.01:
        lines.append(f"(its readings are noisier than that: {noise:.3f} degrees, where {nearest} has up to {most:g})")
    if saved is None:
        lines.append("--json FILE writes what was measured, for --imperfections FILE of train, evaluate and run")
    else:
        lines.append(f"train for this arm: arm-control train ddpg --imperfections {shlex.quote(saved)}")
    return printable_lines(lines)


def _ms(interval: dict[str, float]) -> str:
    value, low, high = (1000 * interval[name] for name in ("value", "low", "high"))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"
