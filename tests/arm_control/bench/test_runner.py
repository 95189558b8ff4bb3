"""The runner's bench: that its figures are what they are called; how fast anything is, is not judged here."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arm_control.bench.runner as bench
from arm_control.bench.runner import (
    BackToBack,
    EmptyLoop,
    MemoryDriver,
    TurnTime,
    bench_runner,
    format_runner,
    percentiles_us,
)
from arm_control.cli import main
from arm_control.runner.clocks import RealTime
from arm_control.runner.safety import Safety
from envs.arm import Arm
from policies.common.settings import DDPGSettings

SMALL = DDPGSettings(hidden_units=16, fourier_octaves=1)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CALLS", 20), ("LEAD", 5), ("WARM_UP_TICKS", 20), ("REST_S", 0.01), ("POSES", 20)):
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(bench, "ask_for_priority", lambda: "real-time priority: not asked for")


class SlowSafety(Safety):
    """Takes three milliseconds more for each reading."""

    def reads(self, *reading: Any) -> bool:
        time.sleep(0.003)
        return super().reads(*reading)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The figures of the command as it is, but for its length, and what it prints."""
    path = tmp_path_factory.mktemp("bench") / "runner.json"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("CALLS", 20), ("LEAD", 5), ("WARM_UP_TICKS", 20), ("REST_S", 0.01)):
            patch.setattr(bench, name, value)
        assert main(["bench", "runner", "--seconds", "0.4", "--rounds", "2", "--json", str(path)]) == 0
    figures = json.loads(path.read_text())
    return figures, format_runner(figures)


def test_every_ratio_is_a_quotient_of_two_figures(command: tuple[dict[str, Any], str]) -> None:
    figures, _ = command
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


def test_it_says_what_was_compared(command: tuple[dict[str, Any], str]) -> None:
    figures, printed = command
    assert (figures["hidden_units"], figures["sb3_hidden_units"]) == (128, 64)
    assert "PolicyRunner.decide, 128-128" in printed
    assert "Stable-Baselines3 predict, PPO, 64-64" in printed
    assert figures["priority"] in printed
    for name, ratio in figures["ratios"].items():
        assert f"{name} {ratio:.2f}" in printed


def test_both_loops_tick_as_often_and_no_tick_is_lost(command: tuple[dict[str, Any], str]) -> None:
    figures, _ = command
    control, empty = figures["loops"]["control"], figures["loops"]["empty"]
    assert control["ticks"] == empty["ticks"] == 200
    assert control["lost_ticks"] == 0
    assert len(control["memory_mb"]) == 2
    assert set(figures["versions"]) >= {"onnxruntime", "stable-baselines3", "torch"}


@pytest.mark.slow
def test_a_tick_contains_the_safety_checks() -> None:
    figures = bench_runner(0.2, 1, settings=SMALL, safety=SlowSafety)
    assert figures["times_us"]["tick"]["p50"] > 3000.0 > figures["times_us"]["inference"]["p50"]
    assert figures["loops"]["control"]["tick_us"]["p50"] > 3000.0
    # Every tick takes longer than its period: each is late, and all that is put off is told.
    control = figures["loops"]["control"]
    assert control["late_ticks"] > 0.9 * control["ticks"]
    assert control["shifted_ms"] > 1.0 * control["ticks"]
    assert control["lost_ticks"] == 0


@pytest.mark.slow
def test_dropped_records_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(bench.Recorder):
        """Has no room for ticks, every second time."""

        count = 0

        def _send(self, kind: int, what: Any) -> None:
            self.count += 1
            if self.count % 2:
                return self._drop("it was full")
            return super()._send(kind, what)

    monkeypatch.setattr(bench, "Recorder", Full)
    figures = bench_runner(0.1, 1, settings=SMALL)
    assert figures["loops"]["control"]["dropped_records"] > 20
    assert figures["dropped_records"] > figures["loops"]["control"]["dropped_records"]
    assert f"{figures['dropped_records']:,} records dropped" in format_runner(figures)


@pytest.mark.slow
def test_all_ways_to_infer_give_the_same_answer(tmp_path: Path) -> None:
    calls = bench.Bench(tmp_path, SMALL, Safety).calls()
    wanted = calls["bare"]()
    assert calls["inference"]() == wanted
    np.testing.assert_allclose(calls["torch"](), wanted, atol=1e-3)
    for name in ("sb3_ppo", "sb3_ddpg"):
        assert calls[name]()[0].shape == (3,)


