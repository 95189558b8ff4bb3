"""Exploration: a Gaussian policy can learn its own standard deviation.

An action is drawn from N(mu, sigma^2). Both parameters follow the same policy gradient, with the scores

    d log pi(a) / d mu         =  (a - mu) / sigma^2
    d log pi(a) / d log sigma  =  (a - mu)^2 / sigma^2 - 1

so that sigma grows where actions far from the mean turn out better than expected, and shrinks where they turn out
worse.

The task: throw until a throw lands within w = 0.25 of a goal; each throw costs 1. In one state the goal is seen, at 0.
In the other it is hidden: it is at -1 or at +1, and the policy does not know where. The expected number of throws is

    T  =  mean over the goals g of  1 / P(|a - g| < w),   P  =  Phi((g + w - mu) / sigma) - Phi((g - w - mu) / sigma)

with the minimum at mu = 0. Where the goal is seen, T falls to 1 as sigma falls to 0. Where it is hidden, a policy that
always throws to the same side never hits a goal at the other one. There T is for small w in proportion to
sigma exp(1 / (2 sigma^2)), with the minimum at sigma = 1; for w = 0.25 it is at 0.989. With one sigma for both states
the best is 0.810. REINFORCE learns from whole episodes, from a small and from a large sigma at the start, which stays
fixed, is learned for both states, or is learned for each state.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import ndtr

from arm_control.lab.common.drawing import COLOURS, MARKERS, band, reference
from arm_control.lab.common.experiment import Case, Experiment, Row, Verdict
from arm_control.lab.common.statistics import Mean, mean_interval
from arm_control.viewers.common.figures import label_plainly

Array = NDArray[np.float64]

GOALS = (np.array([0.0]), np.array([-1.0, 1.0]))  # by state
SEEN = 0
HIDDEN = 1
WIDTH = 0.25  # w
START_MEAN = 0.3
START_STDS = (0.5, 2.0)
LONGEST_EPISODE = 2_000  # throws
POINTS = 60  # of a drawn line
STD_BOUNDS = (0.05, 10.0)
ALMOST_ZERO = 1e-3  # standard deviation with which every throw hits a goal that is seen
FIXED_SMALL = "fixed, 0.5"
FIXED_LARGE = "fixed, 2"
LEARNED = "learned"
OF_STATE = "of the state"
# The standard deviations at the start, by what becomes of them.
STARTS = {FIXED_SMALL: START_STDS[:1], FIXED_LARGE: START_STDS[1:], LEARNED: START_STDS, OF_STATE: START_STDS}
TOLERANCE = 0.05  # largest relative difference of a learned standard deviation from the best one
SMALL = 0.5 * WIDTH  # largest learned standard deviation where the goal is seen: 95 % of the throws hit


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    updates: int = 400
    """Number of updates of the policy."""
    episodes: int = 400
    """Episodes in one update, half of them with the goal hidden."""
    learning_rate: float = 0.2
    """Step size of mean and logarithm of the standard deviation at the start; it falls to zero."""


def hit_probability(goal: Array, mean: Any, std: Any) -> Any:
    """P(|a - g| < w) of an action a ~ N(mean, std^2)."""
    return ndtr((goal + WIDTH - mean) / std) - ndtr((goal - WIDTH - mean) / std)


def expected_throws(state: int, mean: float, std: float) -> float:
    """T of a state: the mean over its goals of the expected number of throws."""
    return float(np.mean(1.0 / hit_probability(GOALS[state], mean, std)))


def mean_throws(means: Array, stds: Array) -> float:
    """The expected number of throws of a policy (states,), both states being equally likely."""
    return 0.5 * sum(expected_throws(state, means[state], stds[state]) for state in (SEEN, HIDDEN))


def best_stds(kind: str) -> Array:
    """The standard deviations (states,) with the fewest throws, of a fixed kind those at the start."""
    if kind in (FIXED_SMALL, FIXED_LARGE):
        return np.full(2, STARTS[kind][0])
    if kind == LEARNED:
        both = minimize_scalar(lambda std: mean_throws(np.zeros(2), np.full(2, std)), bounds=(0.2, 5.0))
        return np.full(2, both.x)
    hidden = minimize_scalar(lambda std: expected_throws(HIDDEN, 0.0, std), bounds=(0.2, 5.0))
    return np.array([ALMOST_ZERO, hidden.x])


def run_episodes(mean: Array, std: Array, goal: Array, generator: np.random.Generator) -> tuple[Array, Array, Array]:
    """Throw side by side until all have hit; arguments are (episodes,).

    Returns the number of throws of each episode, and the sums over its throws of both scores.
    """
    throws = np.zeros(len(goal))
    mean_score = np.zeros(len(goal))
    std_score = np.zeros(len(goal))
    running = np.arange(len(goal))
    for _ in range(LONGEST_EPISODE):
        if len(running) == 0:
            break
        # a = mu + sigma z,  d log pi / d mu = z / sigma,  d log pi / d log sigma = z^2 - 1
        z = generator.standard_normal(len(running))
        action = mean[running] + std[running] * z
        throws[running] += 1.0
        mean_score[running] += z / std[running]
        std_score[running] += z**2 - 1.0
        running = running[np.abs(action - goal[running]) >= WIDTH]
    return throws, mean_score, std_score


def policy_gradient(means: Array, stds: Array, episodes: int, generator: np.random.Generator) -> tuple[Array, Array]:
    """Estimates of the gradient by the means and by the logarithms of the standard deviations, (states,) each.

    Advantages are divided by their root mean square, which changes the length of the gradient only.
    """
    state = np.arange(episodes) % 2
    goal = np.where(state == SEEN, GOALS[SEEN][0], generator.choice(GOALS[HIDDEN], episodes))
    throws, mean_score, std_score = run_episodes(means[state], stds[state], goal, generator)
    # A = G - b(s):  the return is minus the number of throws, the baseline its mean in the state
    average = np.bincount(state, throws) / np.bincount(state)
    advantage = average[state] - throws
    advantage /= np.sqrt(np.mean(advantage**2)) + 1e-9
    by_mean = np.bincount(state, advantage * mean_score) / episodes
    by_log_std = np.bincount(state, advantage * std_score) / episodes
    return by_mean, by_log_std


def cases(settings: Settings, seeds: int) -> list[Case]:
    """Each kind of standard deviation with each start and seed. Raises ValueError for too few episodes."""
    if settings.episodes < 4:
        raise ValueError(f"--episodes: expected at least two of each state, got {settings.episodes}")
    every: list[Case] = []
    for seed in range(seeds):
        for kind, starts in STARTS.items():
            every += [{"kind": kind, "start": start, "seed": seed} for start in starts]
    return every


def measure(settings: Settings, case: Case) -> Row:
    """The standard deviations (updates, states) along learning, and the expected throws of the last policy."""
    generator = np.random.default_rng(case["seed"])
    means = np.full(2, START_MEAN)
    log_stds = np.full(2, np.log(case["start"]))
    history = []
    for update in range(settings.updates):
        history.append(np.exp(log_stds))
        by_mean, by_log_std = policy_gradient(means, np.exp(log_stds), settings.episodes, generator)
        rate = settings.learning_rate * (1.0 - update / settings.updates)
        means = means + rate * by_mean
        if case["kind"] == LEARNED:
            # One parameter for both states: its gradient is the sum of theirs.
            log_stds = log_stds + rate * by_log_std.sum()
        elif case["kind"] == OF_STATE:
            log_stds = log_stds + rate * by_log_std
        log_stds = np.clip(log_stds, *np.log(STD_BOUNDS))
    return {"std": history, "throws": mean_throws(means, np.exp(log_stds))}


def find(rows: list[Row], **wanted: Any) -> list[Row]:
    """The rows with these values."""
    return [row for row in rows if wanted.items() <= row.items()]


def last_std(rows: list[Row], kind: str, state: int) -> Mean:
    """The standard deviation of a state at the end, over seeds and starts."""
    return mean_interval([row["std"][-1][state] for row in find(rows, kind=kind)])


def throws_of(rows: list[Row], kind: str) -> Mean:
    """The expected number of throws of the last policies."""
    return mean_interval([row["throws"] for row in find(rows, kind=kind)])


def is_near(interval: Mean, exact: float) -> bool:
    """True if the whole interval is within the tolerance of an exact value."""
    return exact * (1.0 - TOLERANCE) <= interval.low and interval.high <= exact * (1.0 + TOLERANCE)


def judge(settings: Settings, rows: list[Row]) -> Verdict:
    """Learned standard deviations reach the best ones, and the more is learned, the fewer throws it takes."""
    # Where they end.
    best = best_stds(LEARNED)[HIDDEN]
    best_hidden = best_stds(OF_STATE)[HIDDEN]
    learned = last_std(rows, LEARNED, HIDDEN)
    hidden = last_std(rows, OF_STATE, HIDDEN)
    seen = last_std(rows, OF_STATE, SEEN)
    reaches_best = is_near(learned, best) and is_near(hidden, best_hidden) and seen.high <= SMALL

    # How good the policies are.
    throws = {kind: throws_of(rows, kind) for kind in STARTS}
    fewest_fixed = min(throws[FIXED_SMALL].low, throws[FIXED_LARGE].low)
    helps = throws[OF_STATE].high < throws[LEARNED].low and throws[LEARNED].high < fewest_fixed
    counts = ", ".join(f"{interval.mean:.4g} ({kind})" for kind, interval in throws.items())
    return Verdict(
        bool(reaches_best and helps),
        f"Learned for both states, sigma becomes {learned} (exact optimum: {best:.3f}); learned for each state, it "
        f"becomes {hidden} where the goal is hidden (exact: {best_hidden:.3f}) and {seen} where it is seen (expected: "
        f"at most {SMALL:g}, with which 95 % of the throws hit); an episode takes {counts} throws.",
    )


def draw(settings: Settings, rows: list[Row], figure: Figure) -> None:
    """The standard deviations from both starts, and the expected number of throws."""
    left, right = figure.subplots(1, 2, width_ratios=[1.2, 1])
    draw_stds(settings, rows, left)
    for place, kind in enumerate(STARTS):
        mean, low, high = throws_of(rows, kind)
        style = {"color": COLOURS[place], "marker": MARKERS[place], "markersize": 7, "capsize": 4}
        right.errorbar(place, mean, [[mean - low], [high - mean]], **style)
        exact = mean_throws(np.zeros(2), best_stds(kind))
        label = "exact, with the best mean and sigma" if place == 0 else None
        right.plot([place - 0.35, place + 0.35], [exact, exact], "k--", linewidth=1, label=label)
    right.set_xticks(
        range(len(STARTS)), ["fixed,\n0.5", "fixed,\n2", "learned, for\nboth states", "learned, of\nthe state"]
    )
    right.set_ylim(0.0, 1.15 * right.get_ylim()[1])
    right.set_title("last policies: mean and 95 % interval", fontsize=10)
    right.set_xlabel("standard deviation sigma")
    right.set_ylabel("expected number of throws")
    right.legend(frameon=False, fontsize=9, loc="lower left")


def draw_stds(settings: Settings, rows: list[Row], axes: Axes) -> None:
    """The standard deviations along learning."""
    updates = np.unique(np.geomspace(1, settings.updates, POINTS).astype(int))
    lines = (
        (LEARNED, HIDDEN, "for both states"),
        (OF_STATE, HIDDEN, "of the state: goal hidden"),
        (OF_STATE, SEEN, "of the state: goal seen"),
    )
    for place, (kind, state, label) in enumerate(lines, 2):
        for start in START_STDS:
            stds = [np.array(row["std"])[updates - 1, state] for row in find(rows, kind=kind, start=start)]
            # Both starts share an entry of the legend.
            band(axes, settings.episodes * updates, stds, label if start == START_STDS[0] else "_", place)
    for kind, name in ((OF_STATE, "best if hidden"), (LEARNED, "best for both")):
        best = best_stds(kind)[HIDDEN]
        reference(axes, best, f"{name}: {best:.3f}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    # Beside the lines there is room for the names of the references.
    axes.set_xlim(right=12.0 * settings.episodes * settings.updates)
    label_plainly(axes.yaxis)
    axes.set_yticks([0.1, 0.2, 0.5, 1.0, 2.0])
    axes.set_title("learning from two starts: median and range of the seeds", fontsize=10)
    axes.set_xlabel("episodes")
    axes.set_ylabel("standard deviation sigma")
    axes.legend(frameon=False, fontsize=9, loc="lower left", title="learned sigma")


EXPERIMENT = Experiment(
    claim="A policy can learn its own standard deviation, and that of each state: small where the goal is known, large "
    "where it is not.",
    settings=Settings(),
    quick=Settings(),
    cases=cases,
    measure=measure,
    judge=judge,
    draw=draw,
    seeds=8,
    quick_seeds=4,
    min_seeds=2,
    size=(10.0, 4.2),
)
