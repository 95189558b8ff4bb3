"""The output layer of a policy follows the action space: a softmax, or a mean and a standard deviation.

With discrete actions the network outputs a logit for each. With continuous actions it outputs a mean, and the standard
deviation is an output, too, or a parameter:

    softmax     pi(a)  =  exp(z_a) / sum_k exp(z_k)        d log pi(a) / d z_k        =  1[k = a] - pi(k)
    Gaussian    pi(a)  =  N(a; mu, sigma^2)                d log pi(a) / d mu         =  (a - mu) / sigma^2
                                                           d log pi(a) / d log sigma  =  ((a - mu) / sigma)^2 - 1

The algorithm is the same, since it needs only log pi:  theta <- theta + alpha mean A d log pi(a) / d theta.

One joint. The action is an angle from 0 to 90 degrees, the reward minus its distance to a goal in between. There is no
network: logits, or mean and standard deviation, are the parameters. A softmax over whole degrees misses a goal by 0.25
degrees on average at least, half of the largest rounding error; a Gaussian has no such limit.

The arm. Advantage actor-critic (a2c) learns to reach with three joints, each of which is chosen independently: by a
softmax with 3 x 91 = 273 outputs for 753,571 actions, or by a squashed Gaussian with 3 means and 3 standard deviations,

    pi(a | s)  =  prod_j  N(u_j; mu_j(s), sigma_j(s)) |du_j / da_j|

where u is the number that is drawn, and the step of a joint is in proportion to tanh(u) (Haarnoja et al. 2018). The
Gaussian's steps are bounded and get smaller near the goal, those of the softmax are absolute angles, whose grid misses
a goal by 1.9 mm on average at least.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from arm_control.evaluation.opening import evaluate
from arm_control.lab.common.drawing import COLOURS, MARKERS, band, reference
from arm_control.lab.common.experiment import Case, Experiment, Row, Verdict
from arm_control.lab.common.statistics import mean_interval
from arm_control.lab.common.training import train_and_evaluate
from arm_control.runs.agent import LoadedPolicy
from arm_control.runs.config import TrainConfig
from arm_control.runs.environment import environment_maker
from arm_control.viewers.common.figures import label_plainly, ticks_between
from envs.arm import Arm
from policies.a2c.settings import A2CSettings
from policies.agent import tensors_of
from policies.common.distributions import Gaussian, Softmax

Array = NDArray[np.float64]
Task = Literal["joint", "arm"]

SOFTMAX = "softmax"
GAUSSIAN = "gaussian"
HEADS = {SOFTMAX: "softmax: 91 logits a joint", GAUSSIAN: "Gaussian: mean and standard deviation"}

# One joint.
ANGLES_DEG = np.arange(91.0)
START_STD_DEG = 20.0
STD_BOUNDS_DEG = (1.0, 90.0)
RATES = {SOFTMAX: 0.25, GAUSSIAN: 1.0}  # step sizes, of logits or of degrees and log sigma; they fall to zero
GRID_FLOOR_DEG = 0.25  # mean distance of a uniformly random angle to the nearest whole degree
EARLY = 0.25  # part of the training after which the distributions are drawn
POINTS = 60  # of a drawn curve

# The arm in the state in which the heads are compared: in the middle, with a goal for which two joints have to turn.
STATE_DEG = (45.0, 45.0, 45.0)
GOAL_DEG = (20.0, 70.0, 45.0)
JOINT_NAMES = ("joint 1", "joint 2", "joint 3")
SOFTMAX_LEARNING_RATE = 0.003  # of the arm's softmax policy; the Gaussian one has the default
CHOICES = np.linspace(-6.0, 6.0, 1201)  # u, before tanh
LARGEST_FRACTION = 0.1  # of the arm's error without learning, which is left after it


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    tasks: tuple[Task, ...] = ("joint", "arm")
    """Tasks that are learned."""
    updates: int = 1_500
    """Updates for one joint."""
    samples: int = 256
    """Actions in an update for one joint."""
    joint_goals: int = 40
    """Number of goals of one joint, each of which is learned by itself."""
    steps: int = 600_000
    """Environment steps of each training on the arm."""
    goals: int = 200
    """Held-out goals on which each policy of the arm is evaluated."""
    arm_seeds: int = 3
    """Seeds of the trainings on the arm, at most as many as those of the joint."""


def probabilities_of(logits: Array) -> Array:
    """exp(z_a) / sum_k exp(z_k), (goals, angles)."""
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Array = weights / weights.sum(axis=1, keepdims=True)
    return shares


def advantages(angle_deg: Array, goal_deg: Array) -> Array:
    """A = r - mean r, in units of its root mean square, of angles (goals, samples); r is minus the distance."""
    reward = -np.abs(angle_deg - goal_deg[:, None])
    advantage = reward - reward.mean(axis=1, keepdims=True)
    scaled: Array = advantage / (np.sqrt(np.mean(advantage**2, axis=1, keepdims=True)) + 1e-9)
    return scaled


def softmax_gradient(logits: Array, goal_deg: Array, samples: int, generator: np.random.Generator) -> Array:
    """mean A d log pi(a) / d z, (goals, angles)."""
    shares = probabilities_of(logits)
    # Draw a by the inverse of the cumulative distribution.
    cumulative = shares.cumsum(axis=1)
    cumulative[:, -1] = 1.0
    uniform = generator.random((len(goal_deg), samples))
    angle = np.array([np.searchsorted(row, drawn) for row, drawn in zip(cumulative, uniform, strict=True)])
    advantage = advantages(ANGLES_DEG[angle], goal_deg)
    # d log pi(a) / d z_k = 1[k = a] - pi(k)
    chosen = np.array([np.bincount(a, weight, len(ANGLES_DEG)) for a, weight in zip(angle, advantage, strict=True)])
    gradient: Array = (chosen - shares * advantage.sum(axis=1, keepdims=True)) / samples
    return gradient


def gaussian_gradient(
    mean_deg: Array, std_deg: Array, goal_deg: Array, samples: int, generator: np.random.Generator
) -> tuple[Array, Array]:
    """mean A d log pi(a) / d mu and mean A d log pi(a) / d log sigma, (goals,) each."""
    z = generator.standard_normal((len(goal_deg), samples))
    advantage = advantages(mean_deg[:, None] + std_deg[:, None] * z, goal_deg)
    by_mean: Array = np.mean(advantage * z, axis=1) / std_deg
    by_log_std: Array = np.mean(advantage * (z**2 - 1.0), axis=1)
    return by_mean, by_log_std


def learn_joint(settings: Settings, head: str, seed: int) -> Row:
    """The mean distance of the most probable angle to its goal along learning, and the output for the first goal."""
    generator = np.random.default_rng(seed)
    goal_deg = generator.uniform(0.0, 90.0, settings.joint_goals)
    logits = np.zeros((len(goal_deg), len(ANGLES_DEG)))
    mean_deg = np.full(len(goal_deg), 45.0)
    log_std = np.full(len(goal_deg), np.log(START_STD_DEG))
    row: Row = {"goal_deg": goal_deg[0], "error_deg": []}
    for update in range(settings.updates):
        rate = RATES[head] * (1.0 - update / settings.updates)
        if head == SOFTMAX:
            logits += rate * softmax_gradient(logits, goal_deg, settings.samples, generator)
            best_deg = ANGLES_DEG[logits.argmax(axis=1)]
        else:
            by_mean, by_log_std = gaussian_gradient(mean_deg, np.exp(log_std), goal_deg, settings.samples, generator)
            mean_deg = mean_deg + rate * by_mean
            log_std = np.clip(log_std + rate * by_log_std, *np.log(STD_BOUNDS_DEG))
            best_deg = mean_deg
        row["error_deg"].append(np.abs(best_deg - goal_deg).mean())
        if update == int(EARLY * settings.updates):
            # What the head outputs then: 91 probabilities, or a mean and a standard deviation.
            row["early"] = probabilities_of(logits)[0] if head == SOFTMAX else [mean_deg[0], np.exp(log_std[0])]
    return row


def normal_density(angle_deg: Array, mean_deg: float, std_deg: float) -> Array:
    """N(a; mu, sigma^2), in 1/degree."""
    z = (angle_deg - mean_deg) / std_deg
    density: Array = np.exp(-0.5 * z**2) / (std_deg * np.sqrt(2.0 * np.pi))
    return density


def make_config(settings: Settings, head: str, seed: int) -> TrainConfig:
    """The training of a policy with this output layer."""
    if head == SOFTMAX:
        agent = A2CSettings(policy="softmax", learning_rate=SOFTMAX_LEARNING_RATE)
        return TrainConfig("a2c", agent, env="ArmReachMultiDiscrete-v0", steps=settings.steps, seed=seed)
    return TrainConfig("a2c", A2CSettings(), steps=settings.steps, seed=seed)


def probabilities(distribution: Softmax) -> list[Any]:
    """The probability of each position (positions,) of each joint, in the first state of a batch."""
    return [torch.softmax(logits[0], -1).numpy() for logits in distribution.logits]


def densities(distribution: Gaussian, unit_per_deg: Any, choices: torch.Tensor) -> list[Any]:
    """The density in 1/degree (choices,) of each joint's angle, in the first state of a batch.

    At choices u (choices,); `unit_per_deg` (joints,) is the derivative of the squashed step by the angle.
    """
    curves = []
    for joint, derivative in enumerate(unit_per_deg):
        column = slice(joint, joint + 1)
        of_joint = type(distribution)(distribution.mean[:1, column], distribution.std[:1, column])
        # p(angle) = p(step) |d step / d angle|, and log p(step) is what `log_prob` gives
        curves.append((of_joint.log_prob(choices[:, None]).exp() * derivative).numpy())
    return curves


@torch.no_grad()
def look_at_head(loaded: LoadedPolicy) -> Row:
    """The trained policy's output in the compared state: angles in degrees, and the probability of each degree."""
    policy: Any = loaded.policy
    env = environment_maker(loaded.config)()
    options = {"angles_deg": list(STATE_DEG), "goal_m": Arm().tip_position(GOAL_DEG)}
    observation, _ = env.reset(seed=0, options=options)
    env.close()
    inputs = tensors_of({name: values[None] for name, values in observation.items()})
    distribution = policy.distribution(policy.encoder(*inputs), inputs[0])
    if isinstance(distribution, Softmax):
        curves = probabilities(distribution)
        return {"angles_deg": [list(range(len(curve))) for curve in curves], "per_degree": curves}

    # The angle is linear in the squashed step: its derivative from two steps that no limit clips.
    choices = torch.from_numpy(CHOICES).float()
    two_angles_deg = [policy.action(torch.full((1, len(STATE_DEG)), unit), *inputs)[0] for unit in (0.0, 0.1)]
    deg_per_unit = (two_angles_deg[1] - two_angles_deg[0]) / 0.1
    steps = distribution.action(choices)
    angles_deg = two_angles_deg[0][:, None] + deg_per_unit[:, None] * steps
    curves = densities(distribution, 1.0 / deg_per_unit, choices)
    return {"angles_deg": angles_deg.numpy(), "per_degree": curves, "std": distribution.std[0].numpy()}


