"""Fixtures of the emulator's tests."""

import dynamixel_sdk
import pytest
from emulated import Clock

from arm_control.drivers.emulator.emulator import Emulator

PATIENCE_MS = 5000.0  # the SDK's timeout where a reply is certain


@pytest.fixture
def clock() -> Clock:
    """The servos' time, which stands still while a slow machine computes."""
    return Clock()


@pytest.fixture
def servos(clock: Clock) -> Emulator:
    """Three servos without a port, which are called directly."""
    return Emulator(start_ticks=(1000, 2000, 3000), clock=clock)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK waits longer for replies, for slow machines."""
    monkeypatch.setattr(
        dynamixel_sdk.PortHandler, "setPacketTimeout", lambda port, _: port.setPacketTimeoutMillis(PATIENCE_MS)
    )
