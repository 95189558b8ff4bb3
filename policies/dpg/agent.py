"""DPG: the deterministic policy gradient (Silver et al. 2014, "Deterministic policy gradient algorithms").

Three critics for the same actor mu, all learned online from the latest step of each environment:

- `compatible`: COPDAC-Q, equations (19) to (22): a critic linear in the features grad mu(s) (a - mu(s)), plus a state
  value, so that Q(s, mu(s)) = V(s);
- `q`: off-policy, equations (16) to (18): any differentiable Q, here a network;
- `sarsa`: equations (11) to (13): the same with the action that was taken next.

Differences from the paper:
- An update uses one step of all environments; Adam instead of plain gradient steps.
- The actor outputs a step from the measured value, squashed by tanh; inputs are normalised, with Fourier features.
- Large outputs of the actor before tanh are penalised, which would saturate it.
- Noisy steps are clipped at the largest step: where mu is near it, noise is one-sided, which biases `compatible`
  inwards.
- `sarsa` explores with the same noise as the others: if its actions were exactly mu(s), Q would not be identifiable as
  a function of the action. Its critic is therefore that of the noisy policy.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from policies.agent import ComputeReward, FloatArray, Observation, Spec, Transition, tensors_of
from policies.common.averaging import PolicyAverage
from policies.common.networks import SQUASH_PENALTY, DeterministicPolicy, linear_schedule
from policies.common.rollout import Rollout, Steps, fit_normalizer
from policies.common.state import Part, load_parts, save_parts
from policies.dpg.critics import CompatibleCritic, NetworkCritic
from policies.dpg.settings import DPGSettings


def make(spec: Spec, settings: DPGSettings, compute_reward: ComputeReward, seed: int) -> "DPG":
    """Create the agent."""
    return DPG(spec, settings, seed)


class DPG:
    """An actor mu, one of the critics, and the step for the next update."""

    def __init__(self, spec: Spec, settings: DPGSettings, seed: int) -> None:
        self._settings = settings
        spec = spec.with_step_scaling(settings.max_step, settings.slowing_distance)
        self._generator = np.random.default_rng(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._policy = DeterministicPolicy(spec, settings.hidden_units, settings.fourier_octaves)
            self._actor = nn.Sequential(self._policy.net, nn.Tanh())
            features = self._policy.encoder.size
            if settings.critic == "compatible":
                self._critic: nn.Module = CompatibleCritic(self._actor, features, settings.critic_units)
            else:
                self._critic = NetworkCritic(features, len(spec.action_low), settings.critic_units)
        self._average = PolicyAverage(self._policy)
        self._actor_optimizer = torch.optim.Adam(self._actor.parameters(), settings.learning_rate)
        self._critic_optimizer = torch.optim.Adam(self._critic.parameters(), settings.critic_learning_rate)
        self._rollout = Rollout()
        self._noise = settings.noise  # standard deviation of the exploration noise at present
        self._step: Tensor | None = None  # of the last exploring action
        self._normalizer_fitted = False

    @torch.no_grad()
    def act(self, observation: Observation, *, explore: bool) -> FloatArray:
        """Actions mu(s) (num_envs, actions), with normal noise if `explore`; only noise until learning starts."""
        inputs = tensors_of(observation)
        if not explore:
            action: FloatArray = self._policy(*inputs).numpy()
            return action
        # step = mu(s) + noise, clipped to the largest step
        step = self._actor(self._policy.encoder(*inputs))
        noise = torch.from_numpy(self._generator.standard_normal(tuple(step.shape), np.float32))
        step = step + self._noise * noise if self._normalizer_fitted else noise
        self._step = torch.clamp(step, -1.0, 1.0)
        action = self._policy.scaling.step_to_action(self._step, *inputs).numpy()
        return action

    def observe(self, transition: Transition) -> None:
        """Store a step of all environments, taken with the last exploring actions, for the next update."""
        assert self._step is not None
        self._rollout.add(transition, self._step.numpy())

    def update(self, progress: float) -> dict[str, float]:
        """Make one update of actor and critic from the last step of all environments (`sarsa`: the one before)."""
        # The first steps are random and only serve to fit the normalisation of the inputs.
        if not self._normalizer_fitted:
            self._normalizer_fitted = fit_normalizer(
                self._rollout, self._policy.encoder, self._settings.learning_starts
            )
            return {}
        kept = 1 if self._settings.critic == "sarsa" else 0  # SARSA needs the action of the following step
        if len(self._rollout) <= kept:
            return {}
        decay = linear_schedule(1.0, progress)
        learning_rate = decay * self._settings.learning_rate
        self._actor_optimizer.param_groups[0]["lr"] = learning_rate
        self._critic_optimizer.param_groups[0]["lr"] = decay * self._settings.critic_learning_rate
        self._noise = self._noise_at(progress)
        metrics = self._learn(self._rollout.take(kept=kept))
        return metrics | {"learning_rate": learning_rate, "updates": 1}

    def _noise_at(self, progress: float) -> float:
        """The standard deviation of the noise, from the first to the last one while `progress` goes from 0 to 1.

        A critic that is linear in a - mu(s) averages dQ/da over the noise. Noise that stays large hides what changes
        near the goal.
        """
        first = self._settings.noise
        return first + (self._settings.final_noise - first) * min(1.0, progress)

    def _learn(self, steps: Steps) -> dict[str, float]:
        """Make one gradient step of actor and critic."""
        s = self._policy.encoder(*(part[0] for part in steps.observation))
        self._actor_optimizer.zero_grad()
        self._critic_optimizer.zero_grad()

        # Gradients of the critic, and dQ(s, a)/da at a = mu(s), both with the parameters before the update.
        if isinstance(self._critic, CompatibleCritic):
            delta, dq_da = self._learn_compatible(self._critic, s, steps)
        else:
            delta, dq_da = self._learn_network(self._critic, s, steps)

        # Gradient of the actor.
        # Equations (13), (18) and (20):  theta <- theta + alpha grad mu(s) dQ(s, a)/da at a = mu(s)
        output = self._policy.net(s)
        penalty = SQUASH_PENALTY * output.square().sum(-1).mean()
        (penalty - (torch.tanh(output) * dq_da).sum(-1).mean()).backward()

        # Gradient steps.
        self._critic_optimizer.step()
        self._actor_optimizer.step()
        self._average.update(self._policy)
        return {"td_error": float(delta.square().mean().sqrt()), "slope": float(dq_da.abs().mean())}

    def _learn_compatible(self, critic: CompatibleCritic, s: Tensor, steps: Steps) -> tuple[Tensor, Tensor]:
        """COPDAC-Q: set the critic's gradients; return delta (num_envs,) and dQ/da (num_envs, actions)."""
        next_s = self._policy.encoder(*(part[0] for part in steps.next_observation))
        discount = self._settings.discount * (1.0 - steps.terminated[0])
        # Equation (19):  delta = r + gamma Q(s', mu(s')) - Q(s, a), where Q(s', mu(s')) = V(s')
        y = (steps.reward[0] + discount * critic.value(next_s).squeeze(-1)).detach()
        # Equations (21), (22):  w <- w + alpha_w delta phi(s, a),  v <- v + alpha_v delta dV/dv
        delta = critic.learn(self._actor, s, steps.sample[0], y)
        _, dq_da = critic.slope(self._actor, s)
        return delta, dq_da

    def _learn_network(self, critic: nn.Module, s: Tensor, steps: Steps) -> tuple[Tensor, Tensor]:
        """Q-network: set the critic's gradients; return delta (num_envs,) and dQ/da (num_envs, actions)."""
        next_s = self._policy.encoder(*(part[0] for part in steps.next_observation))
        discount = self._settings.discount * (1.0 - steps.terminated[0])
        # The next action a': mu(s') or, for SARSA, the one that was taken, except at the end of an episode.
        next_a = self._actor(next_s)
        if self._settings.critic == "sarsa":
            next_a = torch.where(steps.ended[0, :, None] > 0, next_a, steps.sample[1])
        # Equations (11), (12) and (16), (17):  delta = r + gamma Q(s', a') - Q(s, a),  w <- w + alpha delta dQ/dw
        y = (steps.reward[0] + discount * critic(next_s, next_a)).detach()
        q = critic(s, steps.sample[0])
        (0.5 * mse_loss(q, y)).backward()  # type: ignore[no-untyped-call]
        # dQ(s, a)/da at a = mu(s)
        mu = self._actor(s).detach().requires_grad_()
        (dq_da,) = torch.autograd.grad(critic(s, mu).sum(), mu)
        return (y - q).detach(), dq_da

    def policy(self) -> DeterministicPolicy:
        """The policy mu with its parameters averaged over the latest updates."""
        return self._average.policy

    @property
    def _networks(self) -> dict[str, nn.Module]:
        """The networks by name in a state."""
        return {"policy": self._policy, "critic": self._critic}

    @property
    def _learning(self) -> dict[str, Part]:
        """Everything else that the rest of the training depends on, by name."""
        return {
            "average": self._average,
            "actor_optimizer": self._actor_optimizer,
            "critic_optimizer": self._critic_optimizer,
            "rollout": self._rollout,
            "generator": self._generator,
        }

    def load_networks(self, state: dict[str, Any]) -> None:
        """Load actor and critic from a state of another run."""
        load_parts(self._networks, state)
        self._average.policy.load_state_dict(state["average"]["policy"])
        self._normalizer_fitted = state["normalizer_fitted"]

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers, the step for the next update, and the generator's state."""
        parts = save_parts(self._networks) | save_parts(self._learning)
        return parts | {"normalizer_fitted": self._normalizer_fitted, "noise": self._noise}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict`."""
        self.load_networks(state)
        load_parts(self._learning, state)
        self._noise = state.get("noise", self._settings.noise)  # older checkpoints: constant noise
