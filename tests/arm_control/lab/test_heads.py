"""Both output layers: their distributions and gradients, by hand, and the claim."""

import numpy as np
import pytest
import torch

from arm_control.lab import heads
from arm_control.lab.common.experiment import Row
from arm_control.lab.heads import (
    ANGLES_DEG,
    CHOICES,
    EXPERIMENT,
    GAUSSIAN,
    HEADS,
    SOFTMAX,
    Array,
    Settings,
    advantages,
    densities,
    gaussian_gradient,
    make_config,
    normal_density,
    probabilities,
    probabilities_of,
    softmax_gradient,
    total_probability,
)
from policies.common.distributions import Gaussian, Softmax, SquashedGaussian

SHORT = Settings(steps=6_000, goals=20)
SMALL = Settings(tasks=("joint",), updates=600, joint_goals=10)


def expected_reward(density: Array, angle_deg: Array, goal_deg: float) -> float:
    """The mean of minus the distance to the goal, by a sum over angles in equal steps."""
    return float(-(density * np.abs(angle_deg - goal_deg)).sum() / density.sum())


class TestGradients:
    """Of one joint: estimates against derivatives of the expected reward, in direction, since advantages are scaled."""

    def test_advantages_by_hand(self) -> None:
        """Distances 1 and 3 to the goal: rewards of 1 above and 1 below their mean."""
        assert advantages(np.array([[9.0, 13.0]]), np.array([10.0])) == pytest.approx(np.array([[1.0, -1.0]]))

    def test_probabilities_by_hand(self) -> None:
        """Logits 0 and log 3: probabilities 1/4 and 3/4."""
        assert probabilities_of(np.log([[1.0, 3.0]])) == pytest.approx(np.array([[0.25, 0.75]]))

    def test_softmax(self) -> None:
        """d E[r] / d z, by finite differences, and the sum over all logits, which is 0."""
        goal_deg = 30.3
        logits = np.random.default_rng(0).normal(size=(1, len(ANGLES_DEG)))
        estimate = softmax_gradient(logits, np.array([goal_deg]), 400_000, np.random.default_rng(1))[0]
        exact = np.zeros_like(estimate)
        for at in range(len(exact)):
            shift = 1e-4 * (np.arange(len(exact)) == at)
            after = expected_reward(probabilities_of(logits + shift)[0], ANGLES_DEG, goal_deg)
            exact[at] = after - expected_reward(probabilities_of(logits - shift)[0], ANGLES_DEG, goal_deg)
        assert estimate @ exact / (np.linalg.norm(estimate) * np.linalg.norm(exact)) > 0.99
        assert estimate.sum() == pytest.approx(0.0, abs=1e-9)

    def test_gaussian(self) -> None:
        """d E[r] / d mu and d E[r] / d log sigma, by finite differences, with one factor for both."""
        goal_deg = 50.0
        estimate = gaussian_gradient(
            np.array([45.0]), np.array([10.0]), np.array([goal_deg]), 400_000, np.random.default_rng(0)
        )
        wide_deg = np.linspace(-100.0, 200.0, 60_001)

        def reward(mean_deg: float, std_deg: float) -> float:
            return expected_reward(normal_density(wide_deg, mean_deg, std_deg), wide_deg, goal_deg)

        by_mean = reward(45.01, 10.0) - reward(44.99, 10.0)
        by_log_std = reward(45.0, 10.0 * np.exp(0.01)) - reward(45.0, 10.0 * np.exp(-0.01))
        assert float(estimate[0][0] / estimate[1][0]) == pytest.approx(by_mean / by_log_std, rel=0.05)
        assert estimate[0][0] * by_mean > 0.0


