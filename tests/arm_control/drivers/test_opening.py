"""Opening drivers by name."""

from pathlib import Path

import pytest

from arm_control.cli import main
from arm_control.drivers.opening import available_drivers, load_driver


class TestNames:
    """Drivers are entry points of this package and of others."""

    def test_the_packages_own_drivers_are_entry_points(self) -> None:
        """`sim` and `dynamixel` are among those found."""
        assert {"sim", "dynamixel"} <= set(available_drivers())

    def test_only_the_simulation_declares_itself_simulated(self) -> None:
        """An entry point without that declaration is a real arm."""
        assert load_driver("sim").simulated
        assert not load_driver("dynamixel").simulated

    def test_the_simulated_arm_has_no_options(self, tiny_policy: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """`--port` is an error for it."""
        assert main(["run", str(tiny_policy), "--goal", "0.2372,0.3338,0.2699", "--port", "x"]) == 2
        assert "driver sim: unexpected --port" in capfd.readouterr().err
