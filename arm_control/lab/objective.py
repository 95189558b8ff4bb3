"""The optimised quantity: a value function improves its predictions, a policy its return.

The first part is exact. Random tasks of 20 states and 4 actions have known transitions, so that nothing is sampled.
Both methods get the same 16 random features x(s, a) and make gradient steps:

    value    w  <-  w - alpha  dL/dw,       L(w) = mean over s, a of (Q_w(s, a) - Q*(s, a))^2,      Q_w = w . x(s, a)
    policy   theta  <-  theta + alpha  dJ/dtheta,     pi(a | s) = exp(theta . x(s, a)) / sum_b exp(theta . x(s, b))

L is convex: small steps lower it every time. What counts, though, is the return J of the greedy policy,
argmax_a Q_w(s, a), which L does not contain: a better prediction on the whole may exchange the order of two actions for
the worse. The policy gradient (Sutton et al. 2000) is that of J itself,

    dJ/dtheta  =  sum_s d(s) sum_a pi(a | s) A(s, a) dlog pi(a | s)/dtheta,     d(s) = sum_t gamma^t P(s_t = s)

The second part follows trainings of the project's agents on the arm: the mean loss of each interval between two
evaluations, and the return of the deterministic policy on the same goals at its end. There L is no longer fixed: the
targets, r + gamma max Q', move; and the policy gradient is estimated from samples. So neither return rises in every
interval, and on the whole the loss of Q-learning falls as its return rises.
"""

import contextlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import spearmanr

from arm_control.evaluation.episodes import Arms
from arm_control.evaluation.torch_controller import TorchController, one_thread
from arm_control.lab.common.drawing import COLOURS
from arm_control.lab.common.experiment import Case, Experiment, Row, Verdict
from arm_control.lab.common.statistics import mean_interval
from arm_control.runs.config import TrainConfig
from arm_control.runs.environment import environment_maker
from arm_control.runs.seeding import EVALUATION, derived_seeds
from arm_control.training.loop import Training
from arm_control.viewers.common.figures import label_plainly

Array = NDArray[np.float64]

STATES = 20
ACTIONS = 4
NEXT_STATES = 3  # that a state and an action can lead to
DISCOUNT = 0.9
LEAST_CHANGE = 1e-9  # of a return or a loss: less is rounding
EXACT = "exact"
# The project's agents, and the metric that is the loss of their critic.
VALUE_AGENT = "branching-dqn"
POLICY_AGENT = "a2c"
LOSSES = {VALUE_AGENT: "loss", POLICY_AGENT: "value_loss"}


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    tasks: int = 50
    """Number of random tasks."""
    features: int = 16
    """Features of a state and an action, for the 80 of a task."""
    updates: int = 400
    """Gradient steps of each method in each task."""
    value_step: float = 0.1
    """Step size of the value, as a fraction of 1 / (largest curvature of its loss); below 2, each step lowers it."""
    policy_step: float = 0.3
    """Step size of the policy."""
    value_steps: int = 16_000
    """Length of each training of branching-dqn in environment steps."""
    policy_steps: int = 80_000
    """Length of each training of a2c in environment steps."""
    intervals: int = 20
    """Number of intervals of a training, each with an evaluation at its end."""
    goals: int = 25
    """Number of goals of an evaluation."""


class Task(NamedTuple):
    """A Markov decision process with known transitions, and the features that both methods see."""

    transition: Array  # P(s' | s, a), (states, actions, states)
    reward: Array  # (states, actions)
    features: Array  # x(s, a), (states, actions, features); the last one is 1


def random_task(features: int, generator: np.random.Generator) -> Task:
    """A task in which each action leads to one of three random states, with rewards drawn from N(0, 1)."""
    transition = np.zeros((STATES, ACTIONS, STATES))
    for state in range(STATES):
        for action in range(ACTIONS):
            following = generator.choice(STATES, NEXT_STATES, replace=False)
            transition[state, action, following] = generator.dirichlet(np.ones(NEXT_STATES))
    reward = generator.normal(size=(STATES, ACTIONS))
    x = generator.normal(size=(STATES, ACTIONS, features)) / features**0.5
    x[..., -1] = 1.0  # a constant, for the mean of Q*; it cancels in the softmax
    return Task(transition, reward, x)


