"""Graph fusion: the fused policy computes the same, and what cannot be fused is exported unchanged."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from arm_control.exporter.fusion import FusedPolicy, fuse, linear, tip_as_sines
from arm_control.exporter.graph import ExportedPolicy
from arm_control.exporter.states import random_states
from envs.arm import RADIANS, Arm
from policies.agent import Spec
from policies.common.networks import DeterministicPolicy

TWISTED = """<robot name="twisted"><link name="base"/><link name="a"/><link name="b"/><link name="tip"/>
<joint name="one" type="revolute"><parent link="base"/><child link="a"/><axis xyz="0 0.6 0.8"/>
<origin xyz="0 0.1 0.2" rpy="0.3 0 0.2"/><limit lower="-1" upper="1.5" velocity="3" effort="1"/></joint>
<joint name="two" type="revolute"><parent link="a"/><child link="b"/><axis xyz="1 0 0"/>
<origin xyz="0.1 0 0.3" rpy="0 0.4 0"/><limit lower="-0.5" upper="1" velocity="3" effort="1"/></joint>
<joint name="end" type="fixed"><parent link="b"/><child link="tip"/><origin xyz="0.1 0.2 0"/></joint></robot>"""


def arm_named(name: str) -> Arm:
    return Arm() if name == "default" else Arm("twisted.urdf", text=TWISTED)


def random_policy(
    arm: Arm,
    *,
    goal_size: int = 3,
    measured: bool = True,
    octaves: int = 2,
    slowing_distance: float = 0.0,
    rest_distance: float = 0.0,
    size: float = 1.0,
) -> DeterministicPolicy:
    """A policy with its own normalisation, whose targets are far from the arm's pose."""
    joints = arm.joint_count
    spec = Spec(
        observation_size=4 * joints,
        goal_size=goal_size,
        goal_point_size=3,
        action_low=arm.limits.lower_deg,
        action_high=arm.limits.upper_deg,
        measured_columns=tuple(range(joints)) if measured else None,
        measured_unit=1.0 / RADIANS,
        target_columns=tuple(range(2 * joints, 3 * joints)) if measured else None,
        slowing_distance=slowing_distance,
        rest_distance=rest_distance,
        size=size,
        max_step=(11.4,) * joints if measured else None,
    )
    torch.manual_seed(0)
    policy = DeterministicPolicy(spec, 32, octaves)
    with torch.no_grad():
        policy.net[-1].weight.mul_(60.0)
        policy.encoder.normalizer.mean.normal_()
        policy.encoder.normalizer.std.uniform_(0.3, 2.0)
    return policy


class TestTipAsSines:
    """The tip's position as a sum of sines of the joint angles."""

    @pytest.mark.parametrize("name", ["default", "twisted"])
    def test_the_tip_is_a_sum_of_sines(self, name: str) -> None:
        """The sum equals the forward kinematics at 100 random poses."""
        arm = arm_named(name)
        sums, place = tip_as_sines(arm)
        poses = np.random.default_rng(1).uniform(-180.0, 180.0, (100, arm.joint_count))
        sines = np.sin(poses * RADIANS @ sums[:, :-1].T + sums[:, -1])
        np.testing.assert_allclose(place[:, 0] + sines @ place[:, 1:].T, arm.forward_kinematics(poses), atol=1e-12)

    def test_the_default_arm_has_ten_sines_of_the_26_that_three_joints_can_have(self) -> None:
        """The height is 0.25 m + 0.25 m cos(q2) + 0.2 m cos(q2 + q3), by hand."""
        sums, place = tip_as_sines(Arm())
        assert sums.shape == (10, 4)
        # The height is independent of the first joint: 0.25 m and cosines of the two angles to the vertical.
        height = {
            (*row[:3], row[3] == math.pi / 2): part for row, part in zip(sums.tolist(), place[2, 1:], strict=True)
        }
        assert place[2, 0] == pytest.approx(0.25)
        assert height.pop((0.0, 1.0, 0.0, True)) == pytest.approx(0.25)
        assert height.pop((0.0, 1.0, 1.0, True)) == pytest.approx(0.2)
        assert max(map(abs, height.values())) < 1e-9


