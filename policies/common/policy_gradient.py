"""The agent of all stochastic policy-gradient methods: REINFORCE, actor-critic, A2C and A3C.

They differ in when they update and in the advantage estimator (`policies.reinforce`, `actor_critic`, `a2c`, `a3c`). All
use the score function estimator (Sutton and Barto 2018, equations 13.6 and 13.11):

    theta  <-  theta + alpha * mean of  advantage_t * d log pi(a_t | s_t) / d theta
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from policies.agent import Actions, Observation, Spec, Transition, tensors_of
from policies.common.actors import Actor, GaussianPolicy, SoftmaxPolicy
from policies.common.averaging import PolicyAverage
from policies.common.distributions import Distribution, Gaussian, SquashedGaussian
from policies.common.networks import SQUASH_PENALTY, linear_schedule, mlp
from policies.common.rollout import AdvantageEstimate, Rollout, Steps, fit_normalizer
from policies.common.settings import PolicyGradientSettings
from policies.common.state import Part, load_parts, save_parts

VALUE_WEIGHT = 0.5  # coefficient c of the value loss
MIN_ADVANTAGE_SCALE = 1e-3

# (rollout, V(s) and V(s') of its steps (steps, num_envs), settings) -> advantages and value targets
AdvantageEstimator = Callable[[Steps, Tensor, Tensor, Any], AdvantageEstimate]


class SharedParameters(Protocol):
    """Parameters that agents in several processes update together, each from its own local copy."""

    staleness: int  # number of updates by others between this agent's latest copy and its latest step

    def publish(self) -> None:
        """Overwrite the shared parameters with the local ones."""

    def copy(self) -> None:
        """Overwrite the local parameters with the shared ones."""

    def copy_average(self, parameters: list[nn.Parameter]) -> None:
        """Copy the average of the shared parameters into `parameters`, which may be only the first ones."""

    def step(self, learning_rate: float) -> None:
        """Update the shared parameters with the local gradients."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class PolicyGradient:
    """A stochastic policy, a state value network, and the rollout for the next update."""

    def __init__(
        self,
        spec: Spec,
        settings: PolicyGradientSettings,
        seed: int,
        estimate_advantages: AdvantageEstimator,
        share_parameters: Callable[[list[nn.Parameter]], SharedParameters] | None = None,
    ) -> None:
        """Create the networks. `share_parameters` makes their parameters shared ones; by default, Adam updates them.

        Agents with shared parameters do not create Adam, which imports PyTorch's compiler: 1 s and 160 MB a process.
        """
        self._settings = settings
        spec = spec.with_step_scaling(settings.max_step, settings.slowing_distance)
        self._estimate_advantages = estimate_advantages
        self._generator = np.random.default_rng(seed)
        # The networks, initialised by the seed without changing PyTorch's own generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            kind = SoftmaxPolicy if settings.policy == "softmax" else GaussianPolicy
            self._policy: Actor = kind(spec, settings)
            self._value = mlp(self._policy.features, settings.hidden_units, 1, layer_norm=True)
        self._average = PolicyAverage(self._policy)
        # Their optimiser.
        networks = nn.ModuleList([self._policy, self._value])
        self._parameters = [parameter for parameter in networks.parameters() if parameter.requires_grad]
        self.shared = None if share_parameters is None else share_parameters(self._parameters)
        if self.shared is None:
            self._adam = torch.optim.Adam(self._parameters, settings.learning_rate, fused=True)
        # The steps for the next update, and the recurrent state of the environments.
        self._rollout = Rollout()
        self._sample: Tensor | None = None  # of the last exploring action
        self._recurrent_state: Tensor | None = None  # of a recurrent policy, current and at the start of the rollout
        self._first_recurrent_state: Tensor | None = None
        self.normalizer_fitted = False

    @torch.no_grad()
    def act(self, observation: Observation, *, explore: bool) -> Actions:
        """Actions (num_envs, actions) drawn from the policy or, without `explore`, its deterministic actions."""
        # At the start of a rollout, copy the parameters that other workers have updated.
        starts_rollout = explore and len(self._rollout) == 0
        if starts_rollout and self.shared is not None:
            self.shared.copy()

        # Encode the observations and, for a recurrent policy, update its state.
        inputs = tensors_of(observation)
        features = self._policy.encoder(*inputs)
        if self._policy.memory is not None:
            recurrent_state = self._recurrent_state_for(len(features), self._policy.memory.size)
            if starts_rollout:
                self._first_recurrent_state = recurrent_state
            features, recurrent_state = self._policy.memory(features, recurrent_state)
            if explore:
                self._recurrent_state = recurrent_state

        # Draw from pi(a | s), or take its mode; from a wide distribution until learning starts.
        make_distribution = self._policy.distribution if self.normalizer_fitted else self._policy.uniform
        distribution = make_distribution(features, inputs[0])
        sample = distribution.sample(self._generator) if explore else distribution.mode()
        if explore:
            self._sample = sample
        action: Actions = self._policy.action(distribution.action(sample), *inputs).numpy()
        return action

    def _recurrent_state_for(self, num_envs: int, size: int) -> Tensor:
        """The current recurrent state (num_envs, size), zeros before the first step."""
        if self._recurrent_state is None or len(self._recurrent_state) != num_envs:
            return torch.zeros(num_envs, size)
        return self._recurrent_state

    def observe(self, transition: Transition) -> None:
        """Append a step of all environments, taken with the last exploring actions, to the rollout."""
        assert self._sample is not None
        self._rollout.add(transition, self._sample.numpy())
        # Reset the recurrent state at the end of an episode.
        if self._recurrent_state is not None:
            self._recurrent_state = self._recurrent_state * torch.from_numpy(~transition.ended)[:, None]

    def update(self, progress: float) -> dict[str, float]:
        """Make one gradient step from the rollout once it is complete, and discard it."""
        # The first steps are random and only serve to fit the normalisation of the inputs.
        if not self.normalizer_fitted:
            self.normalizer_fitted = fit_normalizer(self._rollout, self._policy.encoder, self._settings.learning_starts)
            return {}
        if not self._ready:
            return {}
        learning_rate = linear_schedule(self._settings.learning_rate, progress)
        metrics = self._learn(self._rollout.take(), learning_rate)
        return metrics | {"learning_rate": learning_rate, "updates": 1}

    @property
    def _ready(self) -> bool:
        """True if the rollout has the steps that an update needs."""
        steps = self._settings.rollout_steps
        if steps is None:
            return self._rollout.every_env_has_ended
        return len(self._rollout) >= steps

    def _learn(self, steps: Steps, learning_rate: float) -> dict[str, float]:
        """Make one gradient step from a rollout."""
        settings = self._settings

        # Values V(s) and V(s') of the states before and after each step.
        features, next_features = self._encode(steps)
        with torch.no_grad():
            next_value = self._value(next_features).squeeze(-1)
        value = self._value(features).squeeze(-1)

        # Advantages and value targets; advantages optionally in units of their root mean square.
        estimate = self._estimate_advantages(steps, value.detach(), next_value, settings)
        advantage = estimate.advantage
        if settings.scale_advantage:
            advantage = advantage / (estimate.mean(advantage.square()).sqrt() + MIN_ADVANTAGE_SCALE)

        # log pi(a | s), and the entropy of pi( . | s), which is only logged if its coefficient is 0.
        distribution: Distribution = self._policy.distribution(
            features.flatten(0, 1), steps.observation[0].flatten(0, 1)
        )
        log_prob = distribution.log_prob(steps.sample.flatten(0, 1)).view_as(value)
        with torch.set_grad_enabled(settings.entropy_coef > 0):
            entropy = distribution.entropy().view_as(value)

        # L = -mean w A log pi(a | s)  +  c mean (V(s) - target)^2  -  beta mean H(pi)
        policy_loss = -estimate.mean(log_prob * estimate.weight * advantage)
        value_loss = estimate.mean((value - estimate.value_target).square())
        loss = policy_loss + VALUE_WEIGHT * value_loss - settings.entropy_coef * estimate.mean(entropy)
        # Penalise large outputs before tanh, which would saturate it.
        if isinstance(distribution, SquashedGaussian):
            loss = loss + SQUASH_PENALTY * distribution.mean.square().sum(-1).mean()

        # Gradient step.
        gradient_norm = self._backpropagate(loss)
        metrics = {
            "policy_loss": float(policy_loss.detach()),
            "value_loss": float(value_loss.detach()),
            "entropy": float(estimate.mean(entropy).detach()),
            "value": float(estimate.mean(value).detach()),
        }
        if isinstance(distribution, Gaussian):
            metrics["std"] = float(distribution.std.detach().mean())
        return metrics | self._descend(learning_rate) | {"gradient_norm": gradient_norm}

    def _encode(self, steps: Steps) -> tuple[Tensor, Tensor]:
        """Features (steps, num_envs, size) of the states before and after each step, with those of an LSTM.

        The LSTM is trained by gradients; the normalisation of the inputs is not.
        """
        with torch.no_grad():
            features = self._policy.encoder(*steps.observation)
            next_features = self._policy.encoder(*steps.next_observation)
        if self._policy.memory is None:
            return features, next_features
        assert self._first_recurrent_state is not None
        return self._policy.memory.unroll(features, next_features, self._first_recurrent_state, steps.ended)

    def _backpropagate(self, loss: Tensor) -> float:
        """Compute all gradients and clip them; returns the norm of the policy's gradient before clipping.

        Policy and value are clipped separately, so that a large value loss does not shrink the policy's step.
        """
        for parameter in self._parameters:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        largest = self._settings.max_grad_norm
        gradient_norm = nn.utils.clip_grad_norm_(self._policy.parameters(), largest)
        nn.utils.clip_grad_norm_(self._value.parameters(), largest)
        return float(gradient_norm)

    def _descend(self, learning_rate: float) -> dict[str, float]:
        """Update the shared parameters or, by Adam, the agent's own ones with the gradients; return metrics."""
        if self.shared is not None:
            self.shared.step(learning_rate)
            return {"staleness": self.shared.staleness}
        self._adam.param_groups[0]["lr"] = learning_rate
        self._adam.step()
        self._average.update(self._policy)
        return {}

    def policy(self) -> Actor:
        """The policy with its parameters averaged over the latest updates. As a module, it returns its mode."""
        if self.shared is not None:
            self.shared.copy()
            # The average covers the shared parameters, of which the policy's come first.
            averaged = []
            for own, average in zip(self._policy.parameters(), self._average.policy.parameters(), strict=True):
                if own.requires_grad:
                    averaged.append(average)
            self.shared.copy_average(averaged)
            self._average.copy_buffers(self._policy)
        return self._average.policy

    def load_networks(self, state: dict[str, Any]) -> None:
        """Load policy and value from a state of another run."""
        load_parts(self._networks, state)
        self._average.policy.load_state_dict(state["average"]["policy"])
        self.normalizer_fitted = state["normalizer_fitted"]
        if self.shared is not None:
            self.shared.publish()

    def join(self, state: dict[str, Any]) -> None:
        """Use the shared parameters, and the inputs' normalisation of another worker's `state_dict`."""
        assert self.shared is not None
        self._policy.load_state_dict(state["policy"])
        self.normalizer_fitted = state["normalizer_fitted"]
        self.shared.copy()

    @property
    def _networks(self) -> dict[str, nn.Module]:
        """The networks by name in a state."""
        return {"policy": self._policy, "value": self._value}

    @property
    def _learning(self) -> dict[str, Part]:
        """Everything else that the rest of the training depends on, by name."""
        return {
            "average": self._average,
            "optimizer": self._adam if self.shared is None else self.shared,
            "rollout": self._rollout,
            "generator": self._generator,
        }

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimiser, the rollout in progress, and the generator's state."""
        return {
            **save_parts(self._networks),
            **save_parts(self._learning),
            "normalizer_fitted": self.normalizer_fitted,
            "memory": [self._recurrent_state, self._first_recurrent_state],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict`."""
        self.load_networks(state)
        load_parts(self._learning, state)
        self._recurrent_state, self._first_recurrent_state = state["memory"]
