"""One-step actor-critic: temporal differences bring online learning, and I <- gamma I is part of the gradient.

On the chain of `common/chain.py`, the policy goes right in state s with probability 1 / (1 + exp(-theta_s)), and the
critic is a table V(s). Three parts:

Learning. Both methods have the same updates and step sizes (Sutton and Barto 2018, sections 13.4 and 13.5),

    V(s_t)  <-  V(s_t) + alpha_V delta,    theta  <-  theta + alpha I delta  d log pi(a_t | s_t) / d theta,  I = gamma^t

Monte Carlo at the end of each episode, with delta = G_t - V(s_t), and the one-step actor-critic after each step, with
delta = r + gamma V(s_t+1) - V(s_t).

Targets. G_t has the right mean and a large variance. r + gamma V(s_t+1) has a small variance, and a bias for as long as
the critic is wrong: with V = c V_pi, its mean is off by gamma (c - 1) E V_pi(s_t+1), which vanishes at c = 1.

Expected update. With an exact V the update of all steps of an episode together has the expectation

    sum_t  sum_s Pr(s_t = s)  I  sum_a pi(a | s)  E[delta | s, a]  d log pi(a | s) / d theta

which is dJ / dtheta, J = V_pi(s_0), with I = gamma^t, and something else with I = 1. Tasks with gamma = 1 cannot show
the difference. The agent's own function gives delta and I; dJ / dtheta is the derivative of the linear equations of V.
The policies are random, and go right more often than left, so that all episodes end within the steps that are counted.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from arm_control.lab.common.chain import (
    GOAL,
    LONGEST_EPISODE,
    REWARD,
    SLIP,
    STATES,
    Array,
    action_probabilities,
    exact_values,
    run_episodes,
    transition_probabilities,
)
from arm_control.lab.common.drawing import COLOURS, band, reference
from arm_control.lab.common.experiment import Case, Experiment, Row, Verdict
from arm_control.lab.common.statistics import mean_interval
from policies.actor_critic.agent import actor_critic
from policies.actor_critic.settings import ActorCriticSettings
from policies.common.rollout import Steps

DISCOUNT = 0.9
MONTE_CARLO = "Monte Carlo"
ONE_STEP = "one-step"
START_THETA = -1.0  # goes right with probability 0.27: long episodes at first
CURVE_POINTS = 60
FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)  # c, of what the critic has learned
EXACT = 1e-10  # largest relative error of the expected update with I
WRONG = 0.1  # smallest relative error without


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    steps: int = 6_000
    """Steps of the environment in one learning run."""
    learning_rate: float = 0.2
    """Step size of theta."""
    value_learning_rate: float = 0.2
    """Step size of the critic's table."""
    target_episodes: int = 4_000
    """Episodes from which bias and variance of the targets are measured."""


def go_right(theta: Array) -> Array:
    """The probability of going right in each state."""
    return 1.0 / (1.0 + np.exp(-theta))


def performance(theta: Array) -> float:
    """J = V_pi(s_0), exactly."""
    return float(exact_values(go_right(theta), DISCOUNT)[0][0])


class Learner:
    """The tables of actor and critic."""

    def __init__(self, settings: Settings) -> None:
        self.theta = np.full(STATES, START_THETA)
        self.value = np.zeros(STATES + 1)
        self._settings = settings

    def learn(self, place: int, state: int, action: int, target: float) -> None:
        """Move critic and actor by the step (s, a) at a place t of its episode, towards a target of V(s)."""
        delta = target - self.value[state]
        # V(s) <- V(s) + alpha_V delta
        self.value[state] += self._settings.value_learning_rate * delta
        # theta <- theta + alpha I delta d log pi(a | s) / d theta
        score = action - go_right(self.theta[state])
        self.theta[state] += self._settings.learning_rate * DISCOUNT**place * delta * score


