"""An emulated XL430 servo: its registers and how it moves. No packets here, and no wall clock: time is given.

Sources: ROBOTIS e-Manual, XL430-W250, "Control Table". Emulated are position mode and extended position mode with
step, rectangular and trapezoidal velocity profiles; values that would ask for anything else (other modes, reversed
direction, time-based profiles, a secondary id, restored RAM) are refused with a data range error.
"""

import struct
from collections import deque
from collections.abc import Callable
from math import ceil, copysign, sqrt

from arm_control.drivers.dynamixel.control_table import (
    ACCELERATION_UNIT_DEG_S2,
    EXTENDED_POSITION_MODE,
    HARDWARE_ERRORS,
    LARGEST_EXTENDED_GOAL,
    POSITION_MODE,
    REGISTERS,
    SPEED_UNIT_DEG_S,
    TABLE_BYTES,
    TICKS_PER_TURN,
    WATCHDOG_TRIPPED,
    WATCHDOG_UNIT_S,
)
from arm_control.drivers.emulator.protocol import ErrorNumber

STEP_S = 0.001  # of the integration
REBOOT_S = 0.3  # how long a servo that starts does not answer
ROOM_TEMPERATURE_C = 30.0
SUPPLY_V = 12.0
BROKEN_SUPPLY_V = 5.0
SLOW_FRACTION = 0.5  # of its velocity limit, which a servo that has become slow still reaches
DRIFT_TICKS_S = 2.0 / 360.0 * TICKS_PER_TURN  # of the position that a drifting servo reports
LARGEST_PWM = 885
MODES = (POSITION_MODE, EXTENDED_POSITION_MODE)
GOALS = ("goal_pwm", "goal_velocity", "goal_position")

_SPEED_UNIT = SPEED_UNIT_DEG_S / 360.0 * TICKS_PER_TURN  # ticks/s
_ACCELERATION_UNIT = ACCELERATION_UNIT_DEG_S2 / 360.0 * TICKS_PER_TURN  # ticks/s^2
_DEFINED = {
    byte for register in REGISTERS.values() for byte in range(register.address, register.address + register.size)
}
_BY_ADDRESS = {register.address: name for name, register in REGISTERS.items()}
# What does not change anything here, so only these values are taken.
_ONLY = {"drive_mode": (0,), "operating_mode": MODES, "secondary_id": (255,), "protocol_type": (2,)}
_ONLY["startup_configuration"] = (0,)
# Realtime tick, moving, moving status, PWM, load, velocity, position, their trajectories, voltage, temperature.
_PRESENT = struct.Struct("<HBBhhiiiiHB")
_PRESENT_ADDRESS = REGISTERS["realtime_tick"].address


