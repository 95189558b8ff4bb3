"""Reading recordings, also those that a crash cut short."""

from dataclasses import dataclass
from pathlib import Path

from arm_control.recording.scan import Scan
from arm_control.recording.schema import Event, Soundness, Tick, joint_names

MAX_TOTAL = 1 << 30  # bytes of JSON in memory


@dataclass
class Recording:
    """What a file of a recorder holds."""

    metadata: dict[str, str]
    ticks: list[Tick]
    events: list[Event]
    whole: bool
    """Whether it was closed, and nothing in it is damaged."""
    lost: str
    """What could not be read; empty if nothing is known to be missing."""


def read_recording(path: str | Path) -> Recording:
    """Read a recording, whole or cut short by a crash: up to the cut, and without chunks that are damaged.

    Ticks and events come in the order of their log times, whatever their order in the file. Raises ValueError if it is
    none of arm-control's, if nothing in it can be read, if it has more than 1 GiB of JSON, or if what it holds makes no
    sense.
    """
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
            raise ValueError(f"{path}: {row.name} {len(found) + 1} makes no sense: {error}") from None
    found.sort(key=lambda pair: pair[0])
    ticks = [what for _, what in found if isinstance(what, Tick)]
    events = [what for _, what in found if isinstance(what, Event)]
    try:
        names = joint_names(scan.metadata)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if names is not None and sound.joints not in (None, len(names)):
        raise ValueError(f"{path} names {len(names)} joints, but its ticks have {sound.joints}")
    return Recording(scan.metadata, ticks, events, scan.whole, scan.lost)
