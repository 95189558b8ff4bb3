"""The determinism bench: the environments are bit-exact, and violations are found."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arm_control.bench import determinism as module
from arm_control.bench.determinism import bench_determinism, check_environment, format_determinism, row
from arm_control.cli import main
from arm_control.runs.config import environment_ids
from envs.arm_env import ArmEnv
from envs.tasks.reach import Reach
from envs.tasks.track import Track

CHECKS = {
    "same process",
    "fresh process",
    "after a dirty episode",
    "second reset",
    "arm 4 of 5",
    "save and restore",
}


def unseeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start poses from a generator without a seed."""
    reset = ArmEnv.reset
    generator = random.Random()

    def somewhere(self: ArmEnv, **words: Any) -> Any:
        result = reset(self, **words)
        self.simulation.reset([generator.uniform(0, 90) for _ in range(3)])
        return result

    monkeypatch.setattr(ArmEnv, "reset", somewhere)


def of_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards that depend on the process."""
    step, pid = ArmEnv.step, os.getpid()

    def other(self: ArmEnv, action: Any) -> Any:
        observation, reward, *rest = step(self, action)
        return (observation, reward + (os.getpid() == pid) * 1e-12, *rest)

    monkeypatch.setattr(ArmEnv, "step", other)


def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restored states without the limiter's speed."""
    restore = ArmEnv.restore_state

    def without_speed(self: ArmEnv, state: dict[str, Any]) -> Any:
        return restore(self, state | {"target_speed_deg_s": [0.0] * 3})

    monkeypatch.setattr(ArmEnv, "restore_state", without_speed)


def remembering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes that begin with the limiter's speed of the last one."""
    begin = ArmEnv._begin

    def on_the_move(self: ArmEnv, goals: Any) -> None:
        speed = getattr(self, "_target_speed_deg_s", [0.0] * 3)
        begin(self, goals)
        self._target_speed_deg_s = list(speed)

    monkeypatch.setattr(ArmEnv, "_begin", on_the_move)


class TestChecks:
    """The checks of an environment."""

    def test_values_are_compared_bit_for_bit(self) -> None:
        """0.1 + 0.2 differs from 0.3, and 0.0 from -0.0."""
        assert row({"b": np.float32(0.5), "a": np.zeros(2)}, 1.0, True) == [
            *[(0.0).hex()] * 2,
            (0.5).hex(),
            (1.0).hex(),
            (1.0).hex(),
        ]
        assert row(0.1 + 0.2) != row(0.3)
        assert row(0.0) != row(-0.0)

    @pytest.mark.slow
    @pytest.mark.parametrize("preset", ["ideal", "rough"])
    @pytest.mark.parametrize("name", ["ArmReach-v0", "ArmTrack-v0"])
    def test_an_environment_passes_all_six_checks(self, name: str, preset: str) -> None:
        """Reaching and tracking, ideal and rough."""
        checks = check_environment(name, preset)
        assert set(checks) == CHECKS
        assert checks == dict.fromkeys(checks, True)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "preset", [*(pytest.param(p, marks=pytest.mark.soak) for p in ("ideal", "xl430")), "rough"]
    )
    def test_every_environment_passes_all_six_checks(self, preset: Any) -> None:
        """As the command reports them."""
        figures = bench_determinism((preset,))
        assert set(figures["exact"]) == {f"{name}, {preset}" for name in environment_ids()}
        assert figures["all_exact"] is True, figures

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("spoil", "differing"),
        [
            (unseeded, CHECKS),
            (of_its_process, {"fresh process", "arm 4 of 5"}),  # a fresh process does not have the patch
            (forgetful, {"save and restore"}),
            (remembering, {"fresh process", "arm 4 of 5", "after a dirty episode", "second reset"}),
        ],
    )
    def test_violations_are_detected(
        self, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[pytest.MonkeyPatch], None], differing: set[str]
    ) -> None:
        """Four kinds of violation, each by the checks that it affects and by no other."""
        spoil(monkeypatch)
        checks = check_environment("ArmReach-v0", "ideal")
        assert {name for name, exact in checks.items() if not exact} == differing


class TestCommand:
    """The command `bench determinism`."""

    def test_differences_are_printed_and_exit_with_2(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """The check that differs is marked in the table and in JSON."""
        monkeypatch.setattr(module, "environment_ids", lambda: ["ArmReach-v0", "ArmTrack-v0"])
        monkeypatch.setattr(
            module, "fresh_trace", lambda name, preset: [["0x0"]] if name == "ArmTrack-v0" else trace(name)
        )

        def trace(name: str) -> Any:
            return module.trace(lambda: module.gymnasium.make(name, disable_env_checker=True))

        for task in (Reach, Track):
            monkeypatch.setattr(task, "episode_steps", 4)
        monkeypatch.setattr(module, "vector_trace", module.alone)  # its workers do not have the short episodes
        path = tmp_path / "determinism.json"
        assert main(["bench", "determinism", "--imperfections", "ideal", "--json", str(path)]) == 2
        printed = capfd.readouterr()
        assert printed.err == "arm-control: error: not everything is bit-exact\n"
        reach, track = (
            next(line for line in printed.out.splitlines() if f" {name}" in line) for name in ("ArmR", "ArmT")
        )
        assert (reach.count("exact"), reach.count("DIFFERS")) == (6, 0)
        assert (track.count("exact"), track.count("DIFFERS")) == (5, 1)
        figures = json.loads(path.read_text())
        assert figures["all_exact"] is False
        assert [key for key, exact in figures["exact"]["ArmTrack-v0, ideal"].items() if not exact] == ["fresh process"]
        assert all(figures["exact"]["ArmReach-v0, ideal"].values())

    def test_an_empty_list_of_imperfections_is_an_error(self, capfd: pytest.CaptureFixture[str]) -> None:
        """One line and exit code 2."""
        assert main(["bench", "determinism", "--imperfections"]) == 2
        printed = capfd.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("arm-control: error: ")
        assert "imperfections" in printed.err
        assert printed.err.count("\n") == 1

    def test_the_table_has_a_row_for_each_environment(self) -> None:
        """Rows are aligned, with a column for each check."""
        exact = {
            "A-v0, ideal": dict.fromkeys(sorted(CHECKS), True),
            "Long-v0, rough": dict.fromkeys(sorted(CHECKS), False),
        }
        table = format_determinism({"exact": exact, "all_exact": False}).splitlines()
        assert [len(line) for line in table[1:]] == [len(table[1])] * 3
        assert all(check in table[1] for check in CHECKS)
        assert table[2].count("exact") == table[3].count("DIFFERS") == 6
