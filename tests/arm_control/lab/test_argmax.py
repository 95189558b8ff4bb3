"""Decisions of a flat, a branching and a policy network: their actions, sizes and cost, and the claim."""

import math
from typing import Any

import pytest
import torch

from arm_control.lab.argmax import (
    ACTIONS,
    EXPERIMENT,
    KINDS,
    LARGEST_MB,
    Settings,
    branching_action,
    flat_action,
    make_decision,
    memory_mb,
    output_size,
    policy_action,
    slope,
)

SMALL = Settings(positions=31, decisions=40)  # 4 joints: 923,521 actions, which fit


def rows_with(decision_ms: dict[str, list[float | None]]) -> list[dict[str, Any]]:
    """Rows of two seeds in which the networks take these times with 1 to 4 joints."""
    rows = []
    for case in EXPERIMENT.cases(Settings(), 2):
        time_ms = decision_ms[case["kind"]][case["joints"] - 1]
        if time_ms is not None:
            time_ms *= 1.0 + 0.01 * case["seed"]
        needed_mb = memory_mb(case["kind"], case["joints"], Settings())
        rows.append({**case, "decision_ms": time_ms, "memory_mb": needed_mb})
    return rows


FLAT = [0.05, 0.1, 9.1, None]
CONSTANT = [0.03] * 4


class TestActions:
    """Meaning of the networks' outputs."""

    def test_the_flat_network_names_one_action_of_all(self) -> None:
        """Index 5 of 3 x 3 is the position (1, 2): 45 and 90 degrees."""
        values = torch.zeros(9)
        values[5] = 1.0
        assert flat_action(values, 2, 3).tolist() == [45.0, 90.0]

    def test_the_policy_is_within_the_range(self) -> None:
        """tanh from -1 to 1 becomes 0 to 90 degrees."""
        outputs = torch.tensor([-100.0, 0.0, 100.0])
        assert policy_action(outputs, 3, 91).tolist() == [0.0, 45.0, 90.0]

    def test_branches_find_the_best_of_all_actions_only_of_a_sum(self) -> None:
        """Q(a) = Q_1(a_1) + Q_2(a_2): both networks decide alike; they need not for other values."""
        branches = torch.rand(2, 7, generator=torch.Generator().manual_seed(0))
        total = branches[0][:, None] + branches[1][None, :]
        assert torch.equal(flat_action(total.flatten(), 2, 7), branching_action(branches.flatten(), 2, 7))
        # Best together, though each is not the best on the average over the other one.
        together = torch.tensor([[0.0, 0.0, 3.0], [2.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
        averages = torch.cat([together.mean(dim=1), together.mean(dim=0)])
        assert not torch.equal(flat_action(together.flatten(), 2, 3), branching_action(averages, 2, 3))

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_decision_is_an_angle_a_joint(self, kind: str) -> None:
        """From 0 to 90 degrees."""
        with torch.no_grad():
            angles_deg = make_decision(kind, 2, Settings(), seed=0)()
        assert angles_deg.shape == (2,)
        assert ((angles_deg >= 0.0) & (angles_deg <= 90.0)).all()


class TestSizes:
    """Outputs and memory by hand."""

    def test_outputs_of_four_joints(self) -> None:
        """91^4, 4 x 91 and 4."""
        assert [output_size(kind, 4, 91) for kind in ACTIONS] == [68_574_961, 364, 4]

    def test_memory_of_the_weights(self) -> None:
        """12 x 64 + 64 weights, 64 x 64 + 64, and 65 for each output; 4 bytes each."""
        assert memory_mb("policy", 3, Settings()) == pytest.approx(4e-6 * (13 * 64 + 65 * 64 + 65 * 3))
        assert memory_mb("flat", 4, Settings()) == pytest.approx(17_830, rel=1e-3)

    def test_what_does_not_fit_is_not_timed(self) -> None:
        """Four joints of the flat network."""
        case = {"kind": "flat", "joints": 4, "seed": 0}
        assert EXPERIMENT.measure(Settings(), case)["decision_ms"] is None
        assert memory_mb("flat", 3, Settings()) < LARGEST_MB


class TestClaim:
    """The slopes, and what is judged."""

    def test_a_slope_by_hand(self) -> None:
        """91-fold time of 91-fold actions is a slope of 1; of equal times, 0."""
        rows = rows_with({"flat": FLAT, "branching": CONSTANT, "policy": CONSTANT})
        assert slope(rows, "flat", 2, 3, 91).mean == pytest.approx(1.0)
        assert slope(rows, "flat", 1, 2, 91).mean == pytest.approx(math.log(2.0) / math.log(91.0))
        assert slope(rows, "policy", 1, 4, 91).mean == pytest.approx(0.0)

    @pytest.mark.parametrize(
        ("flat", "policy", "holds"),
        [
            (FLAT, CONSTANT, True),
            (FLAT, [0.03, 0.05, 0.07, 0.1], False),  # a policy that becomes slower
            ([0.05, 0.1, 0.5, None], CONSTANT, False),  # a search that is as fast as a tree
            (CONSTANT, CONSTANT, False),
        ],
    )
    def test_holds_only_for_these_slopes(self, flat: list[float | None], policy: list[float], holds: bool) -> None:
        """1 for the flat network, 0 for the policy."""
        times: dict[str, list[float | None]] = {"flat": flat, "branching": [*CONSTANT], "policy": [*policy]}
        assert EXPERIMENT.judge(Settings(), rows_with(times)).holds is holds

    def test_measured_at_a_reduced_size(self) -> None:
        """31 positions a joint: with the fourth joint only the flat network takes many times longer."""
        rows = []
        for case in EXPERIMENT.cases(SMALL, 2):
            rows.append({**case, **EXPERIMENT.measure(SMALL, case)})
        assert slope(rows, "flat", 3, 4, SMALL.positions).mean > 0.7
        assert abs(slope(rows, "policy", 1, 4, SMALL.positions).mean) < 0.1
