"""Connecting to the arm of a run, and checking that it is the one that the run was planned for."""

from arm_control.drivers.base import Driver, DriverType, OpeningContext, round_down
from arm_control.runner.clocks import Clock
from arm_control.runner.planning import Plan
from arm_control.runner.session_config import LOWEST_RATE_HZ, SessionConfig, driver_options
from arm_control.runs.arm import open_arm


def connect(config: SessionConfig, plan: Plan, driver_type: DriverType, clock: Clock, start_deg: list[float]) -> Driver:
    """Open the driver; a simulated arm starts in the pose `start_deg`."""
    # A simulation requires masses and meshes, which a policy file lacks: open the arm's own file.
    arm = open_arm(plan.arm, config.arm) if driver_type.simulated else plan.arm
    context = OpeningContext(plan.period_s, tuple(start_deg), plan.imperfections, clock.now_s)
    return driver_type.open(arm, driver_options(config), context)


def check_driver(driver: Driver, plan: Plan) -> None:
    """Raise ValueError, with both values, for an arm with other joints, another calibration or too low a rate."""
    expected = plan.arm.joint_names
    got = tuple(driver.joint_names)
    if expected != got:
        raise ValueError(f"the {plan.arm.name} to be moved has joints {expected}, the driver's arm {got}")
    calibrated = driver.calibration_sha256
    if plan.calibration_sha256 and calibrated and plan.calibration_sha256 != calibrated:
        raise ValueError(
            f"it was recorded with the calibration {plan.calibration_sha256[:12]}, the arm now has {calibrated[:12]}: "
            "the same angles may be other poses"
        )
    check_rate(driver, plan)


def check_rate(driver: Driver, plan: Plan) -> None:
    """Raise ValueError for a rate above that of the arm's connection, with the rates that are possible."""
    rate_hz = 1.0 / plan.period_s
    if rate_hz <= driver.fastest_rate_hz * (1.0 + 1e-9):
        return
    # The rates that are possible, if any are, and what would allow higher ones.
    slowest_hz = max(plan.slowest_rate_hz, LOWEST_RATE_HZ)
    fastest_hz = round_down(driver.fastest_rate_hz)
    hint = getattr(driver, "rate_hint", "")
    faster = f"; faster: {hint}" if hint else ""
    if slowest_hz <= fastest_hz:
        raise ValueError(
            f"{rate_hz:g} Hz exceeds the rate of the arm's connection; expected --rate {slowest_hz:g} to "
            f"{fastest_hz:g}{faster}"
        )
    raise ValueError(
        f"the arm's connection allows at most {fastest_hz:g} Hz; expected at least the {slowest_hz:g} Hz of "
        f"{'--rate' if plan.slowest_rate_hz < LOWEST_RATE_HZ else 'the policy'}{faster}"
    )
