"""The simulation: bounds under violent commands and gravity, exact replay, and release of clients."""

import gc
import math
import re
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from helpers import Size

from envs.arm import Arm
from envs.bullet import pybullet
from envs.limits import limit_target
from envs.simulation import Simulation, SimulationState

ANGLE_BOUND_DEG = 0.25
SPEED_BOUND = 1.01
STEADY_BOUND_DEG = 0.05
GRID_DEG = range(0, 91, 15)


@pytest.fixture(scope="module")
def arm() -> Arm:
    return Arm()


@pytest.fixture
def simulation(arm: Arm) -> Iterator[Simulation]:
    with Simulation(arm) as simulation:
        yield simulation


def violent_targets(seed: int) -> Iterator[list[float]]:
    """Desired angles in corners of the range, inside it and far outside, held for 1 to 20 steps."""
    generator = np.random.default_rng(seed)
    while True:
        kind = generator.random()
        if kind < 0.5:
            angles = (90.0 * generator.integers(0, 2, 3)).tolist()
        elif kind < 0.9:
            angles = generator.uniform(0, 90, 3).tolist()
        else:
            angles = generator.uniform(-1000, 1000, 3).tolist()
        for _ in range(generator.integers(1, 21)):
            yield angles


def record(simulation: Simulation, targets: list[list[float]]) -> list[tuple[float, ...]]:
    """Measured angles and speeds at full precision while these targets are commanded."""
    rows = []
    for target in targets:
        simulation.command(target)
        simulation.step()
        rows.append((*simulation.angles_deg, *simulation.speeds_deg_s))
    return rows


def jumps(count: int, seed: int) -> list[list[float]]:
    return np.random.default_rng(seed).uniform(0, 90, (count, 3)).tolist()


def assert_bounds_hold(simulation: Simulation, steps: int, seed: int, measurements_per_step: int = 1) -> None:
    limits, desired = simulation.arm.limits, violent_targets(seed)
    period_s = simulation.control_period_s * measurements_per_step
    target, speed = simulation.angles_deg, [0.0] * 3
    lowest, highest, fastest = [math.inf] * 3, [-math.inf] * 3, [0.0] * 3
    for _ in range(steps):
        target, speed = limit_target(next(desired), target, speed, limits, period_s)
        simulation.command(target)
        for _ in range(measurements_per_step):
            simulation.step()
            lowest = list(map(min, lowest, simulation.angles_deg))
            highest = list(map(max, highest, simulation.angles_deg))
            fastest = [max(fast, abs(now)) for fast, now in zip(fastest, simulation.speeds_deg_s, strict=True)]
    assert all(low - ANGLE_BOUND_DEG <= angle for low, angle in zip(limits.lower_deg, lowest, strict=True)), lowest
    assert all(high + ANGLE_BOUND_DEG >= angle for high, angle in zip(limits.upper_deg, highest, strict=True)), highest
    assert all(fast <= SPEED_BOUND * most for fast, most in zip(fastest, limits.max_speed_deg_s, strict=True)), fastest
    # The desired angles were violent enough to get near the bounds.
    assert all(low < 0.1 and high > 89.9 for low, high in zip(lowest, highest, strict=True))
    assert all(fast > 0.75 * most for fast, most in zip(fastest, limits.max_speed_deg_s, strict=True))


class TestBounds:
    """Angles, speeds and rest under violent commands and gravity."""

    def test_angles_and_speeds_stay_in_bounds_through_violent_reversals(
        self, simulation: Simulation, size: Size
    ) -> None:
        """Measured angles overshoot the limits by at most 0.25 degrees and speeds by 1 %."""
        assert_bounds_hold(simulation, size(20_000, full=1_000_000, of="steps"), seed=0)

    def test_bounds_hold_between_control_steps(self, arm: Arm) -> None:
        """The same bounds hold for measurements at every physics step of 1/240 s."""
        with Simulation(arm, control_period_s=1 / 240) as simulation:
            assert_bounds_hold(simulation, 10_000, seed=1, measurements_per_step=8)

    def test_poses_are_held_under_gravity(self, simulation: Simulation) -> None:
        """Each pose of a 15-degree grid is held within 0.05 degrees for a second."""
        for pose in product(GRID_DEG, repeat=3):
            simulation.reset(pose)
            for _ in range(30):
                simulation.step()
            assert simulation.angles_deg == pytest.approx(pose, abs=STEADY_BOUND_DEG, rel=0)

    def test_poses_are_reached_under_gravity(self, simulation: Simulation) -> None:
        """Each grid pose, approached from another one, is reached within 0.05 degrees in 1.5 s and rests there."""
        poses = np.random.default_rng(2).permutation(list(product(GRID_DEG, repeat=3))).tolist()
        target, speed = simulation.angles_deg, [0.0] * 3
        for pose in poses:
            for _ in range(45):  # 1.5 s: half of it to get there, half to settle
                target, speed = limit_target(pose, target, speed, simulation.arm.limits, simulation.control_period_s)
                simulation.command(target)
                simulation.step()
            assert simulation.angles_deg == pytest.approx(pose, abs=STEADY_BOUND_DEG, rel=0)
            assert simulation.speeds_deg_s == pytest.approx([0.0] * 3, abs=0.5)

    def test_an_unpowered_shoulder_falls_by_newtons_law(self) -> None:
        """Speed after 1/30 s = 0.2439 N m x sin 45 / 0.006491 kg m^2 x t, within 3 %."""
        arm = Arm()
        arm.max_torque_nm = (1.4, 0.0, 1.4)  # the elbow's servo keeps the arm straight
        with Simulation(arm) as simulation:
            simulation.reset((0, 45, 0))
            simulation.step()
            # 0.2439 N m x sin 45 degrees on 0.006491 kg m^2 (tests/envs/test_arm_model.py) through 1/30 s.
            assert math.radians(simulation.speeds_deg_s[1]) == pytest.approx(
                0.2439 * math.sin(math.radians(45)) / 0.006491 / 30, rel=0.03
            )


