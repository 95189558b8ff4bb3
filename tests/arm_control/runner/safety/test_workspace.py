"""The workspace: poses, goals and targets inside a box and above a table."""

import dataclasses
import math
import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from locations import DESK
from safe_arm import ARM, EVERYWHERE, PERIOD_S, Follower, link_ends, poses, reading

from arm_control.runner.safety import Safety, SafetyLevel, SafetySettings, WorkspaceError
from envs.arm import RADIANS, Arm
from envs.limits import Box, JointLimits


class TestKinematics:
    """Link ends and levers."""

    @given(poses)
    def test_link_ends_equal_rotation_matrices(self, pose: list[float]) -> None:
        """Any pose, to 1e-12 m."""
        np.testing.assert_allclose(ARM.link_ends(pose), link_ends(pose), atol=1e-12)
        assert ARM.link_ends(pose)[-1] == ARM.tip_position(pose)

    def test_link_ends_by_hand(self) -> None:
        """Straight up and fully bent."""
        np.testing.assert_allclose(ARM.link_ends([0.0, 0.0, 0.0]), [[0, 0, 0.25], [0, 0, 0.5], [0, 0, 0.7]], atol=1e-12)
        np.testing.assert_allclose(
            ARM.link_ends([90.0, 90.0, 90.0]), [[0, 0, 0.25], [0, 0.25, 0.25], [0, 0.25, 0.05]], atol=1e-12
        )

    @given(poses, poses)
    def test_levers_bound_the_motion_of_link_ends(self, here: list[float], there: list[float]) -> None:
        """No end moves further than the sum of lever times angle."""
        bound = sum(lever * abs(b - a) * RADIANS for a, b, lever in zip(here, there, ARM.levers_m, strict=True))
        moved = np.linalg.norm(np.subtract(ARM.link_ends(there), ARM.link_ends(here)), axis=1)
        assert moved.max() <= bound + 1e-12

    def test_levers_by_hand(self) -> None:
        """Distances from each axis to the end of the arm: 0.5, 0.45 and 0.2 m."""
        assert ARM.levers_m == pytest.approx((0.5, 0.45, 0.2))


def beyond_m(box: Box, table_m: float | None, pose: list[float]) -> float:
    """The largest distance outside, by the rotation matrices of `link_ends`."""
    ends = np.array(link_ends(pose))
    table = -math.inf if table_m is None else table_m - ends[:, 2].min()
    return float(max((np.array(box[:3]) - ends).max(), (ends - np.array(box[3:])).max(), table))


class TestOutside:
    """Distances outside the workspace."""

    @given(poses, st.floats(-0.5, 0.5), st.sampled_from(range(6)))
    def test_it_is_the_largest_distance_of_a_link_end(self, pose: list[float], wall: float, side: int) -> None:
        """For one wall anywhere, by the kinematics of rotation matrices."""
        box = list(EVERYWHERE)
        box[side] = wall
        safety = Safety(ARM, ARM.limits, PERIOD_S, SafetySettings(table_m=None, workspace_m=tuple(box)))
        assert safety.workspace.outside_m(pose) == pytest.approx(beyond_m(tuple(box), None, pose), abs=1e-12)

    def test_without_table_and_box_nothing_is_outside(self) -> None:
        """The distance is minus infinity."""
        assert (
            Safety(ARM, ARM.limits, PERIOD_S, SafetySettings(table_m=None)).workspace.outside_m([90.0] * 3) == -math.inf
        )

    def test_goals_and_poses_outside_are_rejected(self) -> None:
        """Both are 50 mm outside, by hand."""
        safety = Safety(ARM, ARM.limits, PERIOD_S, SafetySettings(table_m=0.1, workspace_m=EVERYWHERE))
        safety.workspace.check_point((0.3, 0.3, 0.1))
        safety.workspace.check_pose([0.0] * 3, "a pose")
        with pytest.raises(WorkspaceError, match=r"goal \(0.3000, 0.3000, 0.0500\) m is 50 mm outside the workspace"):
            safety.workspace.check_point((0.3, 0.3, 0.05))
        with pytest.raises(WorkspaceError, match="a pose is 50 mm outside the workspace"):
            safety.workspace.check_pose([0.0, 90.0, 90.0], "a pose")


