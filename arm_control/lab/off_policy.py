"""Replay and target networks: how an off-policy actor-critic with neural networks learns.

DDPG (Lillicrap et al. 2015) learns a critic from transitions (s, a, r, s') that policies of the past have made,

    y  =  r + gamma Q'(s', mu'(s'))          L  =  mean (Q(s, a) - y)^2

with two ideas of DQN (Mnih et al. 2015). Transitions are drawn from a replay buffer, so that those of one update are
nearly independent. And the target y comes from copies Q' and mu' of the networks, which follow them slowly, so that the
target does not move with each update:

    theta'  <-  tau theta + (1 - tau) theta'

The project's DDPG (policies/ddpg/agent.py) learns to control the arm with both, with one, and with neither of them.
Without replay an update uses the latest step of all environments only; without target networks Q' = Q and mu' = mu.

The discount is 0.99, as in the paper. With a short horizon the target depends little on the critic itself, and target
networks matter less. What else helps the critic is left as it is: relabelled goals, steps that are scaled near the
goal, layer normalisation. With their help the arm is learned without target networks, too, but later.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from arm_control.lab.common.drawing import COLOURS, MARKERS, band
from arm_control.lab.common.experiment import Case, Experiment, Row, Verdict
from arm_control.lab.common.statistics import Mean, mean_interval
from arm_control.lab.common.training import train_and_evaluate
from arm_control.runs.config import TrainConfig
from arm_control.viewers.common.figures import label_plainly, ticks_between
from policies.ddpg.settings import DDPGSettings

DISCOUNT = 0.99
Variant = Literal["both", "without target networks", "without replay", "neither"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
BOTH: Variant = "both"


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    steps: int = 10_000
    """Environment steps of each training."""
    goals: int = 200
    """Held-out goals on which each policy is evaluated."""
    variants: tuple[Variant, ...] = VARIANTS
    """The trained variants: 'both', and others to compare with it."""


def make_config(settings: Settings, variant: Variant, seed: int) -> TrainConfig:
    """The training of a variant."""
    replay = variant in (BOTH, "without target networks")
    target_networks = variant in (BOTH, "without replay")
    agent = DDPGSettings(discount=DISCOUNT, replay=replay, target_networks=target_networks)
    return TrainConfig("ddpg", agent, steps=settings.steps, seed=seed)


def cases(settings: Settings, seeds: int) -> list[Case]:
    """Each variant with each seed. Raises ValueError without a comparison."""
    if BOTH not in settings.variants or len(settings.variants) < 2:
        raise ValueError(f"--variants: expected '{BOTH}' and another one, got {', '.join(settings.variants)}")
    return [{"variant": variant, "seed": seed} for seed in range(seeds) for variant in settings.variants]


def measure(settings: Settings, case: Case) -> Row:
    """The error of a trained policy in mm, and its learning curve."""
    row = train_and_evaluate(make_config(settings, case["variant"], case["seed"]), settings.goals)
    curve = row.pop("curve")
    row["step"] = [point["step"] for point in curve]
    row["curve_mm"] = [point["mean_error_mm"] for point in curve]
    return row


def log_errors(rows: list[Row], variant: str) -> NDArray[np.float64]:
    """The logarithms of a variant's errors in mm (seeds,)."""
    return np.log([row["error_mm"] for row in rows if row["variant"] == variant])


def ratio_to_both(rows: list[Row], variant: str) -> Mean:
    """The ratio of the error to that with both: geometric mean over the seeds, with its interval."""
    log_ratio = log_errors(rows, variant) - log_errors(rows, BOTH)
    return Mean(*np.exp(mean_interval(log_ratio)).tolist())


def judge(settings: Settings, rows: list[Row]) -> Verdict:
    """Each part is needed: the error without it is larger, with the whole interval."""
    uncertain = []
    parts = []
    for variant in settings.variants:
        error_mm = np.exp(log_errors(rows, variant).mean())
        if variant == BOTH:
            parts.append(f"{error_mm:.3g} mm with both")
            continue
        ratio = ratio_to_both(rows, variant)
        name = f"with {variant}" if variant == "neither" else variant
        parts.append(f"{error_mm:.3g} mm {name}, {ratio.mean:.3g} ({ratio.low:.3g} to {ratio.high:.3g}) times as much")
        if ratio.low <= 1.0:
            uncertain.append(variant)
    sentence = f"The error after {settings.steps:,} steps is {'; '.join(parts)} (geometric means of the seeds)"
    if uncertain:
        sentence = f"{sentence}: no certain difference {', '.join(uncertain)}"
    return Verdict(not uncertain, f"{sentence}.")


def draw(settings: Settings, rows: list[Row], figure: Figure) -> None:
    """Validation error while training, and the held-out error of each seed."""
    left, right = figure.subplots(1, 2, width_ratios=[1.3, 1])
    for place, variant in enumerate(settings.variants):
        chosen = [row for row in rows if row["variant"] == variant]
        band(left, chosen[0]["step"], [row["curve_mm"] for row in chosen], variant, place, markevery=2)
        errors_mm = [row["error_mm"] for row in chosen]
        style = {"color": COLOURS[place], "marker": MARKERS[place], "linestyle": "", "fillstyle": "none"}
        right.plot([place] * len(errors_mm), errors_mm, **style)
        geometric_mean_mm = np.exp(np.mean(np.log(errors_mm)))
        right.plot(place, geometric_mean_mm, color=COLOURS[place], marker="_", markersize=26, markeredgewidth=2)
    for axes in (left, right):
        axes.set_yscale("log")
        label_plainly(axes.yaxis)
        axes.set_yticks(ticks_between(*axes.get_ylim()))
    left.set_title("validation goals: median and range of the seeds", fontsize=10)
    left.set_xlabel("environment steps")
    left.set_ylabel("mean error at the last step (mm)")
    left.legend(frameon=False, fontsize=9, loc="lower left")
    right.set_title("held-out goals: each seed, and geometric mean", fontsize=10)
    names = [variant.replace("without ", "without\n").replace("target ", "target\n") for variant in settings.variants]
    right.set_xticks(range(len(names)), names, fontsize=9)
    right.set_xlim(-0.5, len(names) - 0.5)
    right.set_xlabel("replay and target networks")
    right.set_ylabel(f"mean error after {settings.steps:,} steps (mm)")


EXPERIMENT = Experiment(
    claim="Experience replay and target networks make an off-policy actor-critic with neural networks learn.",
    settings=Settings(),
    quick=Settings(steps=4_000, goals=20, variants=(BOTH, "neither")),
    cases=cases,
    measure=measure,
    judge=judge,
    draw=draw,
    seeds=5,
    quick_seeds=3,
    min_seeds=2,
    size=(10.0, 4.2),
)