class TestPeriods:
    """Control periods and physics steps."""

    @pytest.mark.parametrize(
        ("physics_step_s", "control_period_s", "message"),
        [
            (1 / 200, 1 / 30, r"whole multiple of the physics step 0\.005 s, got 0\.0333333 s = 6\.6667 steps"),
            (1 / 240, 1 / 480, r"= 0\.5000 steps"),
            (1 / 240, 0.0333, r"= 7\.9920 steps"),
            (0.0, 1 / 30, "expected positive periods"),
            (1 / 240, -1 / 30, "expected positive periods"),
            (math.nan, 1 / 30, "expected positive periods"),
            (1 / 240, math.inf, "expected positive periods"),
        ],
    )
    def test_rejects_a_period_that_is_no_multiple_of_the_physics_step(
        self, physics_step_s: float, control_period_s: float, message: str, arm: Arm
    ) -> None:
        """The error states the number of steps, and no physics client is left behind."""
        before = clients()
        with pytest.raises(ValueError, match=message):
            Simulation(arm, physics_step_s=physics_step_s, control_period_s=control_period_s)
        assert clients() == before

    def test_the_control_period_defaults_to_eight_steps_of_240_hz(self, simulation: Simulation) -> None:
        """The default period is 1/30 s in 8 steps."""
        assert simulation.control_period_s == 1 / 30
        assert simulation.substeps == 8

    def test_two_control_periods_of_a_60th_are_one_of_a_30th(self, arm: Arm) -> None:
        """The same target for two periods of 1/60 s gives the motion of one of 1/30 s, bit for bit."""
        targets = jumps(30, seed=70)
        with Simulation(arm) as whole, Simulation(arm, control_period_s=1 / 60) as halves:
            twice = [target for target in targets for _ in range(2)]
            assert record(whole, targets) == record(halves, twice)[1::2]


def clients() -> set[int]:
    return {client for client in range(1024) if pybullet.isConnected(client)}


class TestLifetime:
    """Physics clients: independence and release."""

    def test_two_simulations_are_independent_and_closing_one_leaves_the_other(
        self, arm: Arm, simulation: Simulation
    ) -> None:
        """A second simulation, and closing it, do not change the motion of the first, bit for bit."""
        targets = jumps(60, seed=3)
        alone = record(simulation, targets)

        simulation.reset((0, 0, 0))
        other = Simulation(arm)
        together = []
        for step, target in enumerate(targets):
            if step < 30:
                record(other, [[90 - angle for angle in target]])
            elif step == 30:
                other.close()
            together += record(simulation, [target])
        assert together == alone

    def test_a_closed_simulation_rejects_use(self, arm: Arm) -> None:
        """After the with block the client is gone, closing again is allowed, and every use raises RuntimeError."""
        before = clients()
        with Simulation(arm) as simulation:
            state = simulation.save()
            assert len(clients() - before) == 1
        assert clients() == before
        simulation.close()  # twice is fine
        for use in (
            simulation.step,
            lambda: simulation.command((1, 2, 3)),
            lambda: simulation.reset((1, 2, 3)),
            lambda: simulation.restore(state),
        ):
            with pytest.raises(RuntimeError, match="this simulation is closed"):
                use()

    def test_an_error_inside_the_with_block_closes_it(self, arm: Arm) -> None:
        """An exception inside of the block releases the client."""
        before = clients()
        with pytest.raises(KeyError), Simulation(arm):
            raise KeyError
        assert clients() == before

    def test_garbage_collection_frees_the_client(self, arm: Arm) -> None:
        """Deleting the last reference releases the client."""
        gc.collect()
        before = clients()
        simulation = Simulation(arm)
        assert len(clients() - before) == 1
        del simulation
        gc.collect()
        assert clients() == before

    def test_a_failed_start_frees_the_client(self, arm: Arm) -> None:
        """An arm without masses is rejected, and no client remains."""
        before = clients()
        text = arm.urdf_text
        for inertial in re.findall("<inertial>.*?</inertial>", text, re.DOTALL):
            text = text.replace(inertial, "")
        with pytest.raises(ValueError, match="weighs nothing"):
            Simulation(Arm("weightless.urdf", text=text))
        gc.collect()
        assert clients() == before

    def test_unclosed_simulations_do_not_use_up_the_clients(self, arm: Arm) -> None:
        """PyBullet has 1024: one that is never closed is freed with its last reference, without the collector."""
        gc.collect()
        before = clients()
        gc.disable()
        try:
            for _ in range(20):
                Simulation(arm)
                assert clients() == before
        finally:
            gc.enable()


