"""REINFORCE is a Monte Carlo method: its variance grows with the length of an episode, and it requires episodes.

Variance. An episode has T steps. Each pays 1, half more for the action right and half less for left, and noise:

    r_t  =  m + d x_t + sigma epsilon_t,     x_t = 1 for right, -1 for left,     m = 1, d = 1/2, sigma = 1

The policy goes right with probability 1 / (1 + exp(-theta)) at each step. Its return is J = T (m + d (2 p - 1)), and at
theta = 0 the gradient is dJ / dtheta = d T / 2. The update of an episode estimates it with each advantage estimator,

    g  =  sum_t A_t d log pi(a_t) / dtheta,      d log pi(a_t) / dtheta = x_t / 2 at theta = 0

without bias (A_t = G_t, G_t - V, or delta_t with an exact V, which is m for each step still to come). The variances
follow from x_t and epsilon_t, which are independent, with mean 0 and variance 1:

    no baseline     4 Var g  =  m^2 T (T + 1) (2 T + 1) / 6  +  d^2 T (T - 1) / 2  +  sigma^2 T (T + 1) / 2
    baseline V      4 Var g  =                                  d^2 T (T - 1) / 2  +  sigma^2 T (T + 1) / 2
    actor-critic    4 Var g  =  sigma^2 T

On logarithmic axes they have the slopes 3, 2 and 1: each action is credited with all that follows, including the level
of the rewards; with the noise of all that follows; or with the noise of its own step. (The actor-critic pays with a
bias as long as V is wrong: see the experiment `actor-critic`.)

Episodes. On a ring of five states, an action moves one state along or, with probability 0.1, one against it. A lap to
the right pays 1 at the step that closes it, and one to the left -1. Nothing ends there. The return of Monte Carlo is
never complete, so that REINFORCE makes no update at all, whereas the one-step actor-critic updates at each step. As a
check, the same REINFORCE learns if an outer loop cuts the ring into episodes of 50 steps (the value of the last state
replaces the rest of the return). Average rewards are exact, from the stationary distribution.

The advantages are those of the project's agents (`policies/reinforce`, `policies/actor_critic`).
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from arm_control.lab.common.drawing import COLOURS, MARKERS, band, reference
from arm_control.lab.common.experiment import Case, Experiment, Row, Verdict
from arm_control.lab.common.statistics import Mean, mean_interval
from policies.actor_critic.agent import actor_critic
from policies.actor_critic.settings import ActorCriticSettings
from policies.common.rollout import AdvantageEstimate, Steps
from policies.reinforce.agent import reinforce
from policies.reinforce.settings import ReinforceSettings

Array = NDArray[np.float64]

NO_BASELINE = "REINFORCE, no baseline"
BASELINE = "REINFORCE, baseline V"
ACTOR_CRITIC = "one-step actor-critic"
SLOPES = {NO_BASELINE: 3, BASELINE: 2, ACTOR_CRITIC: 1}

REWARD_MEAN = 1.0  # m
REWARD_OF_RIGHT = 0.5  # d
REWARD_STD = 1.0  # sigma
SLOPE_TOLERANCE = 0.1  # between the exact slope and either end of the interval
LARGEST_ERROR = 4.0  # standard errors, of 18 variances and 18 means

RING = 5  # states
SLIP = 0.1  # probability of moving against the action
BEST_REWARD = (1.0 - 2.0 * SLIP) / RING  # of always going right, a step
DISCOUNT = 0.9
EPISODE_STEPS = 50  # where an outer loop cuts the ring into episodes
WHOLE = "no episode ends"
CUT = f"episodes of {EPISODE_STEPS} steps"
LEARNERS = ((ACTOR_CRITIC, WHOLE), (BASELINE, CUT), (BASELINE, WHOLE))
CURVE_POINTS = 60


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    lengths: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    """Numbers of steps of an episode."""
    updates: int = 1_000
    """Updates of each seed and length from which variances are measured."""
    steps: int = 4_000
    """Steps of a learning run on the ring."""
    learning_rate: float = 0.1
    """Step size of theta on the ring."""
    value_learning_rate: float = 0.1
    """Step size of the critic's table on the ring."""


def estimate_advantages(
    method: str, steps: Steps, value: torch.Tensor, next_value: torch.Tensor, discount: float
) -> AdvantageEstimate:
    """Advantages and value targets by the project's agents."""
    if method == ACTOR_CRITIC:
        return actor_critic(steps, value, next_value, ActorCriticSettings(discount=discount))
    baseline: Literal["none", "value"] = "none" if method == NO_BASELINE else "value"
    return reinforce(steps, value, next_value, ReinforceSettings(baseline=baseline, discount=discount))


