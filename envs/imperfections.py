"""Dynamics randomisation: ranges of delays, servo lag, backlash, noise, payload and length errors of an arm.

`envs.imperfect_simulation` simulates an arm with them. Presets are in `assets/imperfections/`.
"""

import difflib
import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from envs.arm import ASSETS
from envs.files import read_text

FORMAT = "arm-control imperfections"
FORMAT_VERSION = 1
LARGEST_FILE = 2**20  # bytes

Range = tuple[float, float]
OFF: Range = (0.0, 0.0)
IDEAL_LAG_S = 0.019  # of envs.simulation, rounded; importing it from there would require PyBullet
NOISE_BOUND = 4.0  # standard deviations at which noise is clipped
# Accepted values of fields; of the others, all from 0.
BOUNDS = {
    "action_delay_s": (0.0, 0.5),
    "observation_delay_s": (0.0, 0.5),
    "length_error": (-0.5, 0.5),
    "speed_loss": (0.0, 1.0),
}


def _pair(value: Any) -> list[float]:
    """The two numbers of a range, or twice a single number; a list of another length for anything else."""
    try:
        array = np.asarray(value)
    except ValueError:  # rows of several lengths
        return []
    if array.dtype.kind not in "fiu" or array.ndim > 1:
        return []
    if array.ndim == 0:
        return [float(array), float(array)]
    return [float(number) for number in array]


@dataclass(frozen=True)
class Imperfections:
    """Ranges from which each episode draws the imperfections of its arm, uniformly.

    A single number stands for a range of zero width. All are off by default.
    """

    action_delay_s: Range = OFF
    """Time from a command until the servo acts on it, in s, rounded to physics steps."""
    servo_lag_s: Range = OFF
    """Time constant of the servo's first-order response, in s (0: the ideal servo's 0.019)."""
    dead_band_deg: Range = OFF
    """Smallest change of the target that a servo acts on, in degrees."""
    backlash_deg: Range = OFF
    """Backlash between a servo, which measures its own side, and its link, in degrees."""
    resolution_deg: Range = OFF
    """Resolution of the servo's targets and of its angle readings, in degrees."""
    angle_noise_deg: Range = OFF
    """Standard deviation of the noise of a measured angle, in degrees."""
    speed_noise_deg_s: Range = OFF
    """Standard deviation of the noise of a measured speed, in degrees/s."""
    observation_delay_s: Range = OFF
    """Age of the readings on arrival, in s."""
    payload_kg: Range = OFF
    """Mass carried by the last link, in kg."""
    length_error: Range = OFF
    """Relative error of each link's length, drawn separately for each link; may be negative."""
    friction_nm_s_rad: Range = OFF
    """Viscous friction in each joint, in N m s/rad."""
    speed_loss: Range = OFF
    """Fraction of a speed that is missing from its reading; 1 for servos that report no speeds."""

    def __post_init__(self) -> None:
        # Turn single numbers into ranges, and check them all.
        for field in fields(self):
            value = getattr(self, field.name)
            pair = _pair(value)
            lowest, highest = BOUNDS.get(field.name, (0.0, math.inf))
            if len(pair) != 2 or not (lowest <= pair[0] <= pair[1] <= highest and pair[1] < math.inf):
                raise ValueError(
                    f"{field.name}: expected a number or a range (low, high) from {lowest:g} to {highest:g}, "
                    f"got {value!s:.80}"
                )
            object.__setattr__(self, field.name, (pair[0], pair[1]))

    @property
    def name(self) -> str:
        """The name of the preset with these ranges; "custom" if there is none."""
        return next((name for name, preset in PRESETS.items() if preset == self), "custom")

    def to_json(self) -> str | dict[str, list[float]]:
        """The preset's name, otherwise the ranges by field; `imperfections_from_json` is the inverse."""
        if self.name in PRESETS:
            return self.name
        return {field.name: list(getattr(self, field.name)) for field in fields(self)}

    def to_text(self) -> str:
        """`to_json` as text, for the metadata of a recording: a preset's name, otherwise JSON."""
        return self.name if self.name in PRESETS else json.dumps(self.to_json())

    @property
    def reading_error_deg(self) -> float:
        """Typical error of a measured angle in degrees: half the resolution, plus the noise."""
        resolution_deg = sum(self.resolution_deg) / 2
        noise_deg = sum(self.angle_noise_deg) / 2
        return resolution_deg / 2 + noise_deg

    @property
    def any(self) -> bool:
        """True if any imperfection is on."""
        return any(getattr(self, field.name) != OFF for field in fields(self))

    @property
    def mean_delay_s(self) -> float:
        """Mean time from a command until its effect is read, without the servo's lag."""
        return 0.5 * (sum(self.action_delay_s) + sum(self.observation_delay_s))

    @property
    def mean_lag_s(self) -> float:
        """Mean time constant of the servos."""
        return 0.5 * sum(bound or IDEAL_LAG_S for bound in self.servo_lag_s)

    @property
    def angle_margin_deg(self) -> float:
        """Largest error of a measured angle."""
        noise = NOISE_BOUND * self.angle_noise_deg[1]
        return 0.5 * (self.backlash_deg[1] + self.resolution_deg[1]) + noise

    @property
    def speed_margin_deg_s(self) -> float:
        """Largest error of a measured speed."""
        return NOISE_BOUND * self.speed_noise_deg_s[1]


