"""Kinds of control: actions as targets, or as changes of the measured angles or of the previous target."""

import functools
import json
import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import envs  # noqa: F401  (registers the ids)
from envs.arm import RADIANS, Arm
from envs.arm_env import ArmEnv
from envs.control import target_of
from envs.imperfections import Imperfections
from envs.limits import limit_target
from envs.simulation import Simulation

ARM = Arm()
START_DEG = (10.0, 20.0, 30.0)
PERIOD_S = 1 / 30
STEP_DEG = math.degrees(5.969) / 30  # what a joint of arm3 can move in a period
INCREMENTS = ("from_measured", "from_target")
KINDS = [functools.partial(ArmEnv, "reach"), functools.partial(ArmEnv, "track")]


def readings(observation: dict[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    """Measured angles and speeds and the previous target, in degrees and degrees/s."""
    degrees: NDArray[np.float64] = observation["observation"].astype(np.float64) / RADIANS
    return degrees


def increments(count: int, seed: int = 0, size: float = STEP_DEG) -> list[NDArray[np.float32]]:
    return list(np.random.default_rng(seed).uniform(-size, size, (count, 3)).astype(np.float32))


def bits(step: Any) -> Any:
    observation, *rest = step
    return {key: value.tobytes() for key, value in observation.items()}, rest


class TestActionSpaces:
    """Action spaces of the kinds of control, and the target that an action stands for."""

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("control", INCREMENTS)
    def test_an_increment_is_at_most_the_motion_of_one_period(self, kind: Callable[..., ArmEnv], control: str) -> None:
        """Increments are bounded by 5.969 rad/s times the period; the observation space is the absolute one's."""
        for period_s in (1 / 30, 1 / 60):
            env = kind(control=control, control_period_s=period_s)
            high = np.full(3, math.degrees(5.969) * period_s, np.float32)
            assert env.action_space == gymnasium.spaces.Box(-high, high)
            assert env.action_space.contains(np.zeros(3, np.float32))
            assert env.observation_space == kind().observation_space
            env.close()
        env = kind(control="absolute")
        assert env.action_space == gymnasium.spaces.Box(0, 90, (3,))
        env.close()

    def test_a_target_by_hand_in_numpy_and_in_torch(self) -> None:
        """Absolute, measured plus change and previous target plus change: hand-computed for arrays and tensors."""
        action, measured, previous = [[1.0, -2.0]], [[10.0, 20.0]], [[11.0, 19.0]]
        wanted = {"absolute": [[1.0, -2.0]], "from_measured": [[11.0, 18.0]], "from_target": [[12.0, 17.0]]}
        for control, target in wanted.items():
            for make in (np.array, torch.tensor):
                assert target_of(make(action), control, make(measured), make(previous)).tolist() == target  # type: ignore[arg-type]


class TestMotion:
    """Motion under each kind of control."""

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("control", ["absolute", *INCREMENTS])
    def test_each_step_equals_limiter_and_simulation_by_hand(self, kind: Callable[..., ArmEnv], control: str) -> None:
        """50 random steps equal `limit_target` and `Simulation` called directly, for each kind of control."""
        env = kind(control=control)
        env.reset(seed=0, options={"angles_deg": START_DEG})
        box: Any = env.action_space
        target, speed = list(START_DEG), [0.0] * 3
        with Simulation(ARM) as simulation:
            simulation.reset(START_DEG)
            for action in np.random.default_rng(1).uniform(box.low, box.high, (50, 3)).astype(np.float32):
                requested = action.astype(np.float64)
                if control == "from_measured":
                    requested = requested + simulation.angles_deg
                if control == "from_target":
                    requested = requested + target
                target, speed = limit_target(requested.tolist(), target, speed, ARM.limits, PERIOD_S)
                simulation.command(target)
                simulation.step()
                got = readings(env.step(action)[0])
                wanted = [*simulation.angles_deg, *simulation.speeds_deg_s, *target, *speed]
                assert got == pytest.approx(wanted, rel=1e-6, abs=1e-5)
        env.close()

    def test_increments_start_from_the_measured_angles(self) -> None:
        """With noisy, delayed sensors, increments are added to the measured angles, not to the true ones."""
        env = ArmEnv(
            "reach",
            control="from_measured",
            imperfections=Imperfections(angle_noise_deg=1.0, observation_delay_s=0.1),  # type: ignore[arg-type]
        )
        measured = readings(env.reset(seed=0, options={"angles_deg": (40.0, 45.0, 50.0)})[0])
        target, speed = measured[6:9].tolist(), [0.0] * 3
        for action in increments(20, size=0.5):
            target, speed = limit_target((measured[:3] + action).tolist(), target, speed, ARM.limits, PERIOD_S)
            measured = readings(env.step(action)[0])
            assert measured[6:9] == pytest.approx(target, abs=1e-3)
            assert np.abs(measured[:3] - env.simulation.angles_deg).max() > 0.01
        env.close()

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("control", INCREMENTS)
    def test_zero_increments_hold_the_pose(self, kind: Callable[..., ArmEnv], control: str) -> None:
        """Zero increments hold the pose within 0.005 degrees, or 0.1 where gravity's sag enters the next target."""
        env = kind(control=control)
        for seed in range(5):
            start = readings(env.reset(seed=seed)[0])[:3]
            for _ in range(50):
                held = readings(env.step(np.zeros(3, np.float32))[0])
            # Gravity pulls a thousandth of a degree, which a change of the measured angle gives way to at each step.
            assert held[:3] == pytest.approx(start, abs=0.1 if control == "from_measured" else 0.005)
            assert held[6:9] == pytest.approx(start, abs=0.1 if control == "from_measured" else 1e-4)
        env.close()

    def test_increments_of_the_target_accumulate(self) -> None:
        """The target advances by v T a step, with v from v T + v^2 / (2 a) = the increment (closed form)."""
        env = ArmEnv("reach", control="from_target")
        env.reset(seed=0, options={"angles_deg": START_DEG})
        requested = np.array([0.2, -0.3, 0.5])
        for count in range(1, 21):
            got = readings(env.step(requested)[0])
            # The limiter's speed v, such that the joint could still stop on the spot: v T + v^2 / (2 a) = |requested|.
            a = math.degrees(40.0)
            v = np.sqrt((a * PERIOD_S) ** 2 + 2 * a * np.abs(requested)) - a * PERIOD_S
            assert got[6:9] == pytest.approx(START_DEG + count * PERIOD_S * v * np.sign(requested), abs=1e-4)
        for _ in range(10):
            got = readings(env.step(np.zeros(3))[0])
        assert got[:3] == pytest.approx(got[6:9], abs=0.01)
        env.close()

    @pytest.mark.parametrize("control", INCREMENTS)
    @pytest.mark.parametrize("sign", [-1, 1])
    def test_full_increments_end_at_the_joint_limits_and_stay_there(self, control: str, sign: int) -> None:
        """50 full increments end at 0 or 90 degrees and never leave the limits or the observation space."""
        env = ArmEnv("reach", control=control)
        space: Any = env.action_space
        observation, _ = env.reset(seed=3)
        for _ in range(50):
            observation = env.step(space.high if sign > 0 else space.low)[0]
            assert observation in env.observation_space
            assert ((readings(observation)[6:9] >= -1e-4) & (readings(observation)[6:9] <= 90.0001)).all()
        assert readings(observation)[:3] == pytest.approx([90 if sign > 0 else 0] * 3, abs=0.01)
        env.close()

    @given(st.integers(0, 10_000), st.sampled_from(INCREMENTS))
    @hypothesis_settings(max_examples=15)
    def test_targets_respect_position_speed_and_acceleration_limits(self, seed: int, control: str) -> None:
        """For random full increments, targets and their differences stay within the arm's limits."""
        env = ArmEnv("reach", control=control)
        generator = np.random.default_rng(seed)
        space: Any = env.action_space
        target, speed = readings(env.reset(seed=seed)[0])[6:9], np.zeros(3)
        for _ in range(40):
            following = readings(env.step(np.where(generator.random(3) < 0.5, space.low, space.high))[0])[6:9]
            assert ((following >= -1e-4) & (following <= 90 + 1e-4)).all()
            next_speed = (following - target) / PERIOD_S
            assert (np.abs(next_speed) <= np.array(ARM.limits.max_speed_deg_s) + 0.01).all()
            assert (np.abs(next_speed - speed) <= np.array(ARM.limits.max_acceleration_deg_s2) * PERIOD_S + 0.02).all()
            target, speed = following, next_speed
        env.close()

    @pytest.mark.parametrize("control", INCREMENTS)
    def test_a_restored_state_continues_exactly(self, control: str) -> None:
        """The steps after restoring a state in another environment are identical, bit for bit."""
        env, other = (ArmEnv("reach", control=control) for _ in range(2))
        env.reset(seed=1)
        for move in increments(20):
            env.step(move)
        text = json.dumps(env.save_state())
        followed = [bits(env.step(move)) for move in increments(20, 1)]
        other.reset(seed=2)
        other.step(np.ones(3))
        other.restore_state(json.loads(text))
        assert [bits(other.step(move)) for move in increments(20, 1)] == followed
        env.close()
        other.close()


class TestRejections:
    """Invalid kinds of control and invalid actions."""

    @pytest.mark.parametrize("name", ["ArmReachDiscrete-v0", "ArmReachMultiDiscrete-v0"])
    @pytest.mark.parametrize("control", INCREMENTS)
    def test_the_degree_grid_rejects_increments(self, name: str, control: str) -> None:
        """The discrete environments accept absolute control only."""
        with pytest.raises(
            ValueError, match=f"expected control 'absolute' with actions on the degree grid, got '{control}'"
        ):
            gymnasium.make(name, control=control)
        env = gymnasium.make(name, control="absolute")
        env.close()

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (
                {"control": "relative"},
                r"expected control of \('absolute', 'from_measured', 'from_target'\), got 'relative'",
            ),
            ({"control": ""}, "expected control of"),
            ({"control": None}, "expected control of"),
            ({"actions": "radians"}, r"expected actions of \('degrees', 'index', 'positions'\), got 'radians'"),
        ],
    )
    def test_rejects_unknown_kinds_of_control_and_action(
        self, kind: Callable[..., ArmEnv], settings: dict[str, Any], message: str
    ) -> None:
        """Unknown names raise an error that lists the accepted ones."""
        with pytest.raises(ValueError, match=message):
            kind(**settings)

    @pytest.mark.parametrize("control", INCREMENTS)
    @pytest.mark.parametrize(
        "bad",
        [
            np.array([0, np.nan, 0], np.float32),
            np.array([0, -np.inf, 0], np.float32),
            np.array([0, 0, STEP_DEG + 0.01], np.float32),
            np.array([-STEP_DEG - 0.01, 0, 0], np.float32),
            np.array([45, 45, 45], np.float32),
            np.zeros(2, np.float32),
            np.zeros((1, 3), np.float32),
            np.array([True, False, True]),
            np.array(["0", "0", "0"]),
            0.0,
            None,
        ],
        ids=repr,
    )
    def test_rejected_increments_leave_the_episode_unchanged(self, control: str, bad: Any) -> None:
        """After a rejected increment, the episode continues bit for bit as in an undisturbed environment."""
        env, other = (ArmEnv("reach", control=control) for _ in range(2))
        for each in (env, other):
            each.reset(seed=13)
            for move in increments(10):
                each.step(move)
        message = r"an action of 3 numbers, changes of the target angles from \[-11\.\d+.* to \[11\.\d+.* degrees, got"
        with pytest.raises(ValueError, match=message):
            env.step(bad)
        assert [bits(env.step(move)) for move in increments(40, 1)] == [
            bits(other.step(move)) for move in increments(40, 1)
        ]
        env.close()
        other.close()

    @pytest.mark.parametrize("control", INCREMENTS)
    def test_accepts_the_bounds_and_their_float32_rounding(self, control: str) -> None:
        """The bounds of the space are accepted, as float32 and as the float64 that they are rounded from."""
        env = ArmEnv("reach", control=control)
        env.reset(seed=0)
        space: Any = env.action_space
        for action in (space.low, space.high, [0, 0, 0], [1, -1, 0.5], np.full(3, STEP_DEG)):
            env.step(action)
        env.close()