class TestMessages:
    """Messages name the link, its position, and the flag for that side of the workspace."""

    @given(poses, st.floats(-0.6, 0.6), st.sampled_from(range(7)))
    def test_link_side_distance_and_flag_are_those_of_the_worst(
        self, pose: list[float], wall: float, side: int
    ) -> None:
        """For a wall or table anywhere, by the kinematics of rotation matrices."""
        box = list(EVERYWHERE)
        box[min(side, 5)] = 9.0 if side == 6 else wall
        ends = np.array(link_ends(pose))
        axis = 2 if side == 6 else side % 3
        beyond = wall - ends[:, axis] if side in (0, 1, 2, 6) else ends[:, axis] - wall
        settings = SafetySettings(table_m=wall) if side == 6 else SafetySettings(None, tuple(box))  # type: ignore[arg-type]
        safety = Safety(ARM, ARM.limits, PERIOD_S, settings)
        if beyond.max() <= 1e-6:
            safety.workspace.check_pose(pose, "it")
            return
        with pytest.raises(WorkspaceError) as caught:
            safety.workspace.check_pose(pose, "it", "a remedy")
        message = re.fullmatch(
            r"it is (less than 0\.01|[\d.]+) mm outside the workspace: the end of (\w+) is (less than 0\.01|[\d.]+) mm "
            r"(below|above) (the table at )?([xyz]) = (\S+) m (of the box )?\((--\w+)\); a remedy",
            str(caught.value),
        )
        assert message is not None
        total, name, far, where, table, letter, place, _, flag = message.groups()
        assert total == far != "0"
        if far[0] != "l":
            assert float(far) == pytest.approx(1000.0 * beyond.max(), rel=0.06)
        assert beyond[ARM.link_names.index(name)] == pytest.approx(beyond.max(), abs=1e-12)
        assert (where, letter) == ("above" if side in (3, 4, 5) else "below", "xyz"[axis])
        assert (table is not None, flag) == ((True, "--table") if side == 6 else (False, "--workspace"))
        assert float(place) == pytest.approx(wall, rel=1e-5)

    @pytest.mark.parametrize(
        ("beyond_m", "message"),
        [(2e-6, "less than 0.01 mm"), (2e-5, "0.02 mm"), (4e-4, "0.4 mm"), (0.0032, "3.2 mm"), (0.032, "32 mm")],
    )
    def test_a_distance_outside_is_never_zero(self, beyond_m: float, message: str) -> None:
        """Distances from 2 micrometres to 32 mm, in the digits that they need."""
        safety = Safety(ARM, ARM.limits, PERIOD_S, SafetySettings(table_m=0.25))
        with pytest.raises(
            WorkspaceError, match=rf"m is {re.escape(message)} outside the workspace: it is .*\(--table\)"
        ):
            safety.workspace.check_point((0.3, 0.3, 0.25 - beyond_m))

    def test_rounding_is_not_outside(self) -> None:
        """An arm whose tip touches the table at its lower limits may start and move there."""
        desk = Arm(DESK)
        pose = list(desk.limits.lower_deg)
        safety = Safety(desk, desk.limits, PERIOD_S)
        assert 0.0 < abs(safety.workspace.outside_m(pose)) < 1e-6
        safety.workspace.check_pose(pose, "the parking pose")
        safety.start(reading(0.0, pose), 0.0)
        for tick in range(90):
            safety.reads(reading(tick * PERIOD_S, list(safety.target_deg)), tick * PERIOD_S)
            safety.admit([0.0, -90.0, 30.0 if tick > 60 else -90.0])
        assert safety.fault is None

    def test_a_start_outside_names_the_link_and_the_table(self) -> None:
        """50 mm below the table, by hand."""
        arm = Follower([0.0, 90.0, 90.0], table_m=0.1)
        assert "starts 50 mm outside the workspace: the end of tip is 50 mm below the table" in arm.safety.fault.text

    def test_a_fault_in_motion_names_the_link_and_the_table(self) -> None:
        """The text has the link, the distance and the table's height."""
        arm = table_arm(0.2, 1 / 30)
        arm.ticks(60, [0.0, 90.0, 90.0])
        assert re.search(r"the end of tip is \d+ mm below the table at z = 0.2 m", arm.safety.fault.text)


