"""The critic of DDPG, and the inputs of actor and critic."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from policies.agent import OBSERVATION_KEYS, Spec
from policies.common.networks import DeterministicPolicy, fourier_features, mlp


class Critic(nn.Module):
    """Q(s, a): the expected return of a state and an action.

    The action is an input in several forms: absolute, as a step from the measured value, as the output of the actor
    that results in it, and by the displacement from its target to the goal.
    """

    STEP_SCALE = 1.5  # scales steps, which are between -1 and 1, towards unit variance
    POLICY_STEP_SCALE = 2.0

    def __init__(self, spec: Spec, hidden: int, octaves: int, features: int, goal_error: int) -> None:
        super().__init__()
        self.octaves = octaves
        action_forms = 3 if spec.slowing_distance else 2
        action_features = action_forms * len(spec.action_low) * (1 + 2 * octaves)
        self.net = mlp(features + goal_error + action_features, hidden, 1, layer_norm=True)

    def forward(
        self, features: Tensor, unit_action: Tensor, step: Tensor, policy_step: Tensor | None, goal_error: Tensor
    ) -> Tensor:
        """Q (batch,) from encoded states (batch, features) and actions in their forms.

        `unit_action` (batch, actions) is in -1..1, `step` its distance from the measured value in units of the largest
        step, `policy_step` the step that the policy would have to output (None if steps are not scaled), and
        `goal_error` (batch, goal_error) the features of the displacement to the goal, (batch, 0) without kinematics.
        """
        action = [unit_action, step * self.STEP_SCALE]
        if policy_step is not None:
            action.append(self.POLICY_STEP_SCALE * torch.tanh(policy_step))
        action_features = fourier_features(torch.cat(action, -1), self.octaves)
        q: Tensor = self.net(torch.cat([features, goal_error, action_features], -1))
        return q.squeeze(-1)


class View(NamedTuple):
    """A batch of states as actor and critic need them, (batch, size) each."""

    features: Tensor  # encoded observations and goals
    observation: Tensor
    goal: Tensor
    step_fraction: Tensor  # g of `ActionScaling`


class Inputs:
    """Computes the inputs of actor and critic, with actions in -1..1."""

    def __init__(self, spec: Spec, policy: DeterministicPolicy) -> None:
        self._spec = spec
        self._encoder = policy.encoder
        self._scaling = policy.scaling

    def view(self, batch: dict[str, Tensor], prefix: str = "") -> View:
        """Encode the states before the steps of a batch or, with the prefix "next_", after them."""
        observation, achieved_goal, desired_goal = (batch[prefix + name] for name in OBSERVATION_KEYS)
        features = self._encoder(observation, achieved_goal, desired_goal)
        step_fraction = self._scaling.step_fraction(achieved_goal, desired_goal)
        return View(features, observation, desired_goal, step_fraction)

    def mu(self, output: Tensor, view: View) -> Tensor:
        """Actions mu(s) (batch, actions) for the actor's outputs before tanh; not clipped to -1..1."""
        return self._scaling.unit_target(view.observation, torch.tanh(output), view.step_fraction)

    def q(self, critic: nn.Module, view: View, a: Tensor) -> Tensor:
        """Q(s, a) (batch,) of actions (batch, actions) in -1..1."""
        # The step from the measured value, and the step that the policy would have to output.
        scaling = self._scaling
        step = (a - scaling.measured(view.observation)) / scaling.max_step
        policy_step = None
        if self._spec.slowing_distance:
            policy_step = scaling.step_for_target(a, view.observation, view.step_fraction)

        # The displacement to the goal from the tip at the action's target, if the kinematics are known.
        goal_error = view.goal[:, :0]
        if self._spec.kinematics is not None:
            point = self._spec.kinematics(view.observation, scaling.from_unit(a))
            goal_error = self._encoder.goal_error_features(point, view.goal)
        q: Tensor = critic(view.features, a, step, policy_step, goal_error)
        return q
