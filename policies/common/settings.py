"""The base class of all agents' settings, settings that several agents share, and their validation.

The settings of an agent are a frozen dataclass in `policies/<agent>/settings.py`. They do not import PyTorch, so that
`--help` works on the base install.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

MIN_STD = 0.01  # bounds of the standard deviation of a normal step, in units of the largest step
MAX_STD = 2.0

MAX_SLOWING_DISTANCE_M = 10.0
MAX_FOURIER_OCTAVES = 10

ActionKind = Literal["degrees", "index", "positions"]


class AgentSettings:
    """The properties of an agent that the program uses. The settings of each agent override those that differ."""

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
        """Default number of environments."""
        return 8

    @property
    def action_repeat(self) -> int:
        """Control steps for which an action is held in training; their rewards are averaged, without a discount."""
        return 1

    @property
    def worker_processes(self) -> int:
        """Number of processes that act and learn on shared parameters; 0: the training's own process learns."""
        return 0

    @property
    def stochastic(self) -> bool:
        """True if the agent's policy is a `policies.agent.StochasticPolicy`."""
        return False

    @property
    def asynchronous(self) -> bool:
        """True if worker processes learn concurrently rather than in turns."""
        return False

    def check_num_envs(self, num_envs: int, processes: int) -> None:
        """Raise ValueError if the agent does not support this number of environments or of processes."""


