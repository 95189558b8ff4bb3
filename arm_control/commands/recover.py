"""`arm-control recover LOG`: recover the readable part of a damaged recording."""

from dataclasses import dataclass

import tyro


@dataclass(frozen=True)
class Recover:
    """Recover the readable part of a damaged recording into a new file."""

    log: tyro.conf.Positional[str]
    """Damaged recording, which is not changed."""
    out: str | None = None
    """File to write (default: LOG-recovered.mcap beside it)."""


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
