"""Settings of DDPG."""

from dataclasses import dataclass

from policies.common.settings import AgentSettings, check_numbers, check_replay, check_slowing_distance


@dataclass(frozen=True)
class DDPGSettings(AgentSettings):
    """Deep deterministic policy gradient (Lillicrap et al. 2015) with hindsight relabelling."""

    hidden_units: int = 128
    """Units in each of the two hidden layers of actor and critic."""
    fourier_octaves: int = 4
    """Octaves of Fourier features (sines and cosines) of each input of the networks."""
    learning_rate: float = 1e-3
    """Initial learning rate of Adam for actor and critic; it falls linearly to nearly zero over the training."""
    discount: float | None = None
    """gamma: discount factor per step. By default 0.97, or 0.5 if the goal moves."""
    n_step: int = 1
    """Number of rewards in a target before bootstrapping from the critic; fewer at the end of an episode."""
    target_networks: bool = True
    """Compute targets with target networks; otherwise with the online networks."""
    replay: bool = True
    """Sample batches from the whole replay buffer; otherwise from the last step of all environments."""
    tau: float = 0.03
    """Coefficient of the soft update of the target networks (tau in Algorithm 1)."""
    batch_size: int = 256
    """Transitions in the minibatch of one update."""
    buffer_size: int = 400_000
    """Capacity of the replay buffer, in transitions."""
    learning_starts: int = 2_000
    """Uniformly random steps, of all environments together, before learning starts."""
    updates_per_step: int = 1
    """Updates after each step of all environments."""
    max_step: float = 2.0
    """Largest distance of a target from the measured angle, as a multiple of what a joint can move in one control
    period."""
    slowing_distance: float = 0.02
    """Distance to the goal, in metres, within which steps are scaled down in proportion to it; 0 disables this. Stated
    for a reach of 0.7 m, and scaled in proportion to the arm's reach."""
    min_noise: float = 0.01
    """Minimum of the environments' exploration noise: its standard deviation, in units of the largest step."""
    max_noise: float = 0.5
    """Maximum of the environments' exploration noise, which is spaced geometrically."""
    relabel_near: float = 0.4
    """Fraction of a batch relabelled with a goal near the tip."""
    relabel_other: float = 0.4
    """Fraction of a batch relabelled with the goal of another transition."""
    relabel_distance: float = 0.06
    """Maximum distance from the tip of a goal near it, in metres; the minimum is a hundredth of it. Stated for a
    reach of 0.7 m, and scaled in proportion to the arm's reach."""

    def __post_init__(self) -> None:
        positive = ("hidden_units", "learning_rate", "n_step", "batch_size", "buffer_size", "updates_per_step")
        others = ("max_step", "min_noise", "max_noise", "relabel_distance")
        discount = () if self.discount is None else ("discount",)
        check_numbers(self, positive + others, fractions=(*discount, "tau", "relabel_near", "relabel_other"))
        check_slowing_distance(self.slowing_distance)
        check_replay(self)
