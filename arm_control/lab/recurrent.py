"""A recurrent policy under partial observation: hidden speeds and late commands.

A small task in which memory matters, and by how much, in closed form. A point moves at a constant speed that differs
from episode to episode and is not observed. A command acts D = 5 steps after it is sent, when it should be where the
point is by then:

    x_t  =  x_0 + v t,     x_0 ~ N(0, 1),     v ~ N(0, 0.2^2),     r_t  =  -(a_t - x_t+D)^2,     t = 0 ... 7

A policy without memory sees x_t (and t). Whatever it does, its mean squared error is at least the variance of x_t+D
given x_t, because v and x_t are jointly Gaussian:

    E[(a_t - x_t+D)^2]  >=  D^2 Var(v | x_t)  =  D^2 sigma_v^2 sigma_x^2 / (sigma_x^2 + t^2 sigma_v^2)

From the second step on, a policy with memory knows v = x_t - x_t-1, and can be exact. The project's A2C learns both
with the same settings: a feed-forward policy, and one with an LSTM, which is trained by the same policy gradient,
propagated through the steps of the episode. The standard deviation of the actions is fixed: where it was learned, at
this learning rate, two of ten recurrent policies diverged.

On the arm of one joint, the preset `late` hides the speeds and delays commands by 150 ms. A2C learns to reach with and
without an LSTM, from the same seeds; and again on the ideal arm, where a single observation is the whole state, so that
what an LSTM gains there is no gain of memory. (The arm of three joints takes far longer: after 40,000 steps of one seed
both policies still missed by about 100 mm.) What memory can add depends on what a single observation leaves open. It
contains the last target, which the arm reaches when the delay is over:

    unexplained  =  Var(q_t+k - q_t | o_t) / Var(q_t+k - q_t),     k = 4 steps (133 ms)

with the residuals of a linear regression on the observation, while targets change at random. The same fraction of the
point's motion D v is Var(v | x_t) / Var(v).
"""

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from arm_control.evaluation.torch_controller import one_thread
from arm_control.lab.common.drawing import COLOURS, MARKERS, band
from arm_control.lab.common.experiment import Case, Experiment, Row, Verdict
from arm_control.lab.common.statistics import Mean, mean_interval
from arm_control.lab.common.training import train_and_evaluate
from arm_control.runs.config import TrainConfig
from policies.a2c.agent import make
from policies.a2c.settings import A2CSettings
from policies.agent import Observation, Spec, Transition
from policies.common.policy_gradient import PolicyGradient

Array = NDArray[np.float64]

FEED_FORWARD = "feed-forward"
RECURRENT = "LSTM"
POLICIES = (FEED_FORWARD, RECURRENT)
POINT = "point"
MOTION = "motion"

# The point
STEPS = 8  # of an episode
DELAY = 5  # steps, D
START_STD = 1.0  # sigma_x
SPEED_STD = 0.2  # sigma_v
NUM_ENVS = 64
HIDDEN_UNITS = 32
LEARNING_RATE = 0.01
ACTION_STD = 0.3
EVALUATED_EPISODES = 4_000
MEMORY_HELPS = 1  # the first step at which memory knows the speed

# The arm
ARM = "arm1"
LATE = "late"
IDEAL = "ideal"
ARM_ENVS = 8  # few arms: more updates for the same number of steps
HORIZON = 4  # control steps, within the delay of 150 ms
HELD_STEPS = 6  # for which a random target is kept where the arm's motion is predicted
EXPLORED_STEPS = 1_500


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    updates: int = 80
    """Updates of each policy for the point."""
    arm_steps: int = 20_000
    """Steps of a training on the arm."""
    goals: int = 100
    """Held-out goals on which a training on the arm is evaluated."""
    ideal: bool = True
    """Also train on the ideal arm, where memory has nothing to add."""

    @property
    def presets(self) -> tuple[str, ...]:
        """The imperfections of the arm."""
        return (LATE, IDEAL) if self.ideal else (LATE,)


def best_memoryless_error(step: Any) -> Any:
    """The smallest root-mean-square error without memory at a step t, a number or an array."""
    # D sigma_v sigma_x / sqrt(sigma_x^2 + t^2 sigma_v^2)
    return DELAY * SPEED_STD * START_STD / np.sqrt(START_STD**2 + (step * SPEED_STD) ** 2)