def learn_online(settings: Settings, method: str, seed: int) -> tuple[Array, int]:
    """J (steps + 1,) after each step of the environment, and the step at which the first episode ended."""
    generator = np.random.default_rng(seed)
    learner = Learner(settings)
    state = 0
    episode: list[tuple[int, int]] = []
    first_end = settings.steps
    curve = [performance(learner.theta)]
    for step in range(1, settings.steps + 1):
        action = int(generator.random() < go_right(learner.theta[state]))
        moves_right = (action == 1) == (generator.random() >= SLIP)
        following = state + 1 if moves_right else max(state - 1, 0)
        episode.append((state, action))
        if method == ONE_STEP:
            learner.learn(len(episode) - 1, state, action, REWARD + DISCOUNT * learner.value[following])
        state = following
        if state == GOAL:
            if method == MONTE_CARLO:
                learn_from_returns(learner, episode)
            first_end = min(first_end, step)
            episode = []
            state = 0
        learnt = method == ONE_STEP or not episode
        curve.append(performance(learner.theta) if learnt else curve[-1])
    return np.array(curve), first_end


def learn_from_returns(learner: Learner, episode: list[tuple[int, int]]) -> None:
    """Learn from a complete episode, step by step from its start."""
    # G_t = r + gamma G_t+1
    following_return = 0.0
    targets = []
    for _ in episode:
        following_return = REWARD + DISCOUNT * following_return
        targets.append(following_return)
    for place, (state, action) in enumerate(episode):
        learner.learn(place, state, action, targets[len(episode) - 1 - place])


def measure_targets(settings: Settings) -> Row:
    """Bias and standard deviation of both targets of V(s_0), by what fraction of V the critic has learned."""
    right = go_right(np.full(STATES, START_THETA))
    value, _ = exact_values(right, DISCOUNT)
    generator = np.random.default_rng(0)
    episodes = run_episodes(right, np.zeros(settings.target_episodes, np.int64), generator)
    discounts = DISCOUNT ** np.arange(len(episodes.running))
    g = REWARD * discounts @ episodes.running
    one_step = [REWARD + DISCOUNT * fraction * value[episodes.next_state[0]] for fraction in FRACTIONS]
    row: Row = {"value": value[0]}
    for method, targets in ((MONTE_CARLO, [g] * len(FRACTIONS)), (ONE_STEP, one_step)):
        row[method] = {
            "mean": [mean_interval(target) for target in targets],
            "std": [float(target.std()) for target in targets],
        }
    return row


def expected_update(theta: Array, discount: float, factor: bool) -> Array:
    """The expected sum (states,) of the updates of an episode, with an exact critic and the agent's own function."""
    right = go_right(theta)
    value, _ = exact_values(right, discount)
    probability = transition_probabilities()
    policy = action_probabilities(right)
    # Pr(s_t = s), from one step to the next, until all episodes have ended.
    state_probability = np.zeros((LONGEST_EPISODE, STATES))
    state_probability[0, 0] = 1.0
    policy_transitions = np.einsum("sa,sat->st", policy, probability)[:, :STATES]
    for step in range(1, LONGEST_EPISODE):
        state_probability[step] = state_probability[step - 1] @ policy_transitions

    # All steps (t, s, a, s') and their delta and I.
    shape = (LONGEST_EPISODE, STATES, 2, STATES + 1)
    time, state, action, following = (index.reshape(LONGEST_EPISODE, -1) for index in np.indices(shape))
    zero = torch.zeros(time.shape, dtype=torch.float64)
    terminated = torch.from_numpy((following == GOAL).astype(np.float64))
    episode_step = torch.from_numpy(time.astype(np.float64))
    steps = Steps((), (), zero, zero + REWARD, terminated, terminated, episode_step)
    settings = ActorCriticSettings(discount=discount, discounted_start=factor)
    estimate = actor_critic(steps, torch.from_numpy(value[state]), torch.from_numpy(value[following]), settings)

    # The expectation of I delta d log pi(a | s) / d theta_s, by state.
    weight = state_probability[time, state] * policy[state, action] * probability[state, action, following]
    score = action - right[state]
    update = weight * score * (estimate.weight * estimate.advantage).numpy()
    total: Array = np.bincount(state.ravel(), weights=update.ravel(), minlength=STATES).astype(np.float64)
    return total