class TestReset:
    """Resetting the arm."""

    def test_reset_sets_pose_speeds_and_motor_targets(self, simulation: Simulation) -> None:
        """After a reset in full motion, the arm is at rest and holds the pose for a second."""
        record(simulation, [[90.0, 90.0, 90.0]] * 5)
        assert max(simulation.speeds_deg_s) > 100
        simulation.reset((30, 40, 50))
        assert simulation.angles_deg == pytest.approx([30, 40, 50], abs=1e-12)
        assert simulation.speeds_deg_s == [0.0, 0.0, 0.0]
        for _ in range(30):
            simulation.step()
            assert simulation.angles_deg == pytest.approx([30, 40, 50], abs=STEADY_BOUND_DEG)

    def test_motion_after_a_reset_is_independent_of_the_past(self, simulation: Simulation) -> None:
        """The same commands after the same reset give the same motion, bit for bit."""
        targets = jumps(100, seed=4)
        simulation.reset((10, 20, 30))
        clean = record(simulation, targets)
        record(simulation, jumps(77, seed=5))
        simulation.reset((10, 20, 30))
        assert record(simulation, targets) == clean


class TestSavedState:
    """Saving and restoring the state."""

    @pytest.mark.parametrize("seed", range(5))
    def test_a_restored_state_continues_exactly(self, simulation: Simulation, arm: Arm, seed: int) -> None:
        """In the same and in a fresh simulation, motion after restoring repeats bit for bit, motor targets included."""
        record(
            simulation, jumps(50 + seed, seed=6 + seed)
        )  # jumps in full flight: the motors are far behind their targets
        state = simulation.save()
        measured = (*simulation.angles_deg, *simulation.speeds_deg_s)
        assert max(map(abs, simulation.speeds_deg_s)) > 20
        targets = jumps(100, seed=20 + seed)
        simulation.step()  # the motor targets belong to the state: they go on acting without a command
        coasted = (*simulation.angles_deg, *simulation.speeds_deg_s)
        followed = record(simulation, targets)

        record(simulation, jumps(33, seed=40))
        with Simulation(arm) as fresh:
            for other in (simulation, fresh):
                other.restore(state)
                assert (*other.angles_deg, *other.speeds_deg_s) == measured
                other.step()
                assert (*other.angles_deg, *other.speeds_deg_s) == coasted
                assert record(other, targets) == followed

    def test_a_saved_state_is_a_copy(self, simulation: Simulation) -> None:
        """Later motion does not modify a state that was saved before."""
        record(simulation, jumps(5, seed=50))
        state = simulation.save()
        copy = SimulationState(tuple(state.angles_rad), tuple(state.speeds_rad_s), tuple(state.target_rad))
        record(simulation, jumps(5, seed=51))
        assert state == copy
        assert simulation.save() != copy


class TestRejections:
    """Invalid commands."""

    @pytest.mark.parametrize(
        "bad",
        [
            (45.0, 45.0, 90.01),
            (-0.01, 45.0, 45.0),
            (45.0, math.nan, 45.0),
            (45.0, 45.0, math.inf),
            (-math.inf, 45.0, 45.0),
            (45.0, 45.0),
            (45.0, 45.0, 45.0, 45.0),
        ],
    )
    def test_a_rejected_command_or_reset_changes_nothing(self, simulation: Simulation, bad: tuple[float, ...]) -> None:
        """After a rejected command or reset, state and motion are those of an undisturbed simulation, bit for bit."""
        targets = jumps(40, seed=60)
        undisturbed = record(simulation, targets)
        simulation.reset((0, 0, 0))
        disturbed = record(simulation, targets[:20])
        state = simulation.save()
        for use in (simulation.command, simulation.reset):
            with pytest.raises(ValueError, match=r"expected .*angles"):
                use(bad)
            assert simulation.save() == state
        assert disturbed + record(simulation, targets[20:]) == undisturbed
