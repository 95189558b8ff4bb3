"""What every driver has to do: checks that authors of drivers run against their own, on the arm or on an emulator.

    import pytest
    from arm_control.drivers.conformance import CHECKS

    @pytest.mark.parametrize("check", CHECKS)
    def test_my_driver(check):
        driver = MyDriver(...)            # the arm within its limits, free to move by three degrees
        try:
            CHECKS[check](driver)
        finally:
            driver.close()

Each raises AssertionError with what was wanted and what was got.
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
    """The joints have names of their own and limits each; a calibration is named by its hash or there is none."""
    names, limits = driver.joint_names, driver.limits
    _want(isinstance(names, tuple) and all(isinstance(name, str) and name for name in names), "a tuple of names", names)
    _want(len(set(names)) == len(names) > 0, "a name of its own for each joint", names)
    _want(len(limits.by_joint) == len(names), f"limits of {len(names)} joints", limits)
    sha256 = driver.calibration_sha256
    _want(sha256 is None or len(sha256) == 64, "a SHA-256 in hexadecimal, or None", sha256)
    _want(driver.fastest_rate_hz >= 10.0, "at least 10 Hz", driver.fastest_rate_hz)


def check_readings(driver: Driver) -> None:
    """Readings have as many numbers as there are joints, all finite, and stamps of the monotonic clock that go on."""
    before = -math.inf
    for _ in range(20):
        called_s = time.monotonic()
        state = driver.read()
        _check_state(driver, state)
        _want(called_s - 1.0 <= state.stamp_s <= time.monotonic(), "a stamp of time.monotonic(), now", state.stamp_s)
        _want(state.stamp_s > before, f"a stamp after {before}", state.stamp_s)
        before = state.stamp_s
        time.sleep(0.002)


def check_enable_holds(driver: Driver) -> None:
    """Switching the torque on moves nothing, and twice is fine."""
    before = driver.read().angles_deg
    driver.enable()
    driver.enable()
    for _ in range(25):
        _near(driver.read().angles_deg, before, "angles as before the torque went on")
        time.sleep(PERIOD_S)


def check_small_move(driver: Driver) -> None:
    """Each joint goes by a few degrees in the right direction, alone, and comes back."""
    driver.enable()
    start = driver.limits.clip(driver.read().angles_deg)
    for joint, (low, high, _, _) in enumerate(driver.limits.by_joint):
        by = MOVE_DEG if start[joint] + MOVE_DEG <= high else -MOVE_DEG
        _want(low <= start[joint] + by <= high, "room to move by a few degrees", start[joint])
        for target in ([angle + by * (place == joint) for place, angle in enumerate(start)], start):
            _settle(driver, target)


def check_own_copies(driver: Driver) -> None:
    """A reading does not change later, and a target list may be used again by its owner."""
    driver.enable()
    state = driver.read()
    kept = list(state.angles_deg)
    target = driver.limits.clip(kept)
    driver.write(target)
    target[:] = [math.nan] * len(target)
    _check_state(driver, driver.read())
    _want(state.angles_deg == kept, f"the first reading to stay {kept}", state.angles_deg)
    _settle(driver, driver.limits.clip(kept))


def check_bad_targets(driver: Driver) -> None:
    """A target that is not finite, far outside, or of too few joints is refused by an error, and moves nothing."""
    driver.enable()
    start = driver.limits.clip(driver.read().angles_deg)
    for bad in ([math.nan] * len(start), [math.inf] * len(start), [1e6] * len(start), start[:-1]):
        try:
            driver.write(list(bad))
        except (DriverError, ValueError):
            continue
        raise AssertionError(f"wanted DriverError or ValueError for the target {bad}, got none")
    _settle(driver, start)


def check_disable_and_close(driver: Driver) -> None:
    """The torque goes off and on again; closing twice is fine, and a closed arm is not read."""
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
        if (values := getattr(state, name)) is not None:
            rows[name] = values
    for name, values in rows.items():
        _want(len(values) == count and all(map(math.isfinite, values)), f"{count} finite {name}", values)
    _want(all(isinstance(alert, str) for alert in state.alerts), "alerts in words", state.alerts)


def _settle(driver: Driver, target_deg: list[float]) -> None:
    """Send a target until the arm is there."""
    end_s = time.monotonic() + TIME_S
    while True:
        driver.write(list(target_deg))
        time.sleep(PERIOD_S)
        angles = driver.read().angles_deg
        if all(abs(angle - target) < NEAR_DEG for angle, target in zip(angles, target_deg, strict=True)):
            return
        if time.monotonic() > end_s:
            _near(angles, target_deg, f"the arm at its target within {TIME_S:g} s")


def _near(angles_deg: list[float], wanted_deg: list[float], what: str) -> None:
    near = all(abs(angle - wanted) < NEAR_DEG for angle, wanted in zip(angles_deg, wanted_deg, strict=True))
    _want(near, f"{what}, {wanted_deg}", angles_deg)


def _want(so: bool, wanted: str, got: object) -> None:
    if not so:
        raise AssertionError(f"wanted {wanted}, got {got}")
