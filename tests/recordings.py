"""Ticks, and recordings of them in memory."""

from io import BytesIO
from typing import Any

import msgspec
from mcap.writer import CompressionType, Writer

from arm_control.recording.schema import EVENT, TICK, Event, Tick
from arm_control.recording.writer import RecordingFile

NAMES = {"joint_names": '["base", "shoulder", "elbow"]'}


def durations(us: float = 0.0) -> dict[str, Any]:
    """The durations of a tick, all of them this long."""
    return dict.fromkeys(("period_error_us", "read_us", "decide_us", "safety_us", "write_us"), us)


def tick(time_s: float = 1.0, **fields: object) -> Tick:
    """A tick of three joints."""
    values = {
        "time_s": time_s,
        "phase": "run",
        "goal_m": (0.1, -0.2, 0.3),
        "angle_deg": [10.0, 20.0, 30.0],
        "target_deg": [10.1, 20.1, 0.1 + 0.2],
        "band": "pass",
        "period_error_us": 1.5,
        "read_us": 900.0,
        "decide_us": 80.0,
        "safety_us": 20.0,
        "write_us": 50.0,
    }
    return Tick(**(values | fields))  # type: ignore[arg-type]


def write(
    ticks: list[Tick], *, each: int = 4, metadata: dict[str, str] = NAMES, events: tuple[Event, ...] = ()
) -> bytes:
    """A complete recording, with `each` ticks in a chunk."""
    stream = BytesIO()
    file = RecordingFile(stream)
    file.add_metadata(metadata)
    for number, what in enumerate([*ticks, *events]):
        kind = TICK if isinstance(what, Tick) else EVENT
        file.add(kind, number, msgspec.json.encode(what))
        if number % each == each - 1:
            file.flush()
    file.finish()
    return stream.getvalue()


def foreign(data: bytes, name: str = "arm_control.Tick", encoding: str = "json") -> bytes:
    """A file with one message, as another program may write it."""
    stream = BytesIO()
    writer = Writer(stream, compression=CompressionType.NONE)
    writer.start()
    channel = writer.register_channel("/tick", encoding, writer.register_schema(name, "jsonschema", b"{}"))
    writer.add_message(channel, 1, data, 1)
    writer.finish()  # type: ignore[no-untyped-call]
    return stream.getvalue()


class MemoryRecorder:
    """A recorder that keeps everything in memory."""

    def __init__(self) -> None:
        self.ticks: list[Tick] = []
        self.events: list[Event] = []

    def tick(self, tick: Tick) -> None:
        self.ticks.append(tick)

    def event(self, event: Event) -> None:
        self.events.append(event)


FLIPPED = [tick(float(number), raw_deg=[number / 7, number / 3, -number / 9]) for number in range(20)]
WHOLE = write(FLIPPED, events=(Event(30.0, "end", "all done"),))
