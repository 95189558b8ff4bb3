"""Baselines: what is subtracted from a return lowers the variance of the gradient, and adds no bias.

The short corridor (see the experiment `corridor`), with a prize of 100 at the goal that is the same for every policy:

    J(p)  =  100 + (2 p - 4) / (p (1 - p)),        p = 1 / (1 + exp(-theta))

The gradient from one episode, and why a baseline b that depends on the state only adds nothing to its mean:

    g  =  sum_t (G_t - b(s_t)) d log pi(a_t) / dtheta
    E[b(s) d log pi(a) / dtheta]  =  b(s) d(sum_a pi(a)) / dtheta  =  b(s) d(1) / dtheta  =  0

    none      b  =  0
    average   b  =  the mean of G_t over the other episodes of the update; one's own return depends on one's own actions
    value     b  =  V(s_t): exact where the gradient is measured, learned from the returns where the policy learns

An update follows the mean gradient of a few episodes. The gain depends on the task: the prize makes every return large,
which the policy without a baseline follows in either direction until the next samples come. Without a prize, and with
a step size of 1/64, for which the prize is too noisy, the policy without a baseline learns as fast as with one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from arm_control.lab.common.drawing import COLOURS, MARKERS, reference
from arm_control.lab.common.experiment import Case, Experiment, Row, Verdict
from arm_control.lab.common.statistics import Mean, mean_interval
from arm_control.lab.corridor import BEST_P, GOAL, NEXT_STATE, RIGHT, START_P, expected_return

Array = NDArray[np.float64]

BASELINES = ("none", "average", "value")
PROBABILITIES = (0.3, BEST_P, 0.8)  # of going right, at which the gradient is measured
# Step sizes to choose the best from: found by halving them from 1/8.
LEARNING_RATES = {
    "none": (2.0**-8, 2.0**-9, 2.0**-10),
    "average": (2.0**-7, 2.0**-8, 2.0**-9),
    "value": (2.0**-5, 2.0**-6, 2.0**-7),
}
PRIZE = 100.0  # the step sizes above suit it
VALUE_RATE = 0.2  # step size of the learned values
LONGEST_EPISODE = 5_000  # steps, where the gradient is measured
LONGEST_LEARNING_EPISODE = 400  # steps; an episode that is longer ends there, without the prize
LOWEST_RETURN = -1_000.0  # of a policy that hardly ever arrives, for the mean of learning curves
WANTED_RETURN = -12.0  # without the prize; the best is -11.66
WINDOW = 12  # updates over which the mean return must be the wanted one
LARGEST_BIAS = 3.0  # standard errors
LARGEST_FRACTION = 1.0 / 3.0  # of the episodes


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    episodes: int = 4
    """Episodes of one update; the average baseline requires at least 2."""
    updates: int = 200
    """Updates of a learning run."""
    measured_updates: int = 1_000
    """Number of updates of each seed with which bias and variance are measured."""


def run_episodes(p: Array, longest: int, generator: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
    """Run an episode with each probability (...) of going right; returns states and actions (steps, ...).

    An episode that has ended stays at the goal.
    """
    state = np.zeros(p.shape, np.int64)
    next_state = np.vstack([NEXT_STATE, [GOAL, GOAL]])
    states: list[NDArray[Any]] = []
    actions: list[NDArray[Any]] = []
    while (state != GOAL).any() and len(states) < longest:
        action = (generator.random(p.shape) < p).astype(np.int64)
        states.append(state)
        actions.append(action)
        state = next_state[state, action]
    return np.array(states), np.array(actions)


def returns_of(states: NDArray[Any], actions: NDArray[Any], prize: float) -> Array:
    """G_t (steps, ...): the prize, if it is still to come, minus the steps from this one on; 0 at the goal."""
    arrives = (states == GOAL - 1) & (actions == RIGHT)
    reward = prize * arrives - (states != GOAL)
    from_the_end: Array = np.cumsum(reward[::-1], axis=0)[::-1].astype(np.float64)
    return from_the_end


def baseline_of(kind: str, returns: Array, states: NDArray[Any], values: Array) -> Array:
    """b (steps, ..., episodes), from returns and states of this shape and values (..., 4) of the states."""
    if kind == "average":
        others = returns.shape[-1] - 1
        average: Array = (returns.sum(axis=-1, keepdims=True) - returns) / others
        return average
    if kind == "value":
        # V(s_t) of each learner's own table.
        table = np.broadcast_to(values[..., None, :], (*returns.shape[1:], GOAL + 1))
        return np.take_along_axis(table, np.moveaxis(states, 0, -1), axis=-1).transpose(-1, *range(states.ndim - 1))
    return np.zeros_like(returns)


def update_of(p: Array, states: NDArray[Any], actions: NDArray[Any], advantage: Array) -> Array:
    """The mean over episodes of sum_t advantage_t d log pi(a_t) / dtheta, where p and arrays end in (..., episodes)."""
    # d log pi / dtheta = 1 - p for right, -p for left.
    score = np.where(actions == RIGHT, 1.0 - p, -p)
    running = states != GOAL
    mean: Array = (score * advantage * running).sum(axis=0).mean(axis=-1)
    return mean


def exact_values(p: float, prize: float) -> Array:
    """V (4,) of the states from their Bellman equations, V = -1 + P V; the goal's is 0."""
    follow = np.zeros((GOAL, GOAL + 1))
    for state in range(GOAL):
        follow[state, NEXT_STATE[state, RIGHT]] += p
        follow[state, NEXT_STATE[state, 1 - RIGHT]] += 1.0 - p
    reward = -1.0 + prize * follow[:, GOAL]
    return np.append(np.linalg.solve(np.eye(GOAL) - follow[:, :GOAL], reward), 0.0)


