"""Replay and target networks: what is trained, the judgement, and the claim at a reduced size."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from arm_control.lab.common.experiment import Row
from arm_control.lab.off_policy import EXPERIMENT, VARIANTS, Settings, Variant, make_config, ratio_to_both
from policies.common.replay_buffer import ReplayBuffer
from policies.ddpg.agent import DDPG
from policies.ddpg.critic import View
from policies.ddpg.settings import DDPGSettings

SETTINGS = Settings()


def rows_of(errors_mm: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Rows with these errors of each variant's seeds."""
    rows: list[dict[str, Any]] = []
    for variant, values in errors_mm.items():
        rows += [{"variant": variant, "error_mm": value} for value in values]
    return rows


def all_worse() -> dict[str, list[float]]:
    """Errors that are ten times as large as with both, whatever part is left out."""
    errors_mm = {variant: [10.0, 20.0, 40.0] for variant in VARIANTS}
    return {**errors_mm, "both": [1.0, 2.0, 4.0]}


def train_all(settings: Settings, seeds: int) -> list[Row]:
    """Train each variant with each seed."""
    rows: list[Row] = []
    for case in EXPERIMENT.cases(settings, seeds):
        rows.append({**case, **EXPERIMENT.measure(settings, case)})
    return rows


class TestVariants:
    """The trained variants."""

    @pytest.mark.parametrize(
        ("variant", "replay", "target_networks"),
        [
            ("both", True, True),
            ("without target networks", True, False),
            ("without replay", False, True),
            ("neither", False, False),
        ],
    )
    def test_each_leaves_out_what_it_says(self, variant: Variant, replay: bool, target_networks: bool) -> None:
        """At the discount of the paper, and otherwise with the default settings."""
        both: Any = make_config(SETTINGS, "both", 0).settings
        changed: Any = make_config(SETTINGS, variant, 0).settings
        assert changed == replace(both, replay=replay, target_networks=target_networks)
        assert both == DDPGSettings(discount=0.99)

    @pytest.mark.parametrize("variants", [("both",), ("neither", "without replay")])
    def test_without_a_comparison_they_are_an_error(self, variants: tuple[Variant, ...]) -> None:
        """Both, and at least one other."""
        with pytest.raises(ValueError, match="--variants: expected 'both' and another one"):
            EXPERIMENT.cases(Settings(variants=variants), 2)


class TestJudgement:
    """Ratios of errors, seed by seed, as geometric means."""

    def test_ratios_by_hand(self) -> None:
        """Ratios of 2, 4 and 8: the mean of their logarithms is log 4, its half-width 4.303 log 2 / sqrt 3."""
        ratio = ratio_to_both(rows_of({"both": [1.0, 1.0, 1.0], "neither": [2.0, 4.0, 8.0]}), "neither")
        half_width = 4.3027 * np.log(2.0) / 3**0.5
        assert ratio == pytest.approx(np.exp([np.log(4.0), np.log(4.0) - half_width, np.log(4.0) + half_width]), 1e-4)

    def test_the_claim_holds_if_each_variant_is_worse(self) -> None:
        """Ten times the error with each of three seeds."""
        verdict = EXPERIMENT.judge(SETTINGS, rows_of(all_worse()))
        assert verdict.holds
        assert "without replay, 10 (10 to 10) times as much" in verdict.measured

    @pytest.mark.parametrize("variant", VARIANTS[1:])
    def test_one_variant_that_is_not_certainly_worse_refutes_it(self, variant: Variant) -> None:
        """Ratios of 1/2, 1 and 2 have an interval around 1; the sentence names the variant."""
        verdict = EXPERIMENT.judge(SETTINGS, rows_of({**all_worse(), variant: [0.5, 2.0, 8.0]}))
        assert not verdict.holds
        assert verdict.measured.endswith(f": no certain difference {variant}.")


@pytest.mark.slow
class TestClaim:
    """The claim at a reduced size: with both, and with neither."""

    @pytest.mark.parametrize("sign", [1.0, -1.0])
    def test_holds_only_if_the_actor_ascends_q(self, sign: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """At a reduced size the error with both is less than half; with the wrong sign of dQ/da nothing is learned."""
        action_gradient = DDPG._action_gradient

        def signed_gradient(agent: DDPG, view: View, mu: Tensor) -> Tensor:
            return sign * action_gradient(agent, view, mu)

        monkeypatch.setattr(DDPG, "_action_gradient", signed_gradient)
        errors_mm = {row["variant"]: row["error_mm"] for row in train_all(EXPERIMENT.quick, 1)}
        assert (errors_mm["both"] < 0.5 * errors_mm["neither"]) is (sign > 0.0)

    def test_fails_if_replay_and_target_networks_are_not_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """If batches are of the latest step and targets of the online networks, the variants are the same."""
        draw = ReplayBuffer.draw

        def draw_latest(buffer: ReplayBuffer, batch: int, generator: np.random.Generator, *, latest: bool) -> Any:
            return draw(buffer, batch, generator, latest=True)

        monkeypatch.setattr(ReplayBuffer, "draw", draw_latest)
        monkeypatch.setattr(DDPG, "_targets", property(lambda agent: (agent._actor, agent._critic)))
        settings = replace(EXPERIMENT.quick, steps=2_400)
        verdict = EXPERIMENT.judge(settings, train_all(settings, 2))
        assert not verdict.holds
        assert "with neither, 1 (1 to 1) times as much" in verdict.measured