@pytest.mark.slow
def test_a_refusal_ends_the_bench() -> None:
    class Wary(Safety):
        """Refuses the tenth reading."""

        count = 0

        def reads(self, *reading: Any) -> bool:
            self.count += 1
            if self.count == 10:
                self.fault_stop("mood", "it was the tenth")
            return super().reads(*reading)

    with pytest.raises(RuntimeError, match=r"nothing is refused, got .*it was the tenth"):
        bench_runner(0.1, 1, settings=SMALL, safety=Wary)


def test_percentiles_are_medians_over_rounds() -> None:
    quiet, disturbed = np.linspace(1e-6, 2e-6, 101), np.linspace(1e-3, 2e-3, 101)
    figures = percentiles_us(np.array([*quiet, *disturbed, *quiet]), 3)
    assert figures["p50"] == pytest.approx(1.5)
    assert figures["p99"] == pytest.approx(1.99)
    assert figures["p99_of_all"] > 1900.0
    assert figures["worst"] == pytest.approx(2000.0)


def test_a_loop_that_takes_turns_sees_no_time_pass_in_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which each turn of the others takes 50 ms and all else takes no time."""
    real_s = 100.0

    def others() -> None:
        nonlocal real_s
        real_s += 0.05

    def wait_until(clock: RealTime, due_s: float) -> None:
        nonlocal real_s
        real_s = max(real_s, due_s)

    monkeypatch.setattr(RealTime, "now_s", lambda clock: real_s)
    monkeypatch.setattr(RealTime, "wait_until", wait_until)
    clock = TurnTime(6, 2, others)
    for tick in range(7):
        clock.wait_until(100.0 + 0.002 * tick)
    assert real_s == pytest.approx(100.0 + 0.1 + 0.012)
    assert clock.now_s() == pytest.approx(100.0 + 0.012)
    assert clock.last_s - clock.first_s == pytest.approx(0.012)
    assert list(clock.errors_s) == pytest.approx([0.0] * 6)
    assert clock.ticks == 7


def test_the_empty_loop_is_late_as_the_control_loop_is() -> None:
    class Sleepy(TurnTime):
        """Sleeps too long, once."""

        def wait_until(self, due_s: float) -> None:
            super().wait_until(due_s + (0.004 if self.ticks == 5 else 0.0))

    loop = EmptyLoop(10, 10)
    loop.clock = Sleepy(10, 10)
    loop.turn()
    assert loop.late_ticks >= 1
    assert loop.clock.ticks == 10
    assert loop.clock.last_s - loop.clock.first_s >= 9 * bench.PERIOD_S + 0.0035


def test_ticks_are_timed_in_turns_and_lead_ticks_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "CALLS", 3)
    monkeypatch.setattr(bench, "LEAD", 2)
    monkeypatch.setattr(bench, "WARM_UP_TICKS", 4)
    seen: list[int] = []
    clock = BackToBack(lambda: seen.append(len(clock.times_s)))
    for _ in range(4 + 3 + 2 + 3):
        clock.wait_until(0.0)
    assert seen == [3, 6]


def test_the_arm_in_memory_is_where_it_was_told_to_be() -> None:
    arm = Arm()
    driver = MemoryDriver(arm, lambda: 7.0, 0.002)
    driver.write([1.0, 2.0, 3.0])
    driver.write([1.1, 2.0, 2.9])
    state = driver.read()
    assert (state.stamp_s, state.angles_deg) == (7.0, [1.1, 2.0, 2.9])
    assert state.speeds_deg_s == pytest.approx([50.0, 0.0, -50.0])
    assert None not in (state.temperatures_c, state.loads, state.voltages_v)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--seconds", "0"], "--seconds: wanted 0.1 to 3600"),
        (["--seconds", "nan"], "--seconds: wanted 0.1 to 3600"),
        (["--rounds", "0"], "--rounds"),
        (["--json", "/no/such/folder/x.json"], "cannot write"),
    ],
)
def test_bad_flags_are_refused(words: list[str], wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "runner", *words]) == 2
    assert wanted in capsys.readouterr().err
