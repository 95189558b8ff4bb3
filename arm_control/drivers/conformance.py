"""Checks of the `Driver` interface, which authors of drivers run against their own, on the arm or on an emulator.

    import pytest
    from arm_control.drivers.conformance import CHECKS

    @pytest.mark.parametrize("check", CHECKS)
    def test_my_driver(check):
        driver = MyDriver(...)            # the arm within its limits, free to move by three degrees
        try:
            CHECKS[check](driver)
        finally:
            driver.close()

Each raises AssertionError with the expected and the actual value.
"""

import math
import time
from collections.abc import Callable

from arm_control.drivers.base import Driver, DriverError, JointState

MOVE_DEG = 3.0
NEAR_DEG = 1.0
TIME_S = 2.0
PERIOD_S = 0.02


def check_names_and_limits(driver: Driver) -> None:
    """Joint names are unique, each joint has limits, and a calibration is identified by its SHA-256."""
    names = driver.joint_names
    limits = driver.limits
    are_names = isinstance(names, tuple) and all(isinstance(name, str) and name for name in names)
    _expect(are_names, "a tuple of names", names)
    _expect(len(set(names)) == len(names) > 0, "a name of its own for each joint", names)
    _expect(len(limits.by_joint) == len(names), f"limits of {len(names)} joints", limits)
    sha256 = driver.calibration_sha256
    _expect(sha256 is None or len(sha256) == 64, "a SHA-256 in hexadecimal, or None", sha256)
    _expect(driver.fastest_rate_hz >= 10.0, "at least 10 Hz", driver.fastest_rate_hz)


def check_readings(driver: Driver) -> None:
    """Readings have a finite number for each joint, and increasing stamps of the monotonic clock."""
    before = -math.inf
    for _ in range(20):
        called_s = time.monotonic()
        state = driver.read()
        _check_state(driver, state)
        _expect(called_s - 1.0 <= state.stamp_s <= time.monotonic(), "a stamp of time.monotonic(), now", state.stamp_s)
        _expect(state.stamp_s > before, f"a stamp after {before}", state.stamp_s)
        before = state.stamp_s
        time.sleep(0.002)


def check_enable_holds(driver: Driver) -> None:
    """Switching the torque on, also twice, does not move the arm."""
    before = driver.read().angles_deg
    driver.enable()
    driver.enable()
    for _ in range(25):
        _near(driver.read().angles_deg, before, "angles as before the torque was switched on")
        time.sleep(PERIOD_S)


def check_small_move(driver: Driver) -> None:
    """Each joint alone moves by a few degrees in the right direction, and back."""
    driver.enable()
    start = driver.limits.clip(driver.read().angles_deg)
    for joint, (low, high, _, _) in enumerate(driver.limits.by_joint):
        # Move up, or down where the upper limit is too near.
        step_deg = MOVE_DEG if start[joint] + MOVE_DEG <= high else -MOVE_DEG
        _expect(low <= start[joint] + step_deg <= high, "room to move by a few degrees", start[joint])
        moved = list(start)
        moved[joint] += step_deg
        _settle(driver, moved)
        _settle(driver, start)


def check_own_copies(driver: Driver) -> None:
    """Readings do not change later, and the caller may reuse the list of a target."""
    driver.enable()
    state = driver.read()
    kept = list(state.angles_deg)
    target = driver.limits.clip(kept)
    driver.write(target)
    # Overwrite the list: the driver must not use it any more.
    target[:] = [math.nan] * len(target)
    _check_state(driver, driver.read())
    _expect(state.angles_deg == kept, f"the first reading to stay {kept}", state.angles_deg)
    _settle(driver, driver.limits.clip(kept))


def check_bad_targets(driver: Driver) -> None:
    """A target that is not finite, far outside, or of too few joints raises an error and does not move the arm."""
    driver.enable()
    start = driver.limits.clip(driver.read().angles_deg)
    for bad in ([math.nan] * len(start), [math.inf] * len(start), [1e6] * len(start), start[:-1]):
        try:
            driver.write(list(bad))
        except (DriverError, ValueError):
            continue
        raise AssertionError(f"expected DriverError or ValueError for the target {bad}, got none")
    _settle(driver, start)


def check_disable_and_close(driver: Driver) -> None:
    """The torque can be switched off and on again; disabling and closing twice is allowed."""
    driver.enable()
    driver.disable()
    driver.disable()
    _check_state(driver, driver.read())
    driver.enable()
    driver.disable()
    driver.close()
    driver.close()


CHECKS: dict[str, Callable[[Driver], None]] = {
    "names and limits": check_names_and_limits,
    "readings": check_readings,
    "enable holds": check_enable_holds,
    "small move": check_small_move,
    "own copies": check_own_copies,
    "bad targets": check_bad_targets,
    "disable and close": check_disable_and_close,
}


def _check_state(driver: Driver, state: JointState) -> None:
    count = len(driver.joint_names)
    rows = {"angles_deg": state.angles_deg, "speeds_deg_s": state.speeds_deg_s}
    for name in ("temperatures_c", "loads", "voltages_v"):
        values = getattr(state, name)
        if values is not None:
            rows[name] = values
    for name, values in rows.items():
        _expect(len(values) == count and all(map(math.isfinite, values)), f"{count} finite {name}", values)
    _expect(all(isinstance(alert, str) for alert in state.alerts), "alerts as strings", state.alerts)


def _settle(driver: Driver, target_deg: list[float]) -> None:
    """Send a target until the arm has reached it."""
    end_s = time.monotonic() + TIME_S
    while True:
        driver.write(list(target_deg))
        time.sleep(PERIOD_S)
        angles = driver.read().angles_deg
        if all(abs(angle - target) < NEAR_DEG for angle, target in zip(angles, target_deg, strict=True)):
            return
        if time.monotonic() > end_s:
            _near(angles, target_deg, f"the arm at its target within {TIME_S:g} s")


def _near(angles_deg: list[float], expected_deg: list[float], what: str) -> None:
    near = all(abs(angle - expected) < NEAR_DEG for angle, expected in zip(angles_deg, expected_deg, strict=True))
    _expect(near, f"{what}, {expected_deg}", angles_deg)


def _expect(holds: bool, expected: str, got: object) -> None:
    if not holds:
        raise AssertionError(f"expected {expected}, got {got}")
