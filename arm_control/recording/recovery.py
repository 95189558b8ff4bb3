"""Recovering recordings: a new, complete and indexed file from one that was cut short or damaged."""

from dataclasses import dataclass
from pathlib import Path

from mcap.reader import make_reader

from arm_control.recording.recorder import check_new_file
from arm_control.recording.scan import Scan
from arm_control.recording.schema import EVENT, TICK, Event, Soundness, Tick
from arm_control.recording.writer import RecordingFile
from arm_control.runs.files import written_whole


@dataclass(frozen=True)
class Recovery:
    """The numbers of recovered ticks and events, and the lost parts."""

    ticks: int
    events: int
    lost: str


def recover(path: str | Path, out: str | Path) -> Recovery:
    """Write the readable part of a recording to a new, complete and indexed file, in the order of log times.

    Raises ValueError if nothing can be read, or if the new file exists already.
    """
    scan = Scan(Path(path))
    sound = Soundness(None)
    check_new_file(Path(out))
    counts = {Tick: 0, Event: 0}
    latest_ns = 0
    in_order = True
    # Copy every valid message, in the order of the file.
    with written_whole(Path(out)) as aside:
        with aside.open("wb") as stream:
            file = RecordingFile(stream)
            for row in scan:
                try:
                    row.decode(sound)
                except ValueError as error:
                    scan.lose(len(row.data), str(error))
                    if scan.hopeless:
                        break
                    continue
                file.add(TICK if row.kind is Tick else EVENT, row.log_time_ns, row.data)
                counts[row.kind] += 1
                in_order &= row.log_time_ns >= latest_ns
                latest_ns = row.log_time_ns
            if not any(counts.values()):
                raise ValueError(f"{path} holds nothing that can be read: {scan.lost or 'no ticks and no events'}")
            file.add_metadata(scan.metadata)
            file.finish()
        # Sort only a file that is out of order.
        if not in_order:
            _sort_recording(aside)
    return Recovery(counts[Tick], counts[Event], scan.lost)


def _sort_recording(path: Path) -> None:
    """Rewrite a complete recording in the order of log times, with the chunks whose times overlap in memory."""
    with path.open("rb") as unsorted, written_whole(path) as aside, aside.open("wb") as stream:
        reader = make_reader(unsorted)
        file = RecordingFile(stream)
        for _, channel, message in reader.iter_messages(log_time_order=True):
            file.add(channel.id, message.log_time, message.data)
        for record in reader.iter_metadata():
            file.add_metadata(record.metadata)
        file.finish()
