"""Paths: closed, smooth, at the requested speed, and within what the arm can follow."""

import json
import math
import re
from typing import Any

import numpy as np
import pytest
from helpers import Size
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.interpolate import BSpline

from envs.arm import DEFAULT_URDF, Arm
from envs.arm_env import ArmEnv
from envs.tasks.paths import KINDS, LIMIT_FRACTION, Path, PathKind, draw_path
from envs.tasks.track import Track

Array = NDArray[np.float64]

ARM = Arm()
SPEED_M_S = 0.2
kinds = st.sampled_from(KINDS)
seeds = st.integers(0, 2**32 - 1)


def drawn(kind: PathKind, seed: int, speed_m_s: float = SPEED_M_S) -> Path:
    return draw_path(ARM, (kind,), speed_m_s, np.random.default_rng(seed))


def round_trip(path: Path, count: int) -> Array:
    """Motion (count, 6) of one period from turn 0 on, independent of the phase."""
    return path.motion((np.arange(count) / count - path.phase) * path.period_s)


class TestShape:
    """Geometry and timing of the drawn paths."""

    @given(kinds, seeds, st.floats(0, 3))
    def test_a_path_is_closed_and_begins_at_its_phase(self, kind: PathKind, seed: int, turns: float) -> None:
        """Motion repeats after one period, and the phase is a shift in time (tolerance 1e-9)."""
        path = drawn(kind, seed)
        time_s = turns * path.period_s
        now, later = path.motion([time_s, time_s + path.period_s])
        np.testing.assert_allclose(later, now, rtol=0, atol=1e-9)
        moved = Path(path.kind, path.centre_m, path.shape_m, 0.0, path.period_s)
        shifted = moved.motion([time_s + path.phase * path.period_s])[0]
        np.testing.assert_allclose(now, shifted, rtol=0, atol=1e-9)

    @given(kinds, seeds)
    def test_the_velocity_is_the_derivative_of_the_position(self, kind: PathKind, seed: int) -> None:
        """The velocity equals the central difference of the position to 1e-6 m/s."""
        path = drawn(kind, seed)
        times = np.linspace(0, path.period_s, 50)
        step = 1e-5 * path.period_s
        slope = (path.motion(times + step)[:, :3] - path.motion(times - step)[:, :3]) / (2 * step)
        np.testing.assert_allclose(path.motion(times)[:, 3:], slope, rtol=0, atol=1e-6)

    @given(kinds, seeds)
    def test_a_path_is_smooth(self, kind: PathKind, seed: int) -> None:
        """At half the time step, velocity and acceleration change by half as much: neither is discontinuous."""
        path = drawn(kind, seed)
        for derivative in (0, 1):
            coarse, fine = (
                np.linalg.norm(np.diff(round_trip(path, n)[:, 3:], n=derivative + 1, axis=0), axis=1).max()
                * n**derivative
                for n in (2000, 4000)
            )
            assert fine < 0.6 * coarse

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("speed_m_s", [0.05, 0.2])
    def test_the_mean_speed_is_the_requested_one(self, kind: PathKind, speed_m_s: float) -> None:
        """Path length over period equals the requested speed: 0.1 % for closed forms, 2 % for splines."""
        for seed in range(20):
            path = drawn(kind, seed, speed_m_s)
            points = round_trip(path, 2000)[:, :3]
            length_m = np.linalg.norm(points - np.roll(points, 1, axis=0), axis=1).sum()
            assert length_m / path.period_s == pytest.approx(speed_m_s, rel=0.02 if kind == "spline" else 1e-3)

    @given(seeds)
    def test_a_circle_is_a_circle_in_a_plane_at_a_constant_speed(self, seed: int) -> None:
        """A circle has a constant radius and speed, lies in a plane, and takes 2 pi r / v a turn."""
        motion = round_trip(path := drawn("circle", seed), 100)
        away, velocity = motion[:, :3] - path.centre_m, motion[:, 3:]
        radius = np.linalg.norm(away, axis=1)
        np.testing.assert_allclose(radius, radius[0], rtol=1e-12)
        assert 0.05 * ARM.reach_m <= radius[0] <= 0.15 * ARM.reach_m
        np.testing.assert_allclose(np.linalg.norm(velocity, axis=1), SPEED_M_S, rtol=1e-9)
        np.testing.assert_allclose((away * velocity).sum(1), 0, atol=1e-12)
        assert np.linalg.svd(away, compute_uv=False)[2] < 1e-12
        assert path.period_s == pytest.approx(2 * math.pi * radius[0] / SPEED_M_S)

    @given(seeds)
    def test_an_eight_crosses_itself_at_its_centre_in_a_plane(self, seed: int) -> None:
        """An eight is planar, passes its centre twice at right angles, and has no other crossing."""
        path = drawn("eight", seed)
        first, second = path.motion((np.array([0.0, 0.5]) - path.phase) * path.period_s)
        for motion in (first, second):
            np.testing.assert_allclose(motion[:3], path.centre_m, atol=1e-12)
        # It comes through at right angles: along a + b, then along b - a.
        assert np.linalg.norm(first[3:]) == pytest.approx(np.linalg.norm(second[3:]))
        assert first[3:] @ second[3:] == pytest.approx(0, abs=1e-9)
        away = round_trip(path, 100)[:, :3] - path.centre_m
        assert np.linalg.svd(away, compute_uv=False)[2] < 1e-12
        reach = np.linalg.norm(away, axis=1).max()  # a quarter of the way on it is at the end of a half axis
        np.testing.assert_allclose(away[25], path.shape_m[0], atol=1e-12)
        assert 0.05 * ARM.reach_m <= reach <= 0.15 * ARM.reach_m * 1.001
        # It meets itself nowhere else.
        rest = np.delete(away, [0, 50], axis=0)
        apart = np.linalg.norm(rest[:, None] - rest[None], axis=-1) + np.eye(len(rest))
        assert apart.min() > 1e-4

    @given(seeds)
    def test_a_spline_equals_scipy(self, seed: int) -> None:
        """Position and velocity equal those of SciPy's periodic cubic B-spline over the same control points."""
        path = drawn("spline", seed)
        points = np.array(path.shape_m)
        closed = np.concatenate([points, points[:3]])
        knots = np.arange(len(closed) + 4) - 3.0
        spline = BSpline(knots, closed, 3)
        motion, along = round_trip(path, 700), np.arange(700) / 700 * len(points)
        np.testing.assert_allclose(motion[:, :3], spline(along) + path.centre_m, rtol=0, atol=1e-12)
        rate = spline.derivative()(along) * len(points) / path.period_s
        np.testing.assert_allclose(motion[:, 3:], rate, rtol=0, atol=1e-9)