def total_probability(row: Row) -> list[float]:
    """The integral over each joint's angle: a sum of probabilities of whole degrees, or of a density."""
    totals = []
    for angles_deg, per_degree in zip(row["angles_deg"], row["per_degree"], strict=True):
        density = np.array(per_degree)
        total = density.sum()
        if row["head"] == GAUSSIAN:
            # The trapezoidal rule.
            total = np.sum(0.5 * (density[1:] + density[:-1]) * np.diff(angles_deg))
        totals.append(float(total))
    return totals


def cases(settings: Settings, seeds: int) -> list[Case]:
    """Each task with each head and seed, and random actions of the arm."""
    every: list[Case] = []
    if "joint" in settings.tasks:
        every += [{"task": "joint", "head": head, "seed": seed} for seed in range(seeds) for head in HEADS]
    if "arm" in settings.tasks:
        arm_seeds = min(settings.arm_seeds, seeds)
        every += [{"task": "arm", "head": head, "seed": seed} for seed in range(arm_seeds) for head in HEADS]
        every.append({"task": "arm", "head": "random"})
    return every


def measure(settings: Settings, case: Case) -> Row:
    """Errors along learning, and the output in one state."""
    if case["task"] == "joint":
        return learn_joint(settings, case["head"], case["seed"])
    if case["head"] == "random":
        return {"error_mm": evaluate("random", goals=settings.goals)["mean_error_mm"]}
    row = train_and_evaluate(make_config(settings, case["head"], case["seed"]), settings.goals, look_at_head)
    curve = row.pop("curve")
    row["step"] = [point["step"] for point in curve]
    row["curve_mm"] = [point["mean_error_mm"] for point in curve]
    return row


