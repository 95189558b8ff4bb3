"""Imperfections: each one alone against its definition, and all of them together in episodes."""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import kstest

from arm_control.drivers.simulation import SimulationDriver
from envs.arm import ASSETS, Arm
from envs.arm_env import ArmEnv
from envs.imperfect_simulation import ImperfectSimulation
from envs.imperfections import (
    PRESETS,
    Imperfections,
    imperfections_from_json,
    imperfections_from_text,
    open_imperfections,
    read_imperfections,
)
from envs.simulation import Simulation

Array = NDArray[np.float64]
Step = tuple[dict[str, NDArray[np.float32]], float, bool, bool, dict[str, Any]]

ARM = Arm()
KINDS = [functools.partial(ArmEnv, "reach"), functools.partial(ArmEnv, "track")]
FIELDS = [field.name for field in dataclasses.fields(Imperfections)]
START_DEG = (30.0, 40.0, 50.0)
STEP_S, PERIOD_S, SUBSTEPS = 1 / 240, 1 / 30, 8
SERVO_STEP_DEG = 360 / 4096
DESCRIPTION = {
    "format": "arm-control imperfections",
    "version": 1,
    "imperfections": {"action_delay_s": [0.03, 0.04]},
}

# All imperfections at once, each of them large.
EVERYTHING = Imperfections(
    action_delay_s=(0.03, 0.2),
    servo_lag_s=(0.02, 0.1),
    dead_band_deg=(0.1, 0.3),
    backlash_deg=(0.2, 0.8),
    resolution_deg=(0.1, 0.4),
    angle_noise_deg=(0.05, 0.2),
    speed_noise_deg_s=(1.0, 5.0),
    observation_delay_s=(0.01, 0.1),
    payload_kg=(0.02, 0.1),
    length_error=(-0.02, 0.02),
    friction_nm_s_rad=(0.01, 0.05),
    speed_loss=(0.2, 0.8),
)


@pytest.fixture
def simulation() -> Iterator[Simulation]:
    with Simulation(ARM) as simulation:
        yield simulation


@pytest.fixture
def other() -> Iterator[Simulation]:
    with Simulation(ARM) as simulation:
        yield simulation


def imperfect(simulation: Simulation, start: Any = START_DEG, seed: int = 0, **values: Any) -> ImperfectSimulation:
    """A simulation with these imperfections, at rest at `start`."""
    generator = np.random.default_rng(seed)
    body = ImperfectSimulation(simulation, Imperfections(**values))
    body.randomise(generator)
    simulation.reset(start)
    body.start(generator)
    return body


def measured(body: Simulation | ImperfectSimulation, targets: Any) -> Array:
    """Angles and speeds (steps, 6) that are measured while these targets (steps, 3) are commanded, one a period."""
    rows = []
    for target in targets:
        body.command(list(target))
        body.step()
        rows.append([*body.angles_deg, *body.speeds_deg_s])
    return np.array(rows)


def held(body: Simulation | ImperfectSimulation, target: Any, steps: int = 40) -> Array:
    """The angles that are measured after holding a target for a while."""
    return measured(body, [target] * steps)[-1, :3]


def wander(steps: int = 30, seed: int = 1) -> Array:
    """A smooth random walk of targets, as a controller sends them."""
    walk = np.random.default_rng(seed).uniform(-3, 3, (steps, 3)).cumsum(0) + START_DEG
    return np.clip(walk, 0, 90)


