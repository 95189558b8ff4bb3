"""What an argmax costs: the figures are there, are what they say, and the slow way and the fast one agree."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from arm_control.bench import argmax
from arm_control.bench.argmax import agent_costs, batch_times, bench_argmax, format_argmax, four_joints, update_times
from arm_control.cli import main
from policies.common.action_grid import ActionGrid
from policies.dqn.flat_head import FlatHead

RATIOS = {
    "greedy_over_stream",
    "onnx_greedy_over_stream",
    "batch_max_speedup",
    "batch_max_speedup_preallocated",
    "update_speedup",
}


class TestFlatHead:
    """The flat head agrees with PyTorch."""

    def test_the_plain_layer_is_the_head_and_its_maxima_are_the_same(self) -> None:
        """The flat head and `nn.Linear` have the same maxima."""
        grid = ActionGrid(argmax.spec_of((5, 6)))
        head = FlatHead(grid, argmax.HIDDEN, random=True, seed=0)
        layer = argmax.plain_layer(head)
        x = torch.rand(4, argmax.HIDDEN)
        by_hand = np.stack([[float(row @ head.table[:-1, a] + head.table[-1, a]) for a in range(30)] for row in x])
        assert np.allclose(layer(x).detach().numpy(), by_hand, atol=1e-6)
        assert batch_times(grid, 1)["largest_difference"] < 1e-5

    def test_both_updates_have_the_same_gradients(self) -> None:
        """The sparse update has the gradients of the dense one."""
        assert update_times(ActionGrid(argmax.spec_of((9, 8, 7))), 1)["largest_gradient_difference"] <= 1e-6


class TestCosts:
    """The costs of agents."""

    def test_a_fourth_joint_multiplies_what_the_flat_agent_costs_and_nothing_else(self) -> None:
        """A fourth joint multiplies the costs of the flat agent only."""
        flat = {"agent": "flat", "joints": 3, "actions": 1000, "decision_ms": 2.0, "update_ms": 3.0, "memory_mb": 5.0}
        got = four_joints(flat, 10)
        assert (got["decision_ms"], got["update_ms"], got["memory_mb"], got["actions"]) == (20.0, 30.0, 50.0, 10_000)
        assert got["computed"]
        branching = four_joints(flat | {"agent": "branching"}, 10)
        assert (branching["decision_ms"], branching["update_ms"], branching["memory_mb"]) == (2.0, 3.0, 5.0)
        assert branching["actions"] == 10_000

    def test_memory_is_four_times_every_weight(self) -> None:
        """Learning needs four numbers for each weight."""
        flat, branching, deterministic = agent_costs((7, 5), 1)
        # 2 trunk layers of 64 on 17 inputs in 2 octaves, (4 * 2 + 3 * 3) * 5 = 85 features, and the goal's direction.
        trunk = (85 + 3) * 64 + 64 + 64 * 64 + 64
        assert flat["memory_mb"] == pytest.approx(4 * 4e-6 * (trunk + 65 * 35))
        assert branching["memory_mb"] == pytest.approx(4 * 4e-6 * (trunk + 65 * 12 + 65 * 2 * 8))
        assert deterministic["memory_mb"] > 4 * 4e-6 * 2 * trunk * 0.9

    @pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak")
    def test_memory_that_is_taken_is_seen(self) -> None:
        """The peak memory of an operation is measured."""
        taken = argmax.peak_memory_mb(lambda: np.ones(5_000_000))
        assert taken is not None
        assert 35 < taken < 60
        little = argmax.peak_memory_mb(lambda: None)
        assert little is not None
        assert little < 5


class TestCommand:
    """The command `bench argmax`."""

    @pytest.mark.slow
    def test_the_command_prints_writes_and_draws(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """It prints a table and writes JSON and a figure."""
        figure, file = tmp_path / "argmax.png", tmp_path / "argmax.json"
        words = [
            "bench",
            "argmax",
            "--grid-step-deg",
            "10",
            "--rounds",
            "1",
            "--save",
            str(figure),
            "--json",
            str(file),
        ]
        assert main(words) == 0
        printed = capfd.readouterr().out
        figures = json.loads(file.read_text())
        assert set(figures["ratios"]) == RATIOS
        assert all(0 < ratio < math.inf for ratio in figures["ratios"].values())
        assert all(name in printed for name in RATIOS)
        assert "skipped" in figures["gpu"]
        assert figure.stat().st_size > 10_000

    @pytest.mark.slow
    def test_rows_are_of_each_agent_on_one_to_three_joints_and_four_computed(self) -> None:
        """There is a row for each agent and number of joints; four joints are computed."""
        rows = bench_argmax(30.0, 1)["agents"]
        kinds = ["flat", "branching", "deterministic"]
        assert [(row["agent"], row["joints"]) for row in rows] == [(kind, n) for n in (1, 2, 3, 4) for kind in kinds]
        assert [row["actions"] for row in rows[::3]] == [4, 16, 64, 256]
        assert [row["computed"] for row in rows] == [False] * 9 + [True] * 3

    @pytest.mark.slow
    def test_what_is_not_known_is_said_so(self) -> None:
        """An unknown peak memory is printed as unknown."""
        figures = bench_argmax(30.0, 1)
        figures["batch_maximum"]["fused_peak_mb"] = None
        assert "unknown more memory" in format_argmax(figures)
