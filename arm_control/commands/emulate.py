"""`arm-control emulate dynamixel`: servos without hardware, for any program that controls servos."""

import dataclasses
import queue
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import tyro

from arm_control.drivers.dynamixel.calibration import Calibration
from arm_control.drivers.dynamixel.control_table import LARGEST_ID, TICKS_PER_TURN
from arm_control.drivers.emulator.emulated_arm import draw_dynamics, load_or_make_calibration, start_ticks
from arm_control.drivers.emulator.emulator import Emulator
from arm_control.drivers.emulator.faults import parse_fault
from arm_control.drivers.emulator.servo_dynamics import ServoDynamics
from arm_control.process.console import Console
from arm_control.process.printing import printable
from arm_control.process.signals import stop_on_signals
from arm_control.runs.checks import check_count, check_seed
from arm_control.runs.imperfections_flag import OptionalImperfectionsFlag
from envs.arm import DEFAULT_URDF, Arm
from envs.imperfections import open_imperfections

DEFAULT_SERVOS = 3
POLL_S = 0.1
WAITING_LINES = 1000  # events that wait to be printed; more are dropped


@dataclass(frozen=True)
class Emulate:
    """Emulate servos at a virtual serial port (pty): real packets, motion and faults, to test an arm without hardware.

    A fault is KIND[=PROBABILITY][@SECONDS][:ID]. Kinds that affect each reply with a probability, such as lost=0.01:
    lost, corrupt, late, duplicated, noise. Kinds that begin once, a number of seconds after the torque is first on,
    such as overload@5:2 for servo 2: overload, voltage, overheating, encoder, shock, reboot, stuck, slow (half speed),
    frozen (constant reading), drift (2 degrees/s), swapped (with the next servo), wrap, silent, disconnect.
    """

    kind: tyro.conf.Positional[Literal["dynamixel"]]
    """Protocol of the servos: dynamixel emulates XL430-W250."""
    servos: int | None = None
    """Number of servos, with ids from 1 (default: 3)."""
    ids: str | None = None
    """Ids of the servos, such as 1,2,3, instead of --servos."""
    link: str | None = None
    """Symbolic link to make to the port, such as runs/arm; removed at the end."""
    calibration: str | None = None
    """Calibration file of the emulated arm, written if it does not exist; the arm starts with every joint at 0, or in
    the nearest pose found above the table."""
    arm: str | None = None
    """URDF file of the arm of the calibration (default: the default arm)."""
    fault: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Fault, as described above; may be given several times."""
    start: str | None = None
    """Start positions in ticks, such as 2048,2048,2048, or one number for all servos."""
    lag_s: float | None = None
    """Lag of a joint behind a goal that moves at constant speed, in seconds (default: 0.05)."""
    imperfections: OptionalImperfectionsFlag = None
    """Delay, lag and noise of the servos, drawn from a preset or a file written by 'identify --json'. Backlash, load
    and other imperfections are not emulated."""
    sag_deg_s: float = 0.0
    """Speed at which a joint sinks without torque, in degrees/s; negative: towards lower ticks."""
    keeps_goal: bool = False
    """When the torque is switched on, move to the goal that was written before instead of holding the position."""
    seed: int = 0
    """Seed of the faults of replies and of the imperfections."""

    def __post_init__(self) -> None:
        if self.lag_s is not None and self.imperfections is not None:
            raise ValueError("expected one of --lag-s and --imperfections, got both")
        if self.servos is not None and self.ids is not None:
            raise ValueError("expected one of --servos and --ids, got both")
        if self.servos is not None:
            check_count("servos", self.servos, LARGEST_ID)
        if self.ids is not None:
            _parse_whole_numbers("ids", self.ids)
        if self.start is not None:
            _parse_whole_numbers("start", self.start)
        check_seed("seed", self.seed)

    @property
    def servo_ids(self) -> tuple[int, ...]:
        """The ids of the servos, if there is no calibration."""
        if self.ids is not None:
            return _parse_whole_numbers("ids", self.ids)
        return tuple(range(1, (self.servos or DEFAULT_SERVOS) + 1))

    @property
    def dynamics(self) -> ServoDynamics:
        """Dynamics of the servos. Raises ValueError for values out of range, and for unknown imperfections."""
        dynamics = ServoDynamics()
        if self.imperfections is not None:
            dynamics = draw_dynamics(open_imperfections(self.imperfections), self.seed)
        if self.lag_s is not None:
            dynamics = dataclasses.replace(dynamics, lag_s=self.lag_s)
        return dataclasses.replace(dynamics, sag_deg_s=self.sag_deg_s, keeps_goal=self.keeps_goal)


def _parse_whole_numbers(flag: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise ValueError(f"--{flag}: expected whole numbers such as 1,2,3, got '{text}'") from None


class _Servos(NamedTuple):
    """Ids and start positions of the emulated servos and, for an arm, their calibration."""

    ids: tuple[int, ...]
    start_ticks: tuple[int, ...]
    calibration: Calibration | None


def _emulated_servos(command: Emulate) -> _Servos:
    """The servos that the flags describe. Raises ValueError for bad flags."""
    # Without a calibration: the ids of the flags, in the middle of a turn.
    ids = command.servo_ids
    starts: tuple[int, ...] = (TICKS_PER_TURN // 2,)
    calibration = None
    if command.calibration is not None:
        arm = Arm(command.arm or DEFAULT_URDF)
        calibration = load_or_make_calibration(command.calibration, arm, ids, check_ids=command.ids is not None)
        ids = tuple(joint.servo_id for joint in calibration.joints)
        starts = start_ticks(arm, calibration)
    if command.start is not None:
        starts = _parse_whole_numbers("start", command.start)
    return _Servos(ids, starts, calibration)


def run(command: Emulate) -> None:
    """Emulate servos until a fault disconnects the port, or until Ctrl-C, which raises KeyboardInterrupt.

    Raises ValueError for bad flags, before anything is created.
    """
    # Check the flags, and make the servos.
    faults = [parse_fault(text) for text in command.fault]
    servos = _emulated_servos(command)
    lines: queue.Queue[str] = queue.Queue(WAITING_LINES)

    def queue_line(line: str) -> None:
        """Leave an event to the main thread: printing may block."""
        with suppress(queue.Full):
            lines.put_nowait(line)

    starts = servos.start_ticks
    emulator = Emulator(
        servos.ids,
        start_ticks=starts[0] if len(starts) == 1 else starts,
        dynamics=command.dynamics,
        faults=faults,
        seed=command.seed,
        link=command.link,
        on_event=queue_line,
    )
    # Serve until the end, and print events meanwhile.
    with Console() as console, stop_on_signals() as stop, emulator:
        path = command.calibration
        if servos.calibration is not None and path is not None and not Path(path).exists():
            servos.calibration.save(path)
        for line in _greeting(command, servos.ids, emulator.path):
            console.out(line)
        while not stop():
            with suppress(queue.Empty):
                console.out(lines.get(timeout=POLL_S))
            if emulator.disconnected and lines.empty():
                return
    raise KeyboardInterrupt


def _greeting(command: Emulate, ids: Sequence[int], path: str) -> list[str]:
    """The servos and their port; for an arm also the command that drives it."""
    port = printable(command.link or path)
    lines = [f"servos {', '.join(map(str, ids))} (XL430-W250) at {port}; press Ctrl-C to stop"]
    if command.calibration is not None:
        options = f"--port {port} --calibration {printable(command.calibration)}"
        lines.append("In another terminal:")
        lines.append(f"  arm-control run POLICY.onnx --driver dynamixel {options} --random 3")
    return lines
