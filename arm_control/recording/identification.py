"""`arm-control identify`: the delay and the lag of an arm's servos, measured from a recording of its motion.

The model of a joint is a delay, a first-order lag and a constant offset:

    lag y'(t) = target(t - delay) - y(t),    reading(t) = y(t) + offset

Each target holds until the next one is sent, so the solution is exact at any time, and the uneven times of a recording
need no resampling. Delay and lag minimise the squared residuals between model and readings, by a grid search followed
by two nested golden-section searches.

| figure | method |
|---|---|
| interval (95 %) | sandwich estimate of the covariance, with residuals clustered by second |
| pooled | inverse-covariance weighted mean of the joints; wider if they disagree (Birge's ratio) |
| explained | fraction of the mean square of reading minus present target that the model accounts for |
| noise | standard deviation of readings while the targets rest, from consecutive differences, without the resolution |
| resolution | smallest step between readings, if all steps are multiples of it |

The intervals do not include errors of the model itself.

Largest errors of the pooled values, on simulated arms of known delay (0 to 200 ms) and lag (19 to 100 ms) that moved
between random poses for half a minute at the arm's limits:

| readings | at 100 and 200 Hz | at 30 Hz, lag 35 ms or more | at 30 Hz, lag 19 ms |
|---|---|---|---|
| noise and resolution of `xl430` | 1 ms | 1.5 ms | delay 11 ms, lag 4 ms |
| all of `xl430`, worst draw | 1.5 ms | 4 ms | delay 15 ms, lag 5 ms |
| all of `rough`, worst draw | 4 ms | 10 ms | delay 7 ms, lag 16 ms |

The servos of the last column saturate in torque and speed, which is not in the model: move slower, for example with
`run --max-speed 150 --max-acceleration 800`, or record at a higher rate. There, and with backlash, intervals are too
narrow.

Sensor delay and actuation delay cannot be distinguished: both shift readings against targets equally. The delay is
their sum.
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

ACCURACY_S = 0.005  # a value this close to a preset's range counts as inside
NORMAL_95 = 1.96  # half-width of a 95 % interval in standard deviations


def identify(log: str | Path) -> dict[str, Any]:
    """The figures of a recording file as values for JSON: delay, lag, noise, resolution; in s and degrees.

    Raises ValueError for a file that cannot be read, a dry run, too little motion, and joints that do not follow.
    """
    try:
        return identify_recording(read_recording(log)) | {"recording": str(log)}
    except ValueError as error:
        text = str(error)
        raise ValueError(text if str(log) in text else f"{log}: {text}") from None


def identify_recording(recording: Recording) -> dict[str, Any]:
    """As `identify`, for a recording in memory. Raises ValueError without the name of a file."""
    # Fit each joint.
    motion = read_motion(recording)
    joints = [fit_joint(motion, joint) for joint in range(len(motion.names))]
    measured = [fit for fit in joints if fit.unmeasured is None]
    if not measured:
        reasons = "; ".join(f"{fit.name}: {fit.unmeasured}" for fit in joints)
        raise ValueError(f"no joint can be measured: {reasons}")
    # Pool the joints, and compare the result with the presets.
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
        "joints": [asdict(fit) | _intervals(fit) for fit in joints],
        "delay_s": delay,
        "lag_s": lag,
        "computing_s": motion.computing_s,
        "presets": presets,
        "preset": min(presets, key=lambda name: (presets[name]["off_by_s"], presets[name]["width_s"])),
    }


def measured_imperfections(
    fits: list[JointFit], delay: dict[str, float], lag: dict[str, float], computing_s: float
) -> dict[str, list[float]]:
    """The measured values as ranges of `Imperfections`. Raises ValueError for ranges that it does not accept."""
    # The delay of a command also includes the time from a reading to its target.
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
    """Delay and lag of all joints: for each a "value" and the ends of its interval, "low" and "high", in s."""
    # The weighted mean of x = (delay, lag), with weights W_i = C_i^-1:  x = (sum W_i)^-1 sum W_i x_i
    weights = [np.linalg.inv(np.array(fit.covariance)) for fit in fits]
    values = [np.array([fit.delay_s, fit.lag_s]) for fit in fits]
    covariance = np.linalg.inv(np.sum(weights, axis=0))
    weighted = [weight @ value for weight, value in zip(weights, values, strict=True)]
    mean = covariance @ np.sum(weighted, axis=0)
    # Birge's ratio: chi^2 = sum (x_i - x)^T W_i (x_i - x), over its 2 n - 2 degrees of freedom.
    if len(fits) > 1:
        chi_squared = 0.0
        for weight, value in zip(weights, values, strict=True):
            gap = value - mean
            chi_squared += float(gap @ weight @ gap)
        covariance = covariance * max(1.0, chi_squared / (2 * len(fits) - 2))
    delay_variance, lag_variance = np.diag(covariance)
    delay = _interval(float(mean[0]), math.sqrt(delay_variance))
    lag = _interval(float(mean[1]), math.sqrt(lag_variance))
    return delay, lag


def _interval(value: float, std: float) -> dict[str, float]:
    """A value with its 95 % interval, cut off at 0."""
    return {
        "value": value,
        "low": max(0.0, value - NORMAL_95 * std),
        "high": value + NORMAL_95 * std,
    }


def _intervals(fit: JointFit) -> dict[str, Any]:
    """The delay and lag of a joint with their intervals, for the table in place of the bare values."""
    if fit.covariance is None or fit.delay_s is None or fit.lag_s is None:
        return {"delay_s": None, "lag_s": None}
    (delay_variance, _), (_, lag_variance) = fit.covariance
    return {
        "delay_s": _interval(fit.delay_s, math.sqrt(delay_variance)),
        "lag_s": _interval(fit.lag_s, math.sqrt(lag_variance)),
    }


def compare_presets(delay: dict[str, float], lag: dict[str, float], computing_s: float) -> dict[str, dict[str, Any]]:
    """The ranges of total delay and of lag of each preset, and how far outside them the measured values are.

    A value counts as inside if it is within half its interval, or within `ACCURACY_S`, of the range.
    """
    presets: dict[str, dict[str, Any]] = {}
    for name, preset in PRESETS.items():
        # The delay is the sum of those of actions and of observations.
        least_delay_s = preset.action_delay_s[0] + preset.observation_delay_s[0]
        largest_delay_s = preset.action_delay_s[1] + preset.observation_delay_s[1]
        least_lag_s, largest_lag_s = preset.servo_lag_s
        ranges = {
            "delay_s": (least_delay_s, largest_delay_s),
            "lag_s": (least_lag_s or IDEAL_LAG_S, largest_lag_s or IDEAL_LAG_S),
        }
        # How far the measured values are outside the ranges.
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
    """A range, clipped to the bounds of `Imperfections` and rounded."""
    lowest, highest = BOUNDS.get(name, (0.0, math.inf))
    return [round(min(max(value, lowest), highest), 5) for value in (low, high)]