class TestDefaultPose:
    """The default pose for start and parking is inside the workspace."""

    @pytest.mark.parametrize("table_m", [None, 0.0, 0.2, -0.3])
    def test_of_the_default_arm_it_is_straight_up(self, table_m: float | None) -> None:
        """All joints at 0 degrees for any table."""
        safety = Safety(ARM, ARM.limits, PERIOD_S, SafetySettings(table_m=table_m))
        assert safety.workspace.default_pose_deg() == [0.0, 0.0, 0.0]

    @given(st.floats(-0.2, 0.3), st.floats(0.3, 0.6))
    def test_it_is_inside_table_and_box(self, table_m: float, top_m: float) -> None:
        """For any table and box, within narrower limits."""
        desk = Arm(DESK)
        box = (-0.3, -0.3, -0.3, 0.3, 0.3, top_m)
        limits = JointLimits((-80.0, 10.0, -80.0), (80.0,) * 3, (90.0,) * 3, (90.0,) * 3)
        safety = Safety(desk, limits, PERIOD_S, SafetySettings(table_m=min(table_m, 0.1), workspace_m=box))
        pose = safety.workspace.default_pose_deg()
        safety.workspace.check_pose(pose, "the parking pose")
        assert pose == limits.clip(pose)


def table_arm(table_m: float, period_s: float) -> Follower:
    return Follower([0.0, 60.0, 30.0], period_s, table_m=table_m)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[Box, float | None, list[float]]:
    """A box, a table, and a pose inside by a margin."""
    pose = draw(poses)
    ends = np.array(link_ends(pose))
    margins = [draw(st.floats(0.002, 0.3)) for _ in range(6)]
    low, high = ends.min(0) - margins[:3], ends.max(0) + margins[3:]
    return (*low.tolist(), *high.tolist()), draw(st.sampled_from([None, float(low[2]), 0.0])), pose