def find(rows: list[Row], task: Task, head: str) -> list[Row]:
    """The rows of a task and a head."""
    return [row for row in rows if row["task"] == task and row["head"] == head]


def judge_joint(rows: list[Row]) -> Verdict:
    """The softmax errs by less than its largest rounding error, the Gaussian by less than the grid allows."""
    error = {head: mean_interval([row["error_deg"][-1] for row in find(rows, "joint", head)]) for head in HEADS}
    holds = error[SOFTMAX].high < 2.0 * GRID_FLOOR_DEG and error[GAUSSIAN].high < GRID_FLOOR_DEG
    return Verdict(
        holds,
        f"one joint misses its goals by {error[SOFTMAX]} degrees with the softmax over whole degrees (exact optimum: "
        f"{GRID_FLOOR_DEG:g}) and by {error[GAUSSIAN]} with the Gaussian",
    )


def judge_arm(settings: Settings, rows: list[Row]) -> Verdict:
    """Both heads output a distribution, and both learn: most of the error of random actions is gone."""
    [random] = find(rows, "arm", "random")
    limit_mm = LARGEST_FRACTION * random["error_mm"]
    error_mm = {head: mean_interval([row["error_mm"] for row in find(rows, "arm", head)]) for head in HEADS}
    totals = [total for head in HEADS for row in find(rows, "arm", head) for total in total_probability(row)]
    is_distribution = bool(np.allclose(totals, 1.0, atol=0.05))
    return Verdict(
        is_distribution and all(error.high < limit_mm for error in error_mm.values()),
        f"the arm after {settings.steps:,} steps by {error_mm[SOFTMAX]} mm with 3 x 91 logits and by "
        f"{error_mm[GAUSSIAN]} mm with 3 means and 3 standard deviations (random actions: {random['error_mm']:.0f} mm; "
        f"expected: less than a tenth), where the probabilities of each joint's angles sum to {min(totals):.3f} to "
        f"{max(totals):.3f}",
    )


