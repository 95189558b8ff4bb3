"""The format of recordings: the fields of ticks and events, and the bounds within which both are accepted.

Recordings are MCAP files, the same for simulated and real arms:

| in the file | content |
|---|---|
| metadata `arm_control.recording` | run, policy and arm, as strings |
| channel `/tick`, schema `arm_control.Tick` | a `Tick` as JSON; fields that are None are left out |
| channel `/event`, schema `arm_control.Event` | an `Event` as JSON |

Numbers that are not finite, which only measurements and policy commands can be, are null in the file and NaN when read.
`log_time` is the wall clock at zero of the monotonic clock (metadata `wall_at_zero_ns`) plus the tick's `time_s`.
"""

from collections.abc import Mapping

import msgspec

METADATA = "arm_control.recording"
POST_MORTEM = "post_mortem"  # name in the metadata of one
# ids of the channels
TICK = 1
EVENT = 2
TEXT_BYTES = 3000  # of an event, so that it fits into a pipe

# Bounds on values in a file, which protect its readers.
MOST_JOINTS = 32
LONGEST_NAME = 256  # of phases, bands, kinds of events and joints
LARGEST_DEG = 1e6
LARGEST_M = 1e3
LARGEST_US = 1e15
PERIODS_S = (1e-4, 1.0)


class Tick(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One turn of a control loop. Angles and speeds in degrees and degrees/s, in the order of the joints."""

    time_s: float  # start of the tick on the monotonic clock
    phase: str  # "soft start", "run", "wait", "hold" or "park"
    goal_m: tuple[float, ...] | None = None  # x, y, z, and the velocity of a goal that moves
    goal_error_mm: float | None = None  # of the previous goal, in the tick that ends it; None in all others
    stamp_s: float | None = None  # of the reading; None if there was none
    angle_deg: list[float] | None = None
    speed_deg_s: list[float] | None = None
    temperature_c: list[float] | None = None
    load: list[float] | None = None
    voltage_v: list[float] | None = None
    raw_deg: list[float] | None = None  # the policy's command; None in a tick without one
    target_deg: list[float] | None = None  # what was sent; None if nothing was
    band: str  # the safety level: "pass" (ok), "clamp" (clamped) or "refuse" (fault)
    period_error_us: float  # delay of the start
    read_us: float
    decide_us: float
    safety_us: float
    write_us: float


class Event(msgspec.Struct, frozen=True):
    """An event of a run, described by its text.

    Kinds: "refusal" (a fault stop), "failure", "driver", "phase", "goal" (one begins), "drops" and "end".
    """

    time_s: float
    kind: str
    text: str


KINDS: dict[str, type[Tick] | type[Event]] = {"arm_control.Tick": Tick, "arm_control.Event": Event}
PER_JOINT = ("angle_deg", "speed_deg_s", "temperature_c", "load", "voltage_v", "raw_deg", "target_deg")


def of_simulated_arm(metadata: Mapping[str, str]) -> bool:
    """Return True if the recorded arm was a simulation, according to the metadata of a recording."""
    if "simulated" in metadata:
        return metadata["simulated"] == "true"
    # Recordings made before drivers declared it: the only simulation was the driver "sim".
    return metadata.get("driver") == "sim"


def joint_names(metadata: Mapping[str, str]) -> list[str] | None:
    """Return the joint names in the metadata; None if there are none. Raises ValueError if they are invalid."""
    if "joint_names" not in metadata:
        return None
    try:
        names = msgspec.json.decode(metadata["joint_names"], type=list[str])
    except (msgspec.MsgspecError, RecursionError):
        raise ValueError(f"joint_names: expected a JSON list of names, got {metadata['joint_names'][:80]!r}") from None
    if len(names) > MOST_JOINTS or any(len(name) > LONGEST_NAME for name in names):
        raise ValueError(f"joint_names: expected at most {MOST_JOINTS} names of at most {LONGEST_NAME} characters")
    return names


class Soundness:
    """Validation of ticks and events: times, finite numbers, one value per joint."""

    def __init__(self, joints: int | None) -> None:
        self.joints = joints  # None until the first tick

    def fault(self, what: Tick | Event) -> str | None:
        """Return the reason why a tick or event is invalid; None if it is valid."""
        # The time.
        if not 0.0 <= what.time_s < 1e9:
            return f"time_s is {what.time_s}"
        if isinstance(what, Event):
            if len(what.kind) > LONGEST_NAME or len(what.text.encode("utf-8", "replace")) > TEXT_BYTES:
                return f"an event of {len(what.kind)} and {len(what.text)} characters"
            return None
        if len(what.phase) > LONGEST_NAME or len(what.band) > LONGEST_NAME:
            return f"a phase and a band of {len(what.phase)} and {len(what.band)} characters"
        # One number for each joint; the first tick gives their number.
        for name in PER_JOINT:
            values = getattr(what, name)
            if values is None:
                continue
            if self.joints is None and len(values) <= MOST_JOINTS:
                self.joints = len(values)
            if len(values) != self.joints:
                return f"{name} has {len(values)} numbers for {self.joints or f'at most {MOST_JOINTS}'} joints"
        if what.goal_m is not None and len(what.goal_m) not in (3, 6):
            return f"goal_m has {len(what.goal_m)} numbers, not 3 or 6"
        # Finite numbers of plausible size.
        times = (what.period_error_us, what.read_us, what.decide_us, what.safety_us, what.write_us)
        bounded = (times, LARGEST_US), (what.goal_m or (), LARGEST_M), (what.target_deg or (), LARGEST_DEG)
        for values, largest in bounded:
            if not all(-largest <= value <= largest for value in values):
                return "a goal, a target or a duration is not finite, or absurdly large"
        return None