class TestServos:
    """Action delay, lag, dead band, backlash and resolution."""

    @pytest.mark.parametrize("steps", [0, 1, 5, 8, 11, 16, 48, 51, 120])
    def test_an_action_delay_is_exact_in_physics_steps(
        self, simulation: Simulation, other: Simulation, steps: int
    ) -> None:
        """A delay of n physics steps equals an ideal arm whose commands are held back by n steps, bit for bit."""
        targets = wander()
        got = measured(imperfect(simulation, action_delay_s=steps * STEP_S), targets)
        # An ideal arm whose commands are held back here.
        other.reset(START_DEG)
        for number in range(SUBSTEPS * len(targets)):
            since, between = divmod(number - steps, SUBSTEPS)
            if between == 0 and since >= 0:
                other.command(targets[since].tolist())
            other.advance(1)
            if (number + 1) % SUBSTEPS == 0:
                other.measure()
                assert got[number // SUBSTEPS].tolist() == [*other.angles_deg, *other.speeds_deg_s]

    @pytest.mark.parametrize("periods", [1, 3, 15])
    def test_a_delay_of_whole_periods_shifts_the_ideal_motion(
        self, simulation: Simulation, other: Simulation, periods: int
    ) -> None:
        """The measured motion is the ideal one, later by the delay (0.01 degrees for gravity's sag meanwhile)."""
        targets = wander(40)
        late = measured(imperfect(simulation, action_delay_s=periods * PERIOD_S), targets)
        other.reset(START_DEG)
        ideal = measured(other, targets)
        assert np.ptp(ideal[:, 0]) > 5
        # Gravity pulls a thousandth of a degree while the arm waits.
        np.testing.assert_allclose(late[periods:, :3], ideal[:-periods, :3], rtol=0, atol=0.01)
        np.testing.assert_allclose(late[:periods, :3], [START_DEG] * periods, rtol=0, atol=0.01)

    @given(st.floats(0, 0.5))
    @hypothesis_settings(max_examples=25)
    def test_an_action_delay_is_rounded_to_physics_steps(self, delay_s: float) -> None:
        """Any delay up to 0.5 s acts as the nearest multiple of 1/240 s."""
        with Simulation(ARM) as simulation:
            targets = wander(20)
            got = measured(imperfect(simulation, action_delay_s=delay_s), targets)
            nearest = measured(imperfect(simulation, action_delay_s=round(240 * delay_s) / 240), targets)
            assert got.tolist() == nearest.tolist()

    @pytest.mark.parametrize("lag_s", [0.02, 0.05, 0.1, 0.3])
    def test_a_servo_lag_closes_an_error_with_that_time_constant(self, simulation: Simulation, lag_s: float) -> None:
        """After a step of 1 degree, the error decays as exp(-t / lag)."""
        body = imperfect(simulation, servo_lag_s=lag_s)
        errors = START_DEG + np.ones(3) - measured(body, [np.add(START_DEG, 1.0)] * 20)[:, :3]
        wanted = np.exp(-np.arange(1, 21) * PERIOD_S / lag_s)
        np.testing.assert_allclose(errors, np.stack([wanted] * 3, -1), rtol=0, atol=0.01)  # gravity's pull

    def test_targets_within_the_dead_band_are_ignored(self, simulation: Simulation, other: Simulation) -> None:
        """A change below 0.3 degrees from the target in effect is ignored: sequence computed by hand."""
        body = imperfect(simulation, dead_band_deg=0.3)
        other.reset(START_DEG)
        # By hand, as changes of all joints: 0.29 from the target in effect is ignored, 0.31 is not.
        sent = [0.29, 0.31, 0.05, 0.6, 0.65, 0.9, 0.62, 0.0]
        effective = [0.0, 0.31, 0.31, 0.31, 0.65, 0.65, 0.65, 0.0]
        targets, acted = ([np.add(START_DEG, change) for change in row for _ in range(3)] for row in (sent, effective))
        assert measured(body, targets).tolist() == measured(other, acted).tolist()

    def test_the_dead_band_applies_to_each_joint(self, simulation: Simulation) -> None:
        """Of three changes, only the joint above the dead band moves."""
        body = imperfect(simulation, dead_band_deg=0.3)
        moved = held(body, np.add(START_DEG, (0.2, 0.5, -0.2)))
        assert moved == pytest.approx(np.add(START_DEG, (0.0, 0.5, 0.0)), abs=0.01)

    @pytest.mark.parametrize("backlash_deg", [0.2, 1.0])
    def test_backlash_is_a_hysteresis_that_the_servo_does_not_measure(
        self, simulation: Simulation, backlash_deg: float
    ) -> None:
        """Approached from below and above, the link rests half the backlash off, while the reading is the target."""
        body = imperfect(simulation, backlash_deg=backlash_deg)
        target = np.array((45.0, 45.0, 45.0))
        read_below, link_below = held(body, target), np.array(simulation.angles_deg)  # it came from below in two joints
        held(body, target + 10)
        read_above, link_above = held(body, target), np.array(simulation.angles_deg)
        half = backlash_deg / 2
        assert link_below == pytest.approx(np.add(target, (-half, -half, half)), abs=0.01)  # START_DEG is 30, 40, 50
        assert link_above == pytest.approx(target + half, abs=0.01)
        assert read_below == pytest.approx(target, abs=0.01)
        assert read_above == pytest.approx(target, abs=0.01)

    def test_within_the_backlash_the_servo_turns_and_the_link_stays(self, simulation: Simulation) -> None:
        """Link positions after eight targets equal those computed by hand for a backlash of 1 degree."""
        body = imperfect(simulation, backlash_deg=1.0)
        # By hand, as changes of all joints: the servo's target, and the link's position, half a degree behind.
        for servo, link in (
            (0.4, 0.0),
            (10, 9.5),
            (5, 5.5),
            (4.9, 5.4),
            (5.05, 5.4),
            (5.85, 5.4),
            (6.0, 5.5),
            (4.8, 5.3),
        ):
            read = held(body, np.add(START_DEG, servo))
            assert read == pytest.approx(np.add(START_DEG, servo), abs=0.01)
            assert simulation.angles_deg == pytest.approx(np.add(START_DEG, link), abs=0.01)

    def test_a_link_with_backlash_stays_inside_its_limits(self, simulation: Simulation) -> None:
        """At both ends of the range, the link stops half the backlash inside."""
        body = imperfect(simulation, backlash_deg=2.0)
        for target in ((90.0,) * 3, (0.0,) * 3, (90.0,) * 3):
            held(body, target)
            assert simulation.angles_deg == pytest.approx([abs(angle - 1) for angle in target], abs=0.01)

    @pytest.mark.parametrize("step_deg", [SERVO_STEP_DEG, 0.7, 7.0])
    def test_targets_and_readings_are_multiples_of_the_resolution(
        self, simulation: Simulation, other: Simulation, step_deg: float
    ) -> None:
        """Readings are multiples of the step, and the motion is that of targets rounded to it."""
        body = imperfect(simulation, resolution_deg=step_deg)
        targets = wander(60, seed=2)
        got = measured(body, targets)
        multiples = got[:, :3] / step_deg
        np.testing.assert_allclose(multiples, np.round(multiples), rtol=0, atol=1e-9)
        other.reset(START_DEG)
        rounded = np.clip(np.round(targets / step_deg) * step_deg, 0, 90)
        ideal = measured(other, rounded)
        assert [*simulation.angles_deg, *simulation.speeds_deg_s] == ideal[-1].tolist()
        assert np.abs(got[:, :3] - ideal[:, :3]).max() <= step_deg / 2 + 1e-9
        assert got[:, 3:].tolist() == ideal[:, 3:].tolist()


def noise(body: ImperfectSimulation, steps: int) -> tuple[Array, Array]:
    """Noise of the measured angles and speeds while the arm holds its pose, (steps, 3) each."""
    rows = []
    for _ in range(steps):
        body.command(START_DEG)
        body.step()
        rows.append(
            np.subtract(
                [body.angles_deg, body.speeds_deg_s], [body.simulation.angles_deg, body.simulation.speeds_deg_s]
            )
        )
    angles, speeds = np.moveaxis(np.array(rows), 1, 0)
    return angles, speeds


class ExtremeGenerator:
    """A generator whose normal samples are all 9 std from the mean."""

    def normal(self, size: int) -> Array:
        return np.resize([9.0, -9.0], size)


class TestSensors:
    """Noise, missing speeds and delay of measurements."""

    def test_noise_has_the_requested_std_and_no_mean(self, simulation: Simulation) -> None:
        """Mean, std and correlations across joints, quantities and steps are within five standard errors."""
        count = 3 * 4000
        angles, speeds = noise(imperfect(simulation, angle_noise_deg=0.2, speed_noise_deg_s=5.0), 4000)
        assert np.abs(np.corrcoef(angles.T, speeds.T)[:3, 3:]).max() < 5 / math.sqrt(4000)
        for added, size in ((angles, 0.2), (speeds, 5.0)):
            # Within five standard errors of mean and std.
            assert abs(added.mean()) < 5 * size / math.sqrt(count)
            assert added.std() == pytest.approx(size, rel=5 / math.sqrt(2 * count))
            assert np.abs(np.corrcoef(added.T) - np.eye(3)).max() < 5 / math.sqrt(4000)  # across joints
            assert abs(np.corrcoef(added[1:, 0], added[:-1, 0])[0, 1]) < 5 / math.sqrt(4000)  # and across steps

    def test_angle_and_speed_have_their_own_noise(self, simulation: Simulation) -> None:
        """Each noise affects its own quantity only."""
        angles, speeds = noise(imperfect(simulation, angle_noise_deg=0.2), 20)
        assert np.abs(angles).max() > 0.1
        assert (speeds == 0).all()
        angles, speeds = noise(imperfect(simulation, speed_noise_deg_s=5.0), 20)
        assert (angles == 0).all()
        assert np.abs(speeds).max() > 1

    def test_noise_is_determined_by_the_seed(self, simulation: Simulation) -> None:
        """Equal seeds give equal noise, other seeds other noise."""
        first, again, other_seed = (
            noise(imperfect(simulation, seed=seed, angle_noise_deg=0.2), 20)[0].tolist() for seed in (3, 3, 4)
        )
        assert first == again
        assert first != other_seed

    def test_speed_loss_scales_measured_speeds_only(self, simulation: Simulation, other: Simulation) -> None:
        """A loss of 0.25 leaves 0.75 of the measured speeds and does not change the angles."""
        other.reset(START_DEG)
        whole, lossy = measured(imperfect(other), wander()), measured(imperfect(simulation, speed_loss=0.25), wander())
        assert np.abs(whole[:, 3:]).max() > 10
        assert lossy[:, :3].tolist() == whole[:, :3].tolist()
        assert lossy[:, 3:] == pytest.approx(0.75 * whole[:, 3:], abs=1e-12)

    def test_a_full_speed_loss_measures_zero_despite_noise(self, simulation: Simulation) -> None:
        """With a loss of 1 every measured speed is zero, noise included."""
        rows = measured(imperfect(simulation, speed_loss=1.0, speed_noise_deg_s=5.0), wander())
        assert (rows[:, 3:] == 0).all()
        assert np.ptp(rows[:, :3]) > 10

    def test_the_late_preset_delays_actions_and_measures_no_speeds(self) -> None:
        """Preset `late`: speeds are zero, and 150 ms = 4.5 periods pass before the first change."""
        with closing(ArmEnv("reach", imperfections="late")) as env:
            start = env.reset(seed=0)[0]["observation"]
            for step in range(8):
                seen = env.step(np.array([80, 80, 80], np.float32))[0]["observation"]
                assert (seen[3:6] == 0).all()
                # 150 ms are four and a half periods.
                assert (np.abs(seen[:3] - start[:3]).max() < 1e-4) == (step < 4)

    def test_noise_is_clipped_at_four_stds(self, simulation: Simulation) -> None:
        """Samples of 9 std are clipped to 4 std: 0.8 degrees for 0.2, 20 degrees/s for 5."""
        body = imperfect(simulation, angle_noise_deg=0.2, speed_noise_deg_s=5.0)
        body.start(ExtremeGenerator())  # type: ignore[arg-type]
        angles, speeds = noise(body, 2)
        np.testing.assert_allclose(np.abs(angles), 0.8)
        np.testing.assert_allclose(np.abs(speeds), 20.0)

    @pytest.mark.parametrize("periods", [0.0, 0.25, 1.0, 1.5, 2.0, 2.75, 15.0])
    def test_an_observation_delay_interpolates_between_past_readings(
        self, simulation: Simulation, other: Simulation, periods: float
    ) -> None:
        """Delayed readings equal linear interpolation of the ideal ones (NumPy), and the arm itself is not delayed."""
        targets = wander(25)
        got = measured(imperfect(simulation, observation_delay_s=periods * PERIOD_S), targets)
        other.reset(START_DEG)
        ideal = np.concatenate([[[*START_DEG, 0, 0, 0]], measured(other, targets)])
        times = np.arange(1, 26) - periods
        wanted = np.stack(
            [np.interp(times, np.arange(26), column) for column in ideal.T], -1
        )  # before the start, at rest
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-9)
        assert [*simulation.angles_deg, *simulation.speeds_deg_s] == ideal[-1].tolist()  # the arm itself is not late


