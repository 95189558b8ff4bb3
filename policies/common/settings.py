"""The settings of each agent: plain dataclasses without PyTorch, so that `--help` works on the base install."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

SMALLEST_DEVIATION, LARGEST_DEVIATION = 0.01, 2.0  # of a normal step, as shares of the largest one

LARGEST_SLOWING_DISTANCE = 10.0

ActionKind = Literal["degrees", "index", "positions"]


# Of whole numbers: more would not fit into any memory, or the work between two looks for Ctrl-C would not end.
LARGEST = {
    "hidden_units": 4096,
    "critic_units": 4096,
    "n_step": 10_000,
    "batch_size": 1_000_000,
    "replay_capacity": 10**9,
    "random_steps": 10**9,
    "updates_per_step": 10_000,
    "action_repeat": 10_000,
    "target_period": 10**9,
    "steps_per_update": 100_000,
}


def _check(settings: object, positive: tuple[str, ...], fractions: tuple[str, ...]) -> None:
    """Raise ValueError unless these fields are positive and finite, within their bounds, and these from 0 to 1."""
    for name in positive:
        value = getattr(settings, name)
        if not 0 < value < math.inf:
            raise ValueError(f"{name.replace('_', '-')}: wanted a positive number, got {value}")
        if value > LARGEST.get(name, math.inf):
            raise ValueError(f"{name.replace('_', '-')}: expected at most {LARGEST[name]}, got {value}")
    for name in fractions:
        if not 0 <= (value := getattr(settings, name)) <= 1:
            raise ValueError(f"{name.replace('_', '-')}: wanted a number from 0 to 1, got {value}")


def _check_slowing(distance: float) -> None:
    if not 0 <= distance <= LARGEST_SLOWING_DISTANCE:
        raise ValueError(f"slowing-distance: expected from 0 to {LARGEST_SLOWING_DISTANCE:g} m, got {distance}")


def _check_octaves(octaves: int) -> None:
    if not 0 <= octaves <= 10:
        raise ValueError(f"fourier-octaves: wanted a number from 0 to 10, got {octaves}")


def _check_replay(settings: "DDPGSettings | QLearningSettings") -> None:
    """What the agents that learn from a replay buffer have in common."""
    _check_octaves(settings.fourier_octaves)
    if settings.relabel_near + settings.relabel_other > 1:
        raise ValueError(
            "relabel-near and relabel-other: wanted shares that add up to at most 1, got "
            f"{settings.relabel_near} and {settings.relabel_other}"
        )
    if not settings.batch_size <= settings.random_steps <= settings.replay_capacity:
        raise ValueError(
            "random-steps: wanted from batch-size to replay-capacity, "
            f"{settings.batch_size} to {settings.replay_capacity}, got {settings.random_steps}"
        )


@dataclass(frozen=True)
class DDPGSettings:
    """Deep deterministic policy gradient (Lillicrap et al. 2015) with goal relabelling."""

    actions: ClassVar[ActionKind] = "degrees"
    action_repeat: ClassVar[int] = 1
    arms: ClassVar[int] = 8

    hidden_units: int = 128
    """Units in each of the two hidden layers of actor and critic."""
    fourier_octaves: int = 4
    """Octaves of sines and cosines added to each input of the networks."""
    learning_rate: float = 1e-3
    """Adam's step size for actor and critic at the start; it falls to nearly zero over the training."""
    discount: float | None = None
    """gamma of equation (5): how much a reward one step later counts (0.97, or 0.5 for a goal that moves, unless
    given)."""
    n_step: int = 1
    """Rewards summed up before the critic's own value takes over, fewer at an episode's end."""
    target_networks: bool = True
    """Let slowly following copies judge the next state; without, the critic runs after itself."""
    replay: bool = True
    """Draw from all that is remembered; without, from the last step of all arms."""
    target_rate: float = 0.03
    """tau of Algorithm 1: how far the target networks follow in one update."""
    batch_size: int = 256
    """Transitions in one update."""
    replay_capacity: int = 400_000
    """Transitions remembered."""
    random_steps: int = 2_000
    """Steps of uniformly random actions before learning starts."""
    updates_per_step: int = 1
    """Updates for each step of all arms together."""
    largest_step: float = 2.0
    """Farthest from the measured angle that a target is asked for, in what a joint can move in one control period."""
    slowing_distance: float = 0.02
    """Distance to the goal, in metres, within which steps get smaller in proportion to it (0: never; for an arm with a
    reach of 0.7 m, and in proportion for others)."""
    smallest_noise: float = 0.01
    """Standard deviation of the exploration noise of the calmest arm, as a share of the largest step."""
    largest_noise: float = 0.5
    """The same of the wildest arm; the others lie between, in equal ratios."""
    relabel_near: float = 0.4
    """Share of a batch relabelled for a goal near the tip."""
    relabel_other: float = 0.4
    """Share of a batch relabelled for the goal of another transition."""
    relabel_distance: float = 0.06
    """Farthest distance from the tip of a goal near it, in metres; the nearest is a hundredth of it (for an arm with a
    reach of 0.7 m, and in proportion for others)."""

    def __post_init__(self) -> None:
        positive = ("hidden_units", "learning_rate", "n_step", "batch_size", "replay_capacity", "updates_per_step")
        noises = ("largest_step", "smallest_noise", "largest_noise", "relabel_distance")
        discount = () if self.discount is None else ("discount",)
        _check(self, positive + noises, fractions=(*discount, "target_rate", "relabel_near", "relabel_other"))
        _check_slowing(self.slowing_distance)
        _check_replay(self)


