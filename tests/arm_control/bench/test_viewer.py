"""`arm-control bench viewer`: a control loop with and without a web viewer and a browser."""

import json
from pathlib import Path

import pytest
from helpers import children

from arm_control.bench.viewer import bench_viewer, format_viewer, watched
from arm_control.cli import main
from policies.ddpg.settings import DDPGSettings


class TestViewerBench:
    """The control loop with and without viewers."""

    @pytest.mark.slow
    def test_both_loops_are_measured_and_no_process_is_left(self) -> None:
        """The ratio is that of both percentiles, and the viewers were busy."""
        before = set(children())
        figures = bench_viewer(4.0, settings=DDPGSettings(hidden_units=16))
        assert set(children()) <= before
        assert set(figures["loops"]) == {"without", "with"}
        p99 = {name: loop["period_error_us"]["p99_of_all"] for name, loop in figures["loops"].items()}
        assert figures["ratios"] == {"period_p99_with_over_without": p99["with"] / p99["without"]}
        assert min(p99.values()) > 0.0
        assert figures["dropped_records"] == 0
        assert figures["viewers_busy_s"] > 0.1  # after their start
        text = format_viewer(figures)
        assert "period error with viewers" in text
        assert "period_p99_with_over_without" in text
        json.dumps(figures)

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (["--seconds", "0"], "--seconds: "),
            (["--seconds", "nan"], "--seconds: "),
            (["--json", "/no/such/folder/x.json"], "cannot write"),
        ],
    )
    def test_invalid_flags(self, words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
        """Seconds out of range, and an unwritable file."""
        assert main(["bench", "viewer", *words]) == 2
        assert expected in capsys.readouterr().err

    @pytest.mark.slow
    def test_a_viewer_that_does_not_start_is_an_error(self, tmp_path: Path) -> None:
        """The error has the exit code, and no process is left."""
        before = set(children())
        with (
            pytest.raises(RuntimeError, match="the viewer ended with exit code 2 before it was watched"),
            watched(tmp_path / "missing.mcap", tmp_path),
        ):
            pass
        assert set(children()) <= before
