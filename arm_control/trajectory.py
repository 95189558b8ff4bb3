"""Recordings of an arm's motion: one format, MCAP, for simulated and real arms."""

import msgspec


class Tick(msgspec.Struct, frozen=True):
    """One turn of a control loop. Angles and speeds in degrees and degrees/s, in the order of the joints."""

    time_s: float  # when it began, on the monotonic clock
    phase: str  # "soft start", "run", "wait", "hold" or "park"
    goal_m: tuple[float, ...] | None  # x, y, z, and the velocity of a goal that moves
    stamp_s: float | None  # of the reading; None if there was none
    angle_deg: list[float] | None
    speed_deg_s: list[float] | None
    temperature_c: list[float] | None
    load: list[float] | None
    voltage_v: list[float] | None
    raw_deg: list[float] | None  # what the policy said; None in a tick that it was not asked
    target_deg: list[float] | None  # what was sent; None if nothing was
    band: str  # "pass", "clamp" or "refuse"
    period_error_us: float  # how much later than due it began
    read_us: float
    decide_us: float
    safety_us: float
    write_us: float


class Event(msgspec.Struct, frozen=True):
    """Something that happened: kind is "refusal", "driver", "phase", "goal", "drops" or "end"; the text says it."""

    time_s: float
    kind: str
    text: str