def spin_up(simulation: Simulation, **dynamics: float) -> Array:
    """Speeds (100,) in rad/s of the base joint, which turns the level arm as fast as it can."""
    simulation.set_dynamics(**dynamics)
    simulation.reset((0, 90, 0))
    simulation.command((90, 90, 0))
    speeds = []
    for _ in range(100):
        simulation.advance(1)
        simulation.measure()
        speeds.append(math.radians(simulation.speeds_deg_s[0]))
    return np.array(speeds)


class TestDynamics:
    """Payload and friction."""

    @pytest.mark.parametrize("payload_kg", [0.01, 0.1, 0.5])
    def test_a_payload_is_a_mass_at_the_tip(self, simulation: Simulation, payload_kg: float) -> None:
        """From torque over acceleration, the added inertia is m x 0.45^2 (stretched out level) to 1e-6."""
        empty, loaded = spin_up(simulation)[0], spin_up(simulation, payload_kg=payload_kg)[0]
        # Torque over acceleration is the moment of inertia: the load adds its mass times the square of 0.45 m.
        added = ARM.max_torque_nm[0] * STEP_S * (1 / loaded - 1 / empty)
        assert added == pytest.approx(payload_kg * 0.45**2, rel=1e-6)

    @pytest.mark.parametrize(("payload_kg", "holds"), [(0.0, True), (0.26, True), (0.275, False)])
    def test_a_servo_holds_what_its_torque_can_carry(
        self, simulation: Simulation, payload_kg: float, holds: bool
    ) -> None:
        """At 80 degrees the limit of 1.4 N m = sin 80 (0.2439 + 9.81 x 0.45 x payload) is 0.2668 kg (hand-computed)."""
        simulation.set_dynamics(payload_kg=payload_kg)
        simulation.reset((0, 80, 0))
        assert bool(held(simulation, (0, 80, 0), 30)[1] < 80.1) is holds

    @pytest.mark.parametrize("friction", [0.1, 0.5, 1.0, 2.0])
    def test_friction_limits_the_speed(self, simulation: Simulation, friction: float) -> None:
        """The final speed is torque over friction, 1.4 N m / friction, or the servo's maximum if that is lower."""
        assert spin_up(simulation, friction_nm_s_rad=friction)[40] == pytest.approx(
            min(1.4 / friction, 5.969), rel=1e-6
        )

    def test_dynamics_can_be_reset_without_a_trace(self, simulation: Simulation) -> None:
        """Payload, friction and lag change the motion; without them it is the ideal one again, bit for bit."""

        def motion(**dynamics: float) -> list[list[float]]:
            simulation.set_dynamics(**dynamics)
            simulation.reset((0, 90, 0))
            return measured(simulation, [(90, 20, 60)] * 10 + [(10, 80, 0)] * 10).tolist()  # type: ignore[no-any-return]

        ideal = motion()
        for dynamics in ({"payload_kg": 0.1}, {"friction_nm_s_rad": 0.05}, {"servo_lag_s": 0.1}):
            changed = motion(**dynamics)
            assert np.abs(np.subtract(changed, ideal)).max() > 0.1, dynamics
            assert motion() == ideal


