"""The fault campaign on the bus: the same loop and safety, the vendor's SDK, and emulated servos that fail.

Time passes as fast as the bus answers: servos, watchdogs and the loop go by one clock that jumps. What is judged is
what servos took: goal positions, in ticks, and their torque.
"""

import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from helpers import Size

import arm_control.runner.safety.targets as targets_module
from arm_control.drivers.base import DriverError, JointState
from arm_control.drivers.dynamixel.calibration import TICKS_PER_DEGREE, Calibration, JointCalibration
from arm_control.drivers.dynamixel.driver import DynamixelDriver
from arm_control.drivers.emulator.emulator import Emulator
from arm_control.runner.clocks import FastTime
from arm_control.runner.loop import ControlLoop, LoopSettings
from arm_control.runner.motions import Parking, Script
from arm_control.runner.report import LoopReport
from arm_control.runner.safety import Safety
from arm_control.runner.safety.readings import ReadingMonitor
from arm_control.runner.safety.targets import TargetLimiter
from envs.arm import Arm

ARM = Arm()
ZERO_TICK = 1024
ROUNDING_TICKS = 1.01  # two goals, each rounded to a tick
LOOP_SETTINGS = LoopSettings(ease_s=0.5, ease_speed_fraction=0.5, lost_s=0.5)  # shorter than in life
SMALL, FULL = 5, 200  # episodes of each kind; the full campaign runs in `make soak`

# What each fault has to be refused as; none for what is to be survived.
FAULTS: dict[str, tuple[str, ...]] = {
    "overload": ("health",),
    "overheating": ("health", "temperature"),
    "voltage": ("health", "voltage"),
    "encoder": ("health",),
    "shock": ("health",),
    "reboot": ("stale", "lost"),
    "stuck": ("frozen", "tracking", "load"),
    "slow": ("tracking",),
    "frozen": ("frozen", "tracking"),
    "drift": ("tracking",),
    "swapped": ("jump", "frozen", "tracking"),
    "wrap": ("jump",),
    "silent": ("stale", "lost"),
    "disconnect": ("stale", "lost"),
    "lost": (),
    "corrupt": (),
    "duplicated": (),
    "noise": (),
    "nothing": (),
}
ON_THE_LINE = ("lost", "corrupt", "duplicated", "noise")
# Whose servos switch their torque off themselves.
LETS_GO = ("overload", "overheating", "shock", "reboot")
# What only an arm that moves far shows.
SEEN_IN_MOTION = ("slow", "frozen", "swapped")
# For how long each goes on before the arm is asked to stop, in s: a drift of 2 degrees/s takes a while to show.
LASTS_S = {"drift": 8.0}
SHOWS_S = 3.0


class OnTheClock:
    """The Dynamixel driver, its readings stamped by the clock of the campaign."""

    def __init__(self, driver: DynamixelDriver, clock: FastTime) -> None:
        self.driver, self.clock, self.torque_off_at = driver, clock, ([], [])
        self.joint_names, self.limits = driver.joint_names, driver.limits
        self.calibration_sha256, self.fastest_rate_hz = driver.calibration_sha256, driver.fastest_rate_hz

    def enable(self) -> None:
        self.driver.enable()

    def read(self) -> JointState:
        return dataclasses.replace(self.driver.read(), stamp_s=self.clock.now_s())

    def write(self, target_deg: list[float]) -> None:
        self.driver.write(target_deg)

    def disable(self) -> None:
        self.driver.disable()

    def close(self) -> None:
        self.driver.close()


def calibration(generator: np.random.Generator) -> Calibration:
    """Joints mounted anyhow, some of them the other way round."""
    joints = []
    for place, (name, limits) in enumerate(zip(ARM.joint_names, ARM.limits.by_joint, strict=True)):
        direction = int(generator.choice([-1, 1]))
        zero = float(generator.integers(100, 2900)) if direction == 1 else float(generator.integers(1200, 4000))
        joints.append(JointCalibration(name, place + 1, 1060, zero, direction, TICKS_PER_DEGREE, *limits))
    return Calibration(ARM.name, tuple(joints))


