"""The agent of all methods that follow the gradient of a stochastic policy: REINFORCE, actor-critic, A2C, A3C.

They differ in when they learn and in the advantage estimator (`policies.reinforce`, `actor_critic`, `a2c`, `a3c`). All
learn by the score function (Sutton and Barto 2018, equations 13.6 and 13.11):

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
from policies.common.distributions import Distribution, SquashedGaussian
from policies.common.networks import SQUASH_PENALTY, linear_schedule, mlp
from policies.common.rollout import Credit, Rollout, Steps, fit_from
from policies.common.settings import PolicyGradientSettings
from policies.common.state import Part, load_parts, save_parts

VALUE_WEIGHT = 0.5  # of the value's loss beside the policy's
SMALLEST_SCALE = 1e-3

# What a method makes of steps, the values (steps, arms) of their states and of the states after them, and its settings.
GiveCredit = Callable[[Steps, Tensor, Tensor, Any], Credit]


class SharedParameters(Protocol):
    """Parameters that several agents, in processes of their own, update together; each agent works on a copy."""

    staleness: int  # updates by others between this agent's latest copy and its latest step

    def publish(self) -> None:
        """Make the local parameters the shared ones."""

    def copy(self) -> None:
        """Make the shared parameters the local ones."""

    def copy_average(self, parameters: list[nn.Parameter]) -> None:
        """Copy the average of the shared parameters into these, which may be only the first few."""

    def step(self, rate: float) -> None:
        """Move the shared parameters along the local gradients."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class PolicyGradient:
    """The agent: a stochastic policy, a value of states, and the steps since it last learned."""

    def __init__(
        self,
        spec: Spec,
        settings: PolicyGradientSettings,
        seed: int,
        give_credit: GiveCredit,
        share: Callable[[list[nn.Parameter]], SharedParameters] | None = None,
    ) -> None:
        """`give_credit` estimates advantages. `share` makes parameters that agents share; by default, Adam moves them.

        Agents with shared parameters create no Adam, which loads PyTorch's compiler: a second and 160 MB a process.
        """
        self._settings = settings
        spec = spec.with_steps(settings.max_step, settings.slowing_distance)
        self._give_credit = give_credit
        self._generator = np.random.default_rng(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            kind = SoftmaxPolicy if settings.policy == "softmax" else GaussianPolicy
            self._policy: Actor = kind(spec, settings)
            self._value = mlp(self._policy.features, settings.hidden_units, 1, layer_norm=True)
        self._average = PolicyAverage(self._policy)
        networks = nn.ModuleList([self._policy, self._value])
        self._parameters = [parameter for parameter in networks.parameters() if parameter.requires_grad]
        self.shared = None if share is None else share(self._parameters)
        if self.shared is None:
            self._adam = torch.optim.Adam(self._parameters, settings.learning_rate, fused=True)
        self._rollout = Rollout()
        self._choice: Tensor | None = None  # of the last exploring action
        self._memory: Tensor | None = None  # of a recurrent policy, now, and when the rollout began
        self._first_memory: Tensor | None = None
        self.normalizer_fitted = False

    @torch.no_grad()
    def act(self, observation: Observation, *, explore: bool) -> Actions:
        """An action drawn from the policy, or, without exploring, its deterministic one."""
        # At the start of a rollout, take over what other workers have learned.
        starts_rollout = explore and len(self._rollout) == 0
        if starts_rollout and self.shared is not None:
            self.shared.copy()

        # Encode what is observed and, for a recurrent policy, remembered.
        seen = tensors_of(observation)
        features = self._policy.encoder(*seen)
        if self._policy.memory is not None:
            memory = self._memory_for(len(features), self._policy.memory.size)
            if starts_rollout:
                self._first_memory = memory
            features, memory = self._policy.memory(features, memory)
            if explore:
                self._memory = memory

        # Draw from pi(a | s), or take its mode; until the inputs are scaled, from a wide distribution.
        distribution = self._policy.distribution if self.normalizer_fitted else self._policy.uniform
        drawn = distribution(features, seen[0])
        choice = drawn.sample(self._generator) if explore else drawn.mode()
        if explore:
            self._choice = choice
        action: Actions = self._policy.action(drawn.action(choice), *seen).numpy()
        return action

    def _memory_for(self, arms: int, size: int) -> Tensor:
        """The recurrent state of so many arms: the present one, or zeros where there is none."""
        if self._memory is None or len(self._memory) != arms:
            return torch.zeros(arms, size)
        return self._memory

    def observe(self, transition: Transition) -> None:
        """Append a step of all arms, made by the last exploring action, to the rollout."""
        assert self._choice is not None
        self._rollout.add(transition, self._choice.numpy())
        if self._memory is not None:
            self._memory = self._memory * torch.from_numpy(~transition.ended)[:, None]

    def update(self, progress: float) -> dict[str, float]:
        """One gradient step from the steps since the last one, once there are enough; they are forgotten then."""
        if not self.normalizer_fitted:
            self.normalizer_fitted = fit_from(self._rollout, self._policy.encoder, self._settings.learning_starts)
            return {}
        if not self._ready:
            return {}
        rate = linear_schedule(self._settings.learning_rate, progress)
        return self._learn(self._rollout.take(), rate) | {"learning_rate": rate, "updates": 1}

    @property
    def _ready(self) -> bool:
        """Whether the rollout holds as many steps as an update needs."""
        steps = self._settings.rollout_steps
        if steps is None:
            return self._rollout.every_arm_has_ended
        return len(self._rollout) >= steps

    def _learn(self, steps: Steps, rate: float) -> dict[str, float]:
        """One gradient step from these steps."""
        settings = self._settings

        # Values V(s) and V(s') of the states before and after each step.
        features, next_features = self._encode(steps)
        with torch.no_grad():
            next_value = self._value(next_features).squeeze(-1)
        value = self._value(features).squeeze(-1)

        # The method's advantages and targets; advantages optionally in units of their root mean square.
        credit = self._give_credit(steps, value.detach(), next_value, settings)
        advantage = credit.advantage
        if settings.scale_advantage:
            advantage = advantage / (credit.mean(advantage.square()).sqrt() + SMALLEST_SCALE)

        # log pi(a | s) and the entropy of pi( . | s), which is only logged where it does not count.
        flat = (features.flatten(0, 1), steps.observation[0].flatten(0, 1))
        distribution: Distribution = self._policy.distribution(*flat)
        log_prob = distribution.log_prob(steps.choice.flatten(0, 1)).view_as(value)
        with torch.set_grad_enabled(settings.entropy_coef > 0):
            entropy = distribution.entropy().view_as(value)

        # L = -mean w A log pi(a | s)  +  c mean (V(s) - target)^2  -  beta mean H(pi)
        policy_loss = -credit.mean(log_prob * credit.weight * advantage)
        value_loss = credit.mean((value - credit.target).square())
        loss = policy_loss + VALUE_WEIGHT * value_loss - settings.entropy_coef * credit.mean(entropy)
        # Keep the outputs of a squashed policy where tanh still has a slope.
        if isinstance(distribution, SquashedGaussian):
            loss = loss + SQUASH_PENALTY * distribution.mean.square().sum(-1).mean()

        # Gradients, cut separately: a large loss of the value must not shrink the policy's step.
        for parameter in self._parameters:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self._policy.parameters(), settings.max_grad_norm)
        nn.utils.clip_grad_norm_(self._value.parameters(), settings.max_grad_norm)

        # The step itself.
        metrics = {
            "policy_loss": float(policy_loss.detach()),
            "value_loss": float(value_loss.detach()),
            "entropy": float(credit.mean(entropy).detach()),
            "value": float(credit.mean(value).detach()),
        }
        return metrics | self._descend(rate) | {"gradient_norm": float(norm)}

    def _encode(self, steps: Steps) -> tuple[Tensor, Tensor]:
        """Features (steps, arms, size) of the states before and after each step, with the memory of a recurrent policy.

        The scale of the inputs is not learned by gradients, the memory is.
        """
        with torch.no_grad():
            features = self._policy.encoder(*steps.observation)
            next_features = self._policy.encoder(*steps.next_observation)
        if self._policy.memory is None:
            return features, next_features
        assert self._first_memory is not None
        return self._policy.memory.unroll(features, next_features, self._first_memory, steps.ended)

    def _descend(self, rate: float) -> dict[str, float]:
        """Move the parameters along their gradients: one's own by Adam, or the ones that workers share."""
        if self.shared is not None:
            self.shared.step(rate)
            return {"staleness": self.shared.staleness}
        self._adam.param_groups[0]["lr"] = rate
        self._adam.step()
        self._average.update(self._policy)
        return {}

    def policy(self) -> Actor:
        """The policy, its parameters averaged over the latest updates; as a module it gives the action of its mode."""
        if self.shared is not None:
            self.shared.copy()
            # The average is over the shared parameters, of which the policy's are the first.
            pairs = zip(self._policy.parameters(), self._average.policy.parameters(), strict=True)
            self.shared.copy_average([average for own, average in pairs if own.requires_grad])
            self._average.copy_buffers(self._policy)
        return self._average.policy

    def load_networks(self, state: dict[str, Any]) -> None:
        """Start from another run's policy and value."""
        load_parts(self._networks, state)
        self._average.policy.load_state_dict(state["average"]["policy"])
        self.normalizer_fitted = state["normalizer_fitted"]
        if self.shared is not None:
            self.shared.publish()

    def join(self, state: dict[str, Any]) -> None:
        """Become one more worker on the shared parameters, with the inputs' scale of an agent's `state_dict`."""
        assert self.shared is not None
        self._policy.load_state_dict(state["policy"])
        self.normalizer_fitted = state["normalizer_fitted"]
        self.shared.copy()

    @property
    def _networks(self) -> dict[str, nn.Module]:
        """The networks by their names in a state."""
        return {"policy": self._policy, "value": self._value}

    @property
    def _learning(self) -> dict[str, Part]:
        """What else the training to come depends on."""
        return {
            "average": self._average,
            "optimizer": self._adam if self.shared is None else self.shared,
            "rollout": self._rollout,
            "generator": self._generator,
        }

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimiser, the steps not yet learned from, and the generator's state."""
        return {
            **save_parts(self._networks),
            **save_parts(self._learning),
            "normalizer_fitted": self.normalizer_fitted,
            "memory": [self._memory, self._first_memory],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        self.load_networks(state)
        load_parts(self._learning, state)
        self._memory, self._first_memory = state["memory"]
