"""`arm-control emulate dynamixel`: servos without hardware, for whatever talks to servos."""

import queue
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from arm_control.drivers.dynamixel.calibration import (
    TICKS_PER_DEGREE,
    Calibration,
    JointCalibration,
    clip_to_servo,
    load_calibration,
)
from arm_control.drivers.dynamixel.control_table import (
    LARGEST_ID,
    MODEL_NUMBER,
    REGISTERS,
    SPEED_UNIT_DEG_S,
    TICKS_PER_TURN,
)
from arm_control.drivers.emulator.emulator import Emulator
from arm_control.drivers.emulator.faults import parse_fault
from arm_control.process.console import Console, say
from arm_control.process.printing import counted, printable
from arm_control.process.signals import stop_on_signals
from arm_control.runs.checks import (
    check_count,
    check_seed,
)
from arm_control.runs.imperfections_flag import OptionalImperfectionsFlag
from envs.arm import DEFAULT_URDF, Arm
from envs.imperfections import IDEAL_LAG_S, open_imperfections


@dataclass(frozen=True)
class Emulate:
    """Emulate servos at a virtual serial port (pty): real packets, movement and faults, to try an arm without one.

    A fault is KIND[=PROBABILITY][@SECONDS][:ID], and may be given several times. Of all answers: lost, corrupt, late,
    duplicated, noise, as in lost=0.01. Once, seconds after the torque was first on: overload, voltage, overheating,
    encoder, shock, reboot, stuck, slow (half speed), frozen (the same reading for ever), drift (2 degrees/s), swapped
    (with the next servo), wrap, silent, disconnect, as in overload@5:2 for servo 2.
    """

    kind: tyro.conf.Positional[Literal["dynamixel"]]
    """The kind of servos: XL430-W250."""
    servos: int | None = None
    """How many, with ids from 1 (3, unless ids are given)."""
    ids: str | None = None
    """Their ids instead, as 1,2,3."""
    link: str | None = None
    """A file that leads to the port while it is there, such as runs/arm; otherwise its path is printed."""
    calibration: str | None = None
    """Calibration file of the emulated arm, written if there is none; the arm then starts with every joint at 0, or in
    the nearest pose found above the table."""
    arm: str | None = None
    """URDF file of the arm that the calibration is of (the default arm, unless given)."""
    fault: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """What goes wrong: see above."""
    start: str | None = None
    """Where the servos start, in ticks, as 2048,2048,2048; one number for all."""
    lag_s: float | None = None
    """Lag of a joint behind a goal that moves at constant speed, in seconds (0.05, unless given)."""
    imperfections: OptionalImperfectionsFlag = None
    """Delay, lag and noise of the servos, drawn from a preset or a file that 'identify --json' has written; backlash,
    load and the rest are not emulated."""
    sag_deg_s: float = 0.0
    """How fast a joint sinks without torque; negative: towards lower ticks."""
    keeps_goal: bool = False
    """When the torque goes on, go to the goal that was written before instead of staying."""
    seed: int = 0
    """Which answers go wrong, and which imperfections are drawn."""

    def __post_init__(self) -> None:
        if self.lag_s is not None and self.imperfections is not None:
            raise ValueError("expected one of --lag-s and --imperfections, got both")
        if self.servos is not None and self.ids is not None:
            raise ValueError("wanted one of --servos and --ids, got both")
        if self.servos is not None:
            check_count("servos", self.servos, LARGEST_ID)
        self.servo_ids  # noqa: B018  (raises for what are none)
        self.start_ticks  # noqa: B018
        check_seed("seed", self.seed)

    @property
    def servo_ids(self) -> tuple[int, ...]:
        """The ids as numbers. Raises ValueError for what are none."""
        return tuple(range(1, (self.servos or 3) + 1)) if self.ids is None else _numbers("ids", self.ids)

    @property
    def start_ticks(self) -> tuple[int, ...] | None:
        """The start as numbers. Raises ValueError for what are none."""
        return None if self.start is None else _numbers("start", self.start)


