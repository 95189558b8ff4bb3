"""DQN: deep Q-learning (Mnih et al. 2015, doi:10.1038/nature14236, Algorithm 1) over a grid of actions.

The agent of both `dqn`, which takes maxima over all actions, and `branching-dqn`, whose maximum is a sum of the joints'
maxima. They differ in their heads (`policies.common.heads`).

Differences from the paper:
- Double Q-learning (van Hasselt et al. 2016, equation 4), unless disabled.
- Transitions are relabelled for other goals (`policies.common.hindsight`).
- Each environment has its own epsilon (Horgan et al. 2018, Ape-X).
- Normalised inputs with Fourier features instead of images, Adam with a linear learning-rate schedule, a squared error.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from policies.agent import (
    OBSERVATION_KEYS,
    Actions,
    ComputeReward,
    FloatArray,
    Observation,
    Spec,
    Transition,
    tensors_of,
)
from policies.common.action_grid import ActionGrid
from policies.common.exploration import exploration_scales
from policies.common.heads import Head, Trunk
from policies.common.hindsight import sample_relabelled
from policies.common.networks import Encoder, linear_schedule
from policies.common.replay_buffer import ReplayBuffer
from policies.common.settings import QLearningSettings
from policies.common.state import Part, load_parts, save_parts
from policies.dqn.coverage import Coverage
from policies.dqn.heads import make_heads
from policies.dqn.settings import DQNSettings


class GreedyPolicy(nn.Module):
    """argmax Q: (observation, achieved_goal, desired_goal) -> actions (batch, actions) in the environment's units."""

    def __init__(self, encoder: Encoder, trunk: Trunk, head: Any, grid: ActionGrid) -> None:
        super().__init__()
        self.encoder = encoder
        self.trunk = trunk
        self.head = head
        self.grid = grid

    def features(self, observation: Tensor, achieved_goal: Tensor, desired_goal: Tensor) -> Tensor:
        """Inputs x of the head, (batch, features)."""
        features: Tensor = self.trunk(self.encoder(observation, achieved_goal, desired_goal), observation)
        return features

    def forward(self, observation: Tensor, achieved_goal: Tensor, desired_goal: Tensor) -> Tensor:
        """The greedy actions."""
        _, positions = self.head.greedy(self.features(observation, achieved_goal, desired_goal))
        return self.grid.values(positions)

    def suboptimality(self, action: Tensor, *observed: Tensor) -> tuple[Tensor, Tensor]:
        """Difference (batch,) between the maximum of Q and the Q-values of actions, and the maximum (batch,).

        `action` (batch, actions) is in the environment's units. NaN for an action that is not on the grid.
        """
        x = self.features(*observed)
        largest = self.head.maximum(x)
        difference = largest - self.head.q(x, self.grid.positions_of(action))
        return torch.where(self.grid.contains(action), difference, torch.nan), largest

    def prepare_export(self) -> None:
        """Precompute what an exported graph would otherwise compute in every decision."""
        self.head.prepare_export()

    def action_gap(self, *observed: Tensor) -> Tensor:
        """Difference (batch,) between the largest and the second largest Q."""
        gap: Tensor = self.head.action_gap(self.features(*observed))
        return gap


MakeHeads = Callable[[ActionGrid, Tensor], tuple[Head, Head]]


def make(spec: Spec, settings: DQNSettings, compute_reward: ComputeReward, seed: int) -> "DQN":
    """Create the agent with one output for each action of the grid."""
    return DQN(spec, settings, compute_reward, seed, lambda grid, _: make_heads(settings, grid, seed))


