"""Drivers by name: entry points."""

from pathlib import Path

import pytest

from arm_control.cli import main
from arm_control.drivers.opening import available_drivers, load_driver


class TestNames:
    """Drivers by name: entry points of this package and of others."""

    def test_our_own_are_entry_points(self) -> None:
        """The simulated arm is an entry point like any other."""
        assert {"sim", "dynamixel"} <= set(available_drivers())

    def test_only_the_simulation_declares_itself_simulated(self) -> None:
        """A bare function as an entry point is a real arm."""
        assert load_driver("sim").simulated
        assert not load_driver("dynamixel").simulated

    def test_the_simulated_arm_has_no_options(self, tiny_policy: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """A port without a driver is reported with the likely cause."""
        assert main(["run", str(tiny_policy), "--goal", "0.2372,0.3338,0.2699", "--port", "x"]) == 2
        assert "driver sim: unexpected --port" in capfd.readouterr().err