def episode(kind: str, seed: int) -> None:
    """One life in which one thing goes wrong. Raises AssertionError for whatever must not be."""
    generator = np.random.default_rng([seed, *kind.encode()])
    clock, calibrated = FastTime(), calibration(generator)
    rate = float(generator.choice([40.0, 60.0, 100.0]))
    start = [joint.ticks(float(generator.uniform(5, 85))) for joint in calibrated.joints]
    at_tick = int(generator.integers(5, 60))
    stop_tick = at_tick + round(rate * LASTS_S.get(kind, SHOWS_S))
    # The elbow's lever is so short that its half speed moves the tip by less than is allowed.
    joint = int(generator.integers(2 if kind == "slow" else 3))
    latched: list[int] = []  # how many goals had been taken when the arm was stopped
    with Emulator((1, 2, 3), start_ticks=start, seed=seed, clock=clock.now_s) as servos:
        driver = OnTheClock(DynamixelDriver(servos.path, calibrated), clock)
        safety = Safety(ARM, ARM.limits.tightened(driver.limits), 1.0 / rate)
        ticks = 0

        def spoil() -> None:
            if kind in ON_THE_LINE:
                servos.inject(kind, probability=0.05)
            elif kind == "disconnect":
                servos.inject(kind)
            elif kind != "nothing":
                servos.inject(kind, id=joint + 1)

        def work(loop: ControlLoop) -> Script:
            nonlocal ticks
            low, high = ARM.limits.lower_deg, ARM.limits.upper_deg
            at_upper = np.arange(3) == joint
            while True:
                pose, held = generator.uniform(low, high).tolist(), int(generator.integers(5, 60))
                if kind in SEEN_IN_MOTION:
                    pose, held = np.where(at_upper, high, low).tolist(), round(0.8 * rate)
                    at_upper = ~at_upper
                for _ in range(held):
                    ticks += 1
                    if ticks == at_tick:
                        spoil()
                    yield loop.admit(pose)

        trip = safety.latch.trip

        def note_and_trip(check: str, text: str) -> None:
            if safety.fault is None:
                latched.append(len(servos.history))
            trip(check, text)

        safety.latch.trip = note_and_trip  # type: ignore[method-assign]
        loop = ControlLoop(driver, safety, clock, stopped=lambda: ticks >= stop_tick, settings=LOOP_SETTINGS)
        lost = False
        try:
            report = loop.run(work)
        except DriverError:
            report, lost = loop.report, True
        finally:
            driver.close()
        judge(kind, servos, calibrated, rate, report, latched, lost)


def judge(
    kind: str,
    servos: Emulator,
    calibrated: Calibration,
    rate: float,
    report: LoopReport,
    latched: list[int],
    lost: bool,
) -> None:
    for place, limits in enumerate(calibrated.limits.by_joint):
        goals = [(number, ticks) for number, (_, id, ticks) in enumerate(servos.history) if id == place + 1]
        judge_goals(calibrated.joints[place], limits, goals, rate, latched[0] if latched else None)
    torque = [servos.register("torque_enable", id) for id in (1, 2, 3)]
    if report.parked:
        assert torque == [0, 0, 0]
        places = [joint.degrees(servos.positions()[joint.servo_id]) for joint in calibrated.joints]
        assert max(places) < 3.5, "torque off, not in the parking pose"
    elif kind not in LETS_GO:
        assert torque == [1, 1, 1], "let go of, and not parked"
    checks = [fault.check for fault in report.faults]
    if FAULTS[kind]:
        # An arm that answers no more at all is lost.
        assert checks or (lost and "lost" in FAULTS[kind]), f"{kind} is not noticed"
        assert all(check in FAULTS[kind] for check in checks[:1]), f"{kind} is refused as {checks[0]}"
        assert set(checks) <= {*FAULTS[kind], "parking", "start", "tracking", "load"}, checks
    else:
        assert checks == [], f"{kind} is refused: {report.faults}"
        assert report.parked, f"{kind}: not parked"


