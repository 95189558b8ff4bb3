"""Messages: they keep their order, and a failing or blocked stream neither raises nor blocks."""

import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from arm_control.process import console
from arm_control.process.console import Console, ProgressLine, say

PIPE_BYTES = 1 << 16


@contextmanager
def pipe_as(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Make a pipe of a standard stream; yields the descriptor to read from."""
    reading, writing = os.pipe()
    with open(writing, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, name, stream)
        yield reading


class TestConsole:
    """`Console`, which the control loop writes to."""

    def test_lines_keep_their_order(self, capfd: pytest.CaptureFixture[str]) -> None:
        """Also after text that was printed before."""
        print("first", end="")
        with Console() as out:
            for number in range(100):
                out.out(f" {number}")
                out.err(f"e{number}")
        printed = capfd.readouterr()
        assert printed.out == "first" + "".join(f" {number}\n" for number in range(100))
        assert printed.err == "".join(f"e{number}\n" for number in range(100))

    def test_a_stream_without_a_descriptor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As in a notebook."""
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stdout", stream)
        with Console() as out:
            out.out("ä")
        assert stream.getvalue() == "ä\n"

    @pytest.mark.parametrize("name", ["stdout", "stderr"])
    def test_a_closed_pipe_is_no_error(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The stream leads to the null device from then on, and the failure of standard output is kept."""
        with pipe_as(name, monkeypatch) as reading:
            os.close(reading)
            with Console() as out:
                for _ in range(3):
                    getattr(out, name.removeprefix("std"))("lost")
            assert os.fstat(getattr(sys, name).fileno()).st_rdev == Path(os.devnull).stat().st_rdev
            assert (type(out.output_error) is BrokenPipeError) == (name == "stdout")

    def test_a_full_pipe_does_not_block(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Three times the pipe's capacity is accepted at once and arrives whole later."""
        line = "x" * 1023
        count = 3 * PIPE_BYTES // 1024
        with pipe_as("stdout", monkeypatch) as reading:
            received = bytearray()

            def read() -> None:
                while len(received) < 1024 * count:
                    received.extend(os.read(reading, 1 << 20))

            reader = threading.Thread(target=read)
            with Console() as out:
                for _ in range(count):
                    out.out(line)  # a plain write would block, as there is no reader yet
                reader.start()
            reader.join()
            os.close(reading)
        assert received == (line + "\n").encode() * count

    def test_a_non_blocking_stream_loses_no_text(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Writes that would block are repeated."""
        count = 3 * PIPE_BYTES // 1024
        with pipe_as("stdout", monkeypatch) as reading:
            os.set_blocking(sys.stdout.fileno(), False)
            received = bytearray()

            def read() -> None:
                while data := os.read(reading, 1 << 20):
                    received.extend(data)

            reader = threading.Thread(target=read)
            with Console() as out:
                for _ in range(count):
                    out.out("y" * 1023)
                reader.start()
            sys.stdout.close()
            reader.join()
            os.close(reading)
        assert len(received) == 1024 * count


class TestSay:
    """`say`, for everything else."""

    def test_a_closed_or_missing_stream_is_no_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Standard error may be closed or None."""
        stream = io.StringIO()
        stream.close()
        for none in (stream, None):
            monkeypatch.setattr(sys, "stderr", none)
            say("lost")

    def test_a_closed_pipe_does_not_change_the_exit_code(self) -> None:
        """Python's own flush at exit would make it 120."""
        root = Path(console.__file__).parents[2]
        code = (
            f"import sys; sys.path.insert(0, {str(root)!r}); from arm_control.process.console import say, write;"
            "say('lost'); write(sys.stdout, 'lost'); sys.exit(7)"
        )
        reading, writing = os.pipe()
        os.close(reading)
        with open(writing, "wb") as gone:
            done = subprocess.run([sys.executable, "-c", code], stdout=gone, stderr=gone)
        assert done.returncode == 7


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        """Return True if the stream is a terminal."""
        return True


class TestProgressLine:
    """`ProgressLine`, for long work that prints nothing else."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """The time in seconds, to be set."""
        now = [100.0]
        monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
        return now

    def test_a_terminal_shows_fraction_and_time_left(self, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
        """A quarter in 10 s leaves 30 s; the line is cleared at the end."""
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        line = ProgressLine("evaluating")
        for clock[0], share in ((100.2, 0.05), (110.0, 0.25), (110.1, 0.3), (120.0, 0.5)):
            line.show(share)
        line.clear()
        first, second, end = stream.getvalue().split("\r")[:3]
        assert first == "\x1b[2Kevaluating   25%    30 s left"  # 10 s for a quarter
        assert second == "\x1b[2Kevaluating   50%    20 s left"
        assert end == "\x1b[2K"

    def test_short_work_shows_nothing(self, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing is shown in the first second."""
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        line = ProgressLine("evaluating")
        clock[0] += 0.9
        line.show(0.9)
        line.clear()
        assert stream.getvalue() == ""

    @pytest.mark.parametrize("closed", [False, True])
    def test_other_streams_receive_nothing(
        self, closed: bool, clock: list[float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Files, closed streams and a missing one."""
        for stream in (io.StringIO(), None):
            if closed and stream is not None:
                stream.close()
            monkeypatch.setattr(sys, "stderr", stream)
            line = ProgressLine("evaluating")
            clock[0] += 100.0
            line.show(0.5)
            line.clear()
            assert stream is None or closed or stream.getvalue() == ""
