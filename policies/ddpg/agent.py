"""DDPG: deep deterministic policy gradient (Lillicrap et al. 2015, arXiv:1509.02971, Algorithm 1).

Differences from the paper, each measured on the arm:
- Transitions are relabelled for other goals (Andrychowicz et al. 2017, hindsight experience replay): the arm moves the
  same way whatever its goal, so a transition's goal may be drawn anew each time it is sampled.
- Each arm explores with normal noise of a size of its own, from tiny to large (Horgan et al. 2018, Ape-X), instead of
  one Ornstein-Uhlenbeck process: the tiny ones show the critic the last millimetres.
- The actor asks for a bounded step from the present value, which gets smaller near the goal; the critic also sees how
  far from the goal an action leads, by the arm's own kinematics. The policy needs neither critic nor its kinematics.
- Fourier features at the inputs, layer normalisation in the critic, a learning rate that falls to zero.
"""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from policies.agent import OBSERVED, ComputeReward, FloatArray, Observation, Spec, Transition, tensors_of
from policies.common.averaging import PolicyAverage
from policies.common.exploration import amounts
from policies.common.hindsight import sample_relabelled
from policies.common.networks import SQUASH_PENALTY, DeterministicPolicy, linear_schedule
from policies.common.replay_buffer import ReplayBuffer
from policies.common.state import Part, load_parts, save_parts
from policies.ddpg.critic import Critic, Inputs, View
from policies.ddpg.settings import DDPGSettings

DISCOUNT = 0.97  # of a goal that stays: a detour around a joint's limit takes 20 steps, of which the last must count
MOVING_DISCOUNT = 0.5  # of a goal that moves: how it will go on is not known
RANDOM_ACTIONS = 0.1  # share of actions drawn uniformly while exploring


def make(spec: Spec, settings: DDPGSettings, compute_reward: ComputeReward, seed: int) -> "DDPG":
    """The agent."""
    return DDPG(spec, settings, compute_reward, seed)