@dataclass(frozen=True)
class QLearningSettings:
    """What both Q-learners have in common."""

    arms: ClassVar[int] = 8

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
    """Steps for which an arm keeps to an action while it learns (the paper's frame skip)."""
    target_period: int = 100
    """Updates after which the target network becomes a copy of the one that learns."""
    batch_size: int = 64
    """Transitions in one update."""
    replay_capacity: int = 400_000
    """Transitions remembered."""
    random_steps: int = 2_000
    """Steps of uniformly random actions before learning starts."""
    updates_per_step: int = 1
    """Updates for each action of all arms together."""
    smallest_epsilon: float = 0.001
    """Share of random actions of the calmest arm."""
    largest_epsilon: float = 0.4
    """The same of the wildest arm; the others lie between, in equal ratios."""
    relabel_near: float = 0.4
    """Share of a batch relabelled for a goal near the tip."""
    relabel_other: float = 0.4
    """Share of a batch relabelled for the goal of another transition."""
    relabel_distance: float = 0.06
    """Farthest distance from the tip of a goal near it, in metres; the nearest is a hundredth of it (for an arm with a
    reach of 0.7 m, and in proportion for others)."""

    def __post_init__(self) -> None:
        positive = ("hidden_units", "learning_rate", "batch_size", "replay_capacity", "updates_per_step")
        more = ("action_repeat", "target_period", "smallest_epsilon", "largest_epsilon", "relabel_distance")
        fractions = ("discount", "smallest_epsilon", "largest_epsilon", "relabel_near", "relabel_other")
        _check(self, positive + more, fractions)
        _check_replay(self)


@dataclass(frozen=True)
class DQNSettings(QLearningSettings):
    """Deep Q-learning (Mnih et al. 2015) with one output for every action of the degree grid."""

    actions: ClassVar[ActionKind] = "index"

    action_repeat: int = 5
    """Steps for which an arm keeps to an action while it learns (the paper's frame skip)."""
    updates_per_step: int = 5
    """Updates for each action of all arms together."""
    head: Literal["random", "zero", "features"] = "zero"
    """How the outputs' weights start, at random or at zero; or features: computed from each action's angles."""


@dataclass(frozen=True)
class BranchingDQNSettings(QLearningSettings):
    """Deep Q-learning with outputs for each joint's positions, added up (Tavakoli et al. 2018, Seyde et al. 2023)."""

    actions: ClassVar[ActionKind] = "positions"

    batch_size: int = 128
    """Transitions in one update."""


@dataclass(frozen=True)
class PolicyGradientSettings:
    """What the learners have in common that follow the gradient of a stochastic policy."""

    action_repeat: ClassVar[int] = 1
    arms: ClassVar[int] = 32

    policy: Literal["gaussian", "squashed", "clipped", "softmax"] = "squashed"
    """What actions are drawn from: a normal step, as it is, squashed or clipped; or, on the degree grid, a softmax."""
    deviation: Literal["fixed", "learned", "state"] = "state"
    """A normal step's standard deviation: fixed, a parameter that is learned, or learned for each state."""
    initial_deviation: float = 0.3
    """The standard deviation at the start, as a share of the largest step."""
    hidden_units: int = 64
    """Units in each of the two hidden layers of policy and value."""
    fourier_octaves: int = 2
    """Octaves of sines and cosines added to each input of the networks."""
    learning_rate: float = 1e-3
    """The step size at the start; it falls to nearly zero over the training."""
    discount: float = 0.9
    """gamma: how much a reward one step later counts."""
    entropy_bonus: float = 0.0
    """beta: how much the policy's entropy counts beside its advantages (beside scaled ones, little)."""
    largest_step: float = 2.0
    """Farthest from the measured angle that a target is asked for, in what a joint can move in one control period."""
    slowing_distance: float = 0.02
    """Distance to the goal, in metres, within which steps get smaller in proportion to it (0: never; for an arm with a
    reach of 0.7 m, and in proportion for others)."""
    random_steps: int = 4_000
    """Steps of random actions before learning starts, for the inputs' scale."""
    scale_advantage: bool = True
    """Divide an update's advantages by their root mean square, or steps would shrink as the policy gets better."""
    largest_gradient: float = 0.5
    """Norm to which longer gradients, of the policy and of the value separately, are cut."""

    @property
    def actions(self) -> ActionKind:
        """The kind of actions that the policy gives."""
        return "positions" if self.policy == "softmax" else "degrees"

    def __post_init__(self) -> None:
        positive = ("hidden_units", "learning_rate", "largest_step", "random_steps")
        _check(self, (*positive, "largest_gradient"), fractions=("discount",))
        _check_slowing(self.slowing_distance)
        _check_octaves(self.fourier_octaves)
        if not SMALLEST_DEVIATION <= self.initial_deviation <= LARGEST_DEVIATION:
            bounds = f"from {SMALLEST_DEVIATION} to {LARGEST_DEVIATION}"
            raise ValueError(f"initial-deviation: wanted {bounds}, got {self.initial_deviation}")
        if self.policy == "softmax" and (self.deviation, self.initial_deviation) != ("state", 0.3):
            raise ValueError(
                "deviation and initial-deviation: a softmax policy has none, its randomness is its logits'"
            )
        if not 0 <= self.entropy_bonus < math.inf:
            raise ValueError(f"entropy-bonus: wanted a number from 0, got {self.entropy_bonus}")