def angles_by_hand(points_m: Array) -> Array:
    """arm3's angles (n, 3) for tips (n, 3), inside its limits or not: 0.25 m up, then links of 0.25 and 0.2 m."""
    x, y, z = points_m.T
    out, up = np.hypot(x, y), z - 0.25
    elbow = np.arccos(np.clip((out**2 + up**2 - 0.25**2 - 0.2**2) / (2 * 0.25 * 0.2), -1, 1))
    shoulder = np.arctan2(out, up) - np.arctan2(0.2 * np.sin(elbow), 0.25 + 0.2 * np.cos(elbow))
    return np.degrees(np.stack([np.arctan2(y, x), shoulder, elbow], -1))


def demands(path: Path, arm: Arm = ARM, count: int = 2000) -> tuple[float, float, float]:
    """Largest violation of the ranges (degrees) and fractions of the speed and acceleration limits along a path."""
    points, limits, step_s = round_trip(path, count)[:, :3], arm.limits, path.period_s / count
    angles = angles_by_hand(points)
    inside = np.clip(angles, limits.lower_deg, limits.upper_deg)
    missed_m = np.linalg.norm(arm.forward_kinematics(angles) - points, axis=1).max()
    assert missed_m < 1e-3
    ahead, behind = np.roll(angles, -1, axis=0), np.roll(angles, 1, axis=0)
    speed = np.abs(ahead - angles) / step_s / limits.max_speed_deg_s
    acceleration = np.abs(ahead - 2 * angles + behind) / step_s**2 / limits.max_acceleration_deg_s2
    return float(np.abs(angles - inside).max()), float(speed.max()), float(acceleration.max())


