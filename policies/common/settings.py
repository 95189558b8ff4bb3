"""Settings that several agents share, their checks, and what every agent declares about itself.

The settings of an agent are a frozen dataclass in `policies/<agent>/settings.py`. They do not load PyTorch, so that
`--help` works on the base install.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

MIN_STD = 0.01  # of a normal step, as a fraction of the largest one
MAX_STD = 2.0

LARGEST_SLOWING_DISTANCE = 10.0

ActionKind = Literal["degrees", "index", "positions"]


class AgentSettings:
    """What the program needs to know about an agent. Each agent's settings override what differs."""

    @property
    def actions(self) -> ActionKind:
        """Kind of actions: angles in degrees, one index on the degree grid, or a grid position for each joint."""
        return "degrees"

    @property
    def actions_flag(self) -> str:
        """The flag that chooses the kind of actions, as on the command line; empty if there is none."""
        return ""

    @property
    def num_envs(self) -> int:
        """Number of arms simulated in parallel by default."""
        return 8

    @property
    def action_repeat(self) -> int:
        """Control steps for which an action is held while learning; their rewards are averaged, without a discount."""
        return 1

    @property
    def worker_processes(self) -> int:
        """Number of processes that act and learn on shared parameters; 0 to learn in the training's own process."""
        return 0

    @property
    def asynchronous(self) -> bool:
        """Whether worker processes learn at the same time, rather than in turns."""
        return False

    def check_num_envs(self, num_envs: int, processes: int) -> None:
        """Raise ValueError if the agent cannot learn from so many arms, simulated in so many processes."""


# Of whole numbers: more would not fit into any memory, or the work between two looks for Ctrl-C would not end.
LARGEST = {
    "hidden_units": 4096,
    "critic_units": 4096,
    "n_step": 10_000,
    "batch_size": 1_000_000,
    "buffer_size": 10**9,
    "learning_starts": 10**9,
    "updates_per_step": 10_000,
    "action_repeat": 10_000,
    "target_period": 10**9,
    "steps_per_update": 100_000,
}


def check_numbers(settings: object, positive: tuple[str, ...], fractions: tuple[str, ...]) -> None:
    """Raise ValueError unless these fields are positive and finite, within their bounds, and these from 0 to 1."""
    for name in positive:
        value = getattr(settings, name)
        if not 0 < value < math.inf:
            raise ValueError(f"{name.replace('_', '-')}: expected a positive number, got {value}")
        if value > LARGEST.get(name, math.inf):
            raise ValueError(f"{name.replace('_', '-')}: expected at most {LARGEST[name]}, got {value}")
    for name in fractions:
        if not 0 <= (value := getattr(settings, name)) <= 1:
            raise ValueError(f"{name.replace('_', '-')}: expected a number from 0 to 1, got {value}")


def check_slowing_distance(distance: float) -> None:
    """Raise ValueError unless the distance (m) is within its bounds."""
    if not 0 <= distance <= LARGEST_SLOWING_DISTANCE:
        raise ValueError(f"slowing-distance: expected from 0 to {LARGEST_SLOWING_DISTANCE:g} m, got {distance}")


def check_fourier_octaves(octaves: int) -> None:
    """Raise ValueError unless the number of octaves is within its bounds."""
    if not 0 <= octaves <= 10:
        raise ValueError(f"fourier-octaves: expected a number from 0 to 10, got {octaves}")