def tip_by_hand(angles_deg: Any, factors: Any) -> tuple[float, float, float]:
    """arm3's tip, with a column of 0.2 and 0.05 m, an upper arm of 0.25 m, a forearm of 0.2 m, times the factors."""
    yaw, shoulder, elbow = np.radians(angles_deg)
    base, turntable, upper, fore = np.multiply((0.2, 0.05, 0.25, 0.2), factors)
    out = upper * math.sin(shoulder) + fore * math.sin(shoulder + elbow)
    up = base + turntable + upper * math.cos(shoulder) + fore * math.cos(shoulder + elbow)
    return out * math.cos(yaw), out * math.sin(yaw), up


class TestLengthErrors:
    """Wrong link lengths, and the true distance to the goal."""

    def test_length_errors_move_the_true_tip_only(self) -> None:
        """Observations and rewards equal the ideal ones; the reported distance is that of the true tip, by hand."""
        env, ideal = ArmEnv("reach", imperfections=Imperfections(length_error=(-0.05, 0.05))), ArmEnv("reach")
        actions = np.random.default_rng(0).uniform(0, 90, (10, 3)).astype(np.float32)
        options = {"angles_deg": START_DEG, "goal_m": (0.1, 0.2, 0.5)}
        apart = []
        for seed in range(3):
            for each in (env, ideal):
                each.reset(seed=seed, options=options)
            state = env.save_state()
            errors = state["imperfect"]["length_errors"]
            assert len(set(errors)) == 4
            for action in actions:
                observation, reward, *_, info = env.step(action)
                wanted, wanted_reward, *_ = ideal.step(action)
                assert {key: value.tolist() for key, value in observation.items()} == {
                    key: value.tolist() for key, value in wanted.items()
                }
                assert reward == wanted_reward
                tip = tip_by_hand(env.simulation.angles_deg, 1 + np.array(errors))
                assert info["distance_m"] == pytest.approx(math.dist(tip, (0.1, 0.2, 0.5)), abs=1e-9)
                assert info["is_success"] == (info["distance_m"] <= 0.01)
                apart.append(math.dist(tip, observation["achieved_goal"]))
        assert max(apart) > 0.002
        for each in (env, ideal):
            each.close()

    def test_infos_use_the_true_tip_and_rewards_the_measured_one(self) -> None:
        """The infos' distance is that of the true tip; the reward is computed from the measured one."""
        env = ArmEnv(
            "reach", imperfections=Imperfections(angle_noise_deg=2.0, observation_delay_s=0.1, backlash_deg=1.0)
        )
        env.reset(seed=0)
        for _ in range(30):
            observation, reward, *_, info = env.step(env.action_space.sample())
            tip = tip_by_hand(env.simulation.angles_deg, np.ones(4))
            assert info["distance_m"] == pytest.approx(math.dist(tip, observation["desired_goal"]), abs=1e-6)
            # The reward uses the measured tip, which the controller can know.
            seen = math.dist(observation["achieved_goal"].tolist(), observation["desired_goal"].tolist())
            assert reward == pytest.approx(float(env.task.reward(seen)), abs=1e-12)
        env.close()


