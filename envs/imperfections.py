"""What real arms have and a simulated one lacks: delays, slow servos, play, noise, loads, lengths not as drawn.

`Imperfections` says how much of each, `ImperfectSimulation` is a `Simulation` that has them.
"""

import difflib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.arm import ASSETS
from envs.files import read_text

if TYPE_CHECKING:  # what arms have can be told without PyBullet
    from envs.simulation import Simulation

FORMAT = "arm-control imperfections"
FORMAT_VERSION = 1
LARGEST_FILE = 2**20  # bytes

Range = tuple[float, float]
OFF: Range = (0.0, 0.0)
IDEAL_LAG_S = 0.019  # envs.simulation.IDEAL_LAG_S, which only those who have PyBullet can load
NOISE_BOUND = 4.0  # standard deviations: what is beyond counts as so much
BOUNDS = {
    "action_delay_s": (0.0, 0.5),
    "observation_delay_s": (0.0, 0.5),
    "length_error": (-0.5, 0.5),
    "speed_loss": (0.0, 1.0),
}


def _pair(value: Any) -> list[float]:
    """A range as two numbers, one number as twice the same; something else for anything else."""
    try:
        array = np.asarray(value)
    except ValueError:  # rows of several lengths
        return []
    numbers = array.dtype.kind in "fiu" and array.ndim < 2
    return [float(number) for number in np.atleast_1d(array).repeat(2 if array.ndim == 0 else 1)] if numbers else []


@dataclass(frozen=True)
class Imperfections:
    """How imperfect an arm is: for each imperfection the range from which every episode draws its own value, uniformly.

    A single number stands for a range of no width. All are off by default.
    """

    action_delay_s: Range = OFF
    """Time from a command to the servo's acting on it, to a physics step, in s."""
    servo_lag_s: Range = OFF
    """Time constant with which a servo closes an error (0: the ideal servo's 0.019), in s."""
    dead_band_deg: Range = OFF
    """A servo ignores a target that is nearer than this to the one it has, in degrees."""
    backlash_deg: Range = OFF
    """Play between a servo, which measures its own side, and the link that it moves, in degrees."""
    resolution_deg: Range = OFF
    """Step of the targets that a servo takes and of the angles that it tells, in degrees."""
    angle_noise_deg: Range = OFF
    """Standard deviation of the noise of a measured angle, in degrees."""
    speed_noise_deg_s: Range = OFF
    """Standard deviation of the noise of a measured speed, in degrees/s."""
    observation_delay_s: Range = OFF
    """Age of the readings when they arrive, in s."""
    payload_kg: Range = OFF
    """Mass carried by the last link, in kg."""
    length_error: Range = OFF
    """By how much of its length each link is longer than drawn, a value of its own for each; may be negative."""
    friction_nm_s_rad: Range = OFF
    """Viscous friction in each joint, in N m s/rad."""
    speed_loss: Range = OFF
    """Share of a speed that is missing from its reading; 1 for servos that tell no speeds."""

    def __post_init__(self) -> None:
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
        """The preset that has these ranges, otherwise "custom"."""
        return next((name for name, preset in PRESETS.items() if preset == self), "custom")

    def to_json(self) -> str | dict[str, list[float]]:
        """The preset's name, otherwise the ranges by field, as `imperfections_from_json` reads them."""
        if self.name in PRESETS:
            return self.name
        return {field.name: list(getattr(self, field.name)) for field in fields(self)}

    def to_text(self) -> str:
        """The same for the metadata of a recording: a preset's name, otherwise JSON."""
        return self.name if self.name in PRESETS else json.dumps(self.to_json())

    @property
    def reading_error_deg(self) -> float:
        """By how much a measured angle is typically wrong, in degrees: half a step, and the noise."""
        resolution_deg = sum(self.resolution_deg) / 2
        noise_deg = sum(self.angle_noise_deg) / 2
        return resolution_deg / 2 + noise_deg

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return any(getattr(self, field.name) != OFF for field in fields(self))

    @property
    def mean_delay_s(self) -> float:
        """From a command until what came of it is read, but for the servo's lag."""
        return 0.5 * (sum(self.action_delay_s) + sum(self.observation_delay_s))

    @property
    def mean_lag_s(self) -> float:
        """The servo's time constant."""
        return 0.5 * sum(bound or IDEAL_LAG_S for bound in self.servo_lag_s)

    @property
    def angle_margin_deg(self) -> float:
        """How far a measured angle may be from the true one."""
        noise = NOISE_BOUND * self.angle_noise_deg[1]
        return 0.5 * (self.backlash_deg[1] + self.resolution_deg[1]) + noise

    @property
    def speed_margin_deg_s(self) -> float:
        """How far a measured speed may be from the true one."""
        return NOISE_BOUND * self.speed_noise_deg_s[1]


