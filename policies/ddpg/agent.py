"""DDPG: deep deterministic policy gradient (Lillicrap et al. 2015, arXiv:1509.02971, Algorithm 1).

Differences from the paper, each measured on the arm (docs/ddpg.md):
- Transitions are relabelled for other goals (hindsight experience replay, Andrychowicz et al. 2017): the dynamics do
  not depend on the goal, so that a transition can get a new goal each time it is sampled.
- Each environment has its own scale of normal noise (Horgan et al. 2018, Ape-X), instead of one Ornstein-Uhlenbeck
  process. Small noise gives the critic data near the goal.
- The actor outputs a bounded step from the measured value, scaled down near the goal. The critic has the distance from
  the goal to the tip at the action's target as an input, by the arm's kinematics. The policy does not need them.
- Fourier features of the inputs, layer normalisation in the critic, a linear learning-rate schedule.
"""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from policies.agent import OBSERVATION_KEYS, ComputeReward, FloatArray, Observation, Spec, Transition, tensors_of
from policies.common.averaging import PolicyAverage
from policies.common.exploration import exploration_scales
from policies.common.hindsight import sample_relabelled
from policies.common.networks import SQUASH_PENALTY, DeterministicPolicy, linear_schedule
from policies.common.replay_buffer import ReplayBuffer
from policies.common.state import Part, load_parts, save_parts
from policies.ddpg.critic import Critic, Inputs, View
from policies.ddpg.settings import DDPGSettings

DISCOUNT = 0.97  # for fixed goals: a detour around a joint limit takes 20 steps, over which rewards must still count
MOVING_DISCOUNT = 0.5  # for moving goals, whose future is unknown
RANDOM_ACTIONS = 0.1  # fraction of exploring actions that are drawn uniformly


def make(spec: Spec, settings: DDPGSettings, compute_reward: ComputeReward, seed: int) -> "DDPG":
    """Create the agent."""
    return DDPG(spec, settings, compute_reward, seed)