def make_steps(reward: Array, terminated: Array, ended: Array) -> Steps:
    """Steps (steps, episodes) with what the estimators use."""
    unused = torch.zeros(reward.shape)
    return Steps(
        observation=(),
        next_observation=(),
        sample=unused,
        reward=torch.from_numpy(reward),
        terminated=torch.from_numpy(terminated),
        ended=torch.from_numpy(ended),
        episode_step=unused,
    )


def exact_variance(method: str, length: Any) -> Any:
    """The variance of an episode's update, for a length T or an array of them."""
    level = REWARD_MEAN**2 * length * (length + 1) * (2 * length + 1) / 6
    other_actions = REWARD_OF_RIGHT**2 * length * (length - 1) / 2
    later_noise = REWARD_STD**2 * length * (length + 1) / 2
    if method == NO_BASELINE:
        return (level + other_actions + later_noise) / 4
    if method == BASELINE:
        return (other_actions + later_noise) / 4
    return REWARD_STD**2 * length / 4


def exact_gradient(length: Any) -> Any:
    """dJ / dtheta = d T / 2, for a length T or an array of them."""
    return REWARD_OF_RIGHT * length / 2


def sample_updates(length: int, count: int, generator: np.random.Generator) -> dict[str, Array]:
    """The updates (count,) of each method from the same episodes."""
    shape = (length, count)
    x = np.where(generator.random(shape) < 0.5, 1.0, -1.0)
    # r_t = m + d x_t + sigma epsilon_t
    reward = REWARD_MEAN + REWARD_OF_RIGHT * x + REWARD_STD * generator.standard_normal(shape)
    ended = np.zeros(shape)
    ended[-1] = 1.0
    # V(s_t) = m (T - t)
    values = REWARD_MEAN * np.arange(length, -1.0, -1.0)
    value = torch.from_numpy(np.tile(values[:-1, None], count))
    next_value = torch.from_numpy(np.tile(values[1:, None], count))
    # d log pi(a_t) / dtheta = x_t / 2
    score = x / 2.0

    updates = {}
    for method in SLOPES:
        estimate = estimate_advantages(method, make_steps(reward, ended, ended), value, next_value, 1.0)
        # g = sum_t A_t d log pi(a_t) / dtheta
        updates[method] = (estimate.advantage.numpy() * score).sum(axis=0)
    return updates


def measure_variance(settings: Settings, seed: int) -> Row:
    """Mean and variance of the updates of each method, by length, with their standard errors."""
    generator = np.random.default_rng(seed)
    row: Row = {method: {"mean": [], "mean_error": [], "variance": [], "variance_error": []} for method in SLOPES}
    for length in settings.lengths:
        for method, updates in sample_updates(length, settings.updates, generator).items():
            squares = (updates - updates.mean()) ** 2
            row[method]["mean"].append(updates.mean())
            row[method]["mean_error"].append(updates.std() / settings.updates**0.5)
            row[method]["variance"].append(updates.var(ddof=1))
            row[method]["variance_error"].append(squares.std() / settings.updates**0.5)
    return row


def go_right(theta: Any) -> Any:
    """The probability of going right, of a number or an array."""
    return 1.0 / (1.0 + np.exp(-theta))


def average_reward(theta: Array) -> float:
    """The mean reward of a step on the ring, from the stationary distribution of the states."""
    moves_right = (1.0 - SLIP) * go_right(theta) + SLIP * (1.0 - go_right(theta))
    transitions = np.zeros((RING, RING))
    for state in range(RING):
        transitions[state, (state + 1) % RING] += moves_right[state]
        transitions[state, (state - 1) % RING] += 1.0 - moves_right[state]
    # mu P = mu, sum mu = 1: the last equation replaces one of the others, which depend on each other.
    equations = transitions.T - np.eye(RING)
    equations[-1] = 1.0
    frequency = np.linalg.solve(equations, np.eye(RING)[-1])
    # 1 for the step from the last state to the first, -1 for its opposite
    return float(frequency[-1] * moves_right[-1] - frequency[0] * (1.0 - moves_right[0]))