def values(task: Task, policy: Array) -> tuple[Array, Array, Array]:
    """V (states,) and Q (states, actions) of a policy pi(a | s) (states, actions), and d (states,), exactly."""
    # V = r_pi + gamma P_pi V
    policy_transition = np.einsum("sa,sat->st", policy, task.transition)
    inverse = np.linalg.inv(np.eye(STATES) - DISCOUNT * policy_transition)
    value = inverse @ (policy * task.reward).sum(axis=1)
    # Q = r + gamma P V
    q = task.reward + DISCOUNT * task.transition @ value
    # d = d_0 + gamma P_pi' d, with every state as likely a start
    visits = np.full(STATES, 1.0 / STATES) @ inverse
    return value, q, visits


def performance(task: Task, policy: Array) -> float:
    """J: the mean of V over the states."""
    return float(values(task, policy)[0].mean())


def greedy(q: Array) -> Array:
    """pi(a | s) of argmax_a Q(s, a)."""
    policy: Array = np.eye(ACTIONS)[q.argmax(axis=1)]
    return policy


def optimal_q(task: Task) -> Array:
    """Q*, by policy iteration."""
    q = task.reward
    while True:
        better = values(task, greedy(q))[1]
        if np.allclose(better, q, rtol=0.0, atol=1e-12):
            return q
        q = better


def softmax(preference: Array) -> Array:
    """pi(a | s) from preferences (states, actions)."""
    weight = np.exp(preference - preference.max(axis=1, keepdims=True))
    policy: Array = weight / weight.sum(axis=1, keepdims=True)
    return policy


def policy_gradient(task: Task, policy: Array) -> Array:
    """dJ/dtheta (features,) of a softmax policy, exactly."""
    value, q, visits = values(task, policy)
    # dlog pi(a | s)/dtheta = x(s, a) - sum_b pi(b | s) x(s, b); the second term cancels, since sum_a pi A = 0
    advantage = q - value[:, None]
    gradient: Array = np.einsum("s,sa,sa,sak->k", visits, policy, advantage, task.features)
    return gradient


def improve_value(task: Task, settings: Settings) -> tuple[list[float], list[float]]:
    """Descend L by gradient steps; returns L and J of the greedy policy before each of them."""
    target = optimal_q(task)
    x = task.features.reshape(STATES * ACTIONS, -1)
    # d^2 L / dw^2 = 2 mean x x'; a step below 2 / its largest eigenvalue lowers L
    curvature = 2.0 * x.T @ x / len(x)
    step = settings.value_step / np.linalg.eigvalsh(curvature)[-1]
    w = np.zeros(x.shape[1])
    losses = []
    returns = []
    for _ in range(settings.updates):
        # Q_w = w . x,  L = mean (Q_w - Q*)^2
        error = (task.features @ w) - target
        losses.append(float(np.mean(error**2)))
        returns.append(performance(task, greedy(task.features @ w)))
        # w <- w - alpha dL/dw,  dL/dw = 2 mean (Q_w - Q*) x
        w = w - step * 2.0 * x.T @ error.ravel() / len(x)
    return losses, returns


def improve_policy(task: Task, settings: Settings) -> list[float]:
    """Climb J by gradient steps; returns J of the policy before each of them."""
    theta = np.zeros(task.features.shape[-1])
    returns = []
    for _ in range(settings.updates):
        policy = softmax(task.features @ theta)
        returns.append(performance(task, policy))
        # theta <- theta + alpha dJ/dtheta
        theta = theta + settings.policy_step * policy_gradient(task, policy)
    return returns