class DQN:
    """A Q-network (trunk and head), its target network, and a replay buffer."""

    def __init__(
        self,
        spec: Spec,
        settings: QLearningSettings,
        compute_reward: ComputeReward,
        seed: int,
        make_heads: MakeHeads,
        *,
        append_positions: bool = False,
    ) -> None:
        """Create the networks.

        `make_heads` creates the head and its target from the grid and the largest step of each joint in positions. With
        `append_positions`, the measured positions of the joints are an input of the head.
        """
        self._spec = spec
        self._settings = settings
        self._compute_reward = compute_reward
        self._grid = ActionGrid(spec)
        self._generator = np.random.default_rng(seed)
        # The networks, initialised by the seed without changing PyTorch's own generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = Encoder(spec, settings.fourier_octaves)
            trunk = Trunk(spec, encoder.size, settings.hidden_units, append_positions=append_positions)
            self._head, self._target_head = make_heads(self._grid, trunk.max_step)
        self._policy = GreedyPolicy(encoder, trunk, self._head, self._grid)
        self._target_trunk = copy.deepcopy(trunk).requires_grad_(False)
        # Their optimisers: of a flat head, only the columns of a batch's actions are updated.
        parameters = [*trunk.parameters(), *self._head.parameters()]
        self._optimizer = torch.optim.Adam(parameters, settings.learning_rate, fused=True)
        self._columns_optimizer = self._head.columns_optimizer()
        self._replay = ReplayBuffer(settings.buffer_size, spec, settings.action_repeat)
        self._normalizer_fitted = False
        self._updates = 0
        self._coverage = Coverage(self._grid.size)

    @torch.no_grad()
    def act(self, observation: Observation, *, explore: bool) -> Actions:
        """Greedy actions, epsilon-greedy ones if `explore`; uniformly random until learning starts.

        Indices (num_envs,) or positions (num_envs, actions), by the settings.
        """
        num_envs = len(observation["observation"])
        if explore and not self._learning_started:
            return self._as_actions(self._random(num_envs))
        _, positions = self._head.greedy(self._policy.features(*tensors_of(observation)))
        if not explore:
            return self._as_actions(positions)

        # With probability epsilon, different in each environment, a random action.
        self._coverage.record_greedy(self._grid.index(positions))
        epsilon = exploration_scales(self._settings.min_epsilon, self._settings.max_epsilon, num_envs)
        random = torch.from_numpy(self._generator.random((num_envs, 1)) < epsilon)
        return self._as_actions(torch.where(random, self._random(num_envs), positions))

    def _as_actions(self, positions: Tensor) -> Actions:
        """Convert grid positions (num_envs, actions) to the environment's actions: indices or positions."""
        if self._settings.actions == "index":
            index: Actions = self._grid.index(positions).numpy()
            return index
        return positions.numpy()

    def _random(self, num_envs: int) -> Tensor:
        """Uniformly random positions (num_envs, actions)."""
        shape = self._grid.shape
        return torch.from_numpy(self._generator.integers(shape, size=(num_envs, len(shape))))

    def observe(self, transition: Transition) -> None:
        """Store a step of all environments in the replay buffer, with actions as positions."""
        action = torch.from_numpy(transition.action)
        positions = self._grid.positions(action) if self._settings.actions == "index" else action
        self._replay.add(replace(transition, action=positions.numpy()))
        self._coverage.record_executed(self._grid.index(positions))

    def update(self, progress: float) -> dict[str, float]:
        """Make `updates_per_step` updates of Algorithm 1; none until learning starts."""
        if not self._learning_started:
            return {}
        # Fit the normalisation of the inputs once, to the random steps.
        if not self._normalizer_fitted:
            self._policy.encoder.fit(*(self._replay.column(name) for name in OBSERVATION_KEYS))
            self._normalizer_fitted = True
        learning_rate = linear_schedule(self._settings.learning_rate, progress)
        self._optimizer.param_groups[0]["lr"] = learning_rate
        metrics = {}
        for _ in range(self._settings.updates_per_step):
            metrics = self._update_once(learning_rate)
        return metrics | {
            "learning_rate": learning_rate,
            **self._coverage.metrics(),
            "updates": self._settings.updates_per_step,
        }

    def _update_once(self, learning_rate: float) -> dict[str, float]:
        """Make one update of Algorithm 1."""
        # Sample a minibatch from the replay buffer, relabelled for other goals.
        batch = sample_relabelled(
            self._replay,
            self._spec,
            self._settings,
            self._compute_reward,
            self._generator,
            discount=self._settings.discount,
            tip_at_target=self._tip_at_target if self._spec.kinematics else None,
        )
        policy = self._policy
        positions = batch["action"].long()

        # Targets:  y = r + gamma max Q'(s', a)
        with torch.no_grad():
            s = policy.encoder(*(batch[name] for name in OBSERVATION_KEYS))
            next_s = policy.encoder(*(batch[f"next_{name}"] for name in OBSERVATION_KEYS))
            next_q = self._next_q(next_s, batch["next_observation"])
            y = batch["reward"] + batch["bootstrap"].to(next_q.dtype) * next_q

        # Loss:  L = mean (Q(s, a) - y)^2
        gathered = self._head.gather(positions)
        q = self._head.q(policy.trunk(s, batch["observation"]), positions, gathered)
        loss = mse_loss(q, y)

        # Gradient step.
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        if self._columns_optimizer is not None and gathered is not None:
            self._columns_optimizer.step(gathered, learning_rate)

        # Every C updates:  Q' <- Q
        self._updates += 1
        if self._updates % self._settings.target_period == 0:
            self._target_trunk.load_state_dict(policy.trunk.state_dict())
            self._target_head.copy_from(self._head)

        self._coverage.record_updated(self._grid.index(positions))
        return {"loss": float(loss.detach()), "q": float(q.detach().mean())}

    def _next_q(self, next_s: Tensor, next_observation: Tensor) -> Tensor:
        """Values (batch,) of the next states, encoded (batch, features) and as observations (batch, size)."""
        # Q-learning:  max over a of Q'(s', a)
        next_x = self._target_trunk(next_s, next_observation)
        if not self._settings.double_q:
            return self._target_head.maximum(next_x)
        # Double Q-learning:  Q'(s', argmax over a of Q(s', a))
        _, best = self._head.greedy(self._policy.trunk(next_s, next_observation))
        return self._target_head.q(next_x, best)

    def _tip_at_target(self, batch: dict[str, FloatArray]) -> FloatArray:
        """Positions of the tip (batch, point size) once the joints have reached the actions' targets."""
        assert self._spec.kinematics is not None
        action = self._grid.values(torch.from_numpy(batch["action"]).long())
        tip: FloatArray = self._spec.kinematics(torch.from_numpy(batch["observation"]), action).numpy()
        return tip

    @property
    def _learning_started(self) -> bool:
        """True if the replay buffer holds enough transitions to learn from."""
        return self._replay.size >= self._settings.learning_starts

    def policy(self) -> GreedyPolicy:
        """The greedy policy of the current Q-network."""
        return self._policy

    @property
    def _networks(self) -> dict[str, Part]:
        """The networks by name in a state."""
        return {
            "encoder": self._policy.encoder,
            "trunk": self._policy.trunk,
            "head": self._head,
            "target_trunk": self._target_trunk,
            "target_head": self._target_head,
        }

    @property
    def _learning(self) -> dict[str, Part]:
        """Everything else that the rest of the training depends on, by name, except for counters."""
        parts: dict[str, Part] = {
            "optimizer": self._optimizer,
            "replay": self._replay,
            "generator": self._generator,
        }
        if self._columns_optimizer is not None:
            parts["columns_optimizer"] = self._columns_optimizer
        return parts

    def load_networks(self, state: dict[str, Any]) -> None:
        """Load the networks from a state of another run. Raises RuntimeError if its grid differs."""
        if state["grid"] != list(self._grid.shape):
            raise RuntimeError(f"expected a grid of {list(self._grid.shape)} positions, got {state['grid']}")
        load_parts(self._networks, state)
        self._normalizer_fitted = state["normalizer_fitted"]

    def state_dict(self) -> dict[str, Any]:
        """Networks, target networks, optimisers, replay buffer, counters and the generator's state."""
        return {
            "grid": list(self._grid.shape),
            "columns_optimizer": None,  # replaced below if there is one
            **save_parts(self._networks),
            **save_parts(self._learning),
            "normalizer_fitted": self._normalizer_fitted,
            **self._coverage.state_dict(),
            "updates": self._updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict`."""
        self.load_networks(state)
        load_parts(self._learning, state)
        self._updates = state["updates"]
        self._coverage.load_state_dict(state)