class Points:
    """Episodes of the point side by side, each with its start and its speed."""

    def __init__(self, count: int, generator: np.random.Generator) -> None:
        self.start = START_STD * generator.standard_normal((count, 1))
        self.speed = SPEED_STD * generator.standard_normal((count, 1))

    def position(self, step: int) -> Array:
        """x_t (count, 1)."""
        position: Array = self.start + self.speed * step
        return position

    def observe(self, step: int) -> Observation:
        """The position and the step, but not the speed; the task has no goal."""
        position = self.position(step)
        no_goal = np.zeros(position.shape, np.float32)
        observation = np.concatenate([position, np.full_like(position, step)], axis=1).astype(np.float32)
        return {"observation": observation, "achieved_goal": no_goal, "desired_goal": no_goal}

    def error(self, step: int, action: Any) -> Array:
        """a_t - x_t+D (count,)."""
        error: Array = (action - self.position(step + DELAY))[:, 0]
        return error


def make_agent(recurrent: bool, seed: int) -> PolicyGradient:
    """A2C for the point: actions are steps from the observed position, and rewards do not depend on earlier actions."""
    spec = Spec(
        observation_size=2,
        goal_size=1,
        action_low=(-10.0,),
        action_high=(10.0,),
        measured_columns=(0,),
        max_step=(1.0,),
    )
    settings = A2CSettings(
        policy="gaussian",
        std="fixed",
        initial_std=ACTION_STD,
        recurrent=recurrent,
        hidden_units=HIDDEN_UNITS,
        fourier_octaves=0,
        learning_rate=LEARNING_RATE,
        discount=0.0,
        max_step=1.0,
        slowing_distance=0.0,
        learning_starts=NUM_ENVS * STEPS,
        steps_per_update=STEPS,
    )
    return make(spec, settings, lambda *goals: np.zeros(NUM_ENVS, np.float32), seed)


def train_for_points(settings: Settings, policy: str, seed: int) -> PolicyGradient:
    """Train a policy for the point; each update uses one whole episode of all environments."""
    generator = np.random.default_rng(seed)
    agent = make_agent(policy == RECURRENT, seed)
    episodes = settings.updates + 1  # the first one fits the normalisation of the inputs
    for episode in range(episodes):
        points = Points(NUM_ENVS, generator)
        for step in range(STEPS):
            observation = points.observe(step)
            action = agent.act(observation, explore=True)
            # r_t = -(a_t - x_t+D)^2
            reward = (-(points.error(step, action) ** 2)).astype(np.float32)
            ended = np.full(NUM_ENVS, step == STEPS - 1)
            agent.observe(Transition(observation, action, reward, points.observe(step + 1), ended, ended))
            agent.update(episode / episodes)
    return agent


@torch.no_grad()
def point_errors(agent: PolicyGradient, policy: str, seed: int) -> Array:
    """Root-mean-square error (STEPS,) of the policy's deterministic actions in new episodes."""
    points = Points(EVALUATED_EPISODES, np.random.default_rng((seed, 1)))
    module = agent.policy()
    recurrent_state = torch.zeros(EVALUATED_EPISODES, 2 * HIDDEN_UNITS)
    errors = []
    for step in range(STEPS):
        inputs = [torch.from_numpy(column) for column in points.observe(step).values()]
        if policy == RECURRENT:
            action, recurrent_state = module(*inputs, recurrent_state)
        else:
            action = module(*inputs)
        errors.append(np.sqrt(np.mean(points.error(step, action.numpy()) ** 2)))
    return np.array(errors)


def train_on_arm(settings: Settings, preset: str, policy: str, seed: int) -> Row:
    """Train and evaluate A2C on the arm with these imperfections."""
    config = TrainConfig(
        "a2c",
        A2CSettings(recurrent=policy == RECURRENT),
        arm=ARM,
        control="from_target",
        imperfections=preset,
        num_envs=ARM_ENVS,
        steps=settings.arm_steps,
        seed=seed,
    )
    result = train_and_evaluate(config, settings.goals)
    steps = [row["step"] for row in result["curve"]]
    curve = [row["mean_error_mm"] for row in result["curve"]]
    return {"error_mm": result["error_mm"], "steps": steps, "curve": curve}