def exact_gradient(p: float) -> float:
    """dJ / dtheta = J'(p) p (1 - p) = 2 - (2 p - 4) (1 - 2 p) / (p (1 - p))."""
    return 2.0 - (2.0 * p - 4.0) * (1.0 - 2.0 * p) / (p * (1.0 - p))


def cases(settings: Settings, seeds: int) -> list[Case]:
    """Bias and variance, and learning, of each seed."""
    if settings.episodes < 2:
        raise ValueError(f"--episodes: expected at least 2, for the average of the others, got {settings.episodes}")
    return [{"part": part, "seed": seed} for part in ("gradient", "learning") for seed in range(seeds)]


def measure(settings: Settings, case: Case) -> Row:
    """Mean and variance of the updates at fixed policies, or p along learning."""
    generator = np.random.default_rng(case["seed"])
    if case["part"] == "gradient":
        return measure_gradient(settings, generator)
    return {kind: learn(settings, kind, generator) for kind in BASELINES}


def measure_gradient(settings: Settings, generator: np.random.Generator) -> Row:
    """Mean and variance of updates with each baseline, from the same episodes, at each probability."""
    row: Row = {kind: {"mean": [], "variance": []} for kind in BASELINES}
    for p in PROBABILITIES:
        each_p = np.full((settings.measured_updates, settings.episodes), p)
        states, actions = run_episodes(each_p, LONGEST_EPISODE, generator)
        returns = returns_of(states, actions, PRIZE)
        values = np.tile(exact_values(p, PRIZE), (settings.measured_updates, 1))
        for kind in BASELINES:
            advantage = returns - baseline_of(kind, returns, states, values)
            updates = update_of(each_p, states, actions, advantage)
            row[kind]["mean"].append(updates.mean())
            row[kind]["variance"].append(updates.var(ddof=1))
    return row