@dataclass(frozen=True)
class ReinforceSettings(PolicyGradientSettings):
    """Monte Carlo policy gradient (Williams 1992), with a baseline."""

    baseline: Literal["none", "average", "value"] = "value"
    """What is taken from each return: nothing, the other arms' average, or the state's value."""


@dataclass(frozen=True)
class ActorCriticSettings(PolicyGradientSettings):
    """One-step actor-critic (Sutton and Barto 2018, section 13.5)."""

    discounted_start: bool = False
    """Whether a step counts the less the later it comes in its episode: I <- gamma I of the book's algorithm."""


@dataclass(frozen=True)
class A2CSettings(PolicyGradientSettings):
    """Advantage actor-critic: all arms step together, and the network learns from all their steps."""

    steps_per_update: int = 10
    """Steps of each arm before each update."""
    trace_decay: float = 0.95
    """lambda: from 0, the next value alone, to 1, all rewards up to the last step."""
    recurrent: bool = False
    """Let policy and value remember what they saw, by an LSTM, for arms that do not show all (late or noisy ones)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, ("steps_per_update",), fractions=("trace_decay",))


@dataclass(frozen=True)
class A3CSettings(PolicyGradientSettings):
    """Asynchronous advantage actor-critic (Mnih et al. 2016): workers learn side by side, without waiting."""

    arms: ClassVar[int] = 16

    workers: int = 2
    """Worker processes, among which the arms are divided evenly."""
    asynchronous: bool = True
    """Let workers learn whenever they can; otherwise they take turns, and a run is the same each time, bit for bit."""
    steps_per_update: int = 10
    """t_max: steps of each arm before each update."""
    whole_episodes: bool = False
    """Update after whole episodes instead."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, ("steps_per_update",), fractions=())
        if not 1 <= self.workers <= 64:
            raise ValueError(f"workers: wanted from 1 to 64, got {self.workers}")


@dataclass(frozen=True)
class DPGSettings:
    """The deterministic policy gradient itself (Silver et al. 2014), learned online."""

    actions: ClassVar[ActionKind] = "degrees"
    action_repeat: ClassVar[int] = 1
    arms: ClassVar[int] = 32

    critic: Literal["compatible", "q", "sarsa"] = "compatible"
    """What says how actions should change: COPDAC-Q's compatible features, a network, or one of the actions taken."""
    hidden_units: int = 16
    """Units in each of the actor's two hidden layers."""
    critic_units: int = 64
    """Units in each of the critic's two hidden layers."""
    fourier_octaves: int = 2
    """Octaves of sines and cosines added to each input of the networks."""
    learning_rate: float = 1e-4
    """The actor's step size at the start; it falls to nearly zero over the training."""
    critic_learning_rate: float = 1e-3
    """The critic's step size at the start; it falls likewise."""
    discount: float = 0.9
    """gamma: how much a reward one step later counts."""
    noise: float = 0.3
    """Standard deviation of the exploration noise, as a share of the largest step."""
    largest_step: float = 2.0
    """Farthest from the measured angle that a target is asked for, in what a joint can move in one control period."""
    slowing_distance: float = 0.02
    """Distance to the goal, in metres, within which steps get smaller in proportion to it (0: never; for an arm with a
    reach of 0.7 m, and in proportion for others)."""
    random_steps: int = 4_000
    """Steps of random actions before learning starts, for the inputs' scale."""

    def __post_init__(self) -> None:
        positive = ("hidden_units", "critic_units", "learning_rate", "critic_learning_rate", "noise", "largest_step")
        _check(self, (*positive, "random_steps"), fractions=("discount",))
        _check_slowing(self.slowing_distance)
        _check_octaves(self.fourier_octaves)


AgentSettings = (
    DPGSettings
    | DDPGSettings
    | DQNSettings
    | BranchingDQNSettings
    | ReinforceSettings
    | ActorCriticSettings
    | A2CSettings
    | A3CSettings
)

# Every agent by the name that the command line gives it.
AGENTS: dict[str, type[AgentSettings]] = {
    "a2c": A2CSettings,
    "a3c": A3CSettings,
    "actor-critic": ActorCriticSettings,
    "branching-dqn": BranchingDQNSettings,
    "ddpg": DDPGSettings,
    "dpg": DPGSettings,
    "dqn": DQNSettings,
    "reinforce": ReinforceSettings,
}
