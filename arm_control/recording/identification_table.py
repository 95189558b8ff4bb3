"""The figures of an identification as a table for people."""

import shlex
from typing import Any

from arm_control.process.printing import printable_lines
from envs.imperfections import PRESETS

HIGH_RATE_HZ = 100.0


def format_identification(figures: dict[str, Any], saved: str | None = None) -> str:
    """The figures as a table for people; `saved` is the file that they are written to."""
    lines = [
        *_describe_recording(figures),
        *_joint_rows(figures),
        *_remarks(figures),
        "",
        *_preset_rows(figures),
        *_conclusion(figures, saved),
    ]
    return printable_lines(lines)


def _describe_recording(figures: dict[str, Any]) -> list[str]:
    """The recording: its length, rate, readings and damage."""
    lines = [
        f"{figures['recording']}: {figures['length_s']:.1f} s at {figures['rate_hz']:.4g} Hz, "
        f"{figures['readings_used']} of {figures['readings']} readings used"
    ]
    if not figures["whole"]:
        lines.append(f"it was cut short or is damaged; unreadable: {figures['lost'] or 'nothing known'}")
    if figures["simulated"]:
        lines.append(f"of a simulated arm, {figures['recorded_imperfections'] or 'ideal'}")
    return lines


def _joint_rows(figures: dict[str, Any]) -> list[str]:
    """The table of joints, with the pooled values below."""
    rows = [f"{'':<12}{'delay':>24}{'servo lag':>24}{'explained':>11}{'noise':>9}{'resolution':>12}"]
    for fit in figures["joints"]:
        if fit["unmeasured"]:
            rows.append(f"{fit['name']:<12}  not measured: {fit['unmeasured']}")
            continue
        noise = "-" if fit["noise_deg"] is None else f"{fit['noise_deg']:.3f}"
        step = "-" if fit["resolution_deg"] is None else f"{fit['resolution_deg']:.3f}"
        rows.append(
            f"{fit['name']:<12}{_ms(fit['delay_s']):>24}{_ms(fit['lag_s']):>24}{100 * fit['explained']:>9.1f} %"
            f"{noise:>9}{step:>12}"
        )
    rows.append(f"{'all':<12}{_ms(figures['delay_s']):>24}{_ms(figures['lag_s']):>24}")
    return rows


def _remarks(figures: dict[str, Any]) -> list[str]:
    """Units of the table, and the limits of the measurement."""
    lines = [
        "times in ms with 95 % intervals, noise and resolution in degrees; the delay is the sum of sensor delay and",
        "actuation delay, which cannot be distinguished",
    ]
    if any(not fit["unmeasured"] and fit["noise_deg"] is None for fit in figures["joints"]):
        lines.append("-: the noise is measured only while a joint rests")
    if figures["computing_s"]:
        lines.append(f"from a reading to its target: {1000 * figures['computing_s']:.2f} ms, not in the delay above")
    if figures["rate_hz"] < HIGH_RATE_HZ:
        lines.append(f"a run with --rate {HIGH_RATE_HZ:g} or more separates delay and lag better")
    return lines


def _preset_rows(figures: dict[str, Any]) -> list[str]:
    """The presets, and whether the measured values are inside their ranges."""
    rows = []
    for name, preset in figures["presets"].items():
        delay_low, delay_high = preset["delay_s"]
        lag_low, lag_high = preset["lag_s"]
        outcome = "inside" if preset["inside"] else f"outside, off by {1000 * preset['off_by_s']:.0f} ms"
        rows.append(
            f"  {name:<8} delay {1000 * delay_low:.0f} to {1000 * delay_high:.0f} ms, "
            f"lag {1000 * lag_low:.0f} to {1000 * lag_high:.0f} ms: {outcome}"
        )
    return rows


def _conclusion(figures: dict[str, Any], saved: str | None) -> list[str]:
    """The nearest preset, and the next command."""
    # The nearest preset, and whether the measured arm is like it.
    nearest = figures["preset"]
    lines = [f"no preset has such delay and lag; the nearest is {nearest}"]
    if figures["presets"][nearest]["inside"]:
        lines = [f"the nearest preset is {nearest}"]
    noise = max(figures["imperfections"].get("angle_noise_deg", [0.0]))
    preset_noise = PRESETS[nearest].angle_noise_deg[1]
    if noise > preset_noise + 0.01:
        lines.append(f"(its readings are noisier: {noise:.3f} degrees, {nearest} has up to {preset_noise:g})")
    # The next command.
    if saved is None:
        lines.append("--json FILE writes the measured values, for --imperfections FILE of train, evaluate and run")
    else:
        lines.append(f"train for this arm: arm-control train ddpg --imperfections {shlex.quote(saved)}")
    return lines


def _ms(interval: dict[str, float]) -> str:
    """A value with its interval in ms."""
    value, low, high = (1000 * interval[name] for name in ("value", "low", "high"))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"
