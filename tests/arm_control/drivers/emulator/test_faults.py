"""Faults as text: KIND[=PROBABILITY][@SECONDS][:ID]."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arm_control.drivers.emulator.faults import KINDS, Fault, parse_fault


class TestText:
    """Parsing and formatting."""

    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ("lost=0.01", Fault("lost", 0.01)),
            ("corrupt=1e-2:2", Fault("corrupt", 0.01, None, 2)),
            ("late=0.5@3", Fault("late", 0.5, 3.0)),
            ("overload@5:2", Fault("overload", None, 5.0, 2)),
            ("stuck", Fault("stuck")),
            ("disconnect@0.5", Fault("disconnect", None, 0.5)),
        ],
    )
    def test_valid_faults(self, text: str, fault: Fault) -> None:
        """Each form is parsed, and read back from its own text."""
        assert parse_fault(text) == fault
        assert parse_fault(str(fault)) == fault

    @pytest.mark.parametrize(
        "text",
        [
            *("", "gremlins", "LOST=1", "lost =1", "lost", "lost=", "lost=2", "lost=nan", "lost=0.1=0.2"),
            *(
                "overload=0.5",
                "overload@",
                "overload@-1",
                "overload@nan",
                "overload@1e999",
                "overload:x",
                "overload:2@5",
            ),
            *("overload:2@5", "disconnect:1", "swapped", "swapped@2"),
        ],
    )
    def test_invalid_faults(self, text: str) -> None:
        """Errors are one line."""
        with pytest.raises(ValueError, match=r"expected|unknown") as caught:
            parse_fault(text)
        assert "\n" not in str(caught.value)

    def test_any_text(self) -> None:
        """Any text is rejected or read back from its own text; both occur."""
        outcomes = set()
        almost = st.from_regex(rf"({'|'.join(KINDS)}|[a-z]{{3,10}})(=[0-9.e]+)?(@[0-9.e]+)?(:\d+)?", fullmatch=True)

        @settings(max_examples=300)
        @given(st.text(max_size=30) | almost)
        def check(text: str) -> None:
            try:
                fault = parse_fault(text)
            except ValueError as error:
                assert "expected" in str(error) or "unknown" in str(error)
                outcomes.add("rejected")
            else:
                assert text.startswith(fault.kind)
                assert parse_fault(str(fault)) == fault
                outcomes.add("a fault")

        check()
        assert outcomes == {"a fault", "rejected"}
