"""Q, V and A = Q - V on a small chain, exact and learned: how much better than average an action is.

For a policy pi on the chain of `common/chain.py`, with a discount of 0.9,

    Q(s, a)  =  r + gamma sum_s' P(s' | s, a) V(s'),      V(s)  =  sum_a pi(a | s) Q(s, a),      A  =  Q - V

so that sum_a pi(a | s) A(s, a) = 0: on average an action is as good as the average. They are known exactly, by solving
linear equations, and are learned from episodes in two ways:

    Monte Carlo            Q(s, a)  =  mean of the returns G after s, a
    temporal differences   Q(s, a)  =  mean of r + gamma V(s') after s, a, repeated until it no longer changes
                           A(s, a)  =  mean of delta = r + gamma V(s') - V(s)

The error of a mean of n samples falls as n^(-1/2), and so does that of Q, V and A (Sutton and Barto 2018, sections 5.1,
6.3 and 13.5). Returns and delta are computed by the functions that the project's agents learn with.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from arm_control.lab.common.chain import (
    GOAL,
    LEFT,
    REWARD,
    RIGHT,
    STATES,
    Array,
    Episodes,
    action_probabilities,
    exact_values,
    run_episodes,
)
from arm_control.lab.common.drawing import COLOURS, MARKERS, band
from arm_control.lab.common.experiment import Case, Experiment, Row, Verdict
from arm_control.lab.common.statistics import Mean, mean_interval
from policies.common.returns import returns, td_errors

DISCOUNT = 0.9
GOES_RIGHT = np.full(STATES, 0.6)  # the policy
METHODS = ("Monte Carlo", "temporal differences")
QUANTITIES = ("Q", "V", "A")
SWEEPS = 400  # of temporal differences: the error left is 0.9^400
SLOPE_TOLERANCE = 0.1  # within which of -1/2 the interval of each slope has to lie
ZERO = 1e-10  # largest |sum_a pi A|


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    episodes: tuple[int, ...] = (100, 300, 1_000, 3_000, 10_000, 30_000)
    """Numbers of episodes to learn from."""


def mean_by_action(episodes: Episodes, values: Array) -> Array:
    """The mean (states, actions) of values (steps, episodes) over the steps from each state and action."""
    running = episodes.running
    place = 2 * episodes.state[running] + episodes.action[running]
    count = np.bincount(place, minlength=2 * STATES)
    total = np.bincount(place, weights=values[running], minlength=2 * STATES)
    return (total / count).reshape(STATES, 2)


def average(q: Array) -> Array:
    """V(s) = sum_a pi(a | s) Q(s, a), and 0 at the goal."""
    return np.append((action_probabilities(GOES_RIGHT) * q).sum(axis=1), 0.0)


def learn_by_monte_carlo(episodes: Episodes) -> tuple[Array, Array, Array]:
    """Q, V and A from the returns."""
    reward = torch.from_numpy(REWARD * episodes.running)
    at_goal = torch.from_numpy((episodes.next_state == GOAL).astype(np.float64))
    # G_t = r_t + gamma G_t+1
    g = returns(reward, torch.zeros_like(reward), at_goal, at_goal, DISCOUNT)
    q = mean_by_action(episodes, g.numpy())
    v = average(q)
    return q, v, q - v[:STATES, None]


def learn_by_temporal_differences(episodes: Episodes) -> tuple[Array, Array, Array]:
    """Q, V and A from single steps and the values of the states after them."""
    # How often each state follows each state and action.
    follows = np.stack([mean_by_action(episodes, episodes.next_state == state) for state in range(STATES + 1)], axis=-1)
    v = np.zeros(STATES + 1)
    for _ in range(SWEEPS):
        # Q(s, a) <- mean of r + gamma V(s')
        q = REWARD + DISCOUNT * follows @ v
        v = average(q)
    # A(s, a) = mean of delta
    reward = torch.from_numpy(REWARD * episodes.running)
    at_goal = torch.from_numpy((episodes.next_state == GOAL).astype(np.float64))
    value = torch.from_numpy(v[episodes.state])
    next_value = torch.from_numpy(v[episodes.next_state])
    delta = td_errors(reward, value, next_value, at_goal, DISCOUNT)
    return q, v, mean_by_action(episodes, delta.numpy())


LEARN = dict(zip(METHODS, (learn_by_monte_carlo, learn_by_temporal_differences), strict=True))


def root_mean_square(error: Array) -> float:
    """The root of the mean square."""
    return float(np.sqrt(np.mean(error**2)))


def cases(settings: Settings, seeds: int) -> list[Case]:
    """One set of episodes for each seed and number of episodes."""
    if len(set(settings.episodes)) < 2:
        raise ValueError(f"--episodes: expected at least two numbers, for a slope, got {settings.episodes}")
    if min(settings.episodes) < 100:
        raise ValueError(f"--episodes: expected at least 100, to see each action, got {min(settings.episodes)}")
    return [{"episodes": count, "seed": seed} for count in settings.episodes for seed in range(seeds)]


def measure(settings: Settings, case: Case) -> Row:
    """The estimates of each method and their errors, from the same episodes."""
    count = case["episodes"]
    generator = np.random.default_rng([case["seed"], count])
    start = generator.integers(STATES, size=(count,))
    episodes = run_episodes(GOES_RIGHT, start, generator)
    v, q = exact_values(GOES_RIGHT, DISCOUNT)
    exact = (q, v, q - v[:STATES, None])
    row: Row = {"steps": int(episodes.running.sum())}
    for method in METHODS:
        learned = LEARN[method](episodes)
        row[method] = dict(zip(QUANTITIES, learned, strict=True))
        errors = [root_mean_square(own - right) for own, right in zip(learned, exact, strict=True)]
        row[method]["error"] = dict(zip(QUANTITIES, errors, strict=True))
        # sum_a pi(a | s) A(s, a)
        row[method]["average A"] = average(learned[2])
    return row


def error_curves(settings: Settings, rows: list[Row], method: str, quantity: str) -> Array:
    """The error of each seed (seeds, numbers of episodes)."""
    columns = []
    for count in settings.episodes:
        columns.append([row[method]["error"][quantity] for row in rows if row["episodes"] == count])
    return np.array(columns).T


def slope_interval(settings: Settings, errors: Array) -> Mean:
    """The slope of log error over log episodes, where error (seeds, numbers of episodes) is the root mean square."""

    def slope(some: Array) -> float:
        mean_square = np.mean(some**2, axis=0)
        return float(np.polyfit(np.log(settings.episodes), 0.5 * np.log(mean_square), 1)[0])

    # The jackknife: k slope(all) - (k - 1) slope(all but one seed), whose mean and interval are those of the slope.
    count = len(errors)
    values = []
    for seed in range(count):
        values.append(count * slope(errors) - (count - 1) * slope(np.delete(errors, seed, axis=0)))
    return mean_interval(values)


def judge(settings: Settings, rows: list[Row]) -> Verdict:
    """All errors fall with a slope of -1/2, and the advantages average to zero."""
    slopes = {}
    for method in METHODS:
        for quantity in QUANTITIES:
            slopes[method, quantity] = slope_interval(settings, error_curves(settings, rows, method, quantity))
    largest_sum = max(float(np.abs(row[method]["average A"]).max()) for row in rows for method in METHODS)
    lowest = min(slope.low for slope in slopes.values())
    highest = max(slope.high for slope in slopes.values())
    holds = lowest >= -0.5 - SLOPE_TOLERANCE and highest <= -0.5 + SLOPE_TOLERANCE and largest_sum <= ZERO
    last = {method: error_curves(settings, rows, method, "A")[:, -1] for method in METHODS}
    sentence = (
        f"The error of the learned A falls with the number of episodes at a slope of {slopes[METHODS[0], 'A']} by "
        f"Monte Carlo and {slopes[METHODS[1], 'A']} by temporal differences (exact: -0.5; all intervals, those of Q "
        f"and V too, lie in {lowest:.3f} to {highest:.3f}), to {mean_interval(last[METHODS[0]])} and "
        f"{mean_interval(last[METHODS[1]])} after {max(settings.episodes):,}; the largest |sum_a pi(a) A| is "
        f"{largest_sum:.0e} (exact: 0)."
    )
    return Verdict(holds, sentence)


def draw_values(axes: Axes, rows: list[Row], exact: dict[str, Array], quantities: tuple[str, ...]) -> None:
    """Exact values of each state as lines, and the learned ones of several seeds, of each method, as ranges."""
    states = np.arange(STATES)
    for place, label in enumerate(quantities):
        axes.plot(states, exact[label], color=COLOURS[place], label=f"{label}, exact")
    for column, method in enumerate(METHODS):
        for place, label in enumerate(quantities):
            learned = np.array([select(row[method], label) for row in rows])
            middle = learned.mean(axis=0)
            ranges = [middle - learned.min(axis=0), learned.max(axis=0) - middle]
            face = COLOURS[place] if column == 0 else "white"
            style: dict[str, Any] = {"marker": MARKERS[3 * column], "linestyle": "none", "markerfacecolor": face}
            axes.errorbar(states + 0.2 * column - 0.1, middle, ranges, color=COLOURS[place], capsize=2, **style)
    for column, method in enumerate(METHODS):
        face = "black" if column == 0 else "white"
        axes.plot([], [], MARKERS[3 * column], color="black", markerfacecolor=face, markersize=4, label=method)
    axes.set_xlabel("state (the goal comes after 4)")
    axes.set_xticks(states)


def select(values: dict[str, Any], label: str) -> Array:
    """The values (states,) of a label: V, or Q or A of one action."""
    if label == "V":
        return np.array(values["V"])[:STATES]
    quantity, action = label.split("(s, ")
    return np.array(values[quantity])[:, RIGHT if action == "right)" else LEFT]


def draw(settings: Settings, rows: list[Row], figure: Figure) -> None:
    """Q and V, and A of each state, exact and learned, and the error over the number of episodes."""
    left, middle, right = figure.subplots(1, 3)
    v, q = exact_values(GOES_RIGHT, DISCOUNT)
    values = {"Q": q, "V": v, "A": q - v[:STATES, None]}
    drawn = sorted(settings.episodes)[1]
    few = [row for row in rows if row["episodes"] == drawn]
    for axes, quantities in ((left, ("Q(s, right)", "Q(s, left)", "V")), (middle, ("A(s, right)", "A(s, left)"))):
        draw_values(axes, few, {label: select(values, label) for label in quantities}, quantities)
        axes.set_title(f"{drawn} episodes: mean and range of the seeds", fontsize=10)
    left.set_ylabel("Q and V (discounted steps to the goal)")
    middle.set_ylabel("advantage A = Q - V")
    middle.axhline(0.0, color="black", linewidth=0.5)
    left.legend(frameon=False, fontsize=8)
    middle.legend(frameon=False, fontsize=8, loc="lower left")

    counts = np.array(settings.episodes)
    for place, method in enumerate(METHODS):
        curves = error_curves(settings, rows, method, "A")
        band(right, counts, list(curves), f"{method}: median, range", place + 3, markevery=1)
    first = np.median(error_curves(settings, rows, METHODS[0], "A")[:, 0])
    right.plot(counts, first * (counts / counts[0]) ** -0.5, "k--", linewidth=1, label="slope -1/2")
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlabel("episodes")
    right.set_ylabel("error of A (root mean square)")
    right.legend(frameon=False, fontsize=8)


EXPERIMENT = Experiment(
    claim="The advantage, how much better than average an action is, can be learned from samples of the policy.",
    settings=Settings(),
    quick=Settings(episodes=(100, 300, 1_000, 3_000, 10_000)),
    cases=cases,
    measure=measure,
    judge=judge,
    draw=draw,
    seeds=30,
    quick_seeds=30,
    min_seeds=2,
    size=(13.0, 4.2),
)
