"""Right actions before right values: states in which the arm points straight away from its goal.

The base joint is at one end of its 90 degrees, the goal at the other, at the tip's height and radius. Whatever the
value of this state, the right action is obvious: turn the base towards the goal. The project's DDPG learns both, an
actor mu(s) and a critic Q(s, a). After some of its updates, the actor is judged by its direction, and the critic by the
return G that it predicts:

    right action        sign(mu_base(s) - angle)  =  sign(goal - angle)
    discounted return   G  =  r_1 + gamma r_2 + gamma^2 r_3 + ...,  of following mu from s
    error of Q          sqrt(mean (Q(s, mu(s)) - G)^2)  /  sqrt(mean G^2)

A critic that knows nothing, Q = 0, has an error of 1. The actor climbs dQ/da at a = mu(s) (Silver et al. 2014, equation
9), so that it needs the sign of a slope. Q has to predict all rewards to come, and those of a policy that still
improves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from arm_control.evaluation.torch_controller import one_thread
from arm_control.lab.common.drawing import COLOURS, MARKERS, band, reference
from arm_control.lab.common.experiment import Case, Experiment, Row, Verdict
from arm_control.lab.common.statistics import mean_interval
from arm_control.runs.config import TrainConfig
from arm_control.runs.environment import environment_maker
from arm_control.training.collector import Collector
from arm_control.training.loop import Training
from envs.arm_env import ArmEnv
from envs.observation import split_observation
from policies.agent import OBSERVATION_KEYS, Observation
from policies.ddpg.agent import DDPG, DISCOUNT
from policies.ddpg.settings import DDPGSettings

Array = NDArray[np.float64]

BASE = 0  # the joint that turns the arm
HORIZON = 200  # steps of a return: what comes later is weighted by less than 0.97^200 = 0.2 %
STATES_SEED = 0
RIGHT_SHARE = 0.95  # of the states: the policy is right
KNOWN_ERROR = 0.1  # of Q: the value is known
WRONG_ERROR = 0.5  # of Q: the value is wrong
FIRST_CHECKPOINT = 10  # updates


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    steps: int = 30_000
    """Length of each training in environment steps."""
    learning_rate: float = 0.003
    """Step size of actor and critic at the start; it falls to nearly zero."""
    batch_size: int = 64
    """Transitions in the minibatch of one update."""
    states: int = 12
    """Number of states in which the arm points straight away from the goal."""
    checkpoints: int = 14
    """Number of updates, spaced geometrically, after which policy and critic are compared with the truth."""


@dataclass(frozen=True)
class AwayState:
    """A state in an environment of its own."""

    env: ArmEnv
    options: dict[str, Any]  # of `reset`: pose and goal
    goal_direction: float  # of the base: 1 if it has to turn to larger angles, else -1


def away_states(count: int) -> list[AwayState]:
    """States with random shoulder and elbow; in every second one the base has to turn to larger angles."""
    make_env = environment_maker(TrainConfig("ddpg", episode_steps=HORIZON))
    generator = np.random.default_rng(STATES_SEED)
    states = []
    for index in range(count):
        env = make_env().unwrapped
        assert isinstance(env, ArmEnv)
        limits = env.arm.limits
        ends_deg = (limits.lower_deg[BASE], limits.upper_deg[BASE])
        begins_low = index % 2 == 0
        angles_deg = generator.uniform(limits.lower_deg, limits.upper_deg)
        goal_angles_deg = angles_deg.copy()
        angles_deg[BASE] = ends_deg[0] if begins_low else ends_deg[1]
        goal_angles_deg[BASE] = ends_deg[1] if begins_low else ends_deg[0]
        goal_m = env.arm.tip_position(goal_angles_deg.tolist())
        options = {"angles_deg": angles_deg.tolist(), "goal_m": goal_m}
        states.append(AwayState(env, options, 1.0 if begins_low else -1.0))
    return states


def stacked(observations: list[Observation]) -> Observation:
    """Observations of several environments as one batch."""
    return {key: np.stack([observation[key] for observation in observations]) for key in OBSERVATION_KEYS}


def right_share(target_deg: ArrayLike, angle_deg: ArrayLike, goal_direction: ArrayLike) -> float:
    """The share of states (n,) in which the base's target lies on the goal's side of its angle."""
    return float(np.mean(np.sign(np.subtract(target_deg, angle_deg)) == goal_direction))


def discounted_return(rewards: Array, discount: float) -> Array:
    """G (n,) of rewards (steps, n)."""
    # G = r_1 + gamma r_2 + gamma^2 r_3 + ...
    weights = discount ** np.arange(len(rewards))
    total: Array = weights @ rewards
    return total


def relative_error(predicted: ArrayLike, actual: ArrayLike) -> float:
    """The root mean square of the errors of predictions (n,), in units of that of the actual values (n,)."""
    squared_error = np.mean(np.subtract(predicted, actual) ** 2)
    return float(np.sqrt(squared_error / np.mean(np.square(actual))))


def compare_with_truth(agent: DDPG, states: list[AwayState]) -> dict[str, float]:
    """The share of right actions and the error of Q, by following the policy from each state."""
    # Q(s, a) and the direction of a = mu(s)
    observation = stacked([state.env.reset(seed=0, options=state.options)[0] for state in states])
    action = agent.act(observation, explore=False)
    q = agent.q(observation, action)
    angles_deg = split_observation(observation["observation"])[0]
    goal_direction = np.array([state.goal_direction for state in states])
    right = right_share(action[:, BASE], angles_deg[:, BASE], goal_direction)
    # Follow mu to the end of the horizon.
    rewards = []
    for _ in range(HORIZON):
        steps = [state.env.step(row) for state, row in zip(states, action, strict=True)]
        rewards.append([step[1] for step in steps])
        action = agent.act(stacked([step[0] for step in steps]), explore=False)
    actual = discounted_return(np.array(rewards), DISCOUNT)
    return {
        "right": right,
        "error": relative_error(q, actual),
        "q": float(q.mean()),
        "return": float(actual.mean()),
    }


def cases(settings: Settings, seeds: int) -> list[Case]:
    """One training a seed."""
    return [{"seed": seed} for seed in range(seeds)]


@one_thread()
def measure(settings: Settings, case: Case) -> Row:
    """Train DDPG, and compare policy and critic with the truth at the checkpoints."""
    agent_settings = DDPGSettings(learning_rate=settings.learning_rate, batch_size=settings.batch_size)
    config = TrainConfig("ddpg", agent_settings, steps=settings.steps, seed=case["seed"])
    most_updates = (settings.steps - agent_settings.learning_starts) // config.num_envs
    checkpoints = np.unique(np.geomspace(FIRST_CHECKPOINT, most_updates, settings.checkpoints).round())
    states = away_states(settings.states)
    row: Row = {"updates": [], "right": [], "error": [], "q": [], "return": []}
    with Training(config) as training:
        while len(row["updates"]) < len(checkpoints):
            # Act on all arms, store the transitions, and update actor and critic.
            training.advance()
            if training.updates >= checkpoints[len(row["updates"])]:
                assert isinstance(training.learner, Collector)
                assert isinstance(training.learner.agent, DDPG)
                row["updates"].append(training.updates)
                for name, value in compare_with_truth(training.learner.agent, states).items():
                    row[name].append(value)
    for state in states:
        state.env.close()
    return row


def for_good(reached: Sequence[bool]) -> int | None:
    """The first checkpoint from which on something is reached at all later ones, too; None if it is not at the last."""
    first = len(reached)
    while first > 0 and reached[first - 1]:
        first -= 1
    return first if first < len(reached) else None


def right_from(row: Row) -> int | None:
    """The checkpoint from which on the policy is right."""
    return for_good([share >= RIGHT_SHARE for share in row["right"]])


def known_from(row: Row) -> int | None:
    """The checkpoint from which on the value is known."""
    return for_good([error <= KNOWN_ERROR for error in row["error"]])


def judge(settings: Settings, rows: list[Row]) -> Verdict:
    """The policy is right while Q is wrong, and before Q is known."""
    if any(right_from(row) is None for row in rows):
        shares = [row["right"][-1] for row in rows]
        return Verdict(False, f"The policy does not become right: {mean_interval(shares)} of its last actions are.")
    right_updates = []
    known_updates = []
    largest_errors = []
    for row in rows:
        right = right_from(row)
        known = known_from(row)
        right_updates.append(row["updates"][right])
        largest_errors.append(max(row["error"][right:]))
        # A value that is not known at the end counts as if it were then: this understates the claim.
        known_updates.append(row["updates"][-1 if known is None else known])
    error = mean_interval(largest_errors)
    policy_is_first = all(known > right for known, right in zip(known_updates, right_updates, strict=True))
    ratio = np.median(known_updates) / np.median(right_updates)
    not_known = sum(known_from(row) is None for row in rows)
    bound = f", at least, since {not_known} of {len(rows)} trainings end before" if not_known else ""
    sentence = (
        f"The base turns towards the goal in at least {RIGHT_SHARE:.0%} of the states from {min(right_updates)} to "
        f"{max(right_updates)} updates on. After that the relative error of Q still reaches {error} (Q = 0 has 1); for "
        f"an error of {KNOWN_ERROR:g} it takes {ratio:.0f} times as many updates by the medians{bound}."
    )
    return Verdict(error.low > WRONG_ERROR and policy_is_first, sentence)


def draw(settings: Settings, rows: list[Row], figure: Figure) -> None:
    """Right actions and the error of Q over training, Q beside the return, and the first two against each other."""
    left, middle, right = figure.subplots(1, 3)
    updates = rows[0]["updates"]
    band(left, updates, [row["right"] for row in rows], "share of right actions", 0, markevery=1)
    band(left, updates, [row["error"] for row in rows], "relative error of Q", 1, markevery=1)
    reference(left, KNOWN_ERROR, f"value known: {KNOWN_ERROR:g}")
    left.set_ylabel("share, and relative error")

    band(middle, updates, [row["return"] for row in rows], "return G of the policy", 0, markevery=1)
    band(middle, updates, [row["q"] for row in rows], "Q(s, mu(s)) of the critic", 1, markevery=1)
    middle.set_ylabel("mean over the states (discounted reward)")
    for axes in (left, middle):
        axes.set_xscale("log")
        axes.set_xlabel("updates of actor and critic")
        axes.legend(frameon=False, fontsize=8)

    for place, row in enumerate(rows):
        style = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)], "markersize": 4}
        right.plot(row["error"], row["right"], label=f"seed {row['seed']}", **style)
    right.invert_xaxis()
    reference(right, 0.5, "chance")
    right.set_xlabel("relative error of Q (falls to the right)")
    right.set_ylabel("share of right actions")
    right.legend(frameon=False, fontsize=8)


EXPERIMENT = Experiment(
    claim="In many states the right action is obvious long before its value is known.",
    settings=Settings(),
    quick=Settings(steps=7_600, states=6, checkpoints=9),
    cases=cases,
    measure=measure,
    judge=judge,
    draw=draw,
    seeds=4,
    quick_seeds=3,
    min_seeds=2,
    size=(13.0, 4.2),
)