def judge_goals(
    joint: JointCalibration, limits: Any, goals: list[tuple[int, int]], rate: float, stopped: int | None
) -> None:
    """Goals of one servo: in range, no faster than allowed, and after a stop only slower until they rest."""
    _, _, speed, acceleration = limits
    fastest = speed / rate * TICKS_PER_DEGREE + ROUNDING_TICKS
    hardest = acceleration / rate**2 * TICKS_PER_DEGREE + 2 * ROUNDING_TICKS
    first, last = joint.tick_range
    moved_before, resting, stopping = 0, False, False
    for (_, before), (number, after) in pairwise(goals):
        assert first <= after <= last, (after, first, last)
        moved = after - before
        if stopped is not None and number >= stopped:
            stopping = True
        if stopping and resting:
            return  # what follows is for a person to ask for
        assert abs(moved) <= fastest, ("too fast", moved, fastest)
        assert abs(moved - moved_before) <= hardest, ("too hard", moved_before, moved, hardest)
        if stopping:
            assert abs(moved) <= abs(moved_before) + ROUNDING_TICKS, ("speeds up after a stop", moved_before, moved)
            resting = moved == moved_before == 0
        moved_before = moved


def run(kind: str, seeds: range) -> None:
    for seed in seeds:
        try:
            episode(kind, seed)
        except Exception as error:
            raise AssertionError(f"episode({kind!r}, {seed}): {error}") from error


@pytest.mark.parametrize("kind", FAULTS)
def test_one_of_every_fault(kind: str) -> None:
    run(kind, range(1))


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("kind", FAULTS)
def test_the_campaign(kind: str, size: Size) -> None:
    """No episode moves a servo beyond its limits or lets go of an arm that is not parked."""
    run(kind, range(1000, 1000 + size(SMALL, full=FULL, of="episodes")))


def without(monkeypatch: pytest.MonkeyPatch, what: str) -> dict[str, str]:
    """Take a check away; returns the faults that should show it, and what the judge then says of them."""

    def nothing(*names: str) -> None:
        for name in names:
            monkeypatch.setattr(ReadingMonitor, name, lambda *_: None)

    if what == "health":
        nothing("_check_health")
        return {
            "voltage": "voltage is not noticed",
            "encoder": "encoder is not noticed",
            # Their torque goes off, which the next best check sees.
            "overload": "overload is refused as tracking",
            "overheating": "overheating is refused as tracking",
            "shock": "shock is refused as tracking",
        }
    if what == "likely reading":
        monkeypatch.setattr(ReadingMonitor, "_is_plausible", lambda *_: True)
        return {"wrap": "wrap is refused as tracking"}
    if what == "tracking":
        nothing("_check_tracking", "_check_tip", "_check_still")
        return {
            "slow": "slow is not noticed",
            # At last the arm does not come to its parking pose, as it reads.
            "frozen": "frozen is refused as parking",
            "drift": "drift is refused as parking",
        }
    if what == "stale":
        nothing("_check_stale")
        return {"reboot": "too fast"}  # it comes back far behind the targets
    if what == "limiter":
        monkeypatch.setattr(targets_module, "limit_target", lambda desired, *_: (list(desired), [0.0] * 3))
        return {"nothing": "too fast"}
    if what == "brake":
        monkeypatch.setattr(TargetLimiter, "brake", lambda self: self.stood_still())
        return {"wrap": "too hard"}
    if what == "parked before torque off":
        nothing("_check_tracking", "_check_tip", "_check_still", "_check_health")
        monkeypatch.setattr(Parking, "is_at_rest", lambda self: True)
        return {"stuck": "torque off, not in the parking pose"}
    raise AssertionError(what)


WITHOUT = ("health", "likely reading", "tracking", "stale", "limiter", "brake", "parked before torque off")


@pytest.mark.slow
@pytest.mark.parametrize("what", WITHOUT)
def test_without_a_check_the_campaign_fails(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Each fault that is for it, by itself, and for that reason."""
    for kind, words in without(monkeypatch, what).items():
        said = [judged(kind, seed) for seed in range(10)]
        assert any(words in each for each in said), f"{kind}: {said}"


def judged(kind: str, seed: int) -> str:
    """The violations in an episode, empty if there are none."""
    try:
        episode(kind, seed)
    except AssertionError as error:
        return str(error).splitlines()[0]
    return ""
