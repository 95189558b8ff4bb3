"""Reading a recording into memory, also one that a crash has cut short."""

from dataclasses import dataclass
from pathlib import Path

from arm_control.recording.scan import Scan
from arm_control.recording.schema import Event, Soundness, Tick, joint_names

MAX_TOTAL = 1 << 30  # bytes of JSON in memory


@dataclass
class Recording:
    """The content of a recording."""

    metadata: dict[str, str]
    ticks: list[Tick]
    events: list[Event]
    whole: bool
    """True if it was closed and is undamaged."""
    lost: str
    """The parts that could not be read; empty if none are known."""


def read_recording(path: str | Path) -> Recording:
    """Read a recording, whole or cut short by a crash: up to the cut, and without chunks that are damaged.

    Ticks and events are in the order of their log times, whatever their order in the file. Raises ValueError for a file
    that is not a recording of arm-control, has no readable message, an invalid one, or more than 1 GiB of JSON.
    """
    # Decode all messages, up to a bound on the memory.
    scan = Scan(Path(path))
    found: list[tuple[int, Tick | Event]] = []  # with log times
    sound = Soundness(None)
    total = 0
    for row in scan:
        total += len(row.data)
        if total > MAX_TOTAL:
            most = f"{MAX_TOTAL >> 20} MiB of JSON"
            raise ValueError(f"{path} is too long to be read into memory: it has more than {most}")
        try:
            found.append((row.log_time_ns, row.decode(sound)))
        except ValueError as error:
            raise ValueError(f"{path}: {row.name} {len(found) + 1} is invalid: {error}") from None
    # Order them by log time; the sort is stable.
    found.sort(key=lambda pair: pair[0])
    ticks = [what for _, what in found if isinstance(what, Tick)]
    events = [what for _, what in found if isinstance(what, Event)]
    # Check the number of joints against the metadata.
    try:
        names = joint_names(scan.metadata)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if names is not None and sound.joints not in (None, len(names)):
        raise ValueError(f"{path} names {len(names)} joints, but its ticks have {sound.joints}")
    return Recording(scan.metadata, ticks, events, scan.whole, scan.lost)
