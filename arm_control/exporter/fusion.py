"""Graph fusion: an optional pass of the export that gives a deterministic policy with a quarter of the operations.

The gain: the default arm's policy takes 16 us per inference with it and 37 us without (23 and 87 graph nodes), because
the small operations around the network cost more than the network: units, kinematics, normalisation, scaling. These are
sums and products, except for the sines of joint angles, and are multiplied out here in double precision:

    u = (readings, goal, sin(A q + a))        the tip is a sum of sines of sums of joint angles q
    v = sin(B u + b)                          the Fourier features of normalised inputs, each of them a sum over u
    x = C u + c                               the displacement from the tip to the goal
    step = m tanh(net(u, v, x / |x|))         the first layer is linear in u, as before
    target = clip(p + g(|x|) (q + step - p))  from the previous target p

The exporter verifies the result like any other: against PyTorch's own policy and against the environment.
"""

import copy
import itertools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from envs.arm import RADIANS, Arm
from policies.common.networks import DeterministicPolicy

NEGLIGIBLE_M = 1e-12
MOST_JOINTS = 5  # with 3^5 = 243 sums of angles
POSES = 2000  # to which the sines are fitted

Matrix = NDArray[np.float64]


class FusedPolicy(nn.Module):
    """Angles, speeds, previous targets and their speeds (batch, joints), goals (batch, 3) -> targets (batch, joints).

    In the units and in the order of the exported graph's inputs.
    """

    step_deg: Tensor

    def __init__(self, arm: Arm, policy: DeterministicPolicy) -> None:
        super().__init__()
        policy = copy.deepcopy(policy).double()
        encoder = policy.encoder
        scaling = policy.scaling
        first = policy.net[0]
        assert isinstance(first, nn.Linear)
        joints = arm.joint_count
        # The tip as sines: tip = place (1, sin(A q + a))
        sums, place = tip_as_sines(arm)
        # The encoder's linear part x = C u + c, from its values at u = 0 and at each unit vector.
        u = torch.cat([torch.zeros(1, 4 * joints + 3 + len(sums)), torch.eye(4 * joints + 3 + len(sums))]).double()
        readings, goal, sines = u.tensor_split([4 * joints, 4 * joints + 3], 1)
        tip = sines @ torch.from_numpy(place[:, 1:].T) + torch.from_numpy(place[:, 0])
        x = encoder.normalizer(encoder.raw(readings * RADIANS, tip, goal))
        constant = x[0]
        factors = (x[1:] - x[0]).T
        # The features are x, and sines and cosines of multiples of it: cos(a) = sin(a + pi / 2)
        scales = [2.0 ** (octave - 1) for octave in range(encoder.octaves)]
        turns = [turn for turn in (0.0, math.pi / 2) for _ in scales]
        multiples = list(zip(scales * 2, turns, strict=True))
        # The first layer: W (x, v, direction) = (W_x C) u + W_x c + W_other (v, direction)
        x_weight = first.weight[:, : len(constant)]
        other_weight = first.weight[:, len(constant) :]
        self.tip_sines = linear(torch.from_numpy(sums[:, :-1]) * RADIANS, torch.from_numpy(sums[:, -1]))
        # The displacement and its length, in units of the slowing distance.
        unit_m = scaling.slowing_distance or 1.0
        at_zero = goal[0] - tip[0]
        self.displacement = linear(((goal[1:] - tip[1:]) - at_zero).T / unit_m, at_zero / unit_m)
        self.softness = encoder.softness / unit_m
        self.rest_distance = scaling.rest_distance / unit_m
        self.slows = scaling.slowing_distance > 0.0
        self.from_previous = scaling.target_columns is not None
        self.features = linear(
            torch.cat([scale * factors for scale, _ in multiples]),
            torch.cat([scale * constant + turn for scale, turn in multiples]),
        )
        self.first = linear(torch.cat([x_weight @ factors, other_weight], 1), first.bias + x_weight @ constant)
        self.rest = policy.net[1:].float()
        self.register_buffer("step_deg", torch.diag(0.5 * scaling.max_step * (scaling.high - scaling.low)).float())
        self._lower = scaling.low.float()
        self._upper = scaling.high.float()

    def forward(
        self,
        joint_angle_deg: Tensor,
        joint_speed_deg_s: Tensor,
        previous_target_deg: Tensor,
        previous_target_speed_deg_s: Tensor,
        goal_m: Tensor,
    ) -> Tensor:
        """The targets in degrees, (batch, joints)."""
        sines = torch.sin(self.tip_sines(joint_angle_deg))
        readings = (joint_angle_deg, joint_speed_deg_s, previous_target_deg, previous_target_speed_deg_s)
        u = torch.cat([*readings, goal_m, sines], -1)
        displacement = self.displacement(u)
        distance = torch.linalg.vector_norm(displacement, dim=-1, keepdim=True)
        direction = displacement * torch.reciprocal(distance + self.softness)
        features = torch.cat([u, torch.sin(self.features(u)), direction], -1)
        step = torch.tanh(self.rest(self.first(features)))
        if self.slows:
            excess = distance - self.rest_distance if self.rest_distance else distance
            approach = torch.clamp(excess, 0.0, 1.0)
            if self.from_previous:
                change = torch.addmm(joint_angle_deg - previous_target_deg, step, self.step_deg)
                target = previous_target_deg + approach * change
            else:
                target = torch.addmm(joint_angle_deg, approach * step, self.step_deg)
        else:
            # An addition and a product of matrices at once: angle + step * largest step.
            target = torch.addmm(joint_angle_deg, step, self.step_deg)
        lower = self._lower.tolist()
        upper = self._upper.tolist()
        if len({*lower}) == len({*upper}) == 1:  # for all joints the same: one operation instead of two
            return torch.clamp(target, lower[0], upper[0])
        return torch.clamp(target, self._lower, self._upper)


