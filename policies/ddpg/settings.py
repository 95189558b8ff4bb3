"""Settings of DDPG."""

from dataclasses import dataclass

from policies.common.settings import AgentSettings, check_numbers, check_replay, check_slowing_distance


@dataclass(frozen=True)
class DDPGSettings(AgentSettings):
    """Deep deterministic policy gradient (Lillicrap et al. 2015) with goal relabelling."""

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
    tau: float = 0.03
    """tau of Algorithm 1: how far the target networks follow in one update."""
    batch_size: int = 256
    """Transitions in one update."""
    buffer_size: int = 400_000
    """Transitions remembered."""
    learning_starts: int = 2_000
    """Steps of uniformly random actions before learning starts."""
    updates_per_step: int = 1
    """Updates for each step of all arms together."""
    max_step: float = 2.0
    """Farthest from the measured angle that a target is asked for, in what a joint can move in one control period."""
    slowing_distance: float = 0.02
    """Distance to the goal, in metres, within which steps get smaller in proportion to it (0: never; for an arm with a
    reach of 0.7 m, and in proportion for others)."""
    min_noise: float = 0.01
    """Standard deviation of the exploration noise of the calmest arm, as a share of the largest step."""
    max_noise: float = 0.5
    """The same of the wildest arm; the others lie between, in equal ratios."""
    relabel_near: float = 0.4
    """Share of a batch relabelled for a goal near the tip."""
    relabel_other: float = 0.4
    """Share of a batch relabelled for the goal of another transition."""
    relabel_distance: float = 0.06
    """Farthest distance from the tip of a goal near it, in metres; the nearest is a hundredth of it (for an arm with a
    reach of 0.7 m, and in proportion for others)."""

    def __post_init__(self) -> None:
        positive = ("hidden_units", "learning_rate", "n_step", "batch_size", "buffer_size", "updates_per_step")
        noises = ("max_step", "min_noise", "max_noise", "relabel_distance")
        discount = () if self.discount is None else ("discount",)
        check_numbers(self, positive + noises, fractions=(*discount, "tau", "relabel_near", "relabel_other"))
        check_slowing_distance(self.slowing_distance)
        check_replay(self)
