"""Text of files on a terminal: visible escapes, one line, bounded length."""

import contextlib
import io
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arm_control.bench.ablation import format_ablation
from arm_control.cli import main
from arm_control.process.printing import (
    LONGEST_TEXT,
    PrintableStream,
    counted,
    printable,
    printable_lines,
    printable_output,
    unwrapped,
)

# C0 and C1 control characters, delete, line and paragraph separators, and what changes the direction of text.
OBEYED = [*map(chr, [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, 0x200E, 0x200F, 0x061C])]
OBEYED += [*map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A)])]


class TestPrintable:
    """`printable` makes one line of a text."""

    @pytest.mark.parametrize("char", OBEYED, ids=ascii)
    def test_control_characters_become_escapes(self, char: str) -> None:
        """C0, C1, separators and direction marks, written as Python escapes."""
        shown = printable(f"a{char}b")
        assert shown.isprintable()
        assert shown == f"a{ascii(char)[1:-1]}b"

    @given(st.text())
    def test_any_text_is_one_printable_line_of_bounded_length(self, text: str) -> None:
        """Including lone surrogates, as in file names that are not UTF-8."""
        shown = printable(text, 40)
        assert shown.isprintable()
        assert len(shown) <= 40
        shown.encode()

    @given(st.text(st.characters(categories=["L", "N", "P"]), max_size=100))
    def test_ordinary_text_is_unchanged(self, text: str) -> None:
        """Letters, digits and punctuation of any language."""
        assert printable(text) == text

    def test_a_long_text_keeps_both_ends(self) -> None:
        """The middle is replaced, so that quotations at either end remain."""
        assert printable("a" * 10**6 + "b" * 10**6) == "a" * 250 + "..." + "b" * 247
        assert printable("x" * LONGEST_TEXT) == "x" * LONGEST_TEXT

    def test_lines_contain_no_line_feeds(self) -> None:
        """A line feed within a line is escaped."""
        assert printable_lines(["a\nb", "c"]) == "a\\nb\nc"


class TestPrintableOutput:
    """Within `printable_output` only printable text and line feeds are written."""

    @given(st.lists(st.text(max_size=50), max_size=5))
    def test_any_text_is_escaped(self, texts: list[str]) -> None:
        """Through `print`, `write` and `writelines`."""
        stream = io.StringIO(newline="")
        with contextlib.redirect_stdout(stream), printable_output():
            for text in texts:
                print(text, text)
                sys.stdout.write(text)
            sys.stdout.writelines(texts)
        assert stream.getvalue().replace("\n", "").isprintable()

    def test_streams_are_restored(self) -> None:
        """Also after an error."""
        before = sys.stdout, sys.stderr
        with contextlib.suppress(ValueError), printable_output():
            assert isinstance(sys.stderr, PrintableStream)
            raise ValueError
        assert (sys.stdout, sys.stderr) == before

    def test_the_programs_own_control_sequences_are_written(self) -> None:
        """A progress line is overwritten, and text within it is escaped."""
        stream = io.StringIO(newline="")
        with contextlib.redirect_stderr(stream), printable_output():
            unwrapped(sys.stderr).write("\x1b[2K")
            print("\x1b[2Kx\r", end="", file=sys.stderr)
            unwrapped(sys.stderr).write("\r")
        assert stream.getvalue() == "\x1b[2K\\x1b[2Kx\\r\r"

    def test_other_attributes_are_those_of_the_stream_below(self) -> None:
        """Descriptor and `isatty`."""
        stream = PrintableStream(sys.__stderr__)  # type: ignore[arg-type]
        assert stream.fileno() == 2
        assert stream.isatty() == sys.__stderr__.isatty()  # type: ignore[union-attr]


class TestCounted:
    """`counted` formats a number with its noun."""

    @pytest.mark.parametrize(
        ("number", "form", "message"),
        [
            (0, ",", "0 goals"),
            (1, ",", "1 goal"),
            (2, ",", "2 goals"),
            (1000, ",", "1,000 goals"),
            (1.0, "g", "1 goal"),
            (0.5, "g", "0.5 goals"),
            (1.5, "g", "1.5 goals"),
        ],
    )
    def test_one_is_singular(self, number: float, form: str, message: str) -> None:
        """However the number is formatted."""
        assert counted(number, "goal", form=form) == message

    def test_irregular_plurals(self) -> None:
        """The plural can be given."""
        assert [counted(number, "reply", "replies") for number in (1, 2)] == ["1 reply", "2 replies"]

    def test_tables_with_one_of_each_use_the_singular(self, capfd: pytest.CaptureFixture[str]) -> None:
        """No plural follows a 1 in the printed tables."""
        assert main(["bench", "grid", "--goals", "1"]) == 0
        tables = capfd.readouterr().out + format_ablation({"minutes": 1.0, "seeds": 1, "goals": 1, "variants": []})
        assert "1 degree apart; 1 random goal\n" in tables
        assert not re.search(r"\b1 (degree|goal|seed|minute)s\b", tables)
