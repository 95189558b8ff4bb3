"""The short corridor with aliased states: some tasks require a stochastic policy.

Sutton and Barto 2018, example 13.1: three states in a row, then the goal. Each step costs 1. The policy cannot tell the
states apart, and in the second one left goes right and right goes left. The return from the first state, for a policy
that goes right with probability p, is

    J(p)  =  (2 p - 4) / (p (1 - p)),        largest at  p* = 2 - sqrt 2 = 0.586,  J(p*) = -11.66

A greedy action, left or right, never arrives. Epsilon-greedy policies with epsilon = 0.1 have p = 0.05 or p = 0.95, and
returns of -82.1 and -44.2. REINFORCE learns p by the score function, from whole episodes:

    theta  <-  theta + alpha  G  sum_t d log pi(a_t) / d theta,        p = 1 / (1 + exp(-theta))

with d log pi / d theta = 1 - p for right and -p for left.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from arm_control.lab.common.drawing import COLOURS, band, reference
from arm_control.lab.common.experiment import Case, Experiment, Row, Verdict
from arm_control.lab.common.statistics import mean_interval

LEFT = 0
RIGHT = 1
GOAL = 3
NEXT_STATE = np.array([[0, 1], [2, 0], [1, GOAL]])  # by state and action
BEST_P = 2.0 - 2.0**0.5
EPSILON = 0.1
LONGEST_EPISODE = 5_000  # steps; an episode that is longer counts as if it ended there
START_P = EPSILON / 2  # of going right: the epsilon-greedy policy whose greedy action is left


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    updates: int = 400
    """Number of updates of the policy."""
    episodes: int = 100
    """Episodes in one update."""
    learning_rate: float = 0.01
    """Step size of the logit at the start; it falls to zero."""
    sampled_episodes: int = 2_000
    """Episodes with which the returns of the fixed policies are sampled."""


def expected_return(p: Any) -> Any:
    """J(p) of going right with probability p, a number or an array."""
    return (2.0 * p - 4.0) / (p * (1.0 - p))


def run_episodes(p: float, count: int, generator: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Run episodes side by side; returns how many steps each made in all, and how many of them to the right."""
    state = np.zeros(count, np.int64)
    steps = np.zeros(count, np.int64)
    rights = np.zeros(count, np.int64)
    for _ in range(LONGEST_EPISODE):
        running = np.flatnonzero(state != GOAL)
        if len(running) == 0:
            break
        action = (generator.random(len(running)) < p).astype(np.int64)
        state[running] = NEXT_STATE[state[running], action]
        steps[running] += 1
        rights[running] += action
    return steps, rights


def cases(settings: Settings, seeds: int) -> list[Case]:
    """The two epsilon-greedy policies, and one learning run a seed."""
    fixed: list[Case] = [{"policy": "epsilon-greedy", "p": p} for p in (EPSILON / 2, 1.0 - EPSILON / 2)]
    learned: list[Case] = [{"policy": "reinforce", "seed": seed} for seed in range(seeds)]
    return fixed + learned


def measure(settings: Settings, case: Case) -> Row:
    """The sampled return of a fixed policy, or p and J(p) along learning."""
    if case["policy"] == "epsilon-greedy":
        steps, _ = run_episodes(case["p"], settings.sampled_episodes, np.random.default_rng(0))
        return {"returns_interval": mean_interval(-steps)}

    generator = np.random.default_rng(case["seed"])
    logit = np.log(START_P / (1.0 - START_P))
    p_of_update = []
    for update in range(settings.updates):
        p = 1.0 / (1.0 + np.exp(-logit))
        p_of_update.append(p)
        steps, rights = run_episodes(p, settings.episodes, generator)
        # G is minus the number of steps: every step costs 1.
        episode_return = -steps
        # sum_t d log pi(a_t) / d theta
        score = rights * (1.0 - p) - (steps - rights) * p
        rate = settings.learning_rate * (1.0 - update / settings.updates)
        # The mean of all episodes is a baseline: it lowers the variance, and changes the mean by 1/n only.
        advantage = episode_return - episode_return.mean()
        logit += rate * float(np.mean(advantage * score))
    return {"p": p_of_update}


def judge(settings: Settings, rows: list[Row]) -> Verdict:
    """Both epsilon-greedy policies are far below the stochastic one that is learned."""
    greedy = [row["returns_interval"][0] for row in rows if row["policy"] == "epsilon-greedy"]
    learned_p = [row["p"][-1] for row in rows if row["policy"] == "reinforce"]
    learned_return = [expected_return(p) for p in learned_p]
    best = expected_return(BEST_P)
    holds = min(learned_return) > best - 0.2 and max(greedy) < -40.0
    return Verdict(
        bool(holds),
        f"Epsilon-greedy policies return {greedy[0]:.1f} and {greedy[1]:.1f} (exact: -82.1 and -44.2), the learned "
        f"stochastic ones {mean_interval(learned_return)} with p = {mean_interval(learned_p)} (exact optimum: "
        f"{best:.2f} with p = {BEST_P:.3f}).",
    )


def draw(settings: Settings, rows: list[Row], figure: Figure) -> None:
    """The return as a function of p, and along learning."""
    left, right = figure.subplots(1, 2)
    p = np.linspace(0.02, 0.98, 500)
    left.plot(p, expected_return(p), color="black", linewidth=1, label="closed form J(p)")
    for row in rows:
        if row["policy"] == "epsilon-greedy":
            sampled, low, high = row["returns_interval"]
            left.errorbar(
                row["p"], sampled, [[sampled - low], [high - sampled]], color=COLOURS[1], marker="s", capsize=3
            )
            right_side = row["p"] > BEST_P
            left.annotate(
                f"epsilon-greedy: {sampled:.1f}",
                (row["p"], sampled),
                xytext=(-8 if right_side else 8, 0),
                textcoords="offset points",
                ha="right" if right_side else "left",
                va="center",
                fontsize=8,
            )
    left.plot(BEST_P, expected_return(BEST_P), "*", color=COLOURS[0], markersize=11, label="optimum, p = 2 - sqrt 2")
    left.set_ylim(-110, 0)
    left.set_xlabel("probability of going right, p")
    left.set_ylabel("return (minus the number of steps)")
    left.legend(frameon=False, fontsize=9, loc="lower center")

    curves = [expected_return(np.array(row["p"])) for row in rows if row["policy"] == "reinforce"]
    episodes = settings.episodes * np.arange(1, settings.updates + 1)
    band(right, episodes, curves, "REINFORCE: median and range of the seeds", 0)
    reference(right, expected_return(BEST_P), "optimum -11.66")
    for start in (EPSILON / 2, 1.0 - EPSILON / 2):
        reference(right, expected_return(start), f"epsilon-greedy {expected_return(start):.1f}")
    right.set_xscale("log")
    right.set_xlabel("episodes")
    right.set_ylabel("return J(p) of the learned policy")
    right.legend(frameon=False, fontsize=9, loc="center right")


EXPERIMENT = Experiment(
    claim="Where states look alike, a stochastic policy beats every deterministic and every nearly deterministic one.",
    settings=Settings(),
    quick=Settings(updates=150, sampled_episodes=500),
    cases=cases,
    measure=measure,
    judge=judge,
    draw=draw,
    seeds=10,
    quick_seeds=3,
    min_seeds=2,
)
