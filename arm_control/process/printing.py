"""Safe printing of untrusted text: names in files, file names, and errors that quote them.

Control characters and bidirectional overrides are shown as visible escapes such as `\\x1b`. `printable` makes one line
of a text. `printable_output` escapes everything that a command prints, except line feeds; together they prevent files
from moving the cursor or forging a line.
"""

import contextlib
import io
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

LONGEST_TEXT = 500  # characters
LONGEST_LINE = 10_000  # of a table, whose cells are bounded themselves


def printable(text: object, longest: int = LONGEST_TEXT) -> str:
    """Return the text as one printable line of at most `longest` characters."""
    return _cut(_escaped(_cut(str(text), longest)), longest)


def counted(number: float, noun: str, plural: str = "", form: str = ",") -> str:
    """Return a number with its noun, singular for one: "1 goal", "2 goals"; formatted as `form` says."""
    text = format(number, form)
    return f"{text} {noun if text == '1' else plural or noun + 's'}"


def printable_lines(lines: Iterable[object]) -> str:
    """Join lines, each of which may quote text from elsewhere, as separate lines of bounded length."""
    return "\n".join(printable(line, LONGEST_LINE) for line in lines)


class PrintableStream:
    """A text stream that escapes what is not printable, except line feeds, on its way to another stream."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write the text with visible escapes."""
        self.stream.write("\n".join(map(_escaped, text.split("\n"))))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of the texts with visible escapes."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def printable_output() -> Iterator[None]:
    """Let nothing but printable text and line feeds reach standard output and standard error."""
    output: Any = PrintableStream(sys.stdout)
    error: Any = PrintableStream(sys.stderr)
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
        yield


def encode_streams() -> None:
    """Make the standard streams independent of the locale.

    Standard input is UTF-8, and output shows characters that its encoding lacks as visible escapes.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="strict")


def unwrapped(stream: Any) -> Any:
    """Return the stream that takes control sequences, which `PrintableStream` would escape."""
    return stream.stream if isinstance(stream, PrintableStream) else stream


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _cut(text: str, longest: int) -> str:
    """The text, or both ends of a longer one, since the quoted part of a message may be at either end."""
    if len(text) <= longest:
        return text
    return f"{text[: longest // 2]}...{text[longest // 2 + 3 - longest :]}"
