"""Registers over the bus: errors of servos, and the status return level."""

from contextlib import closing

import pytest
from dynamixel_arm import connected, one_line, send

from arm_control.drivers.dynamixel.bus import Bus, NoReplyError, RejectedError
from arm_control.drivers.emulator.emulator import Emulator


class TestErrors:
    """Errors that servos reply with."""

    def test_values_that_are_not_accepted(self, servos: Emulator) -> None:
        """The error has the register, the value and the reason, and nothing is written."""
        bus = Bus(servos.path, patience_s=0.5)
        with closing(bus):
            with pytest.raises(
                RejectedError, match="servo 1 has limits that exclude the value: goal position 5000"
            ) as error:
                bus.write(1, "goal_position", 5000)
            one_line(error)
            with pytest.raises(RejectedError, match="does not accept the value"):
                bus.write(1, "bus_watchdog", -5)
            assert bus.read(1, ["goal_position", "torque_enable"])["torque_enable"] == 0


class TestStatusReturnLevel:
    """Servos that reply to pings or reads only."""

    @pytest.mark.parametrize("levels", [(0, 0, 0), (1, 1, 1), (2, 0, 1)])
    def test_connecting_sets_the_level_to_every_instruction(self, servos: Emulator, levels: tuple[int, ...]) -> None:
        """The register is written without waiting for a reply."""
        with closing(Bus(servos.path)) as bus:
            for id, level in enumerate(levels, 1):
                bus.write_all("status_return_level", {id: level})
                assert bus.ping(id) == 1060
                assert servos.register("status_return_level", id) == level
        with connected(servos.path) as driver:
            assert [servos.register("status_return_level", id) for id in (1, 2, 3)] == [2, 2, 2]
            driver.enable()
            send(driver, [10.0, 10.0, 80.0])
            driver.disable()

    def test_a_servo_that_stays_silent_is_named_with_the_remedy(
        self, servos: Emulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A servo that replies to pings has power, so the error names its register instead."""
        with closing(Bus(servos.path)) as bus:
            bus.write_all("status_return_level", {2: 0})
            monkeypatch.setattr(Bus, "write_all", lambda self, name, by_id: None)
            with pytest.raises(NoReplyError) as error:
                bus.enable_replies([1, 2, 3])
        text = one_line(error)
        assert "servo 2 on" in text
        assert "status return level (register 68)" in text
        assert "powered" not in text