def drawn(env: ArmEnv) -> dict[str, float]:
    """The values drawn for this episode, by name."""
    state = env.save_state()["imperfect"]
    lengths = {f"length_error {link}": value for link, value in enumerate(state["length_errors"])}
    return state["values"] | lengths


class TestRandomisation:
    """Values drawn for each episode."""

    def test_values_are_uniform_in_their_ranges_and_independent(self) -> None:
        """300 episodes pass a Kolmogorov-Smirnov test for each value, and no two values are correlated."""
        env = ArmEnv("reach", imperfections=EVERYTHING)
        env.reset(seed=1)
        rows = [drawn(env)]
        for _ in range(300):
            env.reset()
            rows.append(drawn(env))
        env.close()
        assert len(rows[0]) == 11 + 4
        table = np.array([list(row.values()) for row in rows])
        for name, column in zip(rows[0], table.T, strict=True):
            low, high = getattr(EVERYTHING, name.split()[0])
            assert low <= column.min()
            assert column.max() <= high
            assert kstest((column - low) / (high - low), "uniform").pvalue > 1e-4, name
        correlations = np.corrcoef(table.T) - np.eye(len(table.T))
        assert np.abs(correlations).max() < 5 / math.sqrt(len(rows))

    def test_values_are_determined_by_the_seed(self) -> None:
        """Equal seeds draw equal values; other episodes differ in every value that has a range."""
        env, again = ArmEnv("reach", imperfections="rough"), ArmEnv("reach", imperfections="rough")
        rows = []
        for each, seed in ((env, 5), (again, 5), (env, None), (again, 6), (env, 5)):
            each.reset(seed=seed)
            rows.append(drawn(each))
            again.step(np.full(3, 45.0))
        assert rows[0] == rows[1] == rows[4]
        for other in rows[2:4]:
            assert {name for name, value in rows[0].items() if value == other[name]} == {"resolution_deg", "speed_loss"}
        env.close()
        again.close()

    def test_start_and_goal_are_those_of_an_ideal_arm_with_the_same_seed(self) -> None:
        """Imperfections leave start and goal of a seed unchanged, so that arms are compared on the same episodes."""
        for kind in KINDS:
            ideal, late = kind(), kind(imperfections=Imperfections(action_delay_s=(0.0, 0.2), payload_kg=0.1))
            one, other = ideal.reset(seed=8)[0], late.reset(seed=8)[0]
            assert {key: value.tolist() for key, value in one.items()} == {
                key: value.tolist() for key, value in other.items()
            }
            ideal.close()
            late.close()


class TestReadingError:
    """The typical error of measured angles."""

    @pytest.mark.parametrize(
        ("imperfections", "wanted_deg"),
        [
            (PRESETS["ideal"], 0.0),
            # Half of a step of 360 degrees / 4096, and the middle of noise from 0 to 0.05 degrees.
            (PRESETS["xl430"], 0.0879 / 2 + 0.025),
            (Imperfections(resolution_deg=(0.1, 0.3), angle_noise_deg=0.2, backlash_deg=1.0), 0.3),
            (Imperfections(observation_delay_s=0.1, speed_noise_deg_s=5.0), 0.0),
        ],
        ids=["ideal", "xl430", "custom", "others"],
    )
    def test_it_is_half_a_resolution_step_plus_the_mean_noise(
        self, imperfections: Imperfections, wanted_deg: float
    ) -> None:
        """Half the mean resolution step plus the mean noise, by hand; other imperfections do not count."""
        assert imperfections.reading_error_deg == pytest.approx(wanted_deg, abs=1e-5)


