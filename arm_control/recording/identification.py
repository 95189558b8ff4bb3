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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from arm_control.recording.identification_motion import read_motion
from arm_control.recording.reading import Recording, read_recording
from arm_control.recording.schema import of_simulated_arm
from arm_control.recording.servo_fit import JointFit, fit_joint
from envs.imperfections import BOUNDS, FORMAT, FORMAT_VERSION, IDEAL_LAG_S, PRESETS, imperfections_from_json

ACCURACY_S = 0.005  # within a preset's range, or as near to it as this
NORMAL_95 = 1.96


def identify(log: str | Path) -> dict[str, Any]:
    """Delay, lag and what goes with them, from a recording's file, as plain values; times in s, angles in degrees.

    Raises ValueError for a file that cannot be read, a dry run, too little motion, and motion that no delay and lag
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
    values = measured_imperfections(measured, delay, lag, motion.computing_s)
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


def measured_imperfections(
    fits: list[JointFit], delay: dict[str, float], lag: dict[str, float], computing_s: float
) -> dict[str, list[float]]:
    """What was measured as ranges of `Imperfections`. Raises ValueError for ranges that these do not accept."""
    values = {
        "action_delay_s": _within("action_delay_s", delay["low"] + computing_s, delay["high"] + computing_s),
        "servo_lag_s": _within("servo_lag_s", lag["low"], lag["high"]),
    }
    steps_deg = [fit.resolution_deg for fit in fits if fit.resolution_deg is not None]
    if steps_deg:
        values["resolution_deg"] = _within("resolution_deg", min(steps_deg), max(steps_deg))
    noises_deg = [fit.noise_deg for fit in fits if fit.noise_deg is not None]
    if noises_deg:
        values["angle_noise_deg"] = _within("angle_noise_deg", min(noises_deg), max(noises_deg))
    imperfections_from_json(values)
    return values


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
        off_s = 0.0
        inside = True
        for key, measured, more in (("delay_s", delay, computing_s), ("lag_s", lag, 0.0)):
            low, high = ranges[key]
            value = measured["value"] + more
            slack = max(ACCURACY_S, measured["high"] - measured["value"])
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