def read_imperfections(path: str | Path) -> Imperfections:
    """Read imperfections from a file, as `arm-control identify --json` writes it.

    The file is a JSON object with `format`, `version` and `imperfections`, the ranges by field; other keys, such as
    figures of the measurement, are ignored. Raises ValueError for a file of another format, and for invalid ranges.
    """
    try:
        content = json.loads(read_text(path, LARGEST_FILE))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "it is not JSON"
        raise ValueError(f"cannot read imperfections from {path}: {reason}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(
            f'{path} does not describe imperfections: expected JSON with "format": "{FORMAT}", such as '
            "'arm-control identify --json FILE' writes"
        )
    version = content.get("version")
    if version != FORMAT_VERSION:
        raise ValueError(f"{path} has format version {version}; this program reads {FORMAT_VERSION}")
    try:
        return imperfections_from_json(content.get("imperfections"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def imperfections_from_json(value: Any) -> Imperfections:
    """The imperfections of a preset's name, or of ranges by field, where missing fields are off.

    The inverse of `Imperfections.to_json`. Raises ValueError, naming the field, for anything else.
    """
    if isinstance(value, str) and value in PRESETS:
        return PRESETS[value]
    if not isinstance(value, dict):
        raise ValueError(f"imperfections: expected ranges by field or one of {', '.join(PRESETS)}, got {value!r:.80}")
    names = [field.name for field in fields(Imperfections)]
    for name in value:
        if name not in names:
            raise ValueError(f"imperfections: unknown field '{name:.80}'; available: {', '.join(names)}")
    return Imperfections(**value)


def imperfections_from_text(text: str) -> Imperfections:
    """The inverse of `Imperfections.to_text`. Raises ValueError for anything else."""
    if text in PRESETS:
        return PRESETS[text]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    return imperfections_from_json(value)


def open_imperfections(what: str | Imperfections) -> Imperfections:
    """Imperfections as given, or a preset by its name, or those in a file.

    Raises ValueError for any other name, and as `read_imperfections`.
    """
    if isinstance(what, Imperfections):
        return what
    if what in PRESETS:
        return PRESETS[what]
    try:
        found = what != "" and Path(what).exists()
    except OSError:  # the name is too long for a file
        found = False
    if not found:
        close = difflib.get_close_matches(what, PRESETS, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(
            f"unknown imperfections '{what}'{hint}; expected {', '.join(PRESETS)}, or a file that "
            "'arm-control identify --json' has written"
        )
    return read_imperfections(what)


PRESETS: dict[str, Imperfections] = {}
for _name in ("ideal", "xl430", "rough", "late"):
    PRESETS[_name] = read_imperfections(ASSETS / "imperfections" / f"{_name}.json")