def judge(settings: Settings, rows: list[Row]) -> Verdict:
    """Both tasks, as far as they were learned."""
    verdicts = []
    if "joint" in settings.tasks:
        verdicts.append(judge_joint(rows))
    if "arm" in settings.tasks:
        verdicts.append(judge_arm(settings, rows))
    sentence = "; ".join(verdict.measured for verdict in verdicts)
    return Verdict(all(verdict.holds for verdict in verdicts), f"With one algorithm {sentence}.")


def draw(settings: Settings, rows: list[Row], figure: Figure) -> None:
    """For each task the error along learning, and the distributions in one state."""
    layout: list[Any] = []
    if "joint" in settings.tasks:
        layout += [["joint curve", "joint state"]] * 3
    if "arm" in settings.tasks:
        layout += [["arm curve", name] for name in JOINT_NAMES for _ in range(2)]
    figure.set_size_inches(11.0, 1.1 * len(layout))
    panels = figure.subplot_mosaic(layout)
    if "joint" in settings.tasks:
        draw_joint(settings, rows, panels["joint curve"], panels["joint state"])
    if "arm" in settings.tasks:
        draw_arm_curve(rows, panels["arm curve"])
        for joint, name in enumerate(JOINT_NAMES):
            draw_arm_state(rows, joint, panels[name])