class TestPolicies:
    """Policies that command poses outside the workspace."""

    def test_a_command_below_the_table_is_clamped_and_a_fault_after_a_second(self) -> None:
        """The tip stays within 2 mm above the table."""
        arm = table_arm(0.25, 1 / 200)  # below, the tip would be at 0.202
        command = [0.0, 60.0, 90.0]
        arm.ticks(200, command)
        assert arm.check is None
        assert arm.safety.clamped["workspace"] > 50
        assert arm.safety.level is SafetyLevel.CLAMPED
        lowest = min(link_ends(sent)[-1][2] for sent in arm.sent)
        assert 0.25 <= lowest <= 0.252
        arm.ticks(200, command)
        assert arm.check == "workspace"
        assert "held at the boundary of the workspace for 1 s" in arm.safety.fault.text
        arm.assert_stops()

    def test_leaving_the_edge_in_time_is_no_fault(self) -> None:
        """Three visits of less than a second reach the next pose."""
        arm = table_arm(0.25, 1 / 200)
        for _ in range(3):
            arm.ticks(230, [0.0, 60.0, 90.0])
            assert arm.safety.level is SafetyLevel.CLAMPED
            arm.ticks(100, [0.0, 60.0, 30.0])
            assert arm.safety.level is SafetyLevel.OK
            np.testing.assert_allclose(arm.sent[-1], [0.0, 60.0, 30.0], atol=1e-6)
        assert arm.check is None

    def test_a_command_far_below_the_table_is_a_fault_in_time(self) -> None:
        """The tip never goes below the table."""
        arm = table_arm(0.2, 1 / 30)
        arm.ticks(60, [0.0, 90.0, 90.0])
        assert arm.check == "workspace"
        assert "mm outside the workspace" in arm.safety.fault.text
        assert min(link_ends(sent)[-1][2] for sent in arm.sent) >= 0.2

    @pytest.mark.slow
    @settings(max_examples=150)
    @given(
        boxes(),
        st.sampled_from([10.0, 13.0, 30.0, 50.0, 100.0, 200.0, 333.0, 1000.0]),
        st.lists(st.tuples(poses, st.floats(0.02, 1.0)), min_size=1, max_size=6),
        st.floats(0.2, 1.0),
        st.integers(1, 9),
    )
    def test_no_link_end_ever_leaves_the_workspace(
        self,
        place: tuple[Box, float | None, list[float]],
        rate: float,
        commands: list[tuple[list[float], float]],
        slow: float,
        hold: int,
    ) -> None:
        """Any box, rate, limits and commands, interpolated or not, also while braking."""
        box, table_m, start = place
        limits = dataclasses.replace(
            ARM.limits,
            max_speed_deg_s=tuple(slow * speed for speed in ARM.limits.max_speed_deg_s),
            max_acceleration_deg_s2=(
                ARM.limits.max_acceleration_deg_s2[0],
                slow * ARM.limits.max_acceleration_deg_s2[1],
                0.5 * ARM.limits.max_acceleration_deg_s2[2],
            ),
        )
        arm = Follower(start, 1 / rate, limits, table_m=table_m, workspace_m=box)
        assert arm.check is None
        for command, seconds in commands:
            for _ in range(math.ceil(min(seconds * rate, 150) / hold)):
                arm.step(command, hold)
        if arm.check is None:
            arm.safety.fault_stop("test", "brake from here")
        arm.assert_stops()
        worst = max(beyond_m(box, table_m, sent) for sent in arm.sent)
        assert worst <= 1e-6

    @settings(max_examples=60)
    @given(boxes(), poses, st.sampled_from([10.0, 30.0, 200.0, 1000.0]))
    def test_a_pose_is_reached_if_all_poses_between_are_inside(
        self, place: tuple[Box, float | None, list[float]], goal: list[float], rate: float
    ) -> None:
        """Safety does not stop the arm without need."""
        box, table_m, start = place
        goal = [a + 0.3 * (b - a) for a, b in zip(start, goal, strict=True)]
        # Each joint anywhere between start and goal: the limiter brings them there one before the other.
        corners = [
            [a + share * (b - a) for a, b, share in zip(start, goal, (i, j, k), strict=True)]
            for i in np.linspace(0, 1, 5)
            for j in np.linspace(0, 1, 5)
            for k in np.linspace(0, 1, 5)
        ]
        assume(max(beyond_m(box, table_m, corner) for corner in corners) < -0.001)
        arm = Follower(start, 1 / rate, table_m=table_m, workspace_m=box).ticks(math.ceil(1.5 * rate) + 20, goal)
        assert arm.check is None
        np.testing.assert_allclose(arm.sent[-1], goal, atol=1e-6)

    def test_an_arm_at_the_edge_can_return(self) -> None:
        """At 10 to 1,000 Hz it reaches its start pose again."""
        for rate in (10, 30, 200, 1000):
            arm = Follower([0.0, 60.0, 30.0], 1 / rate, table_m=0.2, wall_s=math.inf)
            arm.ticks(2 * rate, [0.0, 60.0, 90.0])
            if arm.check is not None:  # too fast for one period at low rates
                arm.safety.reset(reading(arm.now_s, arm.sent[-1]), arm.now_s)
            arm.ticks(2 * rate, [0.0, 60.0, 30.0])
            assert arm.check is None
            np.testing.assert_allclose(arm.sent[-1], [0.0, 60.0, 30.0], atol=1e-6)