class Servo:
    """One servo. Positions are ticks (4096 a turn), times seconds of any clock that does not go back."""

    def __init__(
        self,
        id: int,
        start_ticks: float,
        now: float,
        *,
        lag_s: float = 0.05,
        delay_s: float = 0.0,
        sag_deg_s: float = 0.0,
        keeps_goal: bool = False,
        say: Callable[[str], None] = lambda text: None,
        record: Callable[[float, int, int], None] = lambda now, id, ticks: None,
    ) -> None:
        """A servo that starts at `start_ticks`, without torque.

        It follows its goal as a critically damped second-order system, `lag_s` behind one that moves evenly, and acts
        on each goal `delay_s` after it came. Without
        torque it stays where it is, or sinks with `sag_deg_s` (signed: towards higher ticks if positive), until 0 or
        4095. When the torque goes on, the goal becomes the present position; with `keeps_goal` it moves to the goal
        that was written before: the e-Manual does not say, and a driver should be safe either way. `say` gets what
        happens in words, `record` each goal position that is accepted: time, id, ticks.
        """
        self.lag_s, self.keeps_goal = lag_s, keeps_goal
        self._delay_s = delay_s
        self._pending: deque[tuple[float, float]] = deque()  # goals that it does not act on yet: when it will, position
        self.stuck = False
        self.slow = False
        self.frozen_ticks: int | None = None  # the position that it reports, whatever its own is
        self.drifts_since: float | None = None
        self.swapped_with: Servo | None = None  # whose position it reports
        self.wrap_ticks = 0  # how far readings are off by a wrap-around
        self.noise_ticks = 0  # of the next reading
        self.supply_v = SUPPLY_V
        self.temperature_c = ROOM_TEMPERATURE_C
        self._sag = sag_deg_s / 360.0 * TICKS_PER_TURN
        self._say, self._record = say, record
        self._time = self._heard = now
        self._awake_at = now
        self._position, self._speed = float(start_ticks), 0.0
        self._memory = bytearray(TABLE_BYTES)  # the same as the values, for reading
        self._values: dict[str, int] = {}
        for name, register in REGISTERS.items():
            self[name] = register.initial
        self["id"] = id
        self._registered: tuple[int, bytes] | None = None
        self._start()

    def __getitem__(self, name: str) -> int:
        """The value of a register that is not measured; measured ones are in `read`."""
        return self._values[name]

    def __setitem__(self, name: str, value: int) -> None:
        register = REGISTERS[name]
        self._values[name] = value
        self._memory[register.address : register.address + register.size] = value.to_bytes(
            register.size, "little", signed=register.signed
        )

    @property
    def id(self) -> int:
        """Its address on the bus."""
        return self["id"]

    @property
    def torque(self) -> bool:
        """Whether the torque is on."""
        return self["torque_enable"] == 1

    @property
    def alert(self) -> bool:
        """Whether it has a hardware error."""
        return self["hardware_error_status"] != 0

    @property
    def ticks(self) -> int:
        """What it takes for its position."""
        return round(self._position) + self._offset() + self.wrap_ticks

    @property
    def reported_ticks(self) -> int:
        """The position that it answers with: its own, unless a fault makes it another."""
        if self.frozen_ticks is not None:
            return self.frozen_ticks
        ticks = self.ticks if self.swapped_with is None else self.swapped_with.ticks
        if self.drifts_since is not None:
            ticks += round(DRIFT_TICKS_S * (self._time - self.drifts_since))
        return ticks

    def awake(self, now: float) -> bool:
        """Whether it is not starting just now."""
        return now >= self._awake_at

    def hear(self, now: float) -> None:
        """An instruction packet was on the bus just now, which contents the bus watchdog."""
        self._heard = now

    def advance(self, now: float) -> None:
        """Let the time pass until `now`."""
        watchdog = self["bus_watchdog"]
        if watchdog > 0 and self.torque:
            trips_at = self._heard + watchdog * WATCHDOG_UNIT_S
            if now > trips_at:
                self._integrate(trips_at)
                self._trip()
        self._integrate(now)
        self._check_hardware()

    # Instructions

    def read(self, address: int, size: int) -> tuple[ErrorNumber, bytes]:
        """The bytes of registers from `address` on; gaps between registers read as 0."""
        end = address + size
        if size == 0 or address not in _DEFINED or end > TABLE_BYTES:
            return ErrorNumber.ACCESS, b""
        if end > _PRESENT_ADDRESS:
            self._refresh()
        return ErrorNumber.NONE, bytes(self._memory[address:end])

    def write(self, address: int, data: bytes) -> ErrorNumber:
        """Write whole registers from `address` on: all of them, or none if one is refused."""
        values: list[tuple[str, int]] = []
        while data:
            name = _BY_ADDRESS.get(address)
            if name is None:
                return ErrorNumber.ACCESS
            register = REGISTERS[name]
            if len(data) < register.size:
                return ErrorNumber.DATA_LENGTH
            value = int.from_bytes(data[: register.size], "little", signed=register.signed)
            if error := self._refusal(name, value):
                return error
            values.append((name, value))
            address, data = address + register.size, data[register.size :]
        if not values:
            return ErrorNumber.DATA_LENGTH
        for name, value in values:
            self._set(name, value)
        return ErrorNumber.NONE

    def register_write(self, address: int, data: bytes) -> ErrorNumber:
        """Keep a write for `action`."""
        self._registered = (address, data)
        self["registered_instruction"] = 1
        return ErrorNumber.NONE

    def action(self) -> ErrorNumber:
        """Do the write that is kept."""
        if self._registered is None:
            return ErrorNumber.INSTRUCTION
        (address, data), self._registered = self._registered, None
        self["registered_instruction"] = 0
        return self.write(address, data)

    def clear_turns(self) -> ErrorNumber:
        """Forget whole turns, if it is at rest."""
        if self._speed:
            return ErrorNumber.RESULT_FAIL
        self._forget_turns()
        self._hold(self._position)
        return ErrorNumber.NONE

    def reboot(self) -> None:
        """Start anew: torque off, errors and RAM forgotten, EEPROM kept; silent for a while."""
        for name, register in REGISTERS.items():
            if not register.eeprom:
                self[name] = register.initial
        self._registered = None
        self._heard = self._time
        self._awake_at = self._time + REBOOT_S
        self._start()
        self._say(f"servo {self.id}: reboot")

    def fail(self, bit: int) -> None:
        """Report a hardware error; if the shutdown register says so, without torque from now on."""
        if self["hardware_error_status"] & 1 << bit:
            return
        self["hardware_error_status"] |= 1 << bit
        self._say(f"servo {self.id}: {HARDWARE_ERRORS[bit]} error")
        if self.torque and self["shutdown"] & 1 << bit:
            self._set_torque(0)

    # What registers do

    def _refusal(self, name: str, value: int) -> ErrorNumber:
        register = REGISTERS[name]
        if not register.writable or (register.eeprom and self.torque):
            return ErrorNumber.ACCESS
        if name in GOALS and self["bus_watchdog"] == WATCHDOG_TRIPPED:
            return ErrorNumber.DATA_RANGE
        if name in _ONLY and value not in _ONLY[name]:
            return ErrorNumber.DATA_RANGE
        if register.lowest is not None and value < register.lowest:
            return ErrorNumber.DATA_RANGE
        if register.highest is not None and value > register.highest:
            return ErrorNumber.DATA_RANGE
        lowest, highest = value, value
        if name == "goal_position":
            lowest, highest = -LARGEST_EXTENDED_GOAL, LARGEST_EXTENDED_GOAL
            if self["operating_mode"] == POSITION_MODE:
                lowest, highest = self["min_position_limit"], self["max_position_limit"]
        elif name in ("goal_velocity", "goal_pwm"):
            highest = self["velocity_limit" if name == "goal_velocity" else "pwm_limit"]
            lowest = -highest
        return ErrorNumber.NONE if lowest <= value <= highest else ErrorNumber.DATA_LIMIT

    def _set(self, name: str, value: int) -> None:
        if name == "torque_enable":
            self._set_torque(value)
            return
        if name == "bus_watchdog" and self[name] == WATCHDOG_TRIPPED:
            self._say(f"servo {self.id}: bus watchdog cleared")
        self[name] = value
        if name == "goal_position":
            self._record(self._time, self.id, value)
            if not self.torque:
                return
            position = value - self._offset()
            if self._delay_s:
                self._pending.append((self._time + self._delay_s, position))
            else:
                self._go(position)
        elif name == "operating_mode":
            self._start()

    def _set_torque(self, value: int) -> None:
        if value == self["torque_enable"] or (value and self["hardware_error_status"] & self["shutdown"]):
            return  # after a shutdown only a reboot helps
        self["torque_enable"] = value
        if value:
            self._forget_turns()
            self._hold(self._position)
            if self.keeps_goal:
                self._go(self["goal_position"] - self._offset())
            else:
                self["goal_position"] = self.ticks
        self._say(f"servo {self.id}: torque {'on' if value else 'off'} at {self.ticks} ticks")

    def _start(self) -> None:
        self._forget_turns()
        self._hold(self._position)
        self["goal_position"] = self.ticks

    def _forget_turns(self) -> None:
        self.wrap_ticks = 0
        if self["operating_mode"] == POSITION_MODE:
            self._position %= TICKS_PER_TURN

    def _offset(self) -> int:
        offset = self["homing_offset"]
        # In position mode, a quarter of a turn at most counts.
        return max(-1024, min(1024, offset)) if self["operating_mode"] == POSITION_MODE else offset

    def _trip(self) -> None:
        self["bus_watchdog"] = WATCHDOG_TRIPPED
        # Where it comes to rest soonest without going back: critically damped, from the speed that it has.
        self._hold(self._position + self._speed * self.lag_s / 2.0)
        self._say(f"servo {self.id}: bus watchdog tripped")

    def _check_hardware(self) -> None:
        volts = self.supply_v * 10.0
        if not self["min_voltage_limit"] <= volts <= self["max_voltage_limit"]:
            self.fail(0)
        if self.temperature_c > self["temperature_limit"]:
            self.fail(2)

    # Movement

    def _hold(self, position: float) -> None:
        self._pending.clear()
        self._target = self._trajectory = position
        self._trajectory_speed = self._profile_speed = self._profile_acceleration = 0.0

    def _go(self, position: float) -> None:
        # A profile is made when a goal comes, from the registers as they then are.
        limit = self["velocity_limit"]
        self._target = float(position)
        self._profile_speed = min(self["profile_velocity"], limit) * _SPEED_UNIT
        self._profile_acceleration = self["profile_acceleration"] * _ACCELERATION_UNIT

    def _fastest(self) -> float:
        fraction = SLOW_FRACTION if self.slow else 1.0
        return fraction * self["velocity_limit"] * _SPEED_UNIT * abs(self["goal_pwm"]) / LARGEST_PWM

    def _integrate(self, until: float) -> None:
        """Move on until then, and act on each goal that is due on the way."""
        while self._pending and self._pending[0][0] <= until:
            due, position = self._pending.popleft()
            self._move(due)
            self._go(position)
        self._move(until)

    def _move(self, until: float) -> None:
        duration = until - self._time
        if duration <= 0.0:
            return
        self._time = until
        share = self._load() / 1000.0
        warmth = ROOM_TEMPERATURE_C + 20.0 * share * share
        self.temperature_c += (warmth - self.temperature_c) * min(1.0, duration / 300.0)
        steps = max(1, ceil(duration / STEP_S - 1e-6))
        if self.torque:
            self._follow(steps, duration / steps)
        elif self._sag or self._speed:
            self._sink(steps, duration / steps)

    def _follow(self, steps: int, dt: float) -> None:
        position, speed, fastest = self._position, self._speed, self._fastest()
        rate = 2.0 / self.lag_s
        for _ in range(steps):
            self._plan(dt)
            gap = self._trajectory - position
            if self.stuck:
                speed = 0.0
            elif abs(gap) < 0.01 and abs(speed) < 1.0:
                position, speed = self._trajectory, 0.0
            else:
                speed += (rate * gap - 2.0 * speed) * rate * dt
                speed = max(-fastest, min(fastest, speed))
                position += speed * dt
            if not speed and self._trajectory == self._target:
                break  # at rest: the remaining steps change nothing
        self._position, self._speed = position, speed

    def _plan(self, dt: float) -> None:
        """One step of the trajectory: e-Manual, "What is the Profile"."""
        gap = self._target - self._trajectory
        fastest, acceleration = self._profile_speed, self._profile_acceleration
        if not fastest:
            self._trajectory = self._target
        if not gap or not fastest:
            self._trajectory_speed = 0.0
            return
        if acceleration:
            change = acceleration * dt
            speed = min(fastest, sqrt(change * change + 2.0 * acceleration * abs(gap)) - change)
            low, high = self._trajectory_speed - change, self._trajectory_speed + change
            speed = max(low, min(high, copysign(speed, gap)))
        else:
            speed = copysign(min(fastest, abs(gap) / dt), gap)
        self._trajectory += speed * dt
        self._trajectory_speed = speed
        if abs(self._target - self._trajectory) < 0.01 and abs(speed) < 10.0 + acceleration * dt:
            self._trajectory, self._trajectory_speed = self._target, 0.0

    def _sink(self, steps: int, dt: float) -> None:
        for _ in range(steps):
            self._speed += (self._sag - self._speed) * min(1.0, dt / 0.03)
            position = self._position + self._speed * dt
            if self.stuck or (self._speed < 0.0 and position < 0.0) or (self._speed > 0.0 and position > 4095.0):
                self._speed = 0.0
                break
            self._position = position
            if not self._sag and abs(self._speed) < 1.0:
                self._speed = 0.0
                break

    def _load(self) -> int:
        """What the motor is given, in 0.1 %: the position controller's proportional part, as the P gain says."""
        if not self.torque:
            return 0
        largest = abs(self["goal_pwm"]) / LARGEST_PWM * 1000.0
        share = (self._trajectory - self._position) * self["position_p_gain"] / 128.0 / LARGEST_PWM * 1000.0
        return round(max(-largest, min(largest, share)))

    def _refresh(self) -> None:
        load, offset = self._load(), self._offset()
        going = self.torque and self._trajectory != self._target
        speed = round(self._speed / _SPEED_UNIT)
        moving = going or abs(speed) > self["moving_threshold"]
        kind = 0x30 if self._profile_acceleration else 0x10
        status = (kind if going else 0) | going << 1 | (abs(self._target - self._position) < 20.0)
        _PRESENT.pack_into(
            self._memory,
            _PRESENT_ADDRESS,
            int(self._time * 1000.0) % 32768,
            moving,
            status,
            round(load * LARGEST_PWM / 1000.0),
            load,
            speed,
            self.reported_ticks + self.noise_ticks,
            round(self._trajectory_speed / _SPEED_UNIT),
            round(self._trajectory) + offset,
            round(self.supply_v * 10.0 - abs(load) * 0.003),
            round(self.temperature_c),
        )