class Learner:
    """Tables of policy and critic on the ring, and the steps since the last update."""

    def __init__(self, settings: Settings, method: str) -> None:
        self.theta = np.zeros(RING)
        self.value = np.zeros(RING)
        self.updates = 0
        self._settings = settings
        self._method = method
        self._steps: list[tuple[int, int, float, int, float]] = []

    def observe(self, state: int, action: int, reward: float, following: int, ended: bool) -> None:
        """Store a step; update from all stored ones as soon as the method can."""
        self._steps.append((state, action, reward, following, float(ended)))
        if self._method == ACTOR_CRITIC or ended:
            self._update()
            self._steps = []

    def _update(self) -> None:
        """Update the tables from the stored steps."""
        states, actions, rewards, followings, ended = zip(*self._steps, strict=True)
        steps = make_steps(np.array(rewards)[:, None], np.zeros((len(states), 1)), np.array(ended)[:, None])
        value = torch.from_numpy(self.value[list(states), None])
        next_value = torch.from_numpy(self.value[list(followings), None])
        estimate = estimate_advantages(self._method, steps, value, next_value, DISCOUNT)
        advantages = estimate.advantage[:, 0].tolist()
        targets = estimate.value_target[:, 0].tolist()
        for state, action, advantage, target in zip(states, actions, advantages, targets, strict=True):
            # theta <- theta + alpha A d log pi(a | s) / dtheta
            score = action - go_right(self.theta[state])
            self.theta[state] += self._settings.learning_rate * advantage * score
            # V(s) <- V(s) + alpha_V (target - V(s))
            self.value[state] += self._settings.value_learning_rate * (target - self.value[state])
        self.updates += 1


def curve_steps(settings: Settings) -> NDArray[np.int64]:
    """The steps after which the policy on the ring is evaluated, from 0."""
    return np.linspace(0, settings.steps, CURVE_POINTS).astype(np.int64)


def learn_on_ring(settings: Settings, method: str, episode_steps: int | None, seed: int) -> tuple[Array, int]:
    """Average reward of the policy after each of the `curve_steps`, and the number of its updates."""
    generator = np.random.default_rng(seed)
    learner = Learner(settings, method)
    evaluated = set(curve_steps(settings).tolist())
    state = 0
    curve = [average_reward(learner.theta)]
    for step in range(1, settings.steps + 1):
        action = int(generator.random() < go_right(learner.theta[state]))
        moves_right = (action == 1) == (generator.random() >= SLIP)
        following = (state + 1 if moves_right else state - 1) % RING
        closes_lap = {state, following} == {0, RING - 1}
        reward = (1.0 if moves_right else -1.0) if closes_lap else 0.0
        ended = episode_steps is not None and step % episode_steps == 0
        learner.observe(state, action, reward, following, ended)
        if step in evaluated:
            curve.append(average_reward(learner.theta))
        state = following
    return np.array(curve), learner.updates


def cases(settings: Settings, seeds: int) -> list[Case]:
    """For each seed, the variances and a learning run of each kind."""
    every_case: list[Case] = []
    for seed in range(seeds):
        every_case.append({"part": "variance", "seed": seed})
        every_case += [{"part": "ring", "method": method, "task": task, "seed": seed} for method, task in LEARNERS]
    return every_case


def measure(settings: Settings, case: Case) -> Row:
    """Measure one of the two parts."""
    if case["part"] == "variance":
        return measure_variance(settings, case["seed"])
    episode_steps = EPISODE_STEPS if case["task"] == CUT else None
    curve, updates = learn_on_ring(settings, case["method"], episode_steps, case["seed"])
    return {"curve": curve, "updates": updates}


def ring_rows(rows: list[Row], method: str, task: str) -> list[Row]:
    """The learning runs of a method."""
    return [row for row in rows if row["part"] == "ring" and (row["method"], row["task"]) == (method, task)]


def fit_slope(settings: Settings, rows: list[Row], method: str) -> Mean:
    """The slope of the variance against the length on logarithmic axes."""
    lengths = np.log(settings.lengths)
    variances = [np.log(row[method]["variance"]) for row in rows if row["part"] == "variance"]
    return mean_interval([np.polyfit(lengths, variance, 1)[0] for variance in variances])


def exact_slope(settings: Settings, method: str) -> float:
    """The slope of the exact variance at the same lengths; in the limit of long episodes it is that of `SLOPES`."""
    lengths = np.array(settings.lengths, dtype=np.float64)
    return float(np.polyfit(np.log(lengths), np.log(exact_variance(method, lengths)), 1)[0])


def largest_error(settings: Settings, rows: list[Row], quantity: str) -> float:
    """The largest distance of a mean or a variance of the updates from its exact value, in standard errors."""
    variance_rows = [row for row in rows if row["part"] == "variance"]
    errors = []
    for method in SLOPES:
        measured = np.mean([row[method][quantity] for row in variance_rows], axis=0)
        squared_errors = np.square([row[method][f"{quantity}_error"] for row in variance_rows])
        standard_error = np.sqrt(squared_errors.mean(axis=0) / len(variance_rows))
        lengths = np.array(settings.lengths)
        exact = exact_gradient(lengths) if quantity == "mean" else exact_variance(method, lengths)
        errors.append(np.abs(measured - exact) / standard_error)
    return float(np.max(errors))