def _numbers(flag: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise ValueError(f"--{flag}: wanted whole numbers as 1,2,3, got '{text}'") from None


POLL_S = 0.1
DEFAULT_LAG_S = 0.05
LEAST_LAG_S = 0.005
WAITING_LINES = 1000  # of events; more at once are not printed


def run(command: Emulate) -> None:
    """Emulate servos until a fault takes the port away, or until Ctrl-C, which raises KeyboardInterrupt.

    Raises ValueError, before anything is created, for what cannot be emulated.
    """
    faults = [parse_fault(text) for text in command.fault]
    path = command.calibration
    arm = Arm(command.arm or DEFAULT_URDF)
    calibration = None if path is None else _calibration(path, arm, command)
    ids, starts = command.servo_ids, command.start_ticks or (TICKS_PER_TURN // 2,)
    if calibration is not None:
        ids = tuple(joint.servo_id for joint in calibration.joints)
        pose_deg = arm.default_pose_deg(calibration.limits)
        joints = zip(calibration.joints, pose_deg, strict=True)
        starts = command.start_ticks or tuple(joint.ticks(angle) for joint, angle in joints)
    lag_s, delay_s, noise_deg = drawn_dynamics(command)
    lines: queue.Queue[str] = queue.Queue(WAITING_LINES)

    def tell(line: str) -> None:
        """Leave it to the main thread, which may have to wait for whoever reads it."""
        with suppress(queue.Full):
            lines.put_nowait(line)

    emulator = Emulator(
        ids,
        faults=faults,
        seed=command.seed,
        start_ticks=starts[0] if len(starts) == 1 else starts,
        lag_s=lag_s,
        delay_s=delay_s,
        noise_deg=noise_deg,
        sag_deg_s=command.sag_deg_s,
        keeps_goal=command.keeps_goal,
        link=command.link,
        on_event=tell,
    )
    with Console() as console, stop_on_signals() as stop, emulator:
        if calibration is not None and path is not None and not Path(path).exists():
            calibration.save(path)
        for line in _greeting(command, ids, emulator.path).splitlines():
            console.out(line)
        while not stop():
            with suppress(queue.Empty):
                console.out(lines.get(timeout=POLL_S))
            if emulator.disconnected and lines.empty():
                return
    raise KeyboardInterrupt


def drawn_dynamics(command: Emulate) -> tuple[float, float, float]:
    """Lag (s), delay (s) and noise (degrees) of the servos, drawn by the seed if the command names imperfections."""
    if command.imperfections is None:
        return DEFAULT_LAG_S if command.lag_s is None else command.lag_s, 0.0, 0.0
    imperfections = open_imperfections(command.imperfections)
    generator = np.random.default_rng(command.seed)
    delay_s = generator.uniform(*imperfections.action_delay_s) + generator.uniform(*imperfections.observation_delay_s)
    lag_s = generator.uniform(*imperfections.servo_lag_s) or IDEAL_LAG_S
    return max(LEAST_LAG_S, lag_s), delay_s, generator.uniform(*imperfections.angle_noise_deg)


def _greeting(command: Emulate, ids: Sequence[int], path: str) -> str:
    port, calibration = printable(command.link or path), printable(command.calibration)
    servos = f"servos {', '.join(map(str, ids))} (XL430-W250) at {port}; Ctrl-C ends this"
    if command.calibration is None:
        return servos
    return f"""{servos}
In another terminal:
  arm-control run POLICY.onnx --driver dynamixel --port {port} --calibration {calibration} --random 3"""


def _calibration(path: str, arm: Arm, command: Emulate) -> Calibration:
    """The calibration in the file; if there is none, one of the arm on these servos."""
    if Path(path).exists():
        calibration = load_calibration(path)
        calibration.check_arm(arm)
        found = tuple(joint.servo_id for joint in calibration.joints)
        if command.ids is not None and command.servo_ids != found:
            raise ValueError(f"--ids: the calibration {path} is of servos {list(found)}, got {list(command.servo_ids)}")
        return calibration
    ids = command.servo_ids
    if len(ids) != len(arm.joint_names):
        raise ValueError(
            f"--calibration: the arm has {counted(len(arm.joint_names), 'joint')}, got {counted(len(ids), 'servo')}"
        )
    if not Path(path).parent.is_dir():
        raise ValueError(f"cannot write {path}: there is no folder {Path(path).parent}")
    fastest = REGISTERS["velocity_limit"].initial * SPEED_UNIT_DEG_S
    joints = []
    for id, name, (low, high, speed, acceleration) in zip(ids, arm.joint_names, arm.limits.by_joint, strict=True):
        # The middle of the joint's range is that of the servo's.
        zero = round(TICKS_PER_TURN / 2.0 - (low + high) / 2.0 * TICKS_PER_DEGREE)
        # A servo has one turn: the arm that is built of it may have less than the joint's description says.
        first, last = clip_to_servo(low, high, zero, 1)
        if (first, last) != (low, high):
            say(
                f"{name}: its range of {low:g} to {high:g} degrees is clipped to {first:.2f} to {last:.2f}, which is "
                "what a servo can measure"
            )
        speed = min(speed, fastest)
        joints.append(
            JointCalibration(name, id, MODEL_NUMBER, float(zero), 1, TICKS_PER_DEGREE, first, last, speed, acceleration)
        )
    calibration = Calibration(arm.name, tuple(joints))
    calibration.check()
    return calibration