# Upper bounds of integers: larger values exceed any memory, or delay the reaction to Ctrl-C indefinitely.
MAXIMUM = {
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
    """Raise ValueError unless the `positive` fields are positive and within `MAXIMUM`, and the `fractions` in 0..1."""
    for name in positive:
        value = getattr(settings, name)
        if not 0 < value < math.inf:
            raise ValueError(f"{name.replace('_', '-')}: expected a positive number, got {value}")
        if value > MAXIMUM.get(name, math.inf):
            raise ValueError(f"{name.replace('_', '-')}: expected at most {MAXIMUM[name]}, got {value}")
    for name in fractions:
        value = getattr(settings, name)
        if not 0 <= value <= 1:
            raise ValueError(f"{name.replace('_', '-')}: expected a number from 0 to 1, got {value}")


def check_slowing_distance(distance: float) -> None:
    """Raise ValueError unless the distance, in metres, is within its bounds."""
    if not 0 <= distance <= MAX_SLOWING_DISTANCE_M:
        raise ValueError(f"slowing-distance: expected from 0 to {MAX_SLOWING_DISTANCE_M:g} m, got {distance}")


def check_fourier_octaves(octaves: int) -> None:
    """Raise ValueError unless the number of octaves is within its bounds."""
    if not 0 <= octaves <= MAX_FOURIER_OCTAVES:
        raise ValueError(f"fourier-octaves: expected a number from 0 to {MAX_FOURIER_OCTAVES}, got {octaves}")


class ReplaySettings(Protocol):
    """The settings that all agents with a replay buffer have."""

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
    """Raise ValueError if the settings of the replay buffer or of relabelling contradict each other."""
    check_fourier_octaves(settings.fourier_octaves)
    if settings.relabel_near + settings.relabel_other > 1:
        raise ValueError(
            "relabel-near and relabel-other: expected fractions with a sum of at most 1, got "
            f"{settings.relabel_near} and {settings.relabel_other}"
        )
    if not settings.batch_size <= settings.learning_starts <= settings.buffer_size:
        raise ValueError(
            "learning-starts: expected from batch-size to buffer-size, "
            f"{settings.batch_size} to {settings.buffer_size}, got {settings.learning_starts}"
        )


@dataclass(frozen=True)
class QLearningSettings(AgentSettings):
    """Settings of the agents that learn Q-values over the degree grid."""

    hidden_units: int = 64
    """Units in each of the two hidden layers."""
    fourier_octaves: int = 2
    """Octaves of Fourier features (sines and cosines) of each input of the networks."""
    learning_rate: float = 1e-3
    """Initial learning rate of Adam; it falls linearly to nearly zero over the training."""
    discount: float = 0.5
    """gamma: discount factor per action."""
    double_q: bool = True
    """Double Q-learning: the online network selects the action that the target network evaluates (van Hasselt et al.
    2016)."""
    action_repeat: int = 1
    """Control steps for which an action is held in training (the paper's frame skip); their rewards are averaged."""
    target_period: int = 100
    """Updates between copies of the online network to the target network."""
    batch_size: int = 64
    """Transitions in the minibatch of one update."""
    buffer_size: int = 400_000
    """Capacity of the replay buffer, in transitions."""
    learning_starts: int = 2_000
    """Uniformly random steps, of all environments together, before learning starts."""
    updates_per_step: int = 1
    """Updates after each action of all environments."""
    min_epsilon: float = 0.001
    """Minimum of the environments' epsilons, the fractions of random actions."""
    max_epsilon: float = 0.4
    """Maximum of the environments' epsilons, which are spaced geometrically."""
    relabel_near: float = 0.4
    """Fraction of a batch relabelled with a goal near the tip."""
    relabel_other: float = 0.4
    """Fraction of a batch relabelled with the goal of another transition."""
    relabel_distance: float = 0.06
    """Maximum distance from the tip of a goal near it, in metres; the minimum is a hundredth of it. Stated for a
    reach of 0.7 m, and scaled in proportion to the arm's reach."""

    def __post_init__(self) -> None:
        sizes = ("hidden_units", "learning_rate", "batch_size", "buffer_size", "updates_per_step")
        others = ("action_repeat", "target_period", "min_epsilon", "max_epsilon", "relabel_distance")
        fractions = ("discount", "min_epsilon", "max_epsilon", "relabel_near", "relabel_other")
        check_numbers(self, positive=sizes + others, fractions=fractions)
        check_replay(self)


@dataclass(frozen=True)
class PolicyGradientSettings(AgentSettings):
    """Settings of the agents that follow the gradient of a stochastic policy."""

    num_envs: ClassVar[int] = 32
    stochastic: ClassVar[bool] = True

    policy: Literal["gaussian", "squashed", "clipped", "softmax"] = "squashed"
    """Distribution of the actions: a normal step, plain, squashed or clipped; or, on the degree grid, a softmax."""
    std: Literal["fixed", "learned", "state"] = "state"
    """Standard deviation of a normal step: fixed, a learned parameter, or an output of the network for each state."""
    initial_std: float = 0.3
    """Initial standard deviation, in units of the largest step."""
    hidden_units: int = 64
    """Units in each of the two hidden layers of policy and value network."""
    fourier_octaves: int = 2
    """Octaves of Fourier features (sines and cosines) of each input of the networks."""
    learning_rate: float = 1e-3
    """Initial learning rate; it falls linearly to nearly zero over the training."""
    discount: float = 0.9
    """gamma: discount factor per action."""
    entropy_coef: float = 0.0
    """beta: coefficient of the entropy in the loss (it has little effect beside scaled advantages)."""
    max_step: float = 2.0
    """Largest distance of a target from the measured angle, as a multiple of what a joint can move in one control
    period."""
    slowing_distance: float = 0.02
    """Distance to the goal, in metres, within which steps are scaled down in proportion to it; 0 disables this. Stated
    for a reach of 0.7 m, and scaled in proportion to the arm's reach."""
    learning_starts: int = 4_000
    """Random steps, of all environments together, before learning starts; they fit the inputs' normalisation."""
    scale_advantage: bool = True
    """Divide the advantages of an update by their root mean square; otherwise steps shrink as the policy improves."""
    max_grad_norm: float = 0.5
    """Norm at which gradients are clipped, those of the policy and of the value separately."""

    @property
    def actions(self) -> ActionKind:
        """Kind of actions of the policy."""
        return "positions" if self.policy == "softmax" else "degrees"

    @property
    def actions_flag(self) -> str:
        """The flag that selects the policy, and with it the kind of actions."""
        return f"--policy {self.policy}"

    @property
    def rollout_steps(self) -> int | None:
        """Steps of each environment between updates; None: whole episodes."""
        return 1

    @property
    def recurrent(self) -> bool:
        """True if policy and value have an LSTM."""
        return False

    def __post_init__(self) -> None:
        positive = ("hidden_units", "learning_rate", "max_step", "learning_starts", "max_grad_norm")
        check_numbers(self, positive, fractions=("discount",))
        check_slowing_distance(self.slowing_distance)
        check_fourier_octaves(self.fourier_octaves)
        if not MIN_STD <= self.initial_std <= MAX_STD:
            bounds = f"from {MIN_STD} to {MAX_STD}"
            raise ValueError(f"initial-std: expected {bounds}, got {self.initial_std}")
        if self.policy == "softmax" and (self.std, self.initial_std) != ("state", 0.3):
            raise ValueError(
                "std and initial-std: a softmax policy has no standard deviation; its randomness comes from its logits"
            )
        if not 0 <= self.entropy_coef < math.inf:
            raise ValueError(f"entropy-coef: expected a number from 0, got {self.entropy_coef}")
