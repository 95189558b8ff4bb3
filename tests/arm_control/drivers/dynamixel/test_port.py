"""The serial port: locking, latency, and independence of the wall clock."""

import os
import time
from pathlib import Path

import pytest
from dynamixel_arm import connected, one_line

from arm_control.drivers.base import DriverError
from arm_control.drivers.dynamixel.bus import NoReplyError
from arm_control.drivers.dynamixel.port import check_latency
from arm_control.drivers.emulator.emulator import Emulator


class TestPort:
    """Ports that can be used, and those that cannot."""

    def test_two_programs_do_not_share_a_port(self, servos: Emulator) -> None:
        """The second one gets an error, and the first goes on."""
        with connected(servos.path) as driver:
            driver.enable()
            with pytest.raises(DriverError, match="used by another program") as error, connected(servos.path):
                pass
            one_line(error)
            assert driver.read().alerts == ()

    def test_other_files(self, tmp_path: Path) -> None:
        """Files, pipes, folders and absent ports are one line each, with the existing ports."""
        file = tmp_path / "file"
        file.write_text("")
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        for port in (tmp_path / "absent", file, pipe, tmp_path, "/dev/null", "a\0b", ""):
            with pytest.raises(DriverError, match=r"port") as error, connected(str(port)):
                pass
            one_line(error)
        with pytest.raises(DriverError, match="ports here: "), connected(str(tmp_path / "absent")):
            pass

    def test_latency_of_the_adaptor(self, servos: Emulator, tmp_path: Path) -> None:
        """A latency of 16 ms is an error with the command that sets 1 ms."""
        timer = tmp_path / Path(servos.path).name / "latency_timer"
        timer.parent.mkdir()
        timer.write_text("16\n")
        with pytest.raises(DriverError) as error, connected(servos.path, usb_serial=tmp_path):
            pass
        assert f"by 16 ms; expected 1: echo 1 | sudo tee {timer}" in one_line(error)
        timer.write_text("1\n")
        with connected(servos.path, usb_serial=tmp_path):
            pass
        timer.write_text("what?")
        check_latency(servos.path, tmp_path)

    def test_timeouts_do_not_use_the_wall_clock(self, servos: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
        """Readings work while the wall clock runs backwards."""
        with connected(servos.path, patience_s=0.02) as driver:
            readings = iter(range(10**6, 0, -1))
            monkeypatch.setattr(time, "time", lambda: float(next(readings)))  # backwards
            for _ in range(2):
                driver.read()
                servos.inject("silent")
                with pytest.raises(NoReplyError):
                    driver.read()
                servos.heal()

    def test_an_interrupted_read_frees_the_port(self, servos: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
        """After Ctrl-C within a reading the next one succeeds."""
        with connected(servos.path) as driver:
            packets = driver._bus._packets

            def interrupt(*_: object) -> None:
                raise KeyboardInterrupt

            with monkeypatch.context() as patch:
                patch.setattr(packets, "rxPacket", interrupt)
                with pytest.raises(KeyboardInterrupt):
                    driver.read()
            assert len(driver.read().angles_deg) == 3