class TestDescriptions:
    """Files that describe an arm's imperfections, and their form in configurations, contracts and recordings."""

    @given(st.dictionaries(st.sampled_from(FIELDS), st.tuples(st.floats(0, 0.5), st.floats(0, 0.5))))
    def test_ranges_survive_json_and_text(self, ranges: dict[str, tuple[float, float]]) -> None:
        """Reading back JSON or text gives an equal object, to the last bit."""
        imperfections = Imperfections(**{name: (min(pair), max(pair)) for name, pair in ranges.items()})
        assert imperfections_from_json(json.loads(json.dumps(imperfections.to_json()))) == imperfections
        assert imperfections_from_text(imperfections.to_text()) == imperfections

    @pytest.mark.parametrize("name", PRESETS)
    def test_presets_are_stored_by_name(self, name: str) -> None:
        """A preset is stored as its name, also if it was given as ranges."""
        same = dataclasses.replace(PRESETS[name])
        assert (same.name, same.to_json(), same.to_text()) == (name, name, name)
        assert imperfections_from_text(name) is PRESETS[name]

    @pytest.mark.parametrize("name", PRESETS)
    def test_presets_are_files_of_the_same_form(self, name: str) -> None:
        """Each preset equals its file in assets, which can be copied and changed."""
        assert read_imperfections(ASSETS / "imperfections" / f"{name}.json") == PRESETS[name]

    def test_a_file_is_opened_by_its_path(self, tmp_path: Path) -> None:
        """Fields that are left out are off; other keys of the file are ignored."""
        path = tmp_path / "arm.json"
        path.write_text(json.dumps(DESCRIPTION | {"joints": [1, 2]}))
        assert open_imperfections(str(path)) == Imperfections(action_delay_s=(0.03, 0.04))
        env = ArmEnv("reach", imperfections=str(path))
        assert env.imperfections.action_delay_s == (0.03, 0.04)
        env.close()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "it is not JSON"),
            ("\xff", "it is not JSON"),
            ("[" * 100_000, "it is not JSON"),
            (" " * (2**20 + 1), "it is too large"),
            ("[]", "does not describe imperfections"),
            ({"format": None}, "does not describe imperfections"),
            ({"format": "other"}, "does not describe imperfections"),
            ({"version": 2}, "has format version 2; this program reads 1"),
            ({"version": None}, "has format version None; this program reads 1"),
            ({"imperfections": None}, "expected ranges by field or one of ideal"),
            ({"imperfections": [1]}, "expected ranges by field"),
            ({"imperfections": "ruff"}, "expected ranges by field"),
            (
                {"imperfections": {"servo_lag": 0.1}},
                "unknown field 'servo_lag'; available: action_delay_s, servo_lag_s",
            ),
            ({"imperfections": {"servo_lag_s": "0.1"}}, "servo_lag_s: expected a number or a range"),
            ({"imperfections": {"servo_lag_s": True}}, "servo_lag_s: expected"),
            ({"imperfections": {"servo_lag_s": [0.1, 0.05]}}, "servo_lag_s: expected"),
            ({"imperfections": {"action_delay_s": [0.0, 0.6]}}, "action_delay_s: expected .* from 0 to 0.5"),
            ({"imperfections": {"payload_kg": [0.0] * 100_000}}, "payload_kg: expected"),
            ({"imperfections": {"payload_kg": math.inf}}, "payload_kg: expected"),
            ({"imperfections": {"payload_kg": math.nan}}, "payload_kg: expected"),
            ({"imperfections": {"payload_kg": 10**400}}, "payload_kg: expected"),
            ({"imperfections": {"payload_kg": {"low": 0}}}, "payload_kg: expected"),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_rejects_an_invalid_file_in_one_short_line(self, tmp_path: Path, content: Any, message: str) -> None:
        """The error is one short line that names the file and, if there is one, the field."""
        path = tmp_path / "arm.json"
        text = content if isinstance(content, str) else json.dumps(DESCRIPTION | content)
        path.write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match=message) as error:
            open_imperfections(str(path))
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 500 + len(str(path))

    @pytest.mark.parametrize("name", ["", "ruff", "none/such.json", "x" * 5000, "a\0b"])
    def test_rejects_what_is_neither_a_preset_nor_a_file(self, name: str) -> None:
        """The error lists the presets, for empty, overlong and unprintable names too."""
        with pytest.raises(ValueError, match=r"unknown imperfections .*expected ideal, xl430, rough, late, or a file"):
            open_imperfections(name)

    def test_rejects_a_folder(self, tmp_path: Path) -> None:
        """A folder raises the error of a file that cannot be read."""
        with pytest.raises(ValueError, match=r"cannot read imperfections from .*: Is a directory"):
            open_imperfections(str(tmp_path))