def unexplained_fraction(inputs: Array, outputs: Array) -> float:
    """Residual variance of a linear regression of outputs (n, k) on inputs (n, m), relative to their variance."""
    design = np.column_stack([inputs, np.ones(len(inputs))])
    weights, *_ = np.linalg.lstsq(design, outputs, rcond=None)
    residuals = outputs - design @ weights
    return float(residuals.var(axis=0).sum() / outputs.var(axis=0).sum())


def measure_arm_motion(seed: int) -> Row:
    """The fraction of the arm's coming motion that a single observation leaves unexplained."""
    env = gymnasium.make("envs:ArmReach-v0", arm=ARM, imperfections=LATE, episode_steps=EXPLORED_STEPS)
    generator = np.random.default_rng(seed)
    bounds = env.action_space
    assert isinstance(bounds, gymnasium.spaces.Box)
    observed, _ = env.reset(seed=seed)
    observations = [observed["observation"]]
    for step in range(EXPLORED_STEPS - 1):
        if step % HELD_STEPS == 0:
            target_deg = generator.uniform(bounds.low, bounds.high).astype(np.float32)
        observed, *_ = env.step(target_deg)
        observations.append(observed["observation"])
    env.close()
    inputs = np.array(observations, dtype=np.float64)
    angles = inputs[:, : len(bounds.low)]
    motion = angles[HORIZON:] - angles[:-HORIZON]
    return {"unexplained": unexplained_fraction(inputs[:-HORIZON], motion)}


def cases(settings: Settings, seeds: int) -> list[Case]:
    """For each seed, the policies for the arm and for the point, and the arm's motion."""
    every_case: list[Case] = []
    for seed in range(seeds):
        for preset in settings.presets:
            every_case += [{"part": preset, "policy": policy, "seed": seed} for policy in POLICIES]
        every_case += [{"part": POINT, "policy": policy, "seed": seed} for policy in POLICIES]
        every_case.append({"part": MOTION, "seed": seed})
    return every_case


@one_thread()
def measure(settings: Settings, case: Case) -> Row:
    """Train and evaluate a policy for the point or for the arm, or measure the arm's motion."""
    if case["part"] == MOTION:
        return measure_arm_motion(case["seed"])
    policy = case["policy"]
    seed = case["seed"]
    if case["part"] != POINT:
        return train_on_arm(settings, case["part"], policy, seed)
    agent = train_for_points(settings, policy, seed)
    return {"errors": point_errors(agent, policy, seed)}


def select(rows: list[Row], part: str, policy: str) -> list[Row]:
    """The rows of a policy in one part."""
    return [row for row in rows if row["part"] == part and row.get("policy") == policy]


def arm_errors(rows: list[Row], preset: str, policy: str) -> Array:
    """The final errors on the arm in mm (seeds,)."""
    return np.array([row["error_mm"] for row in select(rows, preset, policy)])


def gain_of_memory(rows: list[Row], preset: str) -> Mean:
    """The reduction of the arm's error by an LSTM, in mm, with seeds paired."""
    return mean_interval(arm_errors(rows, preset, FEED_FORWARD) - arm_errors(rows, preset, RECURRENT))


def root_mean_square(errors: Any) -> float:
    """The root of the mean square over the steps at which memory helps."""
    return float(np.sqrt(np.mean(np.square(errors[MEMORY_HELPS:]))))


