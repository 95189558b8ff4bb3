"""The simulation bench: its figures are what they are called. Speed itself is not judged here."""

import builtins
import json
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from arm_control.bench.simulation import BASELINES, measure_raw, measure_single
from arm_control.cli import main
from envs.arm_env import ArmEnv
from envs.bullet import pybullet


class Clock:
    """A clock that only its user advances."""

    now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


class TestFigures:
    """Rates and ratios."""

    @pytest.mark.slow
    def test_ratios_are_quotients_of_the_rates(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """For one and two processes; every rate is positive."""
        monkeypatch.setattr("arm_control.bench.simulation.PROCESSES", (1, 2))
        path = tmp_path / "simulation.json"
        words = ["bench", "simulation", "--seconds", "0.02", "--rounds", "1", "--json", str(path)]
        assert main(words) == 0
        figures = json.loads(path.read_text())
        rates = figures["steps_per_s"]
        for name in ("raw", "single", "panda_gym"):
            assert rates[name] > 0
        for name in ("vector", *BASELINES):
            assert rates[name].keys() == {"1", "2"}
            assert min(rates[name].values()) > 0
        assert figures["ratios"] == {
            "single_over_panda_gym": rates["single"] / rates["panda_gym"],
            "single_over_raw_bound": rates["single"] / rates["raw"],
            "vector2_over_vector1": rates["vector"]["2"] / rates["vector"]["1"],
            "vector2_over_best_peer": rates["vector"]["2"] / max(rates[peer]["2"] for peer in BASELINES),
        }
        assert figures["cores"] >= 1
        assert figures["versions"]["gymnasium"] == gymnasium.__version__
        assert (figures["seconds"], figures["rounds"]) == (0.02, 1)
        out = capfd.readouterr().out
        assert out.startswith("environment steps a second: ")
        assert f"single_over_panda_gym {figures['ratios']['single_over_panda_gym']:.2f}" in out

    def test_the_bound_counts_the_physics_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a clock on which the physics takes 1 ms a call and the rest of a step 3 ms."""
        clock = Clock()
        physics = pybullet.stepSimulation
        calls = 0

        def simulate(*arguments: Any, **keywords: Any) -> None:
            nonlocal calls
            clock.now_s += 0.001
            calls += 1
            physics(*arguments, **keywords)

        class Timed(ArmEnv):
            steps = 0

            def step(self, action: Any) -> Any:
                clock.now_s += 0.003
                self.steps += 1
                return super().step(action)

        monkeypatch.setattr("arm_control.bench.simulation.time", clock)
        monkeypatch.setattr(pybullet, "stepSimulation", simulate)
        env = Timed("reach")
        bound = measure_raw(env, 1.0)
        assert pybullet.stepSimulation is simulate
        calls_per_step = calls / env.steps
        assert bound == pytest.approx(1.0 / (0.001 * calls_per_step), rel=1e-6)
        assert measure_single(env, 1.0) == pytest.approx(1.0 / (0.003 + 0.001 * calls_per_step), rel=1e-6)
        env.close()


class TestErrors:
    """Errors of the bench."""

    def test_an_environment_without_physics_is_an_error(self) -> None:
        """The bound needs at least one call of the physics a step."""
        env = gymnasium.make("MountainCarContinuous-v0")
        with pytest.raises(RuntimeError, match=r"at least a call of pybullet\.stepSimulation a step, got 0"):
            measure_raw(env, 0.01)
        env.close()

    @pytest.mark.parametrize("package", ["panda_gym", "stable_baselines3"])
    def test_a_missing_library_is_reported_with_its_extra(
        self, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """One line with the pip command."""
        real = builtins.__import__

        def without(name: str, *arguments: Any) -> Any:
            if name.split(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return real(name, *arguments)

        monkeypatch.setattr(builtins, "__import__", without)
        assert main(["bench", "simulation"]) == 2
        assert capsys.readouterr().err == (
            f"arm-control: error: this requires {package}, which is not installed: "
            "pip install '.[baselines]' in the folder of arm-control\n"
        )

    @pytest.mark.parametrize("words", [["--seconds", "0"], ["--seconds", "nan"], ["--rounds", "0"]])
    def test_invalid_numbers(self, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        """Seconds and rounds out of range are reported by flag."""
        assert main(["bench", "simulation", *words]) == 2
        assert words[0] in capsys.readouterr().err