class TestValidation:
    """Accepted ranges and presets."""

    def test_a_number_is_a_range_of_no_width(self) -> None:
        """A single number means a range of zero width; `any` is true unless all ranges are zero."""
        assert Imperfections(payload_kg=0.1) == Imperfections(payload_kg=(0.1, 0.1))  # type: ignore[arg-type]
        assert Imperfections(payload_kg=[0, 1]) == Imperfections(payload_kg=(0.0, 1.0))  # type: ignore[arg-type]
        assert not Imperfections(length_error=0).any  # type: ignore[arg-type]
        assert Imperfections(length_error=(-0.01, 0.0)).any

    @pytest.mark.parametrize("field", FIELDS)
    @pytest.mark.parametrize(
        "bad",
        [(0.2, 0.1), math.nan, (0.0, math.nan), math.inf, (0.0, math.inf), (0.0,), (0.0, 0.1, 0.2), -0.6, (-0.6, 0.0)],
        ids=str,
    )
    def test_rejects_invalid_ranges_by_name(self, field: str, bad: Any) -> None:
        """Reversed, non-finite or out-of-range values of every field raise an error that begins with its name."""
        with pytest.raises(ValueError, match=f"^{field}: expected a number or a range"):
            Imperfections(**{field: bad})

    @pytest.mark.parametrize("bad", ["a", "ab", (None, None), None, ("0", "1")], ids=repr)
    def test_rejects_non_numbers_by_name(self, bad: Any) -> None:
        """Strings and None raise an error that begins with the field's name."""
        with pytest.raises(ValueError, match=r"^payload_kg: expected a number or a range"):
            Imperfections(payload_kg=bad)

    def test_accepts_numpy_scalars(self) -> None:
        """NumPy scalars are accepted as numbers."""
        for number in (np.float32(0.125), np.float64(0.125), np.int64(0)):
            assert Imperfections(payload_kg=number).payload_kg == (float(number),) * 2  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"action_delay_s": (0.0, 0.51)}, "action_delay_s: expected a number or a range .* from 0 to 0.5"),
            ({"observation_delay_s": 0.51}, "observation_delay_s: expected .* from 0 to 0.5"),
            ({"length_error": 0.51}, "length_error: expected .* from -0.5 to 0.5"),
            ({"length_error": (-0.51, 0.0)}, "length_error: expected .* from -0.5 to 0.5"),
            ({"speed_loss": 1.01}, "speed_loss: expected .* from 0 to 1,"),
            ({"payload_kg": -0.001}, "payload_kg: expected .* from 0 to inf, got -0.001"),
        ],
    )
    def test_each_field_has_its_own_bounds(self, values: dict[str, Any], message: str) -> None:
        """Values beyond a field's bounds raise an error that states them."""
        with pytest.raises(ValueError, match=message):
            Imperfections(**values)

    @pytest.mark.parametrize("make", KINDS)
    def test_an_unknown_preset_is_rejected(self, make: Callable[..., Any]) -> None:
        """The environments pass on the error of an unknown preset."""
        with pytest.raises(ValueError, match="unknown imperfections 'ruff'"):
            make(imperfections="ruff")

    def test_presets_are_opened_by_name(self) -> None:
        """Names give the presets; `xl430` and `rough` set every field but the speed loss."""
        assert all(open_imperfections(name) is preset for name, preset in PRESETS.items())
        assert open_imperfections(EVERYTHING) is EVERYTHING
        assert not PRESETS["ideal"].any
        for preset in (PRESETS["xl430"], PRESETS["rough"]):
            assert {field for field in FIELDS if getattr(preset, field) == (0.0, 0.0)} == {"speed_loss"}
            assert preset.resolution_deg == (SERVO_STEP_DEG, SERVO_STEP_DEG)


def roll(env: ArmEnv, actions: Any) -> list[Step]:
    return [env.step(action) for action in actions]


