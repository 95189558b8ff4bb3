"""The argmax bench: its figures, and equality of the fast and the plain computation."""

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
    """The flat head against `nn.Linear`."""

    def test_it_equals_a_linear_layer(self) -> None:
        """Outputs equal those computed row by row, and both maxima differ by less than 1e-5."""
        grid = ActionGrid(argmax.spec_of((5, 6)))
        head = FlatHead(grid, argmax.HIDDEN, random=True, seed=0)
        layer = argmax.plain_layer(head)
        x = torch.rand(4, argmax.HIDDEN)
        by_hand = np.stack([[float(row @ head.table[:-1, a] + head.table[-1, a]) for a in range(30)] for row in x])
        assert np.allclose(layer(x).detach().numpy(), by_hand, atol=1e-6)
        assert batch_times(grid, 1)["largest_difference"] < 1e-5

    def test_sparse_and_dense_updates_have_the_same_gradients(self) -> None:
        """To 1e-6."""
        assert update_times(ActionGrid(argmax.spec_of((9, 8, 7))), 1)["largest_gradient_difference"] <= 1e-6


class TestCosts:
    """Costs of agents by number of joints."""

    def test_a_fourth_joint_multiplies_the_costs_of_the_flat_agent_only(self) -> None:
        """By 10 for a joint of 10 angles."""
        flat = {"agent": "flat", "joints": 3, "actions": 1000, "decision_ms": 2.0, "update_ms": 3.0, "memory_mb": 5.0}
        got = four_joints(flat, 10)
        assert (got["decision_ms"], got["update_ms"], got["memory_mb"], got["actions"]) == (20.0, 30.0, 50.0, 10_000)
        assert got["computed"]
        branching = four_joints(flat | {"agent": "branching"}, 10)
        assert (branching["decision_ms"], branching["update_ms"], branching["memory_mb"]) == (2.0, 3.0, 5.0)
        assert branching["actions"] == 10_000

    def test_memory_is_four_numbers_a_weight(self) -> None:
        """Weight, gradient and two moments of Adam in float32, from layer sizes by hand."""
        flat, branching, deterministic = agent_costs((7, 5), 1)
        # 2 trunk layers of 64 on 17 inputs in 2 octaves, (4 * 2 + 3 * 3) * 5 = 85 features, and the goal's direction.
        trunk = (85 + 3) * 64 + 64 + 64 * 64 + 64
        assert flat["memory_mb"] == pytest.approx(4 * 4e-6 * (trunk + 65 * 35))
        assert branching["memory_mb"] == pytest.approx(4 * 4e-6 * (trunk + 65 * 12 + 65 * 2 * 8))
        assert deterministic["memory_mb"] > 4 * 4e-6 * 2 * trunk * 0.9

    @pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux reports the peak")
    def test_peak_memory_is_measured(self) -> None:
        """An array of 40 MB is seen, and an empty operation takes less than 5 MB."""
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
        """A table on standard output, figures in JSON, and a picture."""
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
    def test_each_agent_has_a_row_for_one_to_four_joints(self) -> None:
        """Three numbers of joints are measured, the fourth is computed."""
        rows = bench_argmax(30.0, 1)["agents"]
        kinds = ["flat", "branching", "deterministic"]
        assert [(row["agent"], row["joints"]) for row in rows] == [(kind, n) for n in (1, 2, 3, 4) for kind in kinds]
        assert [row["actions"] for row in rows[::3]] == [4, 16, 64, 256]
        assert [row["computed"] for row in rows] == [False] * 9 + [True] * 3

    @pytest.mark.slow
    def test_unknown_memory_is_printed_as_unknown(self) -> None:
        """Systems without /proc have no peak memory."""
        figures = bench_argmax(30.0, 1)
        figures["batch_maximum"]["fused_peak_mb"] = None
        assert "unknown more memory" in format_argmax(figures)