def learn(settings: Settings, kind: str, generator: np.random.Generator) -> list[list[float]]:
    """Learn from p = 0.05 with each learning rate; returns p (rates, updates) after each update."""
    rates = np.array(LEARNING_RATES[kind])
    theta = np.full(len(rates), np.log(START_P / (1.0 - START_P)))
    values = np.zeros((len(rates), GOAL + 1))
    history = []
    for _ in range(settings.updates):
        each_p = np.repeat(1.0 / (1.0 + np.exp(-theta))[:, None], settings.episodes, axis=1)
        states, actions = run_episodes(each_p, LONGEST_LEARNING_EPISODE, generator)
        returns = returns_of(states, actions, PRIZE)
        advantage = returns - baseline_of(kind, returns, states, values)
        theta = theta + rates * update_of(each_p, states, actions, advantage)
        # V(s) <- V(s) + 0.2 (mean G of the visits - V(s))
        for state in range(GOAL):
            visits = states == state
            count = visits.sum(axis=(0, 2))
            mean_return = (returns * visits).sum(axis=(0, 2)) / np.maximum(count, 1)
            values[:, state] += np.where(count > 0, VALUE_RATE * (mean_return - values[:, state]), 0.0)
        history.append(1.0 / (1.0 + np.exp(-theta)))
    p_of_rates: list[list[float]] = np.transpose(history).tolist()
    return p_of_rates


def learning_curves(rows: list[Row], kind: str) -> Array:
    """J without the prize, (rates, seeds, updates)."""
    p = np.array([row[kind] for row in rows if row["part"] == "learning"]).clip(1e-6, 1.0 - 1e-6)
    curves: Array = np.maximum(expected_return(p), LOWEST_RETURN).swapaxes(0, 1)
    return curves


def episodes_until_wanted(settings: Settings, curves: Array) -> NDArray[Any]:
    """Episodes (seeds,) until the mean return of the next updates is the wanted one; all of them where it never is."""
    following = np.lib.stride_tricks.sliding_window_view(curves, WINDOW, axis=-1).mean(axis=-1)
    reached = following >= WANTED_RETURN
    first = np.where(reached.any(axis=-1), reached.argmax(axis=-1) + 1, settings.updates)
    return settings.episodes * first


def best_curves(settings: Settings, rows: list[Row], kind: str) -> Array:
    """The learning curves (seeds, updates) with the learning rate that needs the fewest episodes in the mean."""
    each_rate = learning_curves(rows, kind)
    needed = [episodes_until_wanted(settings, curves).mean() for curves in each_rate]
    best: Array = each_rate[int(np.argmin(needed))]
    return best


def fraction_of_episodes(settings: Settings, rows: list[Row], kind: str) -> Mean:
    """Episodes with a baseline over those without: the geometric mean over the seeds."""
    needed = episodes_until_wanted(settings, best_curves(settings, rows, kind))
    without = episodes_until_wanted(settings, best_curves(settings, rows, "none"))
    return Mean(*np.exp(mean_interval(np.log(needed / without))).tolist())


def largest_bias(settings: Settings, gradient_rows: list[Row]) -> float:
    """The largest distance of a mean update from the exact gradient, in standard errors."""
    count = settings.measured_updates * len(gradient_rows)
    exact = np.array([exact_gradient(p) for p in PROBABILITIES])
    errors = []
    for kind in BASELINES:
        means = np.mean([row[kind]["mean"] for row in gradient_rows], axis=0)
        variances = np.mean([row[kind]["variance"] for row in gradient_rows], axis=0)
        errors.append(np.abs(means - exact) / np.sqrt(variances / count))
    return float(np.max(errors))


def variance_ratio(gradient_rows: list[Row], kind: str) -> list[Mean]:
    """The variance of the update relative to that without a baseline, at each probability."""
    ratios = [np.divide(row[kind]["variance"], row["none"]["variance"]) for row in gradient_rows]
    return [mean_interval(ratio) for ratio in np.transpose(ratios)]


