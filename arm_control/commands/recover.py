"""`arm-control recover LOG`: recover the readable part of a damaged recording."""

from dataclasses import dataclass

import tyro


@dataclass(frozen=True)
class Recover:
    """Make a whole recording of one that a crash cut short. The damaged file is left as it is."""

    log: tyro.conf.Positional[str]
    """The recording."""
    out: str | None = None
    """The new file (LOG-recovered.mcap beside it, unless given)."""


def run(command: Recover) -> None:
    """Write what can be read of a recording, and print how much that is."""
    from pathlib import Path

    from arm_control.process.printing import counted, printable
    from arm_control.recording.recovery import recover

    log = Path(command.log)
    out = command.out or str(log.parent / f"{log.stem}-recovered.mcap")
    saved = recover(log, out)
    found = f"{counted(saved.ticks, 'tick')}, {counted(saved.events, 'event')}"
    print(printable(f"{out}: {found}; unreadable: {saved.lost or 'nothing'}"))