class DDPG:
    """The agent: an actor mu, a critic Q, a slowly following copy of each, and a replay buffer."""

    def __init__(self, spec: Spec, settings: DDPGSettings, compute_reward: ComputeReward, seed: int) -> None:
        spec = spec.with_steps(settings.max_step, settings.slowing_distance)
        self._spec = spec
        self._settings = settings
        self._compute_reward = compute_reward
        self._discount = discount_of(settings, spec)
        self._generator = np.random.default_rng(seed)

        # Networks: mu and Q, and mu' and Q', which start as copies.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._policy = DeterministicPolicy(spec, settings.hidden_units, settings.fourier_octaves)
            features = self._policy.encoder.size
            arrival = self._policy.encoder.arrival_size if spec.kinematics else 0
            self._critic = Critic(spec, settings.hidden_units, settings.fourier_octaves, features, arrival)
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
        """mu(s), with exploration noise if asked for; uniformly random until learning starts."""
        action: FloatArray = self._policy(*tensors_of(observation)).numpy()
        if not explore:
            return action
        bounds = self._bounds(observation)
        uniform = self._generator.uniform(*bounds)
        if not self._warm:
            return uniform.astype(np.float32)

        # Equation (7):  a = mu(s) + N, with noise of another size for each arm
        sizes = amounts(self._settings.min_noise, self._settings.max_noise, len(action))
        noise = self._generator.normal(size=action.shape) * sizes * self._max_step
        random = self._generator.random((len(action), 1)) < RANDOM_ACTIONS
        return np.clip(np.where(random, uniform, action + noise), *bounds).astype(np.float32)

    @property
    def _max_step(self) -> FloatArray:
        """The largest step of each action, in the environment's units."""
        scaling = self._policy.scaling
        largest: FloatArray = (scaling.max_step * (scaling.high - scaling.low) / 2).numpy()
        return largest

    def _bounds(self, observation: Observation) -> tuple[FloatArray, FloatArray]:
        """The lowest and highest actions (arms, actions) within the largest step of the present value."""
        scaling = self._policy.scaling
        present = scaling.present(torch.from_numpy(observation["observation"]))
        low = torch.clamp(present - scaling.max_step, -1.0, 1.0)
        high = torch.clamp(present + scaling.max_step, -1.0, 1.0)
        return scaling.from_unit(low).numpy(), scaling.from_unit(high).numpy()

    def observe(self, transition: Transition) -> None:
        """Put a step of all arms into the replay buffer."""
        self._replay.add(transition)

    @property
    def _warm(self) -> bool:
        """Whether there is enough replay to learn from."""
        return self._replay.size >= self._settings.learning_starts

    def update(self, progress: float) -> dict[str, float]:
        """As many steps of Algorithm 1 as the settings say; none until there is enough replay."""
        if not self._warm:
            return {}
        if not self._normalizer_fitted:
            self._policy.encoder.fit(*(self._replay.column(name) for name in OBSERVED))
            self._normalizer_fitted = True
        rate = linear_schedule(self._settings.learning_rate, progress)
        for optimizer in (self._actor_optimizer, self._critic_optimizer):
            optimizer.param_groups[0]["lr"] = rate
        metrics = {}
        for _ in range(self._settings.updates_per_step):
            metrics = self._update_once()
        return metrics | {"learning_rate": rate, "updates": self._settings.updates_per_step}

    def _update_once(self) -> dict[str, float]:
        """One step of Algorithm 1."""
        # Sample a minibatch from the replay buffer, with goals in hindsight.
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

        # Equation (5), with the target networks of Algorithm 1:  y = r + gamma Q'(s', mu'(s'))
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
        self._follow(self._target_critic, self._critic)
        self._follow(self._target_actor, self._actor)
        self._average.update(self._policy)
        return {"critic_loss": float(critic_loss.detach()), "q": float(q.detach().mean())}

    def _action_gradient(self, view: View, mu: Tensor) -> Tensor:
        """dQ(s, a)/da at a = mu(s), of the batch's mean.

        Where mu(s) is at a bound, only what leads away from it counts (Hausknecht and Stone 2016).
        """
        a = torch.clamp(mu.detach(), -1.0, 1.0).requires_grad_()
        (dq_da,) = torch.autograd.grad(self._inputs.q(self._critic, view, a).mean(), a)
        outwards = ((a >= 1.0) & (dq_da > 0.0)) | ((a <= -1.0) & (dq_da < 0.0))
        return torch.where(outwards, 0.0, dq_da)

    def _follow(self, target: nn.Module, online: nn.Module) -> None:
        """theta' <- tau theta + (1 - tau) theta'"""
        parameters = [parameter.detach() for parameter in online.parameters()]
        torch._foreach_lerp_(list(target.parameters()), parameters, self._settings.tau)

    @property
    def _targets(self) -> tuple[nn.Module, Critic]:
        """The networks that judge the next state; without target networks, the ones that learn."""
        if self._settings.target_networks:
            return self._target_actor, self._target_critic
        return self._actor, self._critic

    def policy(self) -> DeterministicPolicy:
        """The controller mu, its parameters averaged over the latest updates."""
        return self._average.policy

    @property
    def _networks(self) -> dict[str, nn.Module]:
        """The networks by their names in a state."""
        return {
            "policy": self._policy,
            "critic": self._critic,
            "target_actor": self._target_actor,
            "target_critic": self._target_critic,
        }

    @property
    def _learning(self) -> dict[str, Part]:
        """What else the training to come depends on."""
        return {
            "average": self._average,
            "actor_optimizer": self._actor_optimizer,
            "critic_optimizer": self._critic_optimizer,
            "replay": self._replay,
            "generator": self._generator,
        }

    def load_networks(self, state: dict[str, Any]) -> None:
        """Start from another run's networks; a critic that knew nothing would spoil the policy at once."""
        load_parts(self._networks, state)
        self._average.policy.load_state_dict(state["average"]["policy"])
        self._normalizer_fitted = state["normalizer_fitted"]

    def state_dict(self) -> dict[str, Any]:
        """Networks, targets, optimisers, replay and the generator's state."""
        parts = save_parts(self._networks) | save_parts(self._learning)
        return parts | {"normalizer_fitted": self._normalizer_fitted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        self.load_networks(state)
        load_parts(self._learning, state)


def discount_of(settings: DDPGSettings, spec: Spec) -> float:
    """The discount of the settings or, where they leave it open, that of goals that stay or move."""
    if settings.discount is not None:
        return settings.discount
    moving = spec.goal_size > spec.point_size
    return MOVING_DISCOUNT if moving else DISCOUNT
