"""The runner's bench: its figures are what they are called. Speed itself is not judged here."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arm_control.bench import _setup
from arm_control.bench._setup import LoopSetup
from arm_control.bench.runner import RoundSizes, bench_runner, format_runner, ways_to_infer
from arm_control.cli import main
from arm_control.recording.recorder import Recorder
from arm_control.runner.safety import Safety
from policies.ddpg.settings import DDPGSettings

SMALL = DDPGSettings(hidden_units=16, fourier_octaves=1)
SHORT = RoundSizes(calls=20, lead_calls=5, warm_up_ticks=20, pause_s=0.01, poses=20)


@pytest.fixture(autouse=True)
def ordinary_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    """No real-time priority, with which a test could keep a core from all others."""
    monkeypatch.setattr(_setup, "request_priority", lambda: "real-time priority: not asked for")


class SlowSafety(Safety):
    """A safety that takes three milliseconds more for each reading."""

    def reads(self, *reading: Any) -> bool:
        time.sleep(0.003)
        return super().reads(*reading)


@pytest.fixture(scope="module")
def measured() -> tuple[dict[str, Any], str]:
    """Figures of the command's policy, and their table."""
    figures = bench_runner(0.4, 2, sizes=SHORT)
    return figures, format_runner(figures)


class TestFigures:
    """The figures and their table."""

    def test_every_ratio_is_a_quotient_of_two_figures(self, measured: tuple[dict[str, Any], str]) -> None:
        """Computed here from the reported medians and percentiles."""
        figures, _ = measured
        times, loops = figures["times_us"], figures["loops"]
        medians = {name: row["p50"] for name, row in times.items()}
        assert figures["ratios"] == {
            "sb3_predict_over_inference": medians["sb3_ppo"] / medians["inference"],
            "torch_over_inference": medians["torch"] / medians["inference"],
            "inference_over_bare": medians["inference"] / medians["bare"],
            "tick_over_sb3_predict": medians["tick"] / medians["sb3_ppo"],
            "tick_p99_over_p50": times["tick"]["p99"] / medians["tick"],
            "period_p99_over_empty_loop": loops["control"]["period_error_us"]["p99_of_all"]
            / loops["empty"]["period_error_us"]["p99_of_all"],
        }
        for row in (*times.values(), *(loop["period_error_us"] for loop in loops.values())):
            assert 0 < row["p50"] <= row["p99"] <= row["worst"]

    def test_the_table_names_what_was_compared(self, measured: tuple[dict[str, Any], str]) -> None:
        """Libraries, network sizes, priority and ratios."""
        figures, printed = measured
        assert (figures["hidden_units"], figures["sb3_hidden_units"]) == (128, 64)
        assert "PolicyRunner.decide, 128-128" in printed
        assert "Stable-Baselines3 predict, PPO, 64-64" in printed
        assert figures["priority"] in printed
        for name, ratio in figures["ratios"].items():
            assert f"{name} {ratio:.2f}" in printed

    def test_both_loops_have_the_same_number_of_ticks(self, measured: tuple[dict[str, Any], str]) -> None:
        """200 each, of which none is lost."""
        figures, _ = measured
        control, empty = figures["loops"]["control"], figures["loops"]["empty"]
        assert control["ticks"] == empty["ticks"] == 200
        assert control["lost_ticks"] == 0
        assert len(control["memory_mb"]) == 2
        assert set(figures["versions"]) >= {"onnxruntime", "stable-baselines3", "torch"}

    @pytest.mark.slow
    def test_dropped_records_are_counted_and_printed(self) -> None:
        """With a recorder that drops every second tick."""

        class FullRecorder(Recorder):
            """Drops every second tick."""

            count = 0

            def tick(self, tick: Any) -> None:
                self.count += 1
                if self.count % 2:
                    self.dropped += 1
                else:
                    super().tick(tick)

        figures = bench_runner(0.1, 1, settings=SMALL, sizes=SHORT, recorder=FullRecorder)
        assert figures["loops"]["control"]["dropped_records"] > 20
        assert figures["dropped_records"] > figures["loops"]["control"]["dropped_records"]
        assert f"{figures['dropped_records']:,} records dropped" in format_runner(figures)


class TestMeasurements:
    """Contents of the measured times."""

    @pytest.mark.slow
    def test_a_tick_contains_the_safety_checks(self) -> None:
        """3 ms more in a safety check make ticks slower, but not inferences."""
        figures = bench_runner(0.2, 1, settings=SMALL, sizes=SHORT, safety=SlowSafety)
        assert figures["times_us"]["tick"]["p50"] > 3000.0 > figures["times_us"]["inference"]["p50"]
        assert figures["loops"]["control"]["tick_us"]["p50"] > 3000.0
        # Every tick takes longer than its period: each is an overrun, and all shifts are counted.
        control = figures["loops"]["control"]
        assert control["overruns"] > 0.9 * control["ticks"]
        assert control["shifted_ms"] > 1.0 * control["ticks"]
        assert control["lost_ticks"] == 0

    @pytest.mark.slow
    def test_all_ways_to_infer_give_the_same_targets(self, tmp_path: Path) -> None:
        """onnxruntime's bit for bit, PyTorch's to 1e-3 degrees."""
        ways = ways_to_infer(LoopSetup(tmp_path, SMALL))
        target_deg = ways["bare"]()
        assert ways["inference"]() == target_deg
        np.testing.assert_allclose(ways["torch"](), target_deg, atol=1e-3)
        for name in ("sb3_ppo", "sb3_ddpg"):
            assert ways[name]()[0].shape == (3,)


class TestErrors:
    """Errors of the bench."""

    @pytest.mark.slow
    def test_a_fault_stop_is_an_error(self) -> None:
        """The error quotes the fault."""

        class Wary(Safety):
            """A safety with a fault at the tenth reading."""

            count = 0

            def reads(self, *reading: Any) -> bool:
                self.count += 1
                if self.count == 10:
                    self.fault_stop("mood", "it was the tenth")
                return super().reads(*reading)

        with pytest.raises(RuntimeError, match=r"without a fault stop, got .*it was the tenth"):
            bench_runner(0.1, 1, settings=SMALL, sizes=SHORT, safety=Wary)

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (["--seconds", "0"], "--seconds: expected 0.1 to 3600"),
            (["--seconds", "nan"], "--seconds: expected 0.1 to 3600"),
            (["--rounds", "0"], "--rounds"),
            (["--json", "/no/such/folder/x.json"], "cannot write"),
        ],
    )
    def test_invalid_flags(self, words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
        """Seconds and rounds out of range, and an unwritable file."""
        assert main(["bench", "runner", *words]) == 2
        assert expected in capsys.readouterr().err