def exact(rows: list[Any]) -> list[Any]:
    """Observations, rewards and infos with arrays as their bytes."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return value.tobytes() if isinstance(value, np.ndarray) else value

    return [tuple(plain(part) for part in row) for row in rows]


def random_actions(env: ArmEnv, count: int, seed: int = 0, size: float = 1.0) -> list[NDArray[np.float32]]:
    """Actions over the action space, or over a fraction `size` of it around its middle."""
    box: Any = env.action_space
    middle, half = (box.low + box.high) / 2, size * (box.high - box.low) / 2
    return list(np.random.default_rng(seed).uniform(middle - half, middle + half, (count, 3)).astype(np.float32))


class TestEnvironments:
    """Imperfect arms in the environments."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_ideal_imperfections_equal_the_default(self, kind: Callable[..., ArmEnv]) -> None:
        """No setting, "ideal" and empty imperfections give identical episodes, bit for bit."""
        episodes = []
        for settings in ({}, {"imperfections": "ideal"}, {"imperfections": Imperfections()}):
            env = kind(**settings)
            first = env.reset(seed=4)
            steps = roll(env, random_actions(env, 40))
            episodes.append(exact([first, *steps, env.reset()]))
            assert env.observation_space == kind().observation_space
            env.close()
        assert episodes[0] == episodes[1] == episodes[2]

    def test_empty_imperfections_do_not_change_the_simulation(self, simulation: Simulation, other: Simulation) -> None:
        """An ImperfectSimulation without imperfections measures the ideal motion, bit for bit."""
        targets = wander()
        other.reset(START_DEG)
        assert measured(imperfect(simulation), targets).tolist() == measured(other, targets).tolist()
        assert imperfect(simulation).true_tip() == ARM.tip_position(simulation.angles_deg)

    @pytest.mark.parametrize("preset", ["xl430", "rough"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_observations_stay_inside_their_space(self, kind: Callable[..., ArmEnv], preset: str) -> None:
        """Observations of `xl430` and `rough` stay inside their space under uniform and extreme actions."""
        env = kind(imperfections=preset, episode_steps=50)
        generator = np.random.default_rng(0)
        for episode in range(20):
            observation, _ = env.reset(seed=episode)
            assert observation in env.observation_space
            for step in range(50):
                action = generator.uniform(0, 90, 3) if episode % 2 else 90 * generator.integers(0, 2, 3)
                observation = env.step(action)[0]
                assert observation in env.observation_space, (episode, step, observation)
        env.close()

    def test_readings_rounded_past_a_limit_are_inside_the_space(self) -> None:
        """With a resolution of 7 degrees, 90 is measured as 91, which the observation space contains."""
        env = ArmEnv("reach", imperfections=Imperfections(resolution_deg=7.0))  # type: ignore[arg-type]
        env.reset(seed=0)
        for _ in range(30):
            observation = env.step(np.full(3, 90.0))[0]
        assert np.degrees(observation["observation"][:3]) == pytest.approx([91] * 3, abs=1e-4)
        assert env.simulation.angles_deg == pytest.approx([90] * 3, abs=0.01)
        assert observation in env.observation_space
        env.close()

    @pytest.mark.parametrize("size", [1.0, 0.02])
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("control", ["absolute", "from_measured", "from_target"])
    def test_a_restored_state_with_everything_on_continues_exactly(
        self, kind: Callable[..., ArmEnv], control: str, size: float
    ) -> None:
        """With all imperfections, large motion and motion within backlash and dead band continue bit for bit."""
        env, used, fresh = (kind(imperfections=EVERYTHING, control=control) for _ in range(3))

        def go_on(each: ArmEnv) -> list[Any]:
            rest, after = (random_actions(each, count, seed, size) for count, seed in ((20, 2), (10, 3)))
            return exact([*roll(each, rest), each.reset(), *roll(each, after)])

        env.reset(seed=3)
        last = roll(env, random_actions(env, 23, 1, size))[-1][0]
        state = env.save_state()
        text = json.dumps(state)
        followed = go_on(env)
        assert json.dumps(state) == text  # it does not change afterwards
        used.reset(seed=9)
        roll(used, random_actions(used, 7, 4))
        for each in (used, fresh, env):
            assert exact([(each.restore_state(json.loads(text)),)]) == exact([(last,)])
            assert go_on(each) == followed
            each.close()

    def test_a_seed_is_exact_after_an_episode_with_another_payload(self) -> None:
        """A seed gives the same episode bit for bit after an interrupted one with other values."""
        env = ArmEnv("reach", imperfections=EVERYTHING)
        episodes = []
        for _ in range(3):
            first = env.reset(seed=2)
            episodes.append(exact([first, *roll(env, random_actions(env, 30))]))
            env.reset(seed=77)
            roll(env, random_actions(env, 9))
        assert episodes[0] == episodes[1] == episodes[2]
        env.close()

    def test_every_id_accepts_imperfections(self) -> None:
        """Every id can be made with the preset `rough`, and its observations are inside their space."""
        for name in ("ArmReach-v0", "ArmReachDiscrete-v0", "ArmReachMultiDiscrete-v0", "ArmTrack-v0"):
            env = gymnasium.make(name, imperfections="rough")
            env.reset(seed=0)
            env.action_space.seed(0)
            for _ in range(5):
                assert env.step(env.action_space.sample())[0] in env.observation_space
            env.close()


class TestDriver:
    """The simulated driver of an imperfect arm."""

    def test_a_rough_driver_measures_rounded_and_delayed_angles(self) -> None:
        """Readings are multiples of the servo's step, lag behind the ideal ones, and settle within the stated
        margin."""
        driver, ideal = SimulationDriver(ARM, PERIOD_S, "rough"), SimulationDriver(ARM, PERIOD_S)
        readings, perfect = ([], [])
        for each, rows in ((driver, readings), (ideal, perfect)):
            each.enable()
            for target in np.linspace((0, 0, 0), (40, 30, 20), 60).tolist() + [[40.0, 30.0, 20.0]] * 60:
                each.write(target)
                rows.append(each.read().angles_deg)
        steps = np.array(readings) / SERVO_STEP_DEG
        np.testing.assert_allclose(steps, np.round(steps), rtol=0, atol=1e-9)
        margin = PRESETS["rough"].angle_margin_deg + PRESETS["rough"].dead_band_deg[1] + SERVO_STEP_DEG
        assert np.abs(np.subtract(readings, perfect))[-60 // 2 :].max() < margin
        assert np.abs(np.subtract(readings, perfect))[:60].max() > 0.5  # it is delayed
        for each in (driver, ideal):
            for target in np.linspace((40, 30, 20), (0, 0, 0), 60).tolist() + [[0.0, 0.0, 0.0]] * 60:
                each.write(target)
        assert ideal.read().angles_deg == pytest.approx([0] * 3, abs=0.01)
        assert np.abs(driver.read().angles_deg).max() < margin
        driver.close()
        ideal.close()
        driver.close()

    @pytest.mark.parametrize(
        "target", [[math.nan, 0, 0], [0, 90.1, 0], [-0.1, 0, 0], [0, 0], [0, math.inf, 0]], ids=str
    )
    def test_a_rejected_target_leaves_a_rough_driver_unchanged(self, target: list[float]) -> None:
        """A rough arm rejects the same targets with the same error as an ideal one, and moves on identically."""
        driver, other_driver, ideal = (SimulationDriver(ARM, PERIOD_S, name) for name in ("rough", "rough", "ideal"))
        messages = []
        for each in (ideal, driver):
            each.write([5.0, 6.0, 7.0])
            with pytest.raises(ValueError, match="expected") as error:
                each.write(target)
            messages.append(str(error.value))
        assert messages[0] == messages[1]
        other_driver.write([5.0, 6.0, 7.0])
        for each in (driver, other_driver):
            each.write([8.0, 8.0, 8.0])
        assert driver.read().angles_deg == other_driver.read().angles_deg
        for each in (driver, other_driver, ideal):
            each.close()

    def test_rejects_an_unknown_preset(self) -> None:
        """The driver passes on the error of an unknown preset."""
        with pytest.raises(ValueError, match="unknown imperfections 'ruff'"):
            SimulationDriver(ARM, PERIOD_S, "ruff")
