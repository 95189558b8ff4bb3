"""An emulated XL430 servo: its registers, watchdog and alarms. Packets are in `servo_bus`, motion is in `motion`.

Sources: ROBOTIS e-Manual, XL430-W250, "Control Table". Emulated are position mode and extended position mode with
step, rectangular and trapezoidal velocity profiles. Values that request anything else (other modes, reversed direction,
time-based profiles, a secondary id, restored RAM) cause a data range error. There is no clock here: the
caller passes the time.
"""

import struct
from collections import deque
from collections.abc import Callable
from math import ceil

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
from arm_control.drivers.emulator.motion import Profile, Shaft
from arm_control.drivers.emulator.protocol import ErrorNumber
from arm_control.drivers.emulator.servo_dynamics import ServoDynamics

STEP_S = 0.001  # of the integration
REBOOT_S = 0.3  # time for which a rebooting servo does not reply
ROOM_TEMPERATURE_C = 30.0
SUPPLY_V = 12.0
BROKEN_SUPPLY_V = 5.0
SLOW_FRACTION = 0.5  # of its velocity limit: the largest speed of a servo with the fault 'slow'
DRIFT_TICKS_S = 2.0 / 360.0 * TICKS_PER_TURN  # of the position reported with the fault 'drift'
LARGEST_PWM = 885
MODES = (POSITION_MODE, EXTENDED_POSITION_MODE)
GOALS = ("goal_pwm", "goal_velocity", "goal_position")

_SPEED_UNIT = SPEED_UNIT_DEG_S / 360.0 * TICKS_PER_TURN  # ticks/s
_ACCELERATION_UNIT = ACCELERATION_UNIT_DEG_S2 / 360.0 * TICKS_PER_TURN  # ticks/s^2
_DEFINED: set[int] = set()  # addresses of bytes that belong to a register
for _register in REGISTERS.values():
    _DEFINED.update(range(_register.address, _register.address + _register.size))
_BY_ADDRESS = {register.address: name for name, register in REGISTERS.items()}
# Registers without a function here: only these values are accepted.
_ONLY = {"drive_mode": (0,), "operating_mode": MODES, "secondary_id": (255,), "protocol_type": (2,)}
_ONLY["startup_configuration"] = (0,)
# Realtime tick, moving, moving status, PWM, load, velocity, position, their trajectories, voltage, temperature.
_PRESENT = struct.Struct("<HBBhhiiiiHB")
_PRESENT_ADDRESS = REGISTERS["realtime_tick"].address


# Temperature: it approaches that of the room plus a part that grows with the square of the load.
_WARMING_C = 20.0
_WARMING_S = 300.0


