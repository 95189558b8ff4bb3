"""Helpers for tests of the DYNAMIXEL driver: a calibrated arm of emulated servos."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from emulated import Clock

from arm_control.drivers.dynamixel.calibration import TICKS_PER_DEGREE, Calibration, JointCalibration
from arm_control.drivers.dynamixel.driver import DynamixelDriver
from arm_control.drivers.emulator.emulator import Emulator

NAMES = ("base_yaw", "shoulder", "elbow")
SLOW = {"patience_s": 0.5, "retry_within_s": 10.0}  # generous, so that a slow machine causes no communication fault


def calibration(**changes: Any) -> Calibration:
    """A calibration of the default arm, whose elbow turns in the opposite direction."""
    joints = []
    for index, name in enumerate(NAMES):
        fields: dict[str, Any] = {
            "name": name,
            "servo_id": index + 1,
            "model_number": 1060,
            "zero_tick": 3000.0 if index == 2 else 1100.0,
            "direction": -1 if index == 2 else 1,
            "ticks_per_degree": TICKS_PER_DEGREE,
            "lower_deg": 0.0,
            "upper_deg": 90.0,
            "max_speed_deg_s": 300.0,
            "max_acceleration_deg_s2": 2000.0,
        }
        joints.append(JointCalibration(**fields | {k: v[index] for k, v in changes.items()}))
    return Calibration("arm3", tuple(joints))


@contextmanager
def connected(port: str, **options: Any) -> Iterator[DynamixelDriver]:
    """A driver connected to a port, and closed at the end."""
    with closing(DynamixelDriver(port, options.pop("calibration", calibration()), **SLOW | options)) as driver:
        yield driver


def send(driver: DynamixelDriver, target: list[float]) -> None:
    """Write a target, and read, which returns only after the servos have received it."""
    driver.write(target)
    driver.read()


def settled(emulator: Emulator, clock: Clock) -> dict[int, int]:
    """The servos' positions after a second without communication."""
    clock.advance(1.0)
    return emulator.positions()


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    """The message of an error, which is one line of moderate length."""
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    return text