def draw_joint(settings: Settings, rows: list[Row], left: Axes, right: Axes) -> None:
    """The error of one joint over the updates, and its distribution for one goal early in the training."""
    updates = np.unique(np.geomspace(1, settings.updates, POINTS).astype(int))
    for place, (head, label) in enumerate(HEADS.items()):
        chosen = find(rows, "joint", head)
        band(left, updates, [np.array(row["error_deg"])[updates - 1] for row in chosen], label, place)
        early = chosen[0]["early"]
        if head == SOFTMAX:
            right.plot(ANGLES_DEG, early, color=COLOURS[place], marker=MARKERS[place], markersize=3)
        else:
            fine_deg = np.linspace(0.0, 90.0, 1801)
            right.plot(fine_deg, normal_density(fine_deg, *early), color=COLOURS[place])
    reference(left, GRID_FLOOR_DEG, "grid of whole degrees: 0.25")
    left.set_xscale("log")
    left.set_yscale("log")
    label_plainly(left.yaxis)
    # Beside the lines there is room for the name of the reference.
    left.set_xlim(right=60.0 * settings.updates)
    left.set_ylim(bottom=0.002)
    left.set_title("one joint: median and range of the seeds", fontsize=10)
    left.set_xlabel("updates")
    left.set_ylabel("distance to the goal (degrees)")
    left.legend(frameon=False, fontsize=9, loc="lower left")
    goal_deg = find(rows, "joint", SOFTMAX)[0]["goal_deg"]
    right.axvline(goal_deg, color="black", linestyle="--", linewidth=1, label=f"goal: {goal_deg:.1f} degrees")
    right.set_title(f"one joint: output after {int(EARLY * settings.updates) + 1} updates", fontsize=10)
    right.set_xlim(0.0, 90.0)
    right.set_ylim(bottom=0.0)
    right.set_xlabel("angle (degrees)")
    right.set_ylabel("pi(a) (1/degree)")
    right.legend(frameon=False, fontsize=9)


def draw_arm_curve(rows: list[Row], axes: Axes) -> None:
    """The error of the arm over the steps."""
    for place, (head, label) in enumerate(HEADS.items()):
        chosen = find(rows, "arm", head)
        thousand_steps = np.array(chosen[0]["step"]) / 1000.0
        band(axes, thousand_steps, [row["curve_mm"] for row in chosen], label, place)
    [random] = find(rows, "arm", "random")
    reference(axes, random["error_mm"], "random actions")
    axes.set_yscale("log")
    label_plainly(axes.yaxis)
    axes.set_yticks(ticks_between(*axes.get_ylim()))
    axes.set_title("arm: median and range of the seeds", fontsize=10)
    axes.set_xlabel("thousand environment steps")
    axes.set_ylabel("mean error at the last step (mm)")


def draw_arm_state(rows: list[Row], joint: int, axes: Axes) -> None:
    """The distribution of a joint's next target, in the compared state."""
    for place, head in enumerate(HEADS):
        row = find(rows, "arm", head)[0]
        # A softmax has a probability for each whole degree, a Gaussian a density.
        marker = MARKERS[place] if head == SOFTMAX else ""
        axes.plot(row["angles_deg"][joint], row["per_degree"][joint], color=COLOURS[place], marker=marker, markersize=3)
    axes.axvline(STATE_DEG[joint], color="black", linestyle=":", linewidth=1, label="now")
    axes.axvline(GOAL_DEG[joint], color="black", linestyle="--", linewidth=1, label="at the goal")
    axes.set_xlim(0.0, 90.0)
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel(f"arm: target angle of {JOINT_NAMES[joint]} (degrees)")
    axes.set_ylabel("pi(a | s)\n(1/degree)")
    if joint == 0:
        axes.set_title("arm: output in one state, first seed", fontsize=10)
        axes.legend(frameon=False, fontsize=8)


EXPERIMENT = Experiment(
    claim="The output layer follows the action space: a softmax, or a mean and a standard deviation.",
    settings=Settings(),
    quick=Settings(tasks=("joint",)),
    cases=cases,
    measure=measure,
    judge=judge,
    draw=draw,
    seeds=5,
    quick_seeds=3,
    min_seeds=2,
    size=(11.0, 9.9),
)