def read_imperfections(path: str | Path) -> Imperfections:
    """Read a description of an arm's imperfections, as `arm-control identify --json` writes it.

    It is a JSON object with `format`, `version` and `imperfections`, the ranges by field; any other keys, such as
    figures of the measurement, are ignored. Raises ValueError for a file that is none or whose ranges do not fit.
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
    """The inverse of `Imperfections.to_json`: a preset by its name, or ranges by field, those left out being off.

    Raises ValueError, naming the field, for anything else.
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

    Raises ValueError for any other name and for a file that `read_imperfections` refuses.
    """
    if isinstance(what, Imperfections):
        return what
    if what in PRESETS:
        return PRESETS[what]
    try:
        found = what != "" and Path(what).exists()
    except OSError:  # a name that is too long for a file
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


class ImperfectSimulation:
    """A `Simulation` behind imperfect servos and sensors, with the verbs of a `Simulation`.

    On its way to a joint a target waits for the action delay, is rounded to the servo's steps, is ignored within the
    dead band, and loses the play. On their way back readings miss the play, wait for the observation delay (between
    control steps they are interpolated), and get noise and steps. `angles_deg` and `speeds_deg_s` are what is measured;
    `true_tip()` is where the tip really is.
    """

    def __init__(self, simulation: "Simulation", imperfections: Imperfections) -> None:
        self.simulation = simulation
        self.imperfections = imperfections
        self.arm = simulation.arm
        self._physics_step_s = simulation.control_period_s / simulation.substeps
        count = self.arm.joint_count
        self._use(dict.fromkeys((field.name for field in fields(imperfections)), 0.0), [0.0] * (count + 1))
        self.start(np.random.default_rng(0))

    def randomise(self, generator: np.random.Generator) -> None:
        """Draw this episode's values; reset afterwards."""
        values: dict[str, float] = {}
        lengths = [0.0] * (self.arm.joint_count + 1)
        for field in fields(self.imperfections):
            low, high = getattr(self.imperfections, field.name)
            if field.name == "length_error":
                lengths = generator.uniform(low, high, len(lengths)).tolist()
            else:
                values[field.name] = float(generator.uniform(low, high))
        self._use(values, lengths)

    def _use(self, values: dict[str, float], length_errors: Sequence[float]) -> None:
        self.values = values
        self.length_errors = list(length_errors)
        self._delay_steps = round(values["action_delay_s"] / self._physics_step_s)
        self._reading_age = values["observation_delay_s"] / self.simulation.control_period_s  # in periods
        factors = [1.0 + error for error in self.length_errors]
        self._true_tip: Callable[[Sequence[float]], tuple[float, float, float]] = self.arm.tip_position
        if any(self.length_errors):
            self._true_tip = self.arm.tip_with_lengths(factors)
        self.simulation.set_dynamics(
            servo_lag_s=values["servo_lag_s"],
            payload_kg=values["payload_kg"],
            friction_nm_s_rad=values["friction_nm_s_rad"],
        )

    def start(self, generator: np.random.Generator) -> None:
        """Forget what was under way, and begin where the arm is; noise comes from `generator`."""
        self._generator = generator
        count = self.arm.joint_count
        self._waiting: list[tuple[int, list[float]]] = []  # commands, and in how many physics steps they act
        self._servo_deg = list(self.simulation.angles_deg)  # the target that each servo follows
        self._play_deg = [0.0] * count  # the link's angle minus its servo's
        angles = list(self.simulation.angles_deg)
        speeds = list(self.simulation.speeds_deg_s)
        self._readings = [(angles, speeds)] * (math.ceil(self._reading_age) + 1)  # the newest last
        self._sense()

    def command(self, target_deg: Sequence[float]) -> None:
        """Send the servos' targets on their way. Raises ValueError for a non-finite one or one outside the limits."""
        self.simulation.check_angles(target_deg)
        self._waiting.append((self._delay_steps, [float(angle) for angle in target_deg]))

    def step(self) -> None:
        """Let one control period pass and measure."""
        done = 0
        substeps = self.simulation.substeps
        while self._waiting and self._waiting[0][0] < substeps:
            due, target = self._waiting.pop(0)
            self.simulation.advance(due - done)
            done = due
            self._act(target)
        self.simulation.advance(substeps - done)
        self._waiting = [(due - substeps, target) for due, target in self._waiting]
        self.simulation.measure()
        measured = [angle - play for angle, play in zip(self.simulation.angles_deg, self._play_deg, strict=True)]
        self._readings = [*self._readings[1:], (measured, list(self.simulation.speeds_deg_s))]
        self._sense()

    def _act(self, target_deg: list[float]) -> None:
        """The servos get a target."""
        dead_band = self.values["dead_band_deg"]
        half_play = 0.5 * self.values["backlash_deg"]
        links = []
        for joint, target in enumerate(target_deg):
            target = self._rounded(target)
            if abs(target - self._servo_deg[joint]) < dead_band:
                target = self._servo_deg[joint]
            link = self._servo_deg[joint] + self._play_deg[joint]
            link = min(max(link, target - half_play), target + half_play)
            self._servo_deg[joint] = target
            self._play_deg[joint] = link - target
            links.append(link)
        self.simulation.command(self.arm.limits.clip(links))

    def _sense(self) -> None:
        """What is measured: as old as the observation delay, noisy and in steps."""
        back = int(self._reading_age)
        share = self._reading_age - back
        newer = self._readings[-1 - back]
        older = self._readings[-2 - back] if share > 0 else newer
        angles, speeds = (
            [new + share * (old - new) for new, old in zip(*pair, strict=True)]
            for pair in zip(newer, older, strict=True)
        )
        angle_noise = self.values["angle_noise_deg"]
        speed_noise = self.values["speed_noise_deg_s"]
        if angle_noise or speed_noise:
            count = len(angles)
            noise = self._generator.normal(size=2 * count).clip(-NOISE_BOUND, NOISE_BOUND).tolist()
            angles = [angle + angle_noise * by for angle, by in zip(angles, noise[:count], strict=True)]
            speeds = [speed + speed_noise * by for speed, by in zip(speeds, noise[count:], strict=True)]
        told = 1.0 - self.values["speed_loss"]
        self.angles_deg = [self._rounded(angle) for angle in angles]
        self.speeds_deg_s = [told * speed for speed in speeds]

    def _rounded(self, angle: float) -> float:
        step = self.values["resolution_deg"]
        return round(angle / step) * step if step else angle

    def true_tip(self) -> tuple[float, float, float]:
        """Where the tip is, in metres."""
        return self._true_tip(self.simulation.angles_deg)

    def save(self) -> dict[str, Any]:
        """What servos and sensors remember, as plain values; the simulation and the generator are saved apart."""
        return {
            "values": self.values,
            "length_errors": self.length_errors,
            "waiting": list(self._waiting),
            "servo_deg": list(self._servo_deg),
            "play_deg": list(self._play_deg),
            "readings": list(self._readings),
            "measured": [self.angles_deg, self.speeds_deg_s],
        }

    def restore(self, state: dict[str, Any], generator: np.random.Generator) -> None:
        """Go back to a state of `save`; restore the simulation afterwards."""
        self._use(dict(state["values"]), state["length_errors"])
        self._generator = generator
        self._waiting = [(due, list(target)) for due, target in state["waiting"]]
        self._servo_deg = list(state["servo_deg"])
        self._play_deg = list(state["play_deg"])
        self._readings = [(list(angles), list(speeds)) for angles, speeds in state["readings"]]
        self.angles_deg, self.speeds_deg_s = (list(row) for row in state["measured"])