class DDPG:
    """An actor mu, a critic Q, a target network of each (mu', Q'), and a replay buffer."""

    def __init__(self, spec: Spec, settings: DDPGSettings, compute_reward: ComputeReward, seed: int) -> None:
        spec = spec.with_step_scaling(settings.max_step, settings.slowing_distance)
        self._spec = spec
        self._settings = settings
        self._compute_reward = compute_reward
        self._discount = discount_of(settings, spec)
        self._generator = np.random.default_rng(seed)

        # Actor and critic; the target networks start as copies.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._policy = DeterministicPolicy(spec, settings.hidden_units, settings.fourier_octaves)
            features = self._policy.encoder.size
            goal_error = self._policy.encoder.goal_error_size if spec.kinematics else 0
            self._critic = Critic(spec, settings.hidden_units, settings.fourier_octaves, features, goal_error)
        self._inputs = Inputs(spec, self._policy)
        self._average = PolicyAverage(self._policy)
        self._actor = self._policy.net
        self._target_actor = copy.deepcopy(self._actor).requires_grad_(False)
        self._target_critic = copy.deepcopy(self._critic).requires_grad_(False)

        self._actor_optimizer = torch.optim.Adam(self._actor.parameters(), settings.learning_rate, fused=True)
        self._critic_optimizer = torch.optim.Adam(self._critic.parameters(), settings.learning_rate, fused=True)
        self._replay = ReplayBuffer(settings.buffer_size, spec)
        self._normalizer_fitted = False

    @torch.no_grad()
    def act(self, observation: Observation, *, explore: bool) -> FloatArray:
        """Actions mu(s) (num_envs, actions), with noise if `explore`; uniformly random until learning starts."""
        action: FloatArray = self._policy(*tensors_of(observation)).numpy()
        if not explore:
            return action
        bounds = self._bounds(observation)
        uniform = self._generator.uniform(*bounds)
        if not self._learning_started:
            return uniform.astype(np.float32)

        # Equation (7):  a = mu(s) + N, with a different scale of noise in each environment
        scales = exploration_scales(self._settings.min_noise, self._settings.max_noise, len(action))
        noise = self._generator.normal(size=action.shape) * scales * self._max_step
        random = self._generator.random((len(action), 1)) < RANDOM_ACTIONS
        return np.clip(np.where(random, uniform, action + noise), *bounds).astype(np.float32)

    @torch.no_grad()
    def q(self, observation: Observation, action: FloatArray) -> FloatArray:
        """The critic's Q(s, a) (num_envs,) of actions (num_envs, actions) in the environment's units."""
        batch = dict(zip(OBSERVATION_KEYS, tensors_of(observation), strict=True))
        a = self._policy.scaling.to_unit(torch.from_numpy(action))
        q: FloatArray = self._inputs.q(self._critic, self._inputs.view(batch), a).numpy()
        return q

    @property
    def _max_step(self) -> FloatArray:
        """Largest step of each action (actions,), in the environment's units."""
        scaling = self._policy.scaling
        max_step: FloatArray = (scaling.max_step * (scaling.high - scaling.low) / 2).numpy()
        return max_step

    def _bounds(self, observation: Observation) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest actions (num_envs, actions) within the largest step of the measured values."""
        scaling = self._policy.scaling
        measured = scaling.measured(torch.from_numpy(observation["observation"]))
        low = torch.clamp(measured - scaling.max_step, -1.0, 1.0)
        high = torch.clamp(measured + scaling.max_step, -1.0, 1.0)
        return scaling.from_unit(low).numpy(), scaling.from_unit(high).numpy()

    def observe(self, transition: Transition) -> None:
        """Store a step of all environments in the replay buffer."""
        self._replay.add(transition)

    @property
    def _learning_started(self) -> bool:
        """True if the replay buffer holds enough transitions to learn from."""
        return self._replay.size >= self._settings.learning_starts

    def update(self, progress: float) -> dict[str, float]:
        """Make `updates_per_step` updates of Algorithm 1; none until learning starts."""
        if not self._learning_started:
            return {}
        if not self._normalizer_fitted:
            self._policy.encoder.fit(*(self._replay.column(name) for name in OBSERVATION_KEYS))
            self._normalizer_fitted = True
        learning_rate = linear_schedule(self._settings.learning_rate, progress)
        for optimizer in (self._actor_optimizer, self._critic_optimizer):
            optimizer.param_groups[0]["lr"] = learning_rate
        metrics = {}
        for _ in range(self._settings.updates_per_step):
            metrics = self._update_once()
        return metrics | {"learning_rate": learning_rate, "updates": self._settings.updates_per_step}

    def _update_once(self) -> dict[str, float]:
        """Make one update of Algorithm 1."""
        # Sample a minibatch from the replay buffer, relabelled for other goals.
        batch = sample_relabelled(
            self._replay,
            self._spec,
            self._settings,
            self._compute_reward,
            self._generator,
            discount=self._discount,
            steps=self._settings.n_step,
            latest=not self._settings.replay,
        )

        # Targets. Equation (5), with the target networks of Algorithm 1:  y = r + gamma Q'(s', mu'(s'))
        inputs = self._inputs
        with torch.no_grad():
            view = inputs.view(batch)
            next_view = inputs.view(batch, "next_")
            a = self._policy.scaling.to_unit(batch["action"])
            target_actor, target_critic = self._targets
            next_a = torch.clamp(inputs.mu(target_actor(next_view.features), next_view), -1.0, 1.0)
            next_q = inputs.q(target_critic, next_view, next_a)
            y = batch["reward"] + batch["bootstrap"].to(next_q.dtype) * next_q

        # Update the critic. Equation (4):  L = mean (Q(s, a) - y)^2
        q = inputs.q(self._critic, view, a)
        critic_loss = mse_loss(q, y)
        self._critic_optimizer.zero_grad()
        critic_loss.backward()  # type: ignore[no-untyped-call]
        self._critic_optimizer.step()

        # Update the actor. Equation (6):  dJ/dtheta = mean  dQ(s, a)/da at a = mu(s)  *  dmu(s)/dtheta
        output = self._actor(view.features)
        mu = inputs.mu(output, view)
        dq_da = self._action_gradient(view, mu)
        penalty = SQUASH_PENALTY * output.square().sum(-1).mean()
        self._actor_optimizer.zero_grad()
        (penalty - (mu * dq_da).sum()).backward()  # type: ignore[no-untyped-call]
        self._actor_optimizer.step()

        # Update the target networks:  theta' <- tau theta + (1 - tau) theta'
        self._soft_update(self._target_critic, self._critic)
        self._soft_update(self._target_actor, self._actor)
        self._average.update(self._policy)
        return {"critic_loss": float(critic_loss.detach()), "q": float(q.detach().mean())}

    def _action_gradient(self, view: View, mu: Tensor) -> Tensor:
        """dQ(s, a)/da at a = mu(s), (batch, actions), divided by the batch size.

        Where mu(s) is at a bound, gradients that point outwards are set to zero (Hausknecht and Stone 2016).
        """
        a = torch.clamp(mu.detach(), -1.0, 1.0).requires_grad_()
        (dq_da,) = torch.autograd.grad(self._inputs.q(self._critic, view, a).mean(), a)
        outwards = ((a >= 1.0) & (dq_da > 0.0)) | ((a <= -1.0) & (dq_da < 0.0))
        return torch.where(outwards, 0.0, dq_da)

    def _soft_update(self, target: nn.Module, online: nn.Module) -> None:
        """Update a target network:  theta' <- tau theta + (1 - tau) theta'."""
        parameters = [parameter.detach() for parameter in online.parameters()]
        torch._foreach_lerp_(list(target.parameters()), parameters, self._settings.tau)

    @property
    def _targets(self) -> tuple[nn.Module, Critic]:
        """Actor and critic that evaluate the next state: the target networks or, without them, the online networks."""
        if self._settings.target_networks:
            return self._target_actor, self._target_critic
        return self._actor, self._critic

    def policy(self) -> DeterministicPolicy:
        """The policy mu with its parameters averaged over the latest updates."""
        return self._average.policy

    @property
    def _networks(self) -> dict[str, nn.Module]:
        """The networks by name in a state."""
        return {
            "policy": self._policy,
            "critic": self._critic,
            "target_actor": self._target_actor,
            "target_critic": self._target_critic,
        }

    @property
    def _learning(self) -> dict[str, Part]:
        """Everything else that the rest of the training depends on, by name."""
        return {
            "average": self._average,
            "actor_optimizer": self._actor_optimizer,
            "critic_optimizer": self._critic_optimizer,
            "replay": self._replay,
            "generator": self._generator,
        }

    def load_networks(self, state: dict[str, Any]) -> None:
        """Load all networks from a state of another run; with an untrained critic, the policy would be lost at once."""
        load_parts(self._networks, state)
        self._average.policy.load_state_dict(state["average"]["policy"])
        self._normalizer_fitted = state["normalizer_fitted"]

    def state_dict(self) -> dict[str, Any]:
        """Networks, target networks, optimisers, replay buffer and the generator's state."""
        parts = save_parts(self._networks) | save_parts(self._learning)
        return parts | {"normalizer_fitted": self._normalizer_fitted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict`."""
        self.load_networks(state)
        load_parts(self._learning, state)


def discount_of(settings: DDPGSettings, spec: Spec) -> float:
    """The discount of the settings or, if it is not set, the default for fixed or moving goals."""
    if settings.discount is not None:
        return settings.discount
    moving = spec.goal_size > spec.point_size
    return MOVING_DISCOUNT if moving else DISCOUNT
