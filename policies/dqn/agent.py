"""DQN: deep Q-learning (Mnih et al. 2015, doi:10.1038/nature14236, Algorithm 1) over a grid of actions.

The agent behind both `dqn`, whose maxima run over every action, and `branching-dqn`, whose maximum is a sum of each
joint's. They differ in their heads (`policies.common.heads`).

Differences from the paper:
- Double Q-learning (van Hasselt et al. 2016, equation 4), unless switched off.
- Transitions are relabelled for other goals (`policies.common.hindsight`).
- Each arm explores with an epsilon of its own (Horgan et al. 2018, Ape-X).
- Normalised inputs with Fourier features instead of pictures, Adam with a falling learning rate, a squared error.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from policies.agent import OBSERVED, Actions, ComputeReward, FloatArray, Observation, Spec, Transition, tensors_of
from policies.common.action_grid import ActionGrid
from policies.common.exploration import amounts
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
    """argmax Q: (observation, achieved_goal, desired_goal) -> the best action (batch, actions), in its own units."""

    def __init__(self, encoder: Encoder, trunk: Trunk, head: Any, grid: ActionGrid) -> None:
        super().__init__()
        self.encoder = encoder
        self.trunk = trunk
        self.head = head
        self.grid = grid

    def features(self, observation: Tensor, achieved_goal: Tensor, desired_goal: Tensor) -> Tensor:
        """What the head sees, (batch, hidden)."""
        features: Tensor = self.trunk(self.encoder(observation, achieved_goal, desired_goal), observation)
        return features

    def forward(self, observation: Tensor, achieved_goal: Tensor, desired_goal: Tensor) -> Tensor:
        _, positions = self.head.greedy(self.features(observation, achieved_goal, desired_goal))
        return self.grid.values(positions)

    def shortfall(self, action: Tensor, *observed: Tensor) -> tuple[Tensor, Tensor]:
        """How much less than the largest Q (batch,) actions in their units (batch, actions) have, and that Q itself.

        NaN for an action that is not on the grid.
        """
        x = self.features(*observed)
        largest = self.head.maximum(x)
        shortfall = largest - self.head.q(x, self.grid.positions_of(action))
        return torch.where(self.grid.holds(action), shortfall, torch.nan), largest

    def prepare_export(self) -> None:
        """Compute now what a graph would otherwise compute for each decision."""
        self.head.freeze()

    def margin(self, *observed: Tensor) -> Tensor:
        """By how much (batch,) the largest Q surpasses the next."""
        margin: Tensor = self.head.margin(self.features(*observed))
        return margin


MakeHeads = Callable[[ActionGrid, Tensor], tuple[Head, Head]]


def make(spec: Spec, settings: DQNSettings, compute_reward: ComputeReward, seed: int) -> "DQN":
    """The agent with one output for every action of the grid."""
    return DQN(spec, settings, compute_reward, seed, lambda grid, _: make_heads(settings, grid, seed))


class DQN:
    """The agent: a trunk and a head that learn, an older copy of each, and a replay buffer."""

    def __init__(
        self,
        spec: Spec,
        settings: QLearningSettings,
        compute_reward: ComputeReward,
        seed: int,
        make_heads: MakeHeads,
        *,
        tells_positions: bool = False,
    ) -> None:
        """`make_heads` makes the head and its target, for the grid and the positions that a joint can pass in a step.

        With `tells_positions`, heads also see the joints' present positions.
        """
        self._spec = spec
        self._settings = settings
        self._compute_reward = compute_reward
        self._grid = ActionGrid(spec)
        self._generator = np.random.default_rng(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = Encoder(spec, settings.fourier_octaves)
            trunk = Trunk(spec, encoder.size, settings.hidden_units, tells_positions=tells_positions)
            self._head, self._target_head = make_heads(self._grid, trunk.max_step)
        self._policy = GreedyPolicy(encoder, trunk, self._head, self._grid)
        self._target_trunk = copy.deepcopy(trunk).requires_grad_(False)
        parameters = [*trunk.parameters(), *self._head.parameters()]
        self._optimizer = torch.optim.Adam(parameters, settings.learning_rate, fused=True)
        self._columns_optimizer = self._head.own_optimizer()
        self._replay = ReplayBuffer(settings.buffer_size, spec, settings.action_repeat)
        self._normalizer_fitted = False
        self._updates = 0
        self._coverage = Coverage(self._grid.size)

    @torch.no_grad()
    def act(self, observation: Observation, *, explore: bool) -> Actions:
        """The best actions, and each arm's share of random ones if asked for; all random until learning starts."""
        arms = len(observation["observation"])
        if explore and not self._warm:
            return self._as_actions(self._random(arms))
        _, positions = self._head.greedy(self._policy.features(*tensors_of(observation)))
        if not explore:
            return self._as_actions(positions)

        # With probability epsilon, of another size for each arm, a random action.
        self._coverage.pick(self._grid.index(positions))
        epsilon = amounts(self._settings.min_epsilon, self._settings.max_epsilon, arms)
        random = torch.from_numpy(self._generator.random((arms, 1)) < epsilon)
        return self._as_actions(torch.where(random, self._random(arms), positions))

    def _as_actions(self, positions: Tensor) -> Actions:
        """Grid positions (arms, actions) as the environment takes actions."""
        actions: Actions = (self._grid.index(positions) if self._settings.actions == "index" else positions).numpy()
        return actions

    def _random(self, arms: int) -> Tensor:
        """Random positions (arms, actions)."""
        shape = self._grid.shape
        return torch.from_numpy(self._generator.integers(shape, size=(arms, len(shape))))

    def observe(self, transition: Transition) -> None:
        """Put a step of all arms into the replay buffer, their actions as positions."""
        action = torch.from_numpy(transition.action)
        positions = self._grid.positions(action) if self._settings.actions == "index" else action
        self._replay.add(replace(transition, action=positions.numpy()))
        self._coverage.try_actions(self._grid.index(positions))

    def update(self, progress: float) -> dict[str, float]:
        """As many updates as the settings say; none until there is enough replay."""
        if not self._warm:
            return {}
        if not self._normalizer_fitted:
            self._policy.encoder.fit(*(self._replay.column(name) for name in OBSERVED))
            self._normalizer_fitted = True
        rate = linear_schedule(self._settings.learning_rate, progress)
        self._optimizer.param_groups[0]["lr"] = rate
        metrics = {}
        for _ in range(self._settings.updates_per_step):
            metrics = self._update_once(rate)
        return metrics | {
            "learning_rate": rate,
            **self._coverage.metrics(),
            "updates": self._settings.updates_per_step,
        }

    def _update_once(self, rate: float) -> dict[str, float]:
        """One update of Algorithm 1."""
        # Sample a minibatch from the replay buffer, with goals in hindsight.
        batch = sample_relabelled(
            self._replay,
            self._spec,
            self._settings,
            self._compute_reward,
            self._generator,
            discount=self._settings.discount,
            leads_to=self._leads_to if self._spec.kinematics else None,
        )
        policy = self._policy
        positions = batch["action"].long()

        # Targets of Algorithm 1:  y = r + gamma max Q'(s', a)
        with torch.no_grad():
            s = policy.encoder(*(batch[name] for name in OBSERVED))
            next_s = policy.encoder(*(batch[f"next_{name}"] for name in OBSERVED))
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
            self._columns_optimizer.step(gathered, rate)

        # Every C updates:  Q' <- Q
        self._updates += 1
        if self._updates % self._settings.target_period == 0:
            self._target_trunk.load_state_dict(policy.trunk.state_dict())
            self._target_head.follow(self._head)

        self._coverage.update_actions(self._grid.index(positions))
        return {"loss": float(loss.detach()), "q": float(q.detach().mean())}

    def _next_q(self, next_s: Tensor, next_observation: Tensor) -> Tensor:
        """max Q'(s', a) or, of double Q-learning, Q'(s', argmax Q(s', a)), for encoded states: (batch,)."""
        next_x = self._target_trunk(next_s, next_observation)
        if not self._settings.double_q:
            return self._target_head.maximum(next_x)
        _, best = self._head.greedy(self._policy.trunk(next_s, next_observation))
        return self._target_head.q(next_x, best)

    def _leads_to(self, batch: dict[str, FloatArray]) -> FloatArray:
        """Where the tip is (batch, point size) once the joints are where the actions ask for."""
        assert self._spec.kinematics is not None
        action = self._grid.values(torch.from_numpy(batch["action"]).long())
        tip: FloatArray = self._spec.kinematics(torch.from_numpy(batch["observation"]), action).numpy()
        return tip

    @property
    def _warm(self) -> bool:
        return self._replay.size >= self._settings.learning_starts

    def policy(self) -> GreedyPolicy:
        """The present greedy controller."""
        return self._policy

    @property
    def _networks(self) -> dict[str, Part]:
        """The networks by their names in a state."""
        return {
            "encoder": self._policy.encoder,
            "trunk": self._policy.trunk,
            "head": self._head,
            "target_trunk": self._target_trunk,
            "target_head": self._target_head,
        }

    @property
    def _learning(self) -> dict[str, Part]:
        """What else the training to come depends on, beside counters."""
        parts: dict[str, Part] = {
            "optimizer": self._optimizer,
            "replay": self._replay,
            "generator": self._generator,
        }
        if self._columns_optimizer is not None:
            parts["columns_optimizer"] = self._columns_optimizer
        return parts

    def load_networks(self, state: dict[str, Any]) -> None:
        """Start from another run's networks. Raises RuntimeError if they are of another grid."""
        if state["grid"] != list(self._grid.shape):
            raise RuntimeError(f"expected a grid of {list(self._grid.shape)} positions, got {state['grid']}")
        load_parts(self._networks, state)
        self._normalizer_fitted = state["normalizer_fitted"]

    def state_dict(self) -> dict[str, Any]:
        """Networks, targets, optimisers, replay, counters and the generator's state."""
        return {
            "grid": list(self._grid.shape),
            "columns_optimizer": None,  # unless there is one
            **save_parts(self._networks),
            **save_parts(self._learning),
            "normalizer_fitted": self._normalizer_fitted,
            **self._coverage.state_dict(),
            "updates": self._updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        self.load_networks(state)
        load_parts(self._learning, state)
        self._updates = state["updates"]
        self._coverage.load_state_dict(state)
