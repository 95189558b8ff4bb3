"""Fixtures of the driver's tests."""

from collections.abc import Iterator

import pytest
from emulated import Clock

from arm_control.drivers.emulator.emulator import Emulator
from arm_control.drivers.emulator.servo_dynamics import ServoDynamics


@pytest.fixture
def clock() -> Clock:
    """The servos' time: no watchdog trips while the machine is slow."""
    return Clock()


@pytest.fixture
def servos(clock: Clock) -> Iterator[Emulator]:
    """Three healthy servos whose time stands still."""
    with Emulator(start_ticks=(1200, 2048, 2500), clock=clock, dynamics=ServoDynamics(keeps_goal=True)) as emulator:
        yield emulator
