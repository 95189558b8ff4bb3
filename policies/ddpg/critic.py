"""The critic of DDPG, and the form in which actor and critic see states and actions."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from policies.agent import OBSERVED, Spec
from policies.common.networks import DeterministicPolicy, fourier_features, mlp


class Critic(nn.Module):
    """Q: features, unit action, the steps that lead to it, and where it leads -> expected return (batch,)."""

    STEP_SCALE = 1.5  # steps from the present value are from -max_step to max_step: scale them towards unit variance
    SLOWED_SCALE = 2.0

    def __init__(self, spec: Spec, hidden: int, octaves: int, features: int, arrival: int) -> None:
        super().__init__()
        self.octaves = octaves
        actions = 3 if spec.slowing_distance else 2
        self.net = mlp(
            features + arrival + actions * len(spec.action_low) * (1 + 2 * octaves), hidden, 1, layer_norm=True
        )

    def forward(
        self, features: Tensor, unit_action: Tensor, step: Tensor, slowed_step: Tensor | None, arrival: Tensor
    ) -> Tensor:
        """Steps are from the present value, in units of the largest; `slowed_step` is the policy's own output."""
        action = [unit_action, step * self.STEP_SCALE]
        if slowed_step is not None:
            action.append(self.SLOWED_SCALE * torch.tanh(slowed_step))
        q: Tensor = self.net(torch.cat([features, arrival, fourier_features(torch.cat(action, -1), self.octaves)], -1))
        return q.squeeze(-1)


class View(NamedTuple):
    """Inputs of actor and critic for a batch of states, (batch, size) each."""

    features: Tensor
    observation: Tensor
    goal: Tensor
    approach: Tensor


class Inputs:
    """What actor and critic see: encoded states, actions from -1 to 1, and where an action leads."""

    def __init__(self, spec: Spec, policy: DeterministicPolicy) -> None:
        self._spec = spec
        self._encoder = policy.encoder
        self._scaling = policy.scaling

    def view(self, batch: dict[str, Tensor], prefix: str = "") -> View:
        """The states before a batch's steps or, with the prefix "next_", after them."""
        observation, achieved_goal, desired_goal = (batch[prefix + name] for name in OBSERVED)
        features = self._encoder(observation, achieved_goal, desired_goal)
        approach = self._scaling.approach(achieved_goal, desired_goal)
        return View(features, observation, desired_goal, approach)

    def mu(self, output: Tensor, view: View) -> Tensor:
        """mu(s) for the actor's output, from -1 to 1 and beyond."""
        return self._scaling.unit_target(view.observation, torch.tanh(output), view.approach)

    def q(self, critic: nn.Module, view: View, a: Tensor) -> Tensor:
        """Q(s, a). Where kinematics are known, the critic also sees how far from the goal the action leads."""
        scaling = self._scaling
        step = (a - scaling.present(view.observation)) / scaling.max_step
        slowed_step = scaling.step_to(a, view.observation, view.approach) if self._spec.slowing_distance else None
        arrival = view.goal[:, :0]
        if self._spec.kinematics is not None:
            point = self._spec.kinematics(view.observation, scaling.from_unit(a))
            arrival = self._encoder.arrival(point, view.goal)
        q: Tensor = critic(view.features, a, step, slowed_step, arrival)
        return q
