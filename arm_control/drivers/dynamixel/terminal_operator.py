"""The person who moves the arm during a calibration, at a terminal or behind a pipe."""

import select
import sys
from collections.abc import Callable

from arm_control.process.printing import unwrapped

REFRESH_S = 0.1


class TerminalOperator:
    """Prints requests on standard output, and reads Enter from standard input."""

    def show(self, text: str) -> None:
        """Print a line."""
        print(text, flush=True)

    def confirm(self, text: str, measured: Callable[[], str] | None = None) -> None:
        """Print a request and wait for Enter; on a terminal with a live value beside it.

        Raises ValueError if standard input ends.
        """
        while True:
            if measured is not None and _on_terminal():
                _show_until_input(text, measured)
            else:
                print(text, flush=True)
            line = "" if sys.stdin is None else sys.stdin.readline()
            if not line:
                raise ValueError("standard input ended before the arm was calibrated: nothing was written")
            if not line.strip():
                return
            print(f"  expected Enter alone, got {line.strip()[:40]!r}; Ctrl-C cancels")


def _on_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def _show_until_input(text: str, measured: Callable[[], str]) -> None:
    """Rewrite the line with the present value until there is input."""
    ready = False
    while not ready:
        unwrapped(sys.stdout).write("\r")
        print(f"{text}  [{measured()}] ", end="", flush=True)
        ready = bool(select.select([sys.stdin], [], [], REFRESH_S)[0])