def exact_gradient(theta: Array, discount: float) -> Array:
    """dJ / dtheta (states,), by differentiating the solution of V = r + gamma P_pi V."""
    parameter = torch.tensor(theta, requires_grad=True)
    right = torch.sigmoid(parameter)
    probability = torch.from_numpy(transition_probabilities()[:, :, :STATES])
    policy_transitions = torch.einsum("sa,sat->st", torch.stack([1.0 - right, right], dim=1), probability)
    equations = torch.eye(STATES, dtype=torch.float64) - discount * policy_transitions
    value = torch.linalg.solve(equations, torch.full((STATES,), REWARD, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(value[0], parameter)
    exact: Array = gradient.numpy()
    return exact


def measure_updates(seed: int) -> Row:
    """The expected update with and without the factor, and dJ / dtheta, for a random policy."""
    theta = np.random.default_rng(seed).uniform(0.0, 2.0, size=STATES)
    row: Row = {}
    for discount in (DISCOUNT, 1.0):
        exact = exact_gradient(theta, discount)
        updates = {"on": expected_update(theta, discount, True), "off": expected_update(theta, discount, False)}
        row[f"gamma {discount:g}"] = {
            "exact": exact,
            **updates,
            "error_on": float(np.linalg.norm(updates["on"] - exact) / np.linalg.norm(exact)),
            "error_off": float(np.linalg.norm(updates["off"] - exact) / np.linalg.norm(exact)),
        }
    return row


def cases(settings: Settings, seeds: int) -> list[Case]:
    """The targets; and for each seed, a learning run of each method and a random policy."""
    learning: list[Case] = []
    for seed in range(seeds):
        learning += [{"part": "learning", "method": method, "seed": seed} for method in (MONTE_CARLO, ONE_STEP)]
        learning.append({"part": "update", "seed": seed})
    return [{"part": "targets"}, *learning]


def measure(settings: Settings, case: Case) -> Row:
    """Measure one of the three parts."""
    if case["part"] == "targets":
        return measure_targets(settings)
    if case["part"] == "update":
        return measure_updates(case["seed"])
    curve, first_end = learn_online(settings, case["method"], case["seed"])
    steps = np.unique(np.geomspace(1, settings.steps, CURVE_POINTS).astype(int))
    return {
        "steps": steps,
        "curve": curve[steps],
        "first_end": first_end,
        "gain": curve[first_end - 1] - curve[0],  # before the first episode ended
    }


def select(rows: list[Row], **wanted: Any) -> list[Row]:
    """The rows with these parameters."""
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def judge_targets(row: Row) -> bool:
    """The mean of the returns is V, that of one-step targets only if the critic is right; their variance is smaller."""
    exact = row["value"]

    def is_exact(interval: list[float]) -> bool:
        mean, low, high = interval
        return bool(abs(mean - exact) <= high - low)  # about four standard errors

    unbiased = is_exact(row[MONTE_CARLO]["mean"][0]) and is_exact(row[ONE_STEP]["mean"][-1])
    biased = not is_exact(row[ONE_STEP]["mean"][0])
    less_variance = bool(max(row[ONE_STEP]["std"]) < min(row[MONTE_CARLO]["std"]))
    return unbiased and biased and less_variance


def judge(settings: Settings, rows: list[Row]) -> Verdict:
    """Only one-step learns within the first episode; targets as expected; the update is the gradient only with I."""
    gain = mean_interval([row["gain"] for row in select(rows, method=ONE_STEP)])
    other_gain = max(abs(row["gain"]) for row in select(rows, method=MONTE_CARLO))
    online = gain.low > 0.0 and other_gain == 0.0

    targets = select(rows, part="targets")[0]
    updates = select(rows, part="update")
    discounted = [row[f"gamma {DISCOUNT:g}"] for row in updates]
    error_on = max(row["error_on"] for row in discounted)
    error_off = min(row["error_off"] for row in discounted)
    undiscounted = max(row["gamma 1"]["error_off"] for row in updates)
    is_gradient = error_on <= EXACT and error_off >= WRONG and undiscounted <= EXACT

    bias = targets[ONE_STEP]["mean"][0][0] - targets["value"]
    sentence = (
        f"Before the first episode ends, one-step has raised J by {gain}, Monte Carlo by {other_gain:g} (exact: 0). "
        f"The standard deviation of a target is {max(targets[ONE_STEP]['std']):.2g} at most in one-step and "
        f"{targets[MONTE_CARLO]['std'][0]:.2g} in Monte Carlo; the bias of one-step is {bias:.2f} with V = 0 and none "
        f"with V exact. With I the expected update differs from dJ/dtheta by {error_on:.0e} of its length (exact: 0), "
        f"without by {100 * error_off:.0f} % or more, and at gamma = 1 by {undiscounted:.0e}."
    )
    return Verdict(online and is_gradient and judge_targets(targets), sentence)


def draw(settings: Settings, rows: list[Row], figure: Figure) -> None:
    """Learning curves, bias and standard deviation of the targets, and the expected update beside dJ / dtheta."""
    left, middle, right = figure.subplots(1, 3)
    for place, method in enumerate((ONE_STEP, MONTE_CARLO)):
        learning = select(rows, method=method)
        quartiles = np.percentile([row["curve"] for row in learning], (25, 50, 75), axis=0)
        band(left, learning[0]["steps"], list(quartiles), f"{method}: median, quartiles", place)
    best = performance(np.full(STATES, 50.0))
    reference(left, best, f"always right: {best:.2f}")
    left.set_xscale("log")
    left.set_xlim(left=10)
    left.set_xlabel("steps of the environment")
    left.set_ylabel("J = V(s_0), discounted steps to the goal")
    left.legend(frameon=False, fontsize=8, loc="center left")

    targets = select(rows, part="targets")[0]
    for place, method in enumerate((ONE_STEP, MONTE_CARLO)):
        bias = np.abs(np.array(targets[method]["mean"])[:, 0] - targets["value"])
        middle.plot(FRACTIONS, bias, "o-", color=COLOURS[place], label=f"{method}: |bias|")
        middle.plot(
            FRACTIONS, targets[method]["std"], "s:", color=COLOURS[place], label=f"{method}: standard deviation"
        )
    # E V_pi(s_1) = (V_pi(s_0) - r) / gamma
    slope = targets["value"] - REWARD
    middle.plot((0, 1), (-slope, 0.0), "k--", linewidth=1, label="one-step, exact: gamma (1 - c) |E V(s_1)|")
    middle.set_xlabel("c: the critic's V / exact V")
    middle.set_ylabel("error of the target of V(s_0)")
    middle.legend(frameon=False, fontsize=8)

    update = select(rows, part="update")[0][f"gamma {DISCOUNT:g}"]
    states = np.arange(STATES)
    right.bar(states, update["exact"], 0.7, color="0.85", edgecolor="black", linestyle="--", label="dJ/dtheta, exact")
    right.plot(states, update["on"], "o", color=COLOURS[0], label="expected update, I = gamma^t")
    right.plot(states, update["off"], "s", color=COLOURS[1], label="expected update, I = 1")
    right.set_xticks(states)
    right.set_xlabel("state (the goal comes after 4)")
    right.set_ylabel(f"component of theta, gamma = {DISCOUNT:g}")
    right.legend(frameon=False, fontsize=8)


EXPERIMENT = Experiment(
    claim=(
        "Temporal differences let an actor-critic learn during an episode; its expected update is the policy gradient "
        "only with the factor I <- gamma I."
    ),
    settings=Settings(),
    quick=Settings(steps=3_000, target_episodes=1_000),
    cases=cases,
    measure=measure,
    judge=judge,
    draw=draw,
    seeds=30,
    quick_seeds=10,
    min_seeds=2,
    size=(13.0, 4.2),
)
