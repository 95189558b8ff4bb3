"""Fixtures of the emulator's tests."""

import dynamixel_sdk
import pytest
from emulated import Clock

from arm_control.drivers.emulator.emulator import Emulator

PATIENCE_MS = 5000.0  # of the SDK, where an answer is sure to come


@pytest.fixture
def clock() -> Clock:
    """Servos whose time stands still do nothing while a slow machine thinks."""
    return Clock()


@pytest.fixture
def servos(clock: Clock) -> Emulator:
    """Three servos without a port: their answers are asked for directly."""
    return Emulator(start_ticks=(1000, 2000, 3000), clock=clock)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK waits for answers that are sure to come, however slow the machine is."""
    monkeypatch.setattr(
        dynamixel_sdk.PortHandler, "setPacketTimeout", lambda port, _: port.setPacketTimeoutMillis(PATIENCE_MS)
    )
