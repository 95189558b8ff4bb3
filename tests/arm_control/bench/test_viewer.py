"""`arm-control bench viewer`: a control loop, half of the time watched by the web viewer and a browser."""

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
    def test_the_loop_is_measured_with_and_without_viewers_which_are_gone_afterwards(self) -> None:
        """It measures both, and leaves no process behind."""
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
        ("words", "wanted"),
        [
            (["--seconds", "0"], "--seconds: expected 0.1 to 3600"),
            (["--seconds", "nan"], "--seconds: expected 0.1 to 3600"),
            (["--json", "/no/such/folder/x.json"], "cannot write"),
        ],
    )
    def test_bad_flags_are_refused(self, words: list[str], wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
        """Invalid flags are one line and exit code 2."""
        assert main(["bench", "viewer", *words]) == 2
        assert wanted in capsys.readouterr().err

    @pytest.mark.slow
    def test_a_viewer_that_cannot_start_is_told_and_nothing_is_left(self, tmp_path: Path) -> None:
        """A viewer that does not start is an error, and no process is left."""
        before = set(children())
        with (
            pytest.raises(RuntimeError, match="the viewer ended with exit code 2 before it was watched"),
            watched(tmp_path / "missing.mcap", tmp_path),
        ):
            pass
        assert set(children()) <= before