class Servo:
    """One servo. Positions are ticks (4096 a turn), times seconds of any clock that does not go back."""

    def __init__(
        self,
        id: int,
        start_ticks: float,
        now: float,
        *,
        dynamics: ServoDynamics,
        say: Callable[[str], None] = lambda text: None,
        record: Callable[[float, int, int], None] = lambda now, id, ticks: None,
    ) -> None:
        """A servo at `start_ticks`, without torque.

        `say` receives a line for each event, `record` each goal position that is accepted: time, id, ticks.
        """
        self._dynamics = dynamics
        self._say = say
        self._record = record
        # Faults.
        self.slow = False
        self.frozen_ticks: int | None = None  # the position that it reports instead of its own
        self.drifts_since: float | None = None
        self.swapped_with: Servo | None = None  # whose position it reports
        self.wrap_ticks = 0  # offset of its readings after a wrap-around
        self.noise_ticks = 0  # of the next reading
        self.supply_v = SUPPLY_V
        self.temperature_c = ROOM_TEMPERATURE_C
        # Time.
        self._time = now
        self._heard = now
        self._awake_at = now
        # Motion.
        self._shaft = Shaft(float(start_ticks))
        self._profile = Profile(float(start_ticks), float(start_ticks))
        self._pending: deque[tuple[float, float]] = deque()  # goals not acted on yet: when due, and position
        # Registers, by name and as the memory that is read.
        self._memory = bytearray(TABLE_BYTES)
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
        """True if the torque is on."""
        return self["torque_enable"] == 1

    @property
    def alert(self) -> bool:
        """True if it has a hardware error."""
        return self["hardware_error_status"] != 0

    @property
    def stuck(self) -> bool:
        """True if the joint is blocked."""
        return self._shaft.stuck

    @stuck.setter
    def stuck(self, stuck: bool) -> None:
        self._shaft.stuck = stuck

    @property
    def ticks(self) -> int:
        """Its position as its encoder measures it."""
        return round(self._shaft.position) + self._offset() + self.wrap_ticks

    @property
    def reported_ticks(self) -> int:
        """The position that it reports: its own, unless a fault changes it."""
        if self.frozen_ticks is not None:
            return self.frozen_ticks
        ticks = self.ticks if self.swapped_with is None else self.swapped_with.ticks
        if self.drifts_since is not None:
            ticks += round(DRIFT_TICKS_S * (self._time - self.drifts_since))
        return ticks

    def awake(self, now: float) -> bool:
        """Return True if it has finished booting."""
        return now >= self._awake_at

    def hear(self, now: float) -> None:
        """Reset the bus watchdog: there was an instruction packet on the bus."""
        self._heard = now

    def turn(self, ticks: float) -> None:
        """Turn the horn by hand. Raises ValueError if the torque is on."""
        if self.torque:
            raise ValueError(f"servo {self.id} cannot be turned by hand: its torque is on")
        self._shaft.position = ticks

    def advance(self, now: float) -> None:
        """Simulate until `now`."""
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
        """Write whole registers from `address` on: all of them, or none if one value is not accepted."""
        # Split the bytes into registers, and check all values before any is set.
        values: list[tuple[str, int]] = []
        while data:
            name = _BY_ADDRESS.get(address)
            if name is None:
                return ErrorNumber.ACCESS
            register = REGISTERS[name]
            if len(data) < register.size:
                return ErrorNumber.DATA_LENGTH
            value = int.from_bytes(data[: register.size], "little", signed=register.signed)
            error = self._error_of(name, value)
            if error:
                return error
            values.append((name, value))
            address += register.size
            data = data[register.size :]
        if not values:
            return ErrorNumber.DATA_LENGTH
        for name, value in values:
            self._set(name, value)
        return ErrorNumber.NONE

    def register_write(self, address: int, data: bytes) -> ErrorNumber:
        """Store a write until `action`."""
        self._registered = (address, data)
        self["registered_instruction"] = 1
        return ErrorNumber.NONE

    def action(self) -> ErrorNumber:
        """Execute the stored write."""
        if self._registered is None:
            return ErrorNumber.INSTRUCTION
        address, data = self._registered
        self._registered = None
        self["registered_instruction"] = 0
        return self.write(address, data)

    def clear_turns(self) -> ErrorNumber:
        """Reset the count of whole turns, if it is at rest."""
        if self._shaft.speed:
            return ErrorNumber.RESULT_FAIL
        self._clear_turns()
        self._hold(self._shaft.position)
        return ErrorNumber.NONE

    def reboot(self) -> None:
        """Reboot: torque off, errors and RAM reset, EEPROM kept; no replies for a while."""
        for name, register in REGISTERS.items():
            if not register.eeprom:
                self[name] = register.initial
        self._registered = None
        self._heard = self._time
        self._awake_at = self._time + REBOOT_S
        self._start()
        self._say(f"servo {self.id}: reboot")

    def fail(self, bit: int) -> None:
        """Set a hardware error; switch the torque off if the shutdown register has that bit."""
        if self["hardware_error_status"] & 1 << bit:
            return
        self["hardware_error_status"] |= 1 << bit
        self._say(f"servo {self.id}: {HARDWARE_ERRORS[bit]} error")
        if self.torque and self["shutdown"] & 1 << bit:
            self._set_torque(0)

    # What registers do

    def _error_of(self, name: str, value: int) -> ErrorNumber:
        """The error of writing a value to a register now; NONE if it can be written."""
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
        limits = self._goal_limits(name)
        if limits is not None and not limits[0] <= value <= limits[1]:
            return ErrorNumber.DATA_LIMIT
        return ErrorNumber.NONE

    def _goal_limits(self, name: str) -> tuple[int, int] | None:
        """The range of a goal register, by the registers of its limits; None for other registers."""
        if name == "goal_position":
            if self["operating_mode"] == POSITION_MODE:
                return self["min_position_limit"], self["max_position_limit"]
            return -LARGEST_EXTENDED_GOAL, LARGEST_EXTENDED_GOAL
        if name == "goal_velocity":
            return -self["velocity_limit"], self["velocity_limit"]
        if name == "goal_pwm":
            return -self["pwm_limit"], self["pwm_limit"]
        return None

    def _set(self, name: str, value: int) -> None:
        """Write an accepted value to a register, with its effects."""
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
            if self._dynamics.delay_s:
                self._pending.append((self._time + self._dynamics.delay_s, position))
            else:
                self._go(position)
        elif name == "operating_mode":
            self._start()

    def _set_torque(self, value: int) -> None:
        """Switch the torque on or off; after a shutdown, only a reboot allows to switch it on."""
        if value == self["torque_enable"] or (value and self["hardware_error_status"] & self["shutdown"]):
            return
        self["torque_enable"] = value
        if value:
            self._clear_turns()
            self._hold(self._shaft.position)
            if self._dynamics.keeps_goal:
                self._go(self["goal_position"] - self._offset())
            else:
                self["goal_position"] = self.ticks
        self._say(f"servo {self.id}: torque {'on' if value else 'off'} at {self.ticks} ticks")

    def _start(self) -> None:
        """Hold the present position, as after booting."""
        self._clear_turns()
        self._hold(self._shaft.position)
        self["goal_position"] = self.ticks

    def _clear_turns(self) -> None:
        """Reset the count of whole turns, which only extended position mode keeps."""
        self.wrap_ticks = 0
        if self["operating_mode"] == POSITION_MODE:
            self._shaft.position %= TICKS_PER_TURN

    def _offset(self) -> int:
        """The homing offset; in position mode, at most a quarter of a turn of it."""
        offset = self["homing_offset"]
        return max(-1024, min(1024, offset)) if self["operating_mode"] == POSITION_MODE else offset

    def _trip(self) -> None:
        """Trip the bus watchdog: the servo stops and holds, and accepts no goals until it is cleared."""
        self["bus_watchdog"] = WATCHDOG_TRIPPED
        # The nearest goal that it reaches without going back: critically damped, from its present speed.
        self._hold(self._shaft.position + self._shaft.speed * self._dynamics.lag_s / 2.0)
        self._say(f"servo {self.id}: bus watchdog tripped")

    def _check_hardware(self) -> None:
        """Set the hardware errors of voltage and temperature."""
        volts = self.supply_v * 10.0
        if not self["min_voltage_limit"] <= volts <= self["max_voltage_limit"]:
            self.fail(0)
        if self.temperature_c > self["temperature_limit"]:
            self.fail(2)

    # Motion

    def _hold(self, position: float) -> None:
        """Make a position the goal, reached and at rest, and drop goals that were not acted on."""
        self._pending.clear()
        self._profile.hold(position)

    def _go(self, position: float) -> None:
        """Start a profile to a goal, with the present values of the registers."""
        fastest = min(self["profile_velocity"], self["velocity_limit"]) * _SPEED_UNIT
        self._profile.start(position, fastest, self["profile_acceleration"] * _ACCELERATION_UNIT)

    def _fastest(self) -> float:
        """The speed limit in ticks/s, which the PWM limit and the fault `slow` reduce."""
        fraction = SLOW_FRACTION if self.slow else 1.0
        return fraction * self["velocity_limit"] * _SPEED_UNIT * abs(self["goal_pwm"]) / LARGEST_PWM

    def _integrate(self, until: float) -> None:
        """Simulate until then, and act on each delayed goal when it is due."""
        while self._pending and self._pending[0][0] <= until:
            due, position = self._pending.popleft()
            self._move(due)
            self._go(position)
        self._move(until)

    def _move(self, until: float) -> None:
        """Simulate the motion until then, without new goals."""
        duration = until - self._time
        if duration <= 0.0:
            return
        self._time = until
        load = self._load() / 1000.0
        warmth = ROOM_TEMPERATURE_C + _WARMING_C * load * load
        self.temperature_c += (warmth - self.temperature_c) * min(1.0, duration / _WARMING_S)
        steps = max(1, ceil(duration / STEP_S - 1e-6))
        dt = duration / steps
        sag = self._dynamics.sag_ticks_s
        if self.torque:
            self._shaft.follow(self._profile, steps, dt, lag_s=self._dynamics.lag_s, fastest=self._fastest())
        elif sag or self._shaft.speed:
            self._shaft.sink(sag, steps, dt)

    def _load(self) -> int:
        """The motor's load in 0.1 %: the proportional part of the position controller, by its P gain."""
        if not self.torque:
            return 0
        largest = abs(self["goal_pwm"]) / LARGEST_PWM * 1000.0
        gap = self._profile.position - self._shaft.position
        load = gap * self["position_p_gain"] / 128.0 / LARGEST_PWM * 1000.0
        return round(max(-largest, min(largest, load)))

    def _refresh(self) -> None:
        """Write the measured registers, from the realtime tick to the temperature, into the memory."""
        load = self._load()
        going = self.torque and not self._profile.is_done
        speed = round(self._shaft.speed / _SPEED_UNIT)
        moving = going or abs(speed) > self["moving_threshold"]
        # Moving status: bits 4 and 5 the kind of profile, bit 1 profile ongoing, bit 0 in position.
        kind = 0x30 if self._profile.acceleration else 0x10
        in_position = abs(self._profile.target - self._shaft.position) < 20.0
        status = (kind if going else 0) | going << 1 | in_position
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
            round(self._profile.speed / _SPEED_UNIT),
            round(self._profile.position) + self._offset(),
            round(self.supply_v * 10.0 - abs(load) * 0.003),
            round(self.temperature_c),
        )