class ReplaySettings(Protocol):
    """The settings that agents with a replay buffer have in common."""

    @property
    def fourier_octaves(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def buffer_size(self) -> int: ...
    @property
    def learning_starts(self) -> int: ...
    @property
    def relabel_near(self) -> float: ...
    @property
    def relabel_other(self) -> float: ...


def check_replay(settings: ReplaySettings) -> None:
    """Raise ValueError unless the settings of the replay buffer and of relabelling fit together."""
    check_fourier_octaves(settings.fourier_octaves)
    if settings.relabel_near + settings.relabel_other > 1:
        raise ValueError(
            "relabel-near and relabel-other: expected shares that add up to at most 1, got "
            f"{settings.relabel_near} and {settings.relabel_other}"
        )
    if not settings.batch_size <= settings.learning_starts <= settings.buffer_size:
        raise ValueError(
            "learning-starts: expected from batch-size to buffer-size, "
            f"{settings.batch_size} to {settings.buffer_size}, got {settings.learning_starts}"
        )


@dataclass(frozen=True)
class QLearningSettings(AgentSettings):
    """Settings shared by the agents that learn Q-values over the degree grid."""

    hidden_units: int = 64
    """Units in each of the two hidden layers below the Q-values."""
    fourier_octaves: int = 2
    """Octaves of sines and cosines added to each input of the networks."""
    learning_rate: float = 1e-3
    """Adam's step size at the start; it falls to nearly zero over the training."""
    discount: float = 0.5
    """gamma: how much a reward one step later counts."""
    double_q: bool = True
    """Let the network that learns choose the action that its older copy judges (van Hasselt et al. 2016)."""
    action_repeat: int = 1
    """Control steps for which an action is held while learning (the paper's frame skip); their rewards are averaged."""
    target_period: int = 100
    """Updates after which the target network becomes a copy of the one that learns."""
    batch_size: int = 64
    """Transitions in one update."""
    buffer_size: int = 400_000
    """Transitions remembered."""
    learning_starts: int = 2_000
    """Steps of uniformly random actions before learning starts."""
    updates_per_step: int = 1
    """Updates for each action of all arms together."""
    min_epsilon: float = 0.001
    """Share of random actions of the calmest arm."""
    max_epsilon: float = 0.4
    """The same of the wildest arm; the others lie between, in equal ratios."""
    relabel_near: float = 0.4
    """Share of a batch relabelled for a goal near the tip."""
    relabel_other: float = 0.4
    """Share of a batch relabelled for the goal of another transition."""
    relabel_distance: float = 0.06
    """Farthest distance from the tip of a goal near it, in metres; the nearest is a hundredth of it (for an arm with a
    reach of 0.7 m, and in proportion for others)."""

    def __post_init__(self) -> None:
        positive = ("hidden_units", "learning_rate", "batch_size", "buffer_size", "updates_per_step")
        more = ("action_repeat", "target_period", "min_epsilon", "max_epsilon", "relabel_distance")
        fractions = ("discount", "min_epsilon", "max_epsilon", "relabel_near", "relabel_other")
        check_numbers(self, positive + more, fractions)
        check_replay(self)


@dataclass(frozen=True)
class PolicyGradientSettings(AgentSettings):
    """Settings shared by the agents that follow the gradient of a stochastic policy."""

    num_envs: ClassVar[int] = 32

    policy: Literal["gaussian", "squashed", "clipped", "softmax"] = "squashed"
    """What actions are drawn from: a normal step, as it is, squashed or clipped; or, on the degree grid, a softmax."""
    std: Literal["fixed", "learned", "state"] = "state"
    """A normal step's standard deviation: fixed, a parameter that is learned, or learned for each state."""
    initial_std: float = 0.3
    """The standard deviation at the start, as a share of the largest step."""
    hidden_units: int = 64
    """Units in each of the two hidden layers of policy and value."""
    fourier_octaves: int = 2
    """Octaves of sines and cosines added to each input of the networks."""
    learning_rate: float = 1e-3
    """The step size at the start; it falls to nearly zero over the training."""
    discount: float = 0.9
    """gamma: how much a reward one step later counts."""
    entropy_coef: float = 0.0
    """beta: how much the policy's entropy counts beside its advantages (beside scaled ones, little)."""
    max_step: float = 2.0
    """Farthest from the measured angle that a target is asked for, in what a joint can move in one control period."""
    slowing_distance: float = 0.02
    """Distance to the goal, in metres, within which steps get smaller in proportion to it (0: never; for an arm with a
    reach of 0.7 m, and in proportion for others)."""
    learning_starts: int = 4_000
    """Steps of random actions before learning starts, for the inputs' scale."""
    scale_advantage: bool = True
    """Divide an update's advantages by their root mean square, or steps would shrink as the policy gets better."""
    max_grad_norm: float = 0.5
    """Norm to which longer gradients, of the policy and of the value separately, are cut."""

    @property
    def actions(self) -> ActionKind:
        """The kind of actions that the policy gives."""
        return "positions" if self.policy == "softmax" else "degrees"

    @property
    def actions_flag(self) -> str:
        """The flag that chooses the policy, and with it the kind of actions."""
        return f"--policy {self.policy}"

    @property
    def rollout_steps(self) -> int | None:
        """Steps of each arm before each update; None for whole episodes."""
        return 1

    @property
    def recurrent(self) -> bool:
        """Whether policy and value have a recurrent state."""
        return False

    def __post_init__(self) -> None:
        positive = ("hidden_units", "learning_rate", "max_step", "learning_starts")
        check_numbers(self, (*positive, "max_grad_norm"), fractions=("discount",))
        check_slowing_distance(self.slowing_distance)
        check_fourier_octaves(self.fourier_octaves)
        if not MIN_STD <= self.initial_std <= MAX_STD:
            bounds = f"from {MIN_STD} to {MAX_STD}"
            raise ValueError(f"initial-std: expected {bounds}, got {self.initial_std}")
        if self.policy == "softmax" and (self.std, self.initial_std) != ("state", 0.3):
            raise ValueError("std and initial-std: a softmax policy has none; its randomness comes from its logits")
        if not 0 <= self.entropy_coef < math.inf:
            raise ValueError(f"entropy-coef: expected a number from 0, got {self.entropy_coef}")
