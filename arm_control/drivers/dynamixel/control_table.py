"""The registers of a DYNAMIXEL XL430-W250: ROBOTIS e-Manual, XL430-W250, "Control Table".

The driver reads and writes them, the emulator holds them. Indirect addresses (168 and above) are not included.
"""

from dataclasses import dataclass

MODEL_NUMBER = 1060  # XL430-W250
BAUD_RATES = (9600, 57600, 115200, 1_000_000, 2_000_000, 3_000_000, 4_000_000)
TICKS_PER_TURN = 4096
SPEED_UNIT_DEG_S = 0.229 * 6.0  # 0.229 rev/min
ACCELERATION_UNIT_DEG_S2 = 214.577 * 360.0 / 3600.0  # 214.577 rev/min^2
LOAD_UNIT = 0.001  # as a fraction of the largest
VOLTAGE_UNIT_V = 0.1
RETURN_DELAY_UNIT_S = 2e-6
WATCHDOG_UNIT_S = 0.020
WATCHDOG_TRIPPED = -1  # value of the watchdog's register after it has tripped
POSITION_MODE = 3
EXTENDED_POSITION_MODE = 4  # over several turns
LARGEST_EXTENDED_GOAL = 1_048_575
# The bits of the hardware error status.
HARDWARE_ERRORS = {0: "input voltage", 2: "overheating", 3: "motor encoder", 4: "electrical shock", 5: "overload"}


@dataclass(frozen=True)
class Register:
    """One entry of the control table: address, size in bytes, signedness, and initial value.

    Values outside `lowest` and `highest` are not accepted. Goals are also limited by the registers of their limits.
    """

    address: int
    size: int
    signed: bool = False
    initial: int = 0
    writable: bool = True
    eeprom: bool = False  # non-volatile; cannot be written while the torque is on
    lowest: int | None = None
    highest: int | None = None


REGISTERS = {
    "model_number": Register(0, 2, initial=MODEL_NUMBER, writable=False, eeprom=True),
    "model_information": Register(2, 4, writable=False, eeprom=True),
    "firmware": Register(6, 1, initial=45, writable=False, eeprom=True),
    "id": Register(7, 1, initial=1, eeprom=True, lowest=0, highest=252),
    "baud_rate": Register(8, 1, initial=1, eeprom=True, lowest=0, highest=7),
    "return_delay": Register(9, 1, initial=250, eeprom=True, lowest=0, highest=254),
    "drive_mode": Register(10, 1, eeprom=True, lowest=0, highest=13),
    "operating_mode": Register(11, 1, initial=POSITION_MODE, eeprom=True, lowest=0, highest=16),
    "secondary_id": Register(12, 1, initial=255, eeprom=True, lowest=0, highest=255),
    "protocol_type": Register(13, 1, initial=2, eeprom=True, lowest=1, highest=2),
    "homing_offset": Register(20, 4, signed=True, eeprom=True, lowest=-1_044_479, highest=1_044_479),
    "moving_threshold": Register(24, 4, initial=10, eeprom=True, lowest=0, highest=1023),
    "temperature_limit": Register(31, 1, initial=72, eeprom=True, lowest=0, highest=100),
    "max_voltage_limit": Register(32, 2, initial=140, eeprom=True, lowest=60, highest=140),
    "min_voltage_limit": Register(34, 2, initial=60, eeprom=True, lowest=60, highest=140),
    "pwm_limit": Register(36, 2, initial=885, eeprom=True, lowest=0, highest=885),
    "velocity_limit": Register(44, 4, initial=265, eeprom=True, lowest=0, highest=1023),
    "max_position_limit": Register(48, 4, initial=4095, eeprom=True, lowest=0, highest=4095),
    "min_position_limit": Register(52, 4, initial=0, eeprom=True, lowest=0, highest=4095),
    "startup_configuration": Register(60, 1, eeprom=True, lowest=0, highest=3),
    "shutdown": Register(63, 1, initial=52, eeprom=True, lowest=0, highest=63),
    "torque_enable": Register(64, 1, lowest=0, highest=1),
    "led": Register(65, 1, lowest=0, highest=1),
    "status_return_level": Register(68, 1, initial=2, lowest=0, highest=2),
    "registered_instruction": Register(69, 1, writable=False),
    "hardware_error_status": Register(70, 1, writable=False),
    "velocity_i_gain": Register(76, 2, initial=1000, lowest=0, highest=16_383),
    "velocity_p_gain": Register(78, 2, initial=100, lowest=0, highest=16_383),
    "position_d_gain": Register(80, 2, initial=4000, lowest=0, highest=16_383),
    "position_i_gain": Register(82, 2, lowest=0, highest=16_383),
    "position_p_gain": Register(84, 2, initial=640, lowest=0, highest=16_383),
    "feedforward_2nd_gain": Register(88, 2, lowest=0, highest=16_383),
    "feedforward_1st_gain": Register(90, 2, lowest=0, highest=16_383),
    "bus_watchdog": Register(98, 1, signed=True, lowest=0, highest=127),
    "goal_pwm": Register(100, 2, signed=True, initial=885),
    "goal_velocity": Register(104, 4, signed=True),
    "profile_acceleration": Register(108, 4, lowest=0, highest=32_767),
    "profile_velocity": Register(112, 4, lowest=0, highest=32_767),
    "goal_position": Register(116, 4, signed=True),
    "realtime_tick": Register(120, 2, writable=False),
    "moving": Register(122, 1, writable=False),
    "moving_status": Register(123, 1, writable=False),
    "present_pwm": Register(124, 2, signed=True, writable=False),
    "present_load": Register(126, 2, signed=True, writable=False),
    "present_velocity": Register(128, 4, signed=True, writable=False),
    "present_position": Register(132, 4, signed=True, writable=False),
    "velocity_trajectory": Register(136, 4, signed=True, writable=False),
    "position_trajectory": Register(140, 4, signed=True, writable=False),
    "present_voltage": Register(144, 2, initial=120, writable=False),
    "present_temperature": Register(146, 1, initial=30, writable=False),
    "backup_ready": Register(147, 1, writable=False),
}
TABLE_BYTES = 148

LARGEST_ID = 252  # of a servo