def judge(settings: Settings, rows: list[Row]) -> Verdict:
    """Only memory is better than the best without it; and it lowers the arm's error where speeds are hidden."""
    bound = root_mean_square(best_memoryless_error(np.arange(STEPS)))
    errors = {p: mean_interval([root_mean_square(row["errors"]) for row in select(rows, POINT, p)]) for p in POLICIES}
    # No policy without memory can be below the bound.
    point_holds = errors[RECURRENT].high < bound <= errors[FEED_FORWARD].high

    gain = gain_of_memory(rows, LATE)
    arm_holds = gain.low > 0.0
    ideal = ""
    if settings.ideal:
        ideal_gain = gain_of_memory(rows, IDEAL)
        arm_holds = arm_holds and gain.low > ideal_gain.high
        ideal = f", and by {ideal_gain} mm on the ideal arm, where a single observation is the whole state"
    with_memory = mean_interval(arm_errors(rows, LATE, RECURRENT))
    without = mean_interval(arm_errors(rows, LATE, FEED_FORWARD))
    undecided = "" if gain.low > 0.0 or gain.high < 0.0 else " (the interval does not decide)"
    motion = mean_interval([100.0 * row["unexplained"] for row in rows if row["part"] == MOTION])
    point_motion = 100.0 * bound**2 / (DELAY * SPEED_STD) ** 2
    sentence = (
        f"With the speed of a point hidden and commands {DELAY} steps late, the policy gradient brings the LSTM to a "
        f"root-mean-square error of {errors[RECURRENT]} and the feed-forward policy to {errors[FEED_FORWARD]} (exact "
        f"best without memory: {bound:.4g}). On the arm of one joint, speeds hidden and commands 150 ms late, "
        f"{settings.arm_steps:,} steps end at {with_memory} mm with an LSTM and {without} mm without: it lowers the "
        f"error by {gain} mm{undecided}{ideal}. A single observation of the arm, which contains the last target, "
        f"leaves {motion} % of its coming motion unexplained, one of the point {point_motion:.0f} %."
    )
    return Verdict(bool(point_holds and arm_holds), sentence)


def draw(settings: Settings, rows: list[Row], figure: Figure) -> None:
    """The error on the point by step, and the learning curves and final errors on the arm."""
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.3, 1.2, 1.2])
    draw_point(left, rows)
    for place, policy in enumerate(POLICIES):
        trained = select(rows, LATE, policy)
        quartiles = np.percentile([row["curve"] for row in trained], (25, 50, 75), axis=0)
        band(middle, trained[0]["steps"], list(quartiles), f"{policy}: median, quartiles", place)
    middle.set_ylim(bottom=0.0)
    middle.set_xlabel("training steps")
    middle.set_ylabel("error of the arm in mm, late and no speeds")
    middle.legend(frameon=False, fontsize=8, loc="upper right")
    draw_final_errors(right, settings, rows)


def draw_point(axes: Axes, rows: list[Row]) -> None:
    """Draw the error at each step of an episode, and the closed form."""
    steps = np.arange(STEPS)
    for place, policy in enumerate(POLICIES):
        band(axes, steps, [row["errors"] for row in select(rows, POINT, policy)], policy, place, markevery=1)
    axes.plot(steps, best_memoryless_error(steps), "k--", linewidth=1, label="best without memory, exact")
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("step of an episode, t")
    axes.set_ylabel("root-mean-square error of the point")
    axes.legend(frameon=False, fontsize=8, title="median and range", title_fontsize=8, loc="upper right")


def draw_final_errors(axes: Axes, settings: Settings, rows: list[Row]) -> None:
    """Draw the final errors on the arm, those of a seed connected, with mean and interval beside them."""
    for group, preset in enumerate(settings.presets):
        errors = np.array([arm_errors(rows, preset, policy) for policy in POLICIES])
        axes.plot((3 * group, 3 * group + 1), errors, color="0.75", linewidth=0.8)
        for place, values in enumerate(errors):
            x = 3 * group + place
            style: dict[str, Any] = {"color": COLOURS[place], "marker": MARKERS[place], "linestyle": ""}
            axes.plot(np.full(len(values), x), values, markersize=4, alpha=0.5, **style)
            mean = mean_interval(values)
            bar = [[mean.mean - mean.low], [mean.high - mean.mean]]
            axes.errorbar(x + 0.5 * place - 0.25, mean.mean, bar, capsize=3, **style)
    names = [f"{policy}\n{preset}" for preset in settings.presets for policy in POLICIES]
    axes.set_xticks([0, 1, 3, 4][: len(names)], names, fontsize=8)
    axes.set_xlabel("lines: the same seed; bars: mean, 95 % interval")
    axes.set_ylabel("final error of the arm in mm, held-out goals")


EXPERIMENT = Experiment(
    claim=(
        "A policy gradient trains a recurrent policy like any other, and with speeds hidden and commands late its "
        "memory lowers the error below that of a feed-forward policy."
    ),
    settings=Settings(),
    quick=Settings(updates=50, arm_steps=8_000, goals=50, ideal=False),
    cases=cases,
    measure=measure,
    judge=judge,
    draw=draw,
    seeds=20,
    quick_seeds=2,
    min_seeds=2,
    size=(13.0, 4.4),
)
