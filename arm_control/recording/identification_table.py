"""The figures of an identification as a table for people."""

import shlex
from typing import Any

from arm_control.process.printing import printable_lines
from envs.imperfections import PRESETS

HIGH_RATE_HZ = 100.0


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
        (least_delay, delay) = preset["delay_s"]
        (least_lag, lag) = preset["lag_s"]
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
    noise = max(figures["imperfections"].get("angle_noise_deg", [0.0]))
    most = PRESETS[nearest].angle_noise_deg[1]
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