def judge(settings: Settings, rows: list[Row]) -> Verdict:
    """No baseline adds bias, each lowers the variance, and the value saves two thirds of the episodes."""
    gradient_rows = [row for row in rows if row["part"] == "gradient"]
    bias = largest_bias(settings, gradient_rows)
    average = variance_ratio(gradient_rows, "average")
    value = variance_ratio(gradient_rows, "value")
    fraction = fraction_of_episodes(settings, rows, "value")
    holds = bias < LARGEST_BIAS and max(r.high for r in average + value) < 1.0 and fraction.high <= LARGEST_FRACTION
    needed = {kind: episodes_until_wanted(settings, best_curves(settings, rows, kind)) for kind in BASELINES}
    sentence = (
        f"With each baseline the mean update lies within {bias:.1f} standard errors of the exact gradient; at the best "
        f"policy its variance is {average[1]} of that without a baseline for the average and {value[1]} for the value; "
        f"a return of {WANTED_RETURN:g} takes {mean_interval(needed['none'])} episodes without, "
        f"{mean_interval(needed['average'])} with the average, and {mean_interval(needed['value'])} with the value, "
        f"which is {fraction} of those without (expected: at most 1/3)."
    )
    return Verdict(bool(holds), sentence)


def draw(settings: Settings, rows: list[Row], figure: Figure) -> None:
    """The bias, the variance, and the learning curves."""
    gradient_rows = [row for row in rows if row["part"] == "gradient"]
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.4])
    exact = np.array([exact_gradient(p) for p in PROBABILITIES])
    for place, kind in enumerate(BASELINES):
        # Beside each other, so that intervals do not hide one another.
        x: Array = np.arange(len(PROBABILITIES), dtype=np.float64) + 0.2 * (place - 1)
        means = np.array([row[kind]["mean"] for row in gradient_rows]) - exact
        draw_means(left, x, means, kind, place)
        draw_means(middle, x, np.array([row[kind]["variance"] for row in gradient_rows]), kind, place)
        draw_curve(right, settings, best_curves(settings, rows, kind), kind, place)
    reference(left, 0.0, "")
    middle.set_yscale("log")
    left.set_ylabel("bias: mean update minus exact gradient")
    middle.set_ylabel("variance of the update")
    for axes in (left, middle):
        axes.set_xticks(range(len(PROBABILITIES)), [f"{p:.2f}" for p in PROBABILITIES])
        axes.set_xlim(-0.5, len(PROBABILITIES) - 0.5)
        axes.set_xlabel("probability of going right, p")
    middle.legend(frameon=False, fontsize=9, title="baseline", title_fontsize=9)
    reference(right, expected_return(BEST_P), f"optimum {expected_return(BEST_P):.2f}")
    right.set_yscale("symlog", linthresh=1.0)
    right.set_ylim(-200.0, -9.0)
    right.set_yticks([-200, -100, -50, -20, -10], ["-200", "-100", "-50", "-20", "-10"])
    right.set_xlabel("episodes")
    right.set_ylabel("return J(p) without the prize")
    right.legend(frameon=False, fontsize=9, loc="lower right", title="mean and 95 % interval", title_fontsize=9)


def draw_means(axes: Axes, x: Array, values: Array, label: str, place: int) -> None:
    """Draw the mean and the interval of values (seeds, n)."""
    means = [mean_interval(column) for column in values.T]
    lengths = np.transpose([[m.mean - m.low, m.high - m.mean] for m in means])
    style: dict[str, Any] = {"color": COLOURS[place], "marker": MARKERS[place], "linestyle": "", "capsize": 3}
    axes.errorbar(x, [m.mean for m in means], lengths, label=label, **style)


def draw_curve(axes: Axes, settings: Settings, curves: Array, label: str, place: int) -> None:
    """Draw the mean of learning curves (seeds, updates), and its interval as a band."""
    means = np.array([mean_interval(column) for column in curves.T])
    episodes = settings.episodes * np.arange(1, settings.updates + 1)
    axes.plot(episodes, means[:, 0], color=COLOURS[place], marker=MARKERS[place], markevery=0.1, label=label)
    axes.fill_between(episodes, means[:, 1], means[:, 2], color=COLOURS[place], alpha=0.2, linewidth=0)


EXPERIMENT = Experiment(
    claim="A baseline lowers the variance of the gradient and adds no bias: with the value of the state the same "
    "return takes at most a third of the episodes.",
    settings=Settings(),
    quick=Settings(measured_updates=300),
    cases=cases,
    measure=measure,
    judge=judge,
    draw=draw,
    seeds=60,
    quick_seeds=24,
    min_seeds=2,
    size=(13.0, 4.2),
)