class TestEquality:
    """The fused policy against the plain one."""

    @pytest.mark.parametrize("name", ["default", "twisted"])
    @pytest.mark.parametrize(
        ("slowing_distance", "rest_distance"), [(0.0, 0.0), (0.0, 0.05), (0.6, 0.0), (0.6, 0.05)], ids=str
    )
    @pytest.mark.parametrize("size", [1.0, 40.0])
    def test_it_computes_the_same_targets(
        self, name: str, slowing_distance: float, rest_distance: float, size: float
    ) -> None:
        """2,000 random states, for goals of which none, some or all are within the slowing distance."""
        arm = arm_named(name)
        policy = random_policy(arm, slowing_distance=slowing_distance, rest_distance=rest_distance, size=size)
        fused = fuse(arm, policy)
        assert isinstance(fused, FusedPolicy)
        states = [torch.from_numpy(column) for column in random_states(arm, 2000, np.random.default_rng(0)).values()]
        with torch.no_grad():
            expected, got = ExportedPolicy(arm, policy, "absolute")(*states), fused(*states)
        assert (expected - states[0]).abs().max() > 5.0
        assert (expected - got).abs().max() < 3e-4
        assert all(parameter.dtype == torch.float32 for parameter in fused.parameters())

    def test_the_original_policy_is_not_changed(self) -> None:
        """Fusing leaves its weights bit-equal and in float32."""
        arm = Arm()
        policy = random_policy(arm)
        before = {name: value.clone() for name, value in policy.state_dict().items()}
        fuse(arm, policy)
        for name, value in policy.state_dict().items():
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, before[name], rtol=0, atol=0)


class TestAtTheGoal:
    """Fused policies that slow down, with the goal at the tip and near it."""

    @staticmethod
    def states(arm: Arm, distance_m: float) -> list[torch.Tensor]:
        """Readings, with goals at this distance from the tip."""
        columns = random_states(arm, 500, np.random.default_rng(0))
        *readings, _ = (torch.from_numpy(column) for column in columns.values())
        tip = arm.forward_kinematics(readings[0].double().numpy())
        along = np.random.default_rng(1).normal(size=tip.shape)
        along *= distance_m / np.linalg.norm(along, axis=1, keepdims=True)
        return [*readings, torch.from_numpy((tip + along).astype(np.float32))]

    @pytest.mark.parametrize("name", ["default", "twisted"])
    def test_it_rests_within_the_rest_distance(self, name: str) -> None:
        """The target is bit-equal to the previous one."""
        arm = arm_named(name)
        fused = fuse(arm, random_policy(arm, slowing_distance=0.02, rest_distance=0.001))
        assert fused is not None
        for distance_m in (0.0, 0.0009):
            states = self.states(arm, distance_m)
            with torch.no_grad():
                assert torch.equal(fused(*states), states[2])

    @pytest.mark.parametrize("name", ["default", "twisted"])
    @pytest.mark.parametrize("rest_distance", [0.0, 0.001])
    @pytest.mark.parametrize("distance_m", [0.0005, 0.003, 0.015, 0.03])
    def test_near_the_goal_it_is_the_same_policy(self, name: str, rest_distance: float, distance_m: float) -> None:
        """Distances rounded to 0.1 micrometres are 5 parts in a million of 20 mm."""
        arm = arm_named(name)
        policy = random_policy(arm, slowing_distance=0.02, rest_distance=rest_distance)
        fused = fuse(arm, policy)
        assert fused is not None
        states = self.states(arm, distance_m)
        with torch.no_grad():
            expected, got = ExportedPolicy(arm, policy, "absolute")(*states), fused(*states)
        assert (expected - got).abs().max() < 3e-3


class TestUnsupported:
    """Policies that cannot be fused, and the check that exported ones are."""

    @pytest.mark.parametrize("kind", ["moving goal", "change", "no features", "another class"])
    def test_unsupported_policies_are_exported_unchanged(self, kind: str) -> None:
        """Moving goals, relative actions, missing features and other classes are not fused."""
        arm = Arm()
        policy: nn.Module = random_policy(
            arm,
            goal_size=6 if kind == "moving goal" else 3,
            measured=kind != "change",
            octaves=0 if kind == "no features" else 2,
        )
        if kind == "another class":
            policy = linear(torch.zeros(3, 3), torch.zeros(3))
        assert fuse(arm, policy) is None
        module = ExportedPolicy(arm, policy, "absolute")
        assert module.fused() is module

    def test_an_exported_policy_is_fused(self, tiny_policy: Path) -> None:
        """The graph of an exported policy has at most 23 nodes."""
        onnx = pytest.importorskip("onnx")
        nodes = onnx.load(tiny_policy).graph.node
        assert len(nodes) <= 23