def judge(settings: Settings, rows: list[Row]) -> Verdict:
    """Slopes of 3, 2 and 1 about exact values; without episodes, REINFORCE makes no update and actor-critic learns."""
    slopes = {method: fit_slope(settings, rows, method) for method in SLOPES}
    exact_slopes = {method: exact_slope(settings, method) for method in SLOPES}
    distances = [max(exact_slopes[m] - slope.low, slope.high - exact_slopes[m]) for m, slope in slopes.items()]
    error = max(largest_error(settings, rows, "mean"), largest_error(settings, rows, "variance"))
    as_derived = max(distances) <= SLOPE_TOLERANCE and error <= LARGEST_ERROR

    waiting = ring_rows(rows, BASELINE, WHOLE)
    updates = max(row["updates"] for row in waiting)
    gain_waiting = max(abs(row["curve"][-1] - row["curve"][0]) for row in waiting)
    online = mean_interval([row["curve"][-1] for row in ring_rows(rows, ACTOR_CRITIC, WHOLE)])
    cut = mean_interval([row["curve"][-1] for row in ring_rows(rows, BASELINE, CUT)])
    start = waiting[0]["curve"][0]
    needs_episodes = updates == 0 and gain_waiting == 0.0 and online.low > start and cut.low > start

    sentence = (
        f"The variance of an episode's update grows with its length with a slope of {slopes[NO_BASELINE]} for "
        f"REINFORCE without a baseline, {slopes[BASELINE]} with the exact value, and {slopes[ACTOR_CRITIC]} for the "
        f"one-step actor-critic (exact: {exact_slopes[NO_BASELINE]:.3f}, {exact_slopes[BASELINE]:.3f} and "
        f"{exact_slopes[ACTOR_CRITIC]:g}, in the limit 3, 2 and 1); all means and variances lie within {error:.1f} "
        f"standard errors of the exact ones. Where no episode ends, REINFORCE makes {updates} updates in "
        f"{settings.steps:,} steps and its average reward changes by {gain_waiting:g}; that of the actor-critic rises "
        f"from {abs(start):.2f} to {online} (best: {BEST_REWARD:g}), and that of REINFORCE with {CUT} to {cut}."
    )
    return Verdict(bool(as_derived and needs_episodes), sentence)


def draw(settings: Settings, rows: list[Row], figure: Figure) -> None:
    """The variance against the length, and the average reward on the ring."""
    left, right = figure.subplots(1, 2)
    draw_variance(left, settings, rows)
    for place, (method, task) in zip((2, 1, 3), LEARNERS, strict=True):  # the colours of the left side
        learning = ring_rows(rows, method, task)
        updates = max(row["updates"] for row in learning)
        label = f"{method.removesuffix(', baseline V')}, {task}: {updates:,} updates"
        band(right, curve_steps(settings), [row["curve"] for row in learning], label, place)
    reference(right, BEST_REWARD, f"always right: {BEST_REWARD:g}")
    right.set_xlabel("steps on the ring")
    right.set_ylabel("average reward of a step, exact")
    right.set_ylim(-0.01, 1.1 * BEST_REWARD)
    right.legend(frameon=False, fontsize=8, loc="center right", title="median and range", title_fontsize=8)


def draw_variance(axes: Axes, settings: Settings, rows: list[Row]) -> None:
    """Draw the measured variances with their intervals, and the exact ones."""
    lengths = np.array(settings.lengths)
    for place, (method, slope) in enumerate(SLOPES.items()):
        measured = np.array([row[method]["variance"] for row in rows if row["part"] == "variance"])
        means = [mean_interval(column) for column in measured.T]
        bars = np.transpose([[m.mean - m.low, m.high - m.mean] for m in means])
        label = f"{method} (slope {slope})"
        style: dict[str, Any] = {"color": COLOURS[place], "marker": MARKERS[place], "linestyle": "", "capsize": 3}
        axes.errorbar(lengths, [m.mean for m in means], bars, label=label, **style)
        exact_label = "exact" if place == 0 else None
        axes.plot(lengths, exact_variance(method, lengths), "k--", linewidth=1, label=exact_label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.set_xlabel("length of an episode, T in steps")
    axes.set_ylabel("variance of the update")
    axes.legend(frameon=False, fontsize=8, loc="upper left")


EXPERIMENT = Experiment(
    claim=(
        "REINFORCE is Monte Carlo: the variance of its update grows with the square or cube of the length of an "
        "episode, and where no episode ends it does not learn."
    ),
    settings=Settings(),
    quick=Settings(lengths=(16, 32, 64, 128, 256), updates=400, steps=1_500),
    cases=cases,
    measure=measure,
    judge=judge,
    draw=draw,
    seeds=10,
    quick_seeds=4,
    min_seeds=2,
    size=(11.0, 4.4),
)