def fuse(arm: Arm, policy: nn.Module) -> FusedPolicy | None:
    """The fused policy; None for another kind of policy, other actions than angles, and moving goals."""
    if type(policy) is not DeterministicPolicy or not policy.encoder.octaves or arm.joint_count > MOST_JOINTS:
        return None
    limits = arm.limits
    joints = arm.joint_count
    if len(policy.encoder.normalizer.mean) != 4 * joints + 9:
        return None
    angles = torch.tensor([limits.lower_deg, limits.upper_deg])
    readings = torch.cat([angles, torch.zeros(2, 3 * joints)], 1)
    if not torch.allclose(policy.scaling.from_unit(policy.scaling.measured(readings * RADIANS)), angles, atol=1e-3):
        return None
    return FusedPolicy(arm, policy)


def tip_as_sines(arm: Arm) -> tuple[Matrix, Matrix]:
    """The tip position as sines of sums of joint angles.

    Returns the sums (terms, joints + 1), factors of the angles and a constant in radians, and the coefficients
    (3, 1 + terms) of a constant and of each sine in x, y, z. The form is exact: as a function of one joint angle, the
    tip is a + b cos + c sin, and products of sines and cosines are sums of those of the sums and differences of angles.
    """
    # Each joint's factor is 0, 1 or -1; a sum and its negative give the same sines.
    # Of each such pair, take the one whose first factor is positive, with its sine and its cosine: sin(a + pi / 2).
    rows = []
    for factors in itertools.product((0.0, 1.0, -1.0), repeat=arm.joint_count):
        first = next((factor for factor in factors if factor), 0.0)
        if first > 0.0:
            rows.append([*factors, 0.0])
            rows.append([*factors, math.pi / 2])
    sums = np.array(rows)
    # Fit the coefficients of a constant and of all sines to random poses, and drop the negligible ones.
    poses = np.random.default_rng(0).uniform(-180.0, 180.0, (POSES, arm.joint_count))
    sines = np.sin(poses * RADIANS @ sums[:, :-1].T + sums[:, -1])
    columns = np.concatenate([np.ones((POSES, 1)), sines], axis=1)
    place = np.linalg.lstsq(columns, arm.forward_kinematics(poses), rcond=None)[0].T
    used = np.flatnonzero((np.abs(place[:, 1:]) > NEGLIGIBLE_M).any(axis=0))
    return sums[used], place[:, [0, *(used + 1)]]


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A linear layer with this weight and bias, in single precision."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer
