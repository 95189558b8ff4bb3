"""The targets and readings of a recording as arrays, for identifying delay and lag."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from arm_control.recording.reading import Recording
from arm_control.recording.schema import Tick, joint_names, of_simulated_arm

Array = NDArray[np.float64]

SETTLE_S = 1.0  # after which the earlier motion of an arm no longer matters
MAX_GAP_S = 0.25  # targets of longer gaps are not interpolated
LEAST_READINGS = 100  # to measure a joint


@dataclass(frozen=True)
class Motion:
    """The targets and readings of a recording, as arrays over its ticks; columns in the order of the joints."""

    names: list[str]
    period_s: float
    sent_s: Array
    """Time at which each target was sent (targets,)."""
    target_deg: Array
    """(targets, joints)."""
    read_s: Array
    """Time at which each reading was taken (readings,)."""
    angle_deg: Array
    """(readings, joints); NaN where the reading was not finite."""
    usable: NDArray[np.bool_]
    """(readings,): True where the targets before a reading are complete."""
    computing_s: float
    """Median time from the beginning of a tick, with its reading, to sending its target."""


def read_motion(recording: Recording) -> Motion:
    """The targets and readings of a recording. Raises ValueError for a dry run, and for too few of them."""
    metadata = recording.metadata
    ticks = recording.ticks
    if metadata.get("shadow") == "true":
        raise ValueError("it is of a dry run, in which nothing was sent to the arm: record one without --shadow")
    sent = [tick for tick in ticks if tick.target_deg is not None]
    read = [tick for tick in ticks if tick.angle_deg is not None]
    if len(sent) < LEAST_READINGS or len(read) < LEAST_READINGS:
        raise ValueError(
            f"expected at least {LEAST_READINGS} targets and readings, got {len(sent)} and {len(read)}: "
            "record a run over several goals"
        )
    # When targets were sent: after the computation of their tick. A simulated arm stands still during it.
    simulated = of_simulated_arm(metadata)
    begun_s = np.array([tick.time_s for tick in sent])
    if np.any(np.diff(begun_s) <= 0.0):
        raise ValueError("its ticks are not in the order of time")
    computing_s = np.array([0.0 if simulated else _computing_s(tick) for tick in sent])
    period_s = _period_s(metadata, begun_s)
    late_s = np.array([1e-6 * tick.period_error_us for tick in sent])
    recorded_deg = np.array([tick.target_deg for tick in sent])
    sent_s, target_deg, gaps = _fill_gaps(begun_s + computing_s, recorded_deg, late_s, period_s)
    # When readings were taken.
    read_s = np.array([tick.time_s if tick.stamp_s is None else tick.stamp_s for tick in read])
    in_order = np.argsort(read_s, kind="stable")
    read_s = read_s[in_order]
    angle_deg = np.array([tick.angle_deg for tick in read], dtype=np.float64)[in_order]
    # The deviation that caused a fault stop was before the hold: discard the readings before it.
    gaps += [(tick.time_s - SETTLE_S, tick.time_s) for tick in ticks if tick.phase == "hold"]
    return Motion(
        joint_names(metadata) or [f"joint {number}" for number in range(1, angle_deg.shape[1] + 1)],
        period_s,
        sent_s,
        target_deg,
        read_s,
        angle_deg,
        _usable(read_s, [(sent_s[0], sent_s[0]), *gaps]),
        float(np.median(computing_s)),
    )


def _computing_s(tick: Tick) -> float:
    """The time from the beginning of a tick to sending its target."""
    return 1e-6 * (tick.read_us + tick.decide_us + tick.safety_us)


def _period_s(metadata: dict[str, str], begun_s: Array) -> float:
    """The control period of the metadata if it is plausible, else the median interval of the ticks.

    Raises ValueError for intervals that no control loop has.
    """
    between_s = float(np.median(np.diff(begun_s)))
    if not 1e-4 <= between_s <= 1.0:
        raise ValueError(f"expected ticks at 1 to 10000 Hz, got one every {between_s:g} s")
    try:
        period_s = float(metadata.get("period_s", math.nan))
    except ValueError:
        period_s = math.nan
    return period_s if 0.1 * between_s <= period_s <= 10.0 * between_s else between_s


def _fill_gaps(
    sent_s: Array, target_deg: Array, late_s: Array, period_s: float
) -> tuple[Array, Array, list[tuple[float, float]]]:
    """Interpolate targets of missing ticks; returns times and targets, and the gaps that are too long to interpolate.

    A tick that began late delayed the others, without leaving any out: its lateness does not count as a gap.
    """
    intervals_s = np.diff(sent_s) - np.maximum(late_s[1:], 0.0)
    times = [sent_s]
    targets = [target_deg]
    gaps = []
    for index in np.flatnonzero(intervals_s > 1.5 * period_s):
        start_s = float(sent_s[index])
        end_s = float(sent_s[index + 1])
        interval_s = intervals_s[index]
        if interval_s > MAX_GAP_S:
            gaps.append((start_s, end_s))
            continue
        # Linear from the target before to the one after the missing ticks.
        periods = round(interval_s / period_s)
        fractions = np.arange(1, periods) / periods
        times.append(start_s + fractions * interval_s)
        targets.append(target_deg[index] + fractions[:, None] * (target_deg[index + 1] - target_deg[index]))
    times_s = np.concatenate(times)
    order = np.argsort(times_s, kind="stable")
    return times_s[order], np.concatenate(targets)[order], gaps


def _usable(read_s: Array, gaps: list[tuple[float, float]]) -> NDArray[np.bool_]:
    """Readings (readings,) that are outside all gaps, and at least SETTLE_S after them."""
    # The number of gaps around each reading: the cumulative sum of +1 at starts and -1 at ends.
    edges = np.zeros(len(read_s) + 1)
    for start_s, end_s in gaps:
        edges[np.searchsorted(read_s, start_s, "left")] += 1
        edges[np.searchsorted(read_s, end_s + SETTLE_S, "left")] -= 1
    usable: NDArray[np.bool_] = np.cumsum(edges[:-1]) == 0
    return usable
