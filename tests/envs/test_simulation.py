"""The simulation: its bounds under violence and under gravity, exact replay, and clients that never leak."""

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


def wishes(seed: int) -> Iterator[list[float]]:
    """Desired angles that jump between corners, anywhere and far outside, held for 1 to 20 steps."""
    generator = np.random.default_rng(seed)
    while True:
        kind = generator.random()
        if kind < 0.5:
            wish = (90.0 * generator.integers(0, 2, 3)).tolist()
        elif kind < 0.9:
            wish = generator.uniform(0, 90, 3).tolist()
        else:
            wish = generator.uniform(-1000, 1000, 3).tolist()
        for _ in range(generator.integers(1, 21)):
            yield wish


def record(simulation: Simulation, targets: list[list[float]]) -> list[tuple[float, ...]]:
    """Angles and speeds, every bit of them, while these targets are commanded."""
    rows = []
    for target in targets:
        simulation.command(target)
        simulation.step()
        rows.append((*simulation.angles_deg, *simulation.speeds_deg_s))
    return rows


def jumps(count: int, seed: int) -> list[list[float]]:
    return np.random.default_rng(seed).uniform(0, 90, (count, 3)).tolist()


def assert_bounds_hold(simulation: Simulation, steps: int, seed: int, measurements_per_step: int = 1) -> None:
    limits, desired = simulation.arm.limits, wishes(seed)
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
    # The wishes were violent enough to get near the bounds.
    assert all(low < 0.1 and high > 89.9 for low, high in zip(lowest, highest, strict=True))
    assert all(fast > 0.75 * most for fast, most in zip(fastest, limits.max_speed_deg_s, strict=True))


def test_angles_and_speeds_stay_in_bounds_through_violent_reversals(simulation: Simulation, size: Size) -> None:
    assert_bounds_hold(simulation, size(20_000, full=1_000_000, of="steps"), seed=0)


def test_they_stay_in_bounds_between_control_steps_too(arm: Arm) -> None:
    with Simulation(arm, control_period_s=1 / 240) as simulation:
        assert_bounds_hold(simulation, 10_000, seed=1, measurements_per_step=8)


def test_poses_are_held_under_gravity(simulation: Simulation) -> None:
    for pose in product(GRID_DEG, repeat=3):
        simulation.reset(pose)
        for _ in range(30):
            simulation.step()
        assert simulation.angles_deg == pytest.approx(pose, abs=STEADY_BOUND_DEG, rel=0)


def test_poses_are_reached_and_held_under_gravity_coming_from_any_other(simulation: Simulation) -> None:
    poses = np.random.default_rng(2).permutation(list(product(GRID_DEG, repeat=3))).tolist()
    target, speed = simulation.angles_deg, [0.0] * 3
    for pose in poses:
        for _ in range(45):  # 1.5 s: half of it to get there, half to settle
            target, speed = limit_target(pose, target, speed, simulation.arm.limits, simulation.control_period_s)
            simulation.command(target)
            simulation.step()
        assert simulation.angles_deg == pytest.approx(pose, abs=STEADY_BOUND_DEG, rel=0)
        assert simulation.speeds_deg_s == pytest.approx([0.0] * 3, abs=0.5)


def test_an_unpowered_shoulder_falls_as_newton_says() -> None:
    arm = Arm()
    arm.max_torque_nm = (1.4, 0.0, 1.4)  # the elbow's servo keeps the arm straight
    with Simulation(arm) as simulation:
        simulation.reset((0, 45, 0))
        simulation.step()
        # 0.2439 N m x sin 45 degrees on 0.006491 kg m^2 (tests/envs/test_arm_model.py) through 1/30 s.
        assert math.radians(simulation.speeds_deg_s[1]) == pytest.approx(
            0.2439 * math.sin(math.radians(45)) / 0.006491 / 30, rel=0.03
        )


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
def test_a_control_period_of_no_whole_number_of_physics_steps_is_refused(
    physics_step_s: float, control_period_s: float, message: str, arm: Arm
) -> None:
    before = clients()
    with pytest.raises(ValueError, match=message):
        Simulation(arm, physics_step_s=physics_step_s, control_period_s=control_period_s)
    assert clients() == before


