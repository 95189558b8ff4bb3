"""The targets and readings of a recording as arrays, for identifying delay and lag."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from arm_control.recording.reading import Recording
from arm_control.recording.schema import Tick, joint_names, of_simulated_arm

Array = NDArray[np.float64]

SETTLE_S = 1.0  # until it no longer matters where an arm was
HOLE_S = 0.25  # ticks that are missing for longer are not guessed
LEAST_READINGS = 100  # of a joint, to say anything about it


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


def read_motion(recording: Recording) -> Motion:
    """Targets and readings of a recording. Raises ValueError if there are none to compare."""
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
    read_s = read_s[in_order]
    angle_deg = np.array([tick.angle_deg for tick in read], dtype=np.float64)[in_order]
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
        raise ValueError(f"expected ticks at 1 to 10000 Hz, got one every {between_s:g} s")
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
    times = [sent_s]
    targets = [target_deg]
    holes = []
    for index in np.flatnonzero(gaps_s > 1.5 * period_s):
        start_s = float(sent_s[index])
        end_s = float(sent_s[index + 1])
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
