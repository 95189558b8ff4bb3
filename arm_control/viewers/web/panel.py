"""The controls and texts of the web viewer's panel."""

import math
from collections.abc import Sequence
from typing import Any

import viser
from markupsafe import Markup

from arm_control.runner.safety.latch import SafetyLevel
from arm_control.viewers.common.trajectory import Segment


def rounded(time_s: float) -> float:
    """A time rounded down to hundredths, as a slider shows it."""
    return math.floor(100.0 * time_s + 1e-6) / 100.0


def offered(handle: Any, value: Any) -> Any:
    """The value if its control offers it, clipped to a slider's range; None if not: a browser can send any value."""
    if isinstance(handle, viser.GuiSliderHandle):
        return None if math.isnan(value) else min(max(handle.min, value), handle.max)
    if isinstance(handle, viser.GuiDropdownHandle | viser.GuiButtonGroupHandle):
        return value if value in handle.options else None
    return value


def put(handle: Any, value: Any) -> None:
    """Set the value of a control, if it differs."""
    if handle.value != value:
        handle.value = value


def numbers(now: Segment, name: str, colour: tuple[int, int, int]) -> Markup:
    """A sample as HTML text, after a square in the colour of its lines."""
    error_mm = now.error_mm[0]
    words = []
    if not math.isnan(error_mm):
        words += [Markup("error <b>{:.1f} mm</b>").format(error_mm), f"reward {now.reward[0]:.3f}"]
    words.append(now.phase[0])
    if now.band[0] != SafetyLevel.OK.value:
        words.append(level_name(now.band[0]))
    square = Markup('<span style="color: rgb{}">\u25a0</span>').format(colour)
    return Markup("{} {}: {}").format(square, name, Markup(", ").join(words))


def level_name(band: str) -> str:
    """The name of a safety level in a recording; a text that names none is returned as it is."""
    for level in SafetyLevel:
        if level.value == band:
            return level.name.lower()
    return band


def as_text(lines: Sequence[Markup]) -> str:
    """Lines of HTML as the panel shows them. `Markup` escapes each text that is inserted."""
    style = "padding: 0 0.75em 0.6em; font-size: 0.875em; line-height: 1.45"
    return str(Markup('<div style="{}">{}</div>').format(style, Markup("<br>").join(lines)))
