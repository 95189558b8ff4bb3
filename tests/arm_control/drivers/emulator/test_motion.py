"""Motion of emulated servos: profiles, lag, sag, and goals when the torque goes on."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from emulated import TICKS_PER_SPEED_UNIT, Clock, replies, write

from arm_control.commands.emulate import Emulate
from arm_control.drivers.dynamixel.control_table import REGISTERS
from arm_control.drivers.emulator.emulator import Emulator
from arm_control.drivers.emulator.protocol import (
    Instruction,
    make_packet,
)
from arm_control.drivers.emulator.servo_dynamics import ServoDynamics
from envs.imperfections import IDEAL_LAG_S


class TestMotion:
    """Servos with torque, moving to a goal."""

    def test_a_servo_reaches_its_goal_within_its_velocity_limit(self, servos: Emulator, clock: Clock) -> None:
        """It never moves back, too fast or beyond the goal."""
        write(servos, 1, "velocity_limit", 50)
        write(servos, 1, "torque_enable", 1)
        write(servos, 1, "goal_position", 3000)
        before, fastest = 1000, 50 * TICKS_PER_SPEED_UNIT
        for _ in range(100):
            clock.advance(0.05)
            here = servos.positions()[1]
            assert before <= here <= min(3000, before + fastest * 0.05 + 1.0)  # never back, never beyond
            assert 0 <= servos.register("present_velocity", 1) <= 50
            before = here
        assert before == 3000
        assert servos.register("present_velocity", 1) == servos.register("moving", 1) == 0
        assert servos.register("present_load", 1) == 0
        assert servos.register("moving_status", 1) & 1

    def test_reading_does_not_change_the_motion(self) -> None:
        """1, 7 and 300 readings give the same end to 2 ticks."""
        ends = []
        for looks in (1, 7, 300):
            clock = Clock()
            servos = Emulator(start_ticks=1000, clock=clock)
            write(servos, 1, "torque_enable", 1)
            write(servos, 1, "goal_position", 2500)
            for _ in range(looks):
                clock.advance(0.3 / looks)
                servos.positions()
            ends.append(servos.positions()[1])
        assert max(ends) - min(ends) <= 2
        assert 1100 < ends[0] < 2500

    @pytest.mark.parametrize("acceleration", [0, 20])
    def test_profiles(self, servos: Emulator, clock: Clock, acceleration: int) -> None:
        """Durations of rectangular and trapezoidal profiles: distance / v, plus v / a."""
        write(servos, 1, "profile_velocity", 40)
        write(servos, 1, "profile_acceleration", acceleration)
        write(servos, 1, "torque_enable", 1)
        write(servos, 1, "goal_position", 2500)
        speed = 40 * TICKS_PER_SPEED_UNIT
        # Distance / speed, and for a trapezoid speed / acceleration in addition; 214.577 rev/min^2 are 244.1 ticks/s^2.
        duration = 1500 / speed + (speed / (acceleration * 214.577 / 3600 * 4096) if acceleration else 0.0)
        clock.advance(duration / 2)
        assert servos.positions()[1] == pytest.approx(1750, abs=0.05 * speed + 20)
        assert servos.register("velocity_trajectory", 1) == 40
        assert servos.register("moving", 1) == 1
        clock.advance(duration / 2 - 0.05)
        assert servos.positions()[1] < 2500
        clock.advance(0.5)
        assert servos.positions()[1] == 2500
        assert servos.register("velocity_trajectory", 1) == servos.register("moving", 1) == 0

    def test_lag_at_constant_speed(self) -> None:
        """The distance behind the profile is lag x speed."""
        clock = Clock()
        servos = Emulator((1,), start_ticks=1000, clock=clock, dynamics=ServoDynamics(lag_s=0.1))
        write(servos, 1, "profile_velocity", 60)
        write(servos, 1, "torque_enable", 1)
        write(servos, 1, "goal_position", 3000)
        clock.advance(1.0)
        behind = servos.register("position_trajectory", 1) - servos.positions()[1]
        assert behind == pytest.approx(0.1 * 60 * TICKS_PER_SPEED_UNIT, rel=0.05)
        assert servos.register("present_load", 1) > 0

    def test_homing_offset(self, servos: Emulator, clock: Clock) -> None:
        """Readings and goals are shifted by the same ticks."""
        write(servos, 1, "homing_offset", -300)
        assert servos.register("present_position", 1) == 700
        write(servos, 1, "torque_enable", 1)
        write(servos, 1, "goal_position", 800)
        clock.advance(2.0)
        assert servos.register("present_position", 1) == 800

    def test_extended_mode(self, servos: Emulator, clock: Clock) -> None:
        """Whole turns count until a reboot."""
        write(servos, 1, "operating_mode", 4)
        write(servos, 1, "torque_enable", 1)
        assert write(servos, 1, "goal_position", -5000) == 0
        clock.advance(10.0)
        assert servos.positions()[1] == -5000
        write(servos, 1, "torque_enable", 0)
        write(servos, 1, "operating_mode", 3)
        assert servos.positions()[1] == -5000 % 4096
        assert write(servos, 1, "operating_mode", 1) == 4  # not emulated, so not taken
        assert write(servos, 1, "drive_mode", 1) == 4

    def test_tiny_time_steps(self) -> None:
        """Steps down to the smallest float do not move a servo."""
        now = 100.0
        emulator = Emulator((1,), clock=lambda: now)
        for passed in (1e-3, 1e-12, 5e-324, 1e-9):
            now += passed
            emulator.positions()
        assert emulator.positions() == {1: 2048}


class TestTorque:
    """Switching the torque on and off."""

    def test_switching_on_holds_the_position(self, servos: Emulator, clock: Clock) -> None:
        """An earlier goal has no effect."""
        write(servos, 1, "goal_position", 3000)
        assert servos.register("goal_position", 1) == 3000  # stored, without effect while the torque is off
        clock.advance(1.0)
        assert servos.positions()[1] == 1000
        write(servos, 1, "torque_enable", 1)
        assert servos.register("goal_position", 1) == 1000
        clock.advance(1.0)
        assert servos.positions()[1] == 1000

    def test_keeps_goal(self, clock: Clock) -> None:
        """With `keeps_goal` an earlier goal takes effect."""
        servos = Emulator(start_ticks=1000, clock=clock, dynamics=ServoDynamics(keeps_goal=True))
        write(servos, 1, "goal_position", 3000)
        write(servos, 1, "torque_enable", 1)
        clock.advance(3.0)
        assert servos.positions()[1] == 3000

    def test_sag(self, clock: Clock) -> None:
        """Without torque a servo sinks at `sag_deg_s` until the end of its turn."""
        servos = Emulator(start_ticks=1000, clock=clock, dynamics=ServoDynamics(sag_deg_s=-36.0))
        clock.advance(1.0)
        assert servos.positions()[1] == pytest.approx(1000 - 409.6, abs=20)
        write(servos, 1, "torque_enable", 1)
        held = servos.positions()[1]
        clock.advance(1.0)
        assert servos.positions()[1] == pytest.approx(held, abs=20)
        write(servos, 1, "torque_enable", 0)
        clock.advance(60.0)
        assert servos.positions()[1] == 0


class TestImperfectServos:
    """Delay and noise of emulated servos."""

    def test_a_delayed_servo_does_the_same_later(self) -> None:
        """Its motion is that of a servo without delay, five readings of 20 ms later."""
        clock = Clock()
        prompt = Emulator((1,), start_ticks=1000, clock=clock)
        late = Emulator((1,), start_ticks=1000, clock=clock, dynamics=ServoDynamics(delay_s=0.1))
        seen: dict[str, list[int]] = {"prompt": [], "late": []}
        for servos in (prompt, late):
            write(servos, 1, "torque_enable", 1)
        for step in range(60):
            if step % 3 == 0:  # goals come faster than the delay passes
                for servos in (prompt, late):
                    write(servos, 1, "goal_position", 1000 + 20 * step)
            clock.advance(0.02)
            seen["prompt"].append(prompt.positions()[1])
            seen["late"].append(late.positions()[1])
        assert seen["late"][:4] == [1000] * 4
        np.testing.assert_allclose(seen["late"][5:], seen["prompt"][:-5], atol=1)
        assert seen["prompt"][-1] > 1800

    def test_goals_that_wait_are_dropped_with_the_torque(self) -> None:
        """A servo that is switched off and on again holds its position."""
        clock = Clock()
        servos = Emulator((1,), start_ticks=1000, clock=clock, dynamics=ServoDynamics(delay_s=0.1))
        write(servos, 1, "torque_enable", 1)
        write(servos, 1, "goal_position", 2000)
        clock.advance(0.05)
        write(servos, 1, "torque_enable", 0)
        write(servos, 1, "torque_enable", 1)
        clock.advance(1.0)
        assert servos.positions()[1] == 1000

    def test_noise_has_the_given_standard_deviation(self) -> None:
        """Over 2,000 readings, to 10 %; the servo itself does not move."""
        servos = Emulator((1,), start_ticks=1000, seed=3, clock=Clock(), dynamics=ServoDynamics(noise_deg=0.5))
        register = REGISTERS["present_position"]
        readings = []
        for _ in range(2000):
            packet = make_packet(1, Instruction.READ, struct.pack("<HH", register.address, register.size))
            (_, _, data) = replies(servos, packet)[0]
            readings.append(int.from_bytes(data, "little", signed=True))
        assert np.std(readings) == pytest.approx(0.5 / 360 * 4096, rel=0.1)
        assert np.mean(readings) == pytest.approx(1000, abs=0.5)
        assert servos.positions()[1] == 1000

    def test_values_are_drawn_from_a_description_by_the_seed(self, tmp_path: Path) -> None:
        """Delays of actions and readings add up; ideal servos have the default lag."""
        ranges = {"action_delay_s": [0.02, 0.03], "observation_delay_s": [0.01, 0.01], "servo_lag_s": [0.08, 0.09]}
        path = tmp_path / "arm.json"
        content = {"format": "arm-control imperfections", "version": 1, "imperfections": ranges}
        path.write_text(json.dumps(content))
        drawn = [Emulate("dynamixel", imperfections=str(path), seed=seed).dynamics for seed in (1, 1, 2)]
        assert drawn[0] == drawn[1] != drawn[2]
        for dynamics in drawn:
            assert 0.08 <= dynamics.lag_s <= 0.09
            assert 0.03 <= dynamics.delay_s <= 0.04
            assert dynamics.noise_deg == 0.0
        assert Emulate("dynamixel", imperfections="ideal").dynamics == ServoDynamics(lag_s=IDEAL_LAG_S)
        assert Emulate("dynamixel", lag_s=0.07).dynamics == ServoDynamics(lag_s=0.07)
