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


def checked_value(handle: Any, value: Any) -> Any:
    """A value from a browser, clipped to a slider's range; None if the control does not offer it."""
    if isinstance(handle, viser.GuiSliderHandle):
        return None if math.isnan(value) else min(max(handle.min, value), handle.max)
    if isinstance(handle, viser.GuiDropdownHandle | viser.GuiButtonGroupHandle):
        return value if value in handle.options else None
    return value


def set_value(handle: Any, value: Any) -> None:
    """Set the value of a control, if it differs."""
    if handle.value != value:
        handle.value = value


def numbers(now: Segment, name: str, colour: tuple[int, int, int]) -> Markup:
    """The numbers of a sample as HTML, after a square in the colour of its lines."""
    error_mm = now.error_mm[0]
    texts = []
    if not math.isnan(error_mm):
        texts += [Markup("error <b>{:.1f} mm</b>").format(error_mm), f"reward {now.reward[0]:.3f}"]
    texts.append(now.phase[0])
    if now.band[0] != SafetyLevel.OK.value:
        texts.append(level_name(now.band[0]))
    square = Markup('<span style="color: rgb{}">\u25a0</span>').format(colour)
    return Markup("{} {}: {}").format(square, name, Markup(", ").join(texts))


def level_name(band: str) -> str:
    """The name of a safety level in a recording; an unknown level is returned unchanged."""
    for level in SafetyLevel:
        if level.value == band:
            return level.name.lower()
    return band


def as_html(lines: Sequence[Markup]) -> str:
    """Lines of HTML in the panel's style. `Markup` escapes each text that is inserted."""
    style = "padding: 0 0.75em 0.6em; font-size: 0.875em; line-height: 1.45"
    return str(Markup('<div style="{}">{}</div>').format(style, Markup("<br>").join(lines)))