def measure_exact(settings: Settings, seed: int) -> Row:
    """Loss and returns of both methods in one random task; 0 is the return of random actions, 1 that of the best."""
    task = random_task(settings.features, np.random.default_rng(seed))
    losses, value_returns = improve_value(task, settings)
    policy_returns = improve_policy(task, settings)
    lowest = performance(task, np.full((STATES, ACTIONS), 1.0 / ACTIONS))
    highest = performance(task, greedy(optimal_q(task)))
    scale = highest - lowest
    return {
        "loss": losses,
        "value_return": list((np.array(value_returns) - lowest) / scale),
        "policy_return": list((np.array(policy_returns) - lowest) / scale),
    }


def measure_arm(settings: Settings, agent: str, seed: int) -> Row:
    """Mean loss of each interval of a training, and the return on held-out goals at its end."""
    steps = settings.value_steps if agent == VALUE_AGENT else settings.policy_steps
    config = TrainConfig(agent, steps=steps, seed=seed)
    goals = derived_seeds(0, EVALUATION, settings.goals)
    row: Row = {"steps": [], "arm_loss": [], "arm_return": []}
    losses: list[float] = []
    next_evaluation = 0.0
    with contextlib.closing(Arms(environment_maker(config), len(goals))) as arms, Training(config) as training:
        while training.progress < 1.0:
            metrics = training.advance()
            if not metrics:
                continue
            losses.append(metrics[LOSSES[agent]])
            # Evaluate after the first update, and then at the end of each interval.
            if training.progress >= next_evaluation:
                rollouts = arms.roll_out(TorchController(training.learner.policy()), goals)
                row["steps"].append(training.step)
                row["arm_loss"].append(float(np.mean(losses)))
                row["arm_return"].append(float(rollouts.returns.mean()))
                losses = []
                next_evaluation = training.progress + 1.0 / settings.intervals
    return row


def cases(settings: Settings, seeds: int) -> list[Case]:
    """The random tasks together, and a training of each agent a seed."""
    trainings: list[Case] = [{"part": agent, "seed": seed} for agent in LOSSES for seed in range(seeds)]
    return [{"part": EXACT}, *trainings]


@one_thread()
def measure(settings: Settings, case: Case) -> Row:
    """All random tasks, or one training on the arm."""
    if case["part"] == EXACT:
        return {"tasks": [measure_exact(settings, seed) for seed in range(settings.tasks)]}
    return measure_arm(settings, case["part"], case["seed"])


def changes(values: list[float]) -> Array:
    """The differences of consecutive values; those within rounding are 0."""
    difference = np.diff(values)
    difference[np.abs(difference) < LEAST_CHANGE] = 0.0
    return difference


def falls(values: list[float]) -> int:
    """The number of times that values fall."""
    return int((changes(values) < 0.0).sum())


def without_gain(loss: list[float], returns: list[float]) -> NDArray[np.bool_]:
    """True for each pair of consecutive values where the loss falls and the return does not rise."""
    flags: NDArray[np.bool_] = (changes(loss) < 0.0) & (changes(returns) <= 0.0)
    return flags


def judge(settings: Settings, rows: list[Row]) -> Verdict:
    """The loss falls at every exact step, and its greedy policy's return falls at some; the policy's return never does.

    On the arm, too, there are intervals in which the loss of the value falls and the return does not rise.
    """
    [exact] = [row for row in rows if row["part"] == EXACT]
    tasks = exact["tasks"]
    steps = settings.updates - 1
    loss_falls = [falls(task["loss"]) for task in tasks]
    policy_falls = sum(falls(task["policy_return"]) for task in tasks)
    greedy_falls = mean_interval([falls(task["value_return"]) for task in tasks])
    value_end = mean_interval([task["value_return"][-1] for task in tasks])
    policy_end = mean_interval([task["policy_return"][-1] for task in tasks])
    on_arm = {agent: [row for row in rows if row["part"] == agent] for agent in LOSSES}
    value_trainings = on_arm[VALUE_AGENT]
    misled = sum(int(without_gain(row["arm_loss"], row["arm_return"]).sum()) for row in value_trainings)
    arm_loss_falls = sum(falls(row["arm_loss"]) for row in value_trainings)
    correlations = [spearmanr(row["arm_loss"], row["arm_return"]).statistic for row in value_trainings]
    rises = sum(int((changes(row["arm_return"]) > 0.0).sum()) for row in on_arm[POLICY_AGENT])
    intervals = sum(len(row["arm_return"]) - 1 for row in on_arm[POLICY_AGENT])
    holds = min(loss_falls) == steps and greedy_falls.low > 0.0 and policy_falls == 0 and misled > 0
    at_steps = "every one" if min(loss_falls) == steps else f"{min(loss_falls)}"
    sentence = (
        f"In {len(tasks)} exact tasks the loss of the value falls at {at_steps} of {steps} steps, yet the return of "
        f"its greedy policy falls {greedy_falls} times; that of the policy gradient falls {policy_falls} times in all. "
        f"They end at {value_end} and {policy_end} (random: 0, best: 1). On the arm the return does not rise in "
        f"{misled} of {arm_loss_falls} intervals in which the loss of {VALUE_AGENT} falls (rank correlation of loss "
        f"and return: {min(correlations):.2f} to {max(correlations):.2f}; -1 if the loss measured the return); the "
        f"return of {POLICY_AGENT} rises in {rises} of {intervals} intervals."
    )
    return Verdict(bool(holds), sentence)