def test_the_control_period_defaults_to_eight_steps_of_240_hz(simulation: Simulation) -> None:
    assert simulation.control_period_s == 1 / 30
    assert simulation.substeps == 8


def test_two_control_periods_of_a_60th_are_one_of_a_30th(arm: Arm) -> None:
    targets = jumps(30, seed=70)
    with Simulation(arm) as whole, Simulation(arm, control_period_s=1 / 60) as halves:
        twice = [target for target in targets for _ in range(2)]
        assert record(whole, targets) == record(halves, twice)[1::2]


def clients() -> set[int]:
    return {client for client in range(1024) if pybullet.isConnected(client)}


def test_two_simulations_are_independent_and_closing_one_leaves_the_other(arm: Arm, simulation: Simulation) -> None:
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


def test_a_closed_simulation_says_so(arm: Arm) -> None:
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


def test_an_error_inside_the_with_block_closes_it_too(arm: Arm) -> None:
    before = clients()
    with pytest.raises(KeyError), Simulation(arm):
        raise KeyError
    assert clients() == before


def test_a_forgotten_simulation_frees_its_client(arm: Arm) -> None:
    gc.collect()
    before = clients()
    simulation = Simulation(arm)
    assert len(clients() - before) == 1
    del simulation
    gc.collect()
    assert clients() == before


def test_a_simulation_that_cannot_start_frees_its_client(arm: Arm) -> None:
    before = clients()
    text = arm.urdf_text
    for inertial in re.findall("<inertial>.*?</inertial>", text, re.DOTALL):
        text = text.replace(inertial, "")
    with pytest.raises(ValueError, match="weighs nothing"):
        Simulation(Arm("weightless.urdf", text=text))
    gc.collect()
    assert clients() == before


@pytest.mark.slow
def test_1200_forgotten_simulations_do_not_use_up_pybullets_1024_clients(arm: Arm) -> None:
    for _ in range(1200):
        Simulation(arm)


def test_reset_puts_the_arm_there_at_rest_and_its_motor_targets_too(simulation: Simulation) -> None:
    record(simulation, [[90.0, 90.0, 90.0]] * 5)
    assert max(simulation.speeds_deg_s) > 100
    simulation.reset((30, 40, 50))
    assert simulation.angles_deg == pytest.approx([30, 40, 50], abs=1e-12)
    assert simulation.speeds_deg_s == [0.0, 0.0, 0.0]
    for _ in range(30):
        simulation.step()
        assert simulation.angles_deg == pytest.approx([30, 40, 50], abs=STEADY_BOUND_DEG)


def test_after_a_reset_nothing_of_the_motion_before_is_left(simulation: Simulation) -> None:
    targets = jumps(100, seed=4)
    simulation.reset((10, 20, 30))
    clean = record(simulation, targets)
    record(simulation, jumps(77, seed=5))
    simulation.reset((10, 20, 30))
    assert record(simulation, targets) == clean


@pytest.mark.parametrize("seed", range(5))
def test_what_follows_a_restored_state_is_bit_for_bit_what_followed_it(
    simulation: Simulation, arm: Arm, seed: int
) -> None:
    record(simulation, jumps(50 + seed, seed=6 + seed))  # jumps in full flight: the motors are far behind their targets
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


def test_a_saved_state_does_not_change_afterwards(simulation: Simulation) -> None:
    record(simulation, jumps(5, seed=50))
    state = simulation.save()
    copy = SimulationState(tuple(state.angles_rad), tuple(state.speeds_rad_s), tuple(state.target_rad))
    record(simulation, jumps(5, seed=51))
    assert state == copy
    assert simulation.save() != copy


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
def test_a_refused_command_or_reset_changes_nothing(simulation: Simulation, bad: tuple[float, ...]) -> None:
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
