"""The emulator's port and thread: link, disconnection, noise, memory and settings."""

import os
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import serial
from emulated import Clock, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arm_control.drivers.emulator.emulator import HISTORY, Emulator
from arm_control.drivers.emulator.protocol import (
    BROADCAST_ID,
    Instruction,
    make_packet,
)
from arm_control.drivers.emulator.servo_dynamics import ServoDynamics


def ping_for_long(port: serial.Serial) -> None:
    """Ping for up to 20 s."""
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:
        port.write(make_packet(1, Instruction.PING))
        port.read(1)


class TestPort:
    """The virtual serial port and its link."""

    def test_disconnect(self, tmp_path: Path) -> None:
        """The fault `disconnect` closes the port and removes the link."""
        link = tmp_path / "arm"
        with Emulator(link=link) as servos, closing(serial.Serial(str(link), timeout=20.0)) as port:
            port.write(make_packet(1, Instruction.PING))
            assert port.read(14)[4] == 1
            servos.inject("disconnect")
            with pytest.raises(OSError, match=r"Input/output error|no data|write failed"):
                ping_for_long(port)
            assert not link.is_symlink()
            servos.positions()

    def test_link_of_a_killed_emulator(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is replaced, also if its port number is used again."""
        link, openpty = tmp_path / "arm", os.openpty

        def reused() -> tuple[int, int]:
            """A port with the number of the one that the link still leads to."""
            master, slave = openpty()
            link.symlink_to(os.ttyname(slave))
            return master, slave

        monkeypatch.setattr(os, "openpty", reused)
        with Emulator(link=link) as servos:
            assert os.path.realpath(link) == servos.path
        assert not link.is_symlink()

    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=5))
    def test_noise_on_the_line(self, junk: list[bytes]) -> None:
        """Servos reply after random bytes."""
        with Emulator() as servos, closing(serial.Serial(servos.path, timeout=0.3)) as port:
            for data in junk:
                port.write(data)
            deadline = time.monotonic() + 20.0
            reply = b""
            while len(reply) < 14 and time.monotonic() < deadline:  # at the latest once the bus has been quiet
                port.write(make_packet(1, Instruction.PING))
                reply = port.read(14)
            assert reply[4] == 1

    def test_unread_replies_are_lost(self, servos: Emulator) -> None:
        """As on a wire: 100 kB of them do not block the servos."""
        with servos, closing(serial.Serial(servos.path, timeout=20.0)) as port:
            for _ in range(400):  # about 100 kB of replies
                port.write(make_packet(1, Instruction.READ, bytes([0, 0, 148, 0])))
                port.flush()
            port.reset_input_buffer()
            deadline = time.monotonic() + 20.0
            while servos.register("led", 1) == 0 and time.monotonic() < deadline:
                port.write(make_packet(1, Instruction.WRITE, bytes([65, 0, 1])))
                time.sleep(0.02)
                port.reset_input_buffer()
            assert servos.register("led", 1) == 1

    def test_memory_is_bounded(self, servos: Emulator, clock: Clock) -> None:
        """History and events have a maximum length."""
        sync = make_packet(BROADCAST_ID, Instruction.SYNC_WRITE, bytes([116, 0, 4, 0, 1, 100, 0, 0, 0]))
        for _ in range(2000):
            clock.advance(0.002)
            servos.reply(sync)
            write(servos, 1, "torque_enable", 1)
            write(servos, 1, "torque_enable", 0)
        assert servos.history.maxlen == HISTORY
        assert len(servos.events) == servos.events.maxlen == 1000


class TestSettings:
    """Settings out of range are one line."""

    @pytest.mark.parametrize(
        "wrong", [{"ids": ()}, {"ids": (1, 1)}, {"ids": (253,)}, {"start_ticks": 4096}, {"start_ticks": (1, 2)}]
    )
    def test_ids_and_positions(self, wrong: dict[str, Any]) -> None:
        """Ids are unique and from 0 to 252, and each servo has a start position."""
        with pytest.raises(ValueError, match="expected") as caught:
            Emulator(**wrong)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"lag_s": 0.0},
            {"lag_s": float("nan")},
            {"sag_deg_s": float("inf")},
            {"delay_s": -0.1},
            {"delay_s": float("nan")},
            {"noise_deg": 11.0},
        ],
    )
    def test_dynamics(self, wrong: dict[str, Any]) -> None:
        """Lag, sag, delay and noise are finite and within their bounds."""
        with pytest.raises(ValueError, match="expected") as caught:
            ServoDynamics(**wrong)
        assert "\n" not in str(caught.value)