def draw(settings: Settings, rows: list[Row], figure: Figure) -> None:
    """Return above loss along the exact steps of one task, and along one training of each agent on the arm."""
    panels = figure.subplots(2, 3, height_ratios=(3, 2))
    [exact] = [row for row in rows if row["part"] == EXACT]
    task = exact["tasks"][0]
    updates = np.arange(1.0, settings.updates + 1.0)
    draw_column(panels[:, 0], updates, task["loss"], task["value_return"], "value: its greedy policy")
    panels[0, 0].plot(updates, task["policy_return"], color=COLOURS[2], linestyle="-.", label="policy gradient")
    for axes in panels[:, 0]:
        axes.set_xscale("log")
        axes.set_xlabel("exact gradient steps in one task")
    panels[0, 0].set_ylabel("return J (random: 0, best: 1)")
    panels[1, 0].set_yscale("log")
    label_plainly(panels[1, 0].yaxis)
    panels[1, 0].set_ylabel("loss: mean (Q - Q*)^2")
    for column, agent in enumerate(LOSSES, start=1):
        training = next(row for row in rows if row["part"] == agent)
        steps = np.array(training["steps"]) / 1000.0
        draw_column(panels[:, column], steps, training["arm_loss"], training["arm_return"], f"{agent} on the arm")
        panels[0, column].set_ylabel("return: minus the distances (m)")
        panels[1, column].set_ylim(bottom=0.0)
        panels[1, column].set_ylabel("loss of the critic")
        for axes in panels[:, column]:
            axes.set_xlabel("thousand environment steps of one training")
    for axes in panels[0]:
        axes.fill_between([], [], color="0.85", label="loss falls, return falls")
        axes.legend(framealpha=1.0, edgecolor="none", fontsize=8, loc="lower right")


def draw_column(panels: NDArray[Any], x: Array, loss: list[float], returns: list[float], label: str) -> None:
    """The return in the upper panel and the loss in the lower one; where both fall is shaded."""
    upper, lower = panels
    marker = {"marker": "o", "markersize": 4} if len(x) < 50 else {}
    upper.plot(x, returns, color=COLOURS[0], label=label, **marker)
    lower.plot(x, loss, color=COLOURS[1], **marker)
    both_fall = without_gain(loss, returns) & (changes(returns) < 0.0)
    for at in np.flatnonzero(both_fall):
        for axes in panels:
            axes.axvspan(x[at], x[at + 1], color="0.85", linewidth=0, zorder=0)


EXPERIMENT = Experiment(
    claim="A value function improves its predictions, a policy its return: the predictions may improve while the "
    "return falls.",
    settings=Settings(),
    quick=Settings(tasks=20, value_steps=4_800, policy_steps=8_000, goals=10),
    cases=cases,
    measure=measure,
    judge=judge,
    draw=draw,
    seeds=3,
    quick_seeds=2,
    min_seeds=2,
    size=(13.0, 6.6),
)