class TestOutputsOfTheArm:
    """Drawn outputs of the project's policies."""

    def test_softmax_by_hand(self) -> None:
        """Logits 0 and log 3: probabilities 1/4 and 3/4."""
        [curve] = probabilities(Softmax((torch.log(torch.tensor([[1.0, 3.0]])),)))
        assert curve == pytest.approx([0.25, 0.75])

    def test_density_of_a_normal_step_by_hand(self) -> None:
        """Of 10 degrees a unit: at the mean 1 / (sqrt(2 pi) std) a unit, a tenth of it a degree."""
        distribution = Gaussian(torch.zeros(1, 1), torch.full((1, 1), 0.5))
        [curve] = densities(distribution, [0.1], torch.zeros(1))
        assert curve == pytest.approx([0.1 / (np.sqrt(2 * np.pi) * 0.5)])

    @pytest.mark.parametrize("std", [0.1, 0.5, 1.5])
    def test_density_of_a_squashed_step_integrates_to_one(self, std: float) -> None:
        """Over the angles 45 + 20 tanh(u)."""
        choices = torch.from_numpy(CHOICES).float()
        distribution = SquashedGaussian(torch.tensor([[0.4]]), torch.tensor([[std]]))
        [curve] = densities(distribution, [1 / 20.0], choices)
        angles_deg = 45.0 + 20.0 * torch.tanh(choices).numpy()
        row = {"head": GAUSSIAN, "angles_deg": [angles_deg], "per_degree": [curve]}
        assert total_probability(row) == pytest.approx([1.0], abs=0.01)

    @pytest.mark.slow
    @pytest.mark.parametrize("head", HEADS)
    def test_a_short_training_gives_a_distribution(self, head: str) -> None:
        """Three joints, each with a total probability of 1, before it has learned."""
        row = {"head": head, **EXPERIMENT.measure(SHORT, {"task": "arm", "head": head, "seed": 0})}
        assert len(row["per_degree"]) == 3
        assert total_probability(row) == pytest.approx([1.0] * 3, abs=0.02)
        assert len(row["step"]) == len(row["curve_mm"])

    def test_heads_follow_the_action_space(self) -> None:
        """The softmax learns on the degree grid, the Gaussian in continuous angles."""
        assert make_config(Settings(), SOFTMAX, 0).env == "ArmReachMultiDiscrete-v0"
        assert make_config(Settings(), GAUSSIAN, 0).env == "ArmReach-v0"


def rows_with(joint_deg: tuple[float, float], arm_mm: tuple[list[float], list[float]], scale: float) -> list[Row]:
    """Rows of both heads with these errors; random actions miss by 300 mm, and the probabilities sum to `scale`."""
    angles_deg = np.arange(0.0, 91.0)
    triangle = scale * (1.0 - np.abs(angles_deg - 45.0) / 45.0) / 45.0
    curve = {"angles_deg": [angles_deg.tolist()] * 3, "per_degree": [triangle.tolist()] * 3}
    rows: list[Row] = [{"task": "arm", "head": "random", "error_mm": 300.0}]
    for head, error_deg, errors_mm in zip(HEADS, joint_deg, arm_mm, strict=True):
        rows += [{"task": "joint", "head": head, "error_deg": [9.0, error_deg * part]} for part in (0.99, 1.01)]
        rows += [{"task": "arm", "head": head, "error_mm": error_mm, **curve} for error_mm in errors_mm]
    return rows


class TestClaim:
    """The judgement of the claim."""

    @pytest.mark.parametrize(
        ("joint_deg", "arm_mm", "scale", "holds"),
        [
            ((0.3, 0.01), ([10.0, 12.0, 11.0], [8.0, 10.0, 9.0]), 1.0, True),
            ((0.6, 0.01), ([10.0, 12.0, 11.0], [8.0, 10.0, 9.0]), 1.0, False),
            ((0.3, 0.30), ([10.0, 12.0, 11.0], [8.0, 10.0, 9.0]), 1.0, False),
            ((0.3, 0.01), ([290.0, 300.0, 295.0], [8.0, 10.0, 9.0]), 1.0, False),
            ((0.3, 0.01), ([10.0, 12.0, 11.0], [290.0, 300.0, 295.0]), 1.0, False),
            ((0.3, 0.01), ([10.0, 12.0, 11.0], [5.0, 22.0, 35.0]), 1.0, False),
            ((0.3, 0.01), ([10.0, 12.0, 11.0], [8.0, 10.0, 9.0]), 1.2, False),
        ],
        ids=["holds", "softmax off", "Gaussian off", "arm: softmax", "arm: Gaussian", "wide interval", "sum of 1.2"],
    )
    def test_holds_only_if_both_heads_are_distributions_and_learn(
        self, joint_deg: tuple[float, float], arm_mm: tuple[list[float], list[float]], scale: float, holds: bool
    ) -> None:
        """One joint to the grid's resolution or below, the arm to a tenth of the error of random actions."""
        assert EXPERIMENT.judge(Settings(), rows_with(joint_deg, arm_mm, scale)).holds is holds

    @pytest.mark.parametrize(("sign", "holds"), [(1.0, True), (-1.0, False)])
    def test_one_joint_is_learned_only_with_the_right_sign(
        self, sign: float, holds: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At a reduced size, with advantages or with costs in their place."""

        def signed(angle_deg: Array, goal_deg: Array) -> Array:
            return sign * advantages(angle_deg, goal_deg)

        monkeypatch.setattr(heads, "advantages", signed)
        rows: list[Row] = []
        for case in EXPERIMENT.cases(SMALL, 2):
            rows.append({**case, **EXPERIMENT.measure(SMALL, case)})
        assert EXPERIMENT.judge(SMALL, rows).holds is holds