class TestFeasibility:
    """Paths stay within the joints' ranges, speeds and accelerations."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_path_is_within_the_ranges_and_80_percent_of_the_limits(self, kind: PathKind) -> None:
        """Paths use at most 80 % of speed and acceleration, plus a little between the points where they are checked."""
        worst = np.array([demands(drawn(kind, seed)) for seed in range(150)])
        outside_deg, speed, acceleration = worst.T
        assert LIMIT_FRACTION == 0.8
        assert outside_deg.max() < 0.02, f"{(outside_deg > 0).mean():.1%} of the paths leave the joints' ranges"
        assert speed.max() < 0.8 * 1.02, f"{(speed > 0.8).mean():.1%} of the paths are too fast"
        assert acceleration.max() < 0.8 * 1.15, f"{(acceleration > 0.8).mean():.1%} of the paths accelerate too hard"

    @pytest.mark.parametrize("kind", KINDS)
    def test_joints_that_are_slow_but_strong_are_held_to_80_percent_of_their_speed(self, kind: PathKind) -> None:
        """With joints of 1 rad/s the speed limit binds before the acceleration: 70 to 82 % of it is used."""
        slow = Arm("slow.urdf", text=DEFAULT_URDF.read_text().replace('velocity="5.969"', 'velocity="1.0"'))
        paths = [draw_path(slow, (kind,), 0.12, np.random.default_rng(seed)) for seed in range(40)]
        speeds = [demands(path, slow)[1] for path in paths]
        assert 0.7 < max(speeds) < 0.8 * 1.02

    @pytest.mark.parametrize("kind", KINDS)
    def test_inverse_kinematics_follows_a_path_as_the_closed_form_does(self, kind: PathKind) -> None:
        """Numerical inverse kinematics along a path equals the closed form of a two-link arm to 0.01 degrees."""
        for seed in range(4):
            points = round_trip(drawn(kind, seed), 60)[:, :3]
            start = np.broadcast_to(ARM.inverse_kinematics(points[0], 1e-7), points.shape)
            angles = ARM.inverse_kinematics(points, 1e-7, start_deg=start)
            np.testing.assert_allclose(angles, angles_by_hand(points), rtol=0, atol=0.01)

    @pytest.mark.parametrize("kind", KINDS)
    def test_an_impossible_speed_is_refused_with_the_best_that_was_found(self, kind: PathKind) -> None:
        """The error names the highest feasible speed; 1 % less is accepted and 1 % more is not."""
        with pytest.raises(ValueError, match=r"best allows [\d.]+ m/s") as error:
            drawn(kind, 0, 50.0)
        message = str(error.value)
        assert message.startswith(
            f"expected a speed at which arm3 can follow a path ({kind}), got 50 m/s: of 640 random paths"
        )
        best = float(re.findall(r"allows ([\d.]+) m/s", message)[0])
        # Among the very same random paths there is one for a little less, and none for a little more.
        assert drawn(kind, 0, 0.99 * best).kind == kind
        with pytest.raises(ValueError, match=f"got {1.01 * best:.6g}"):
            drawn(kind, 0, float(f"{1.01 * best:.6g}"))

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_speed_accepted_at_construction_never_fails_at_reset(self, kind: PathKind, size: Size) -> None:
        """A speed is rejected when the environment is made, never in a reset hours into a training."""
        with pytest.raises(ValueError, match="best allows") as error:
            drawn(kind, 0, 50.0)
        best = float(re.findall(r"allows ([\d.]+) m/s", str(error.value))[0])
        accepted, resets = 0, size(3, full=15, of="resets a speed")
        for fraction in (0.98, 0.9, 0.8, 0.7, 0.6):
            try:
                env = ArmEnv("track", path=kind, speed_m_s=fraction * best)
            except ValueError:
                continue
            accepted += 1
            for seed in range(resets):
                env.reset(seed=seed)
            env.close()
        assert accepted


class TestDrawing:
    """Random generation and storage of paths."""

    def test_paths_depend_on_the_generator_alone_and_cover_all_kinds(self) -> None:
        """Equal seeds give equal paths; 80 draws cover every kind, the whole phase range and the workspace."""

        def some(seed: int) -> list[Path]:
            generator = np.random.default_rng(seed)
            return [draw_path(ARM, KINDS, SPEED_M_S, generator) for _ in range(80)]

        first = some(3)
        assert first == some(3)
        assert first[0] != some(4)[0]
        assert len({path.centre_m for path in first}) == 80
        counts = {kind: sum(path.kind == kind for path in first) for kind in KINDS}
        assert min(counts.values()) > 8, counts
        phases = np.array([path.phase for path in first])
        assert (phases.min() < 0.1, phases.max() > 0.9) == (True, True)
        # All over the workspace, not near one place.
        angles = np.array([angles_by_hand(np.array([path.centre_m]))[0] for path in first])
        assert (angles.std(axis=0) > 10).all()

    @given(kinds, seeds)
    @hypothesis_settings(max_examples=30)
    def test_json_round_trip_is_exact(self, kind: PathKind, seed: int) -> None:
        """A path read back from JSON is equal and moves identically, bit for bit."""
        path = drawn(kind, seed)
        again = Path.from_json(json.loads(json.dumps(path.to_json())))
        assert again == path
        times = np.arange(200) / 30
        assert again.motion(times).tobytes() == path.motion(times).tobytes()


class TestTrackTask:
    """Settings, trajectories and error metric of the tracking task."""

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"path": "square"}, "path: expected circle, eight, spline, any, got 'square'"),
            ({"path": ""}, "path: expected circle, eight, spline, any, got ''"),
            ({"speed_m_s": 0.0}, "speed_m_s: expected from 1e-06 to 100 m/s, got 0.0"),
            ({"speed_m_s": -0.1}, "speed_m_s: expected from 1e-06 to 100 m/s, got -0.1"),
            ({"speed_m_s": math.nan}, "speed_m_s: expected from 1e-06 to 100 m/s, got nan"),
            ({"speed_m_s": math.inf}, "speed_m_s: expected from 1e-06 to 100 m/s, got inf"),
            ({"reward_kind": "shaped"}, "expected reward dense or sparse, got 'shaped'"),
            ({"goal_tolerance_m": 0.0}, "expected a positive goal tolerance"),
        ],
    )
    def test_rejects_invalid_settings(self, settings: dict[str, Any], message: str) -> None:
        """Unknown kinds and non-positive or non-finite numbers raise an error that names the accepted values."""
        with pytest.raises(ValueError, match=message):
            Track(**settings)

    def test_goals_are_the_motion_sampled_at_each_step(self) -> None:
        """Goals are the path's motion at each step and constant after the last one, also when read back from JSON."""
        goals = Track().draw_goals(ARM, np.random.default_rng(0), 20, 0.05)
        for step in range(21):
            assert goals.goal(step) == tuple(goals.path.motion([step * 0.05])[0].tolist())
        assert goals.goal(21) == goals.goal(20) == goals.goal(1000)
        again = Track().goals_from_json(json.loads(json.dumps(goals.to_json())), 20, 0.05)
        assert [again.goal(step) for step in range(21)] == [goals.goal(step) for step in range(21)]

    def test_the_error_is_the_rms_after_settling(self) -> None:
        """The error is the RMS distance from step 30 on (hand-computed), or the last distance of a shorter episode."""
        distances = np.zeros((2, 61))
        distances[:, :30] = 9.0  # not counted
        distances[0, 30:] = 0.003
        distances[1, 30:] = np.resize([0.001, 0.007], 31)
        assert Track().errors_m(distances) == pytest.approx([0.003, math.sqrt((16 * 1e-6 + 15 * 49e-6) / 31)])
        assert Track().errors_m(np.array([[5.0, 0.002]])) == pytest.approx([0.002])  # too short to settle: the last
        assert Track().errors_m(np.array([[5.0] * 30 + [0.004]])) == pytest.approx([0.004])
