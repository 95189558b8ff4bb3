"""Emulated Dynamixel servos behind a pseudo-terminal: genuine packets, movement, and faults on request.

ROBOTIS e-Manual, Protocol 2.0. Whatever talks to XL430 servos through a serial port can talk to these: the vendor's
SDK, other programs, this one. Left out: factory reset, indirect addresses, fast reads, and the baud rate, which a
pseudo-terminal does not have.
"""

import heapq
import os
import random
import selectors
import threading
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from arm_control.drivers.dynamixel.control_table import REGISTERS, RETURN_DELAY_UNIT_S, TICKS_PER_TURN
from arm_control.drivers.emulator.faults import ANSWER_FAULTS, ERROR_BITS, Fault
from arm_control.drivers.emulator.protocol import (
    ALERT,
    BROADCAST_ID,
    ErrorNumber,
    Instruction,
    Packet,
    PacketReader,
    make_status,
)
from arm_control.drivers.emulator.servo import BROKEN_SUPPLY_V, ROOM_TEMPERATURE_C, SUPPLY_V, Servo
from arm_control.process.printing import counted

LATE_S = 0.05
NOISE_TICKS = 5
TICK_S = 0.01  # time passes for the servos at least this often
QUIET_S = 0.1  # a packet that has not been completed after this time never will be
HISTORY, EVENT_LINES = 30_000, 1000  # how many are kept
CLEAR_TURNS = b"\x01\x44\x58\x4c\x22"
RESET_ALL = b"\xff"

_READS = (Instruction.READ, Instruction.SYNC_READ, Instruction.BULK_READ)
_SILENT_WRITES = (Instruction.SYNC_WRITE, Instruction.BULK_WRITE)


class Emulator:
    """Servos on a bus whose end is a pseudo-terminal, `path`; works while entered, in a thread of its own.

    Everything may be called from any thread. Servos obey `clock`, so that tests can let time pass; answers come in
    real time, after each servo's return delay.
    """

    def __init__(
        self,
        ids: Sequence[int] = (1, 2, 3),
        *,
        faults: Sequence[Fault] = (),
        seed: int = 0,
        start_ticks: int | Sequence[int] = 2048,
        lag_s: float = 0.05,
        delay_s: float = 0.0,
        noise_deg: float = 0.0,
        sag_deg_s: float = 0.0,
        keeps_goal: bool = False,
        link: str | Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        """Servos with these ids; `start_ticks` is one position for all or one each; for the rest see `Servo`.

        `noise_deg` is the standard deviation of the positions that they report. `seed` decides which answers go wrong,
        and the noise; `link` is a file that leads to `path` while the emulator works;
        `on_event` gets a line for each thing that happens, in the emulator's thread. Raises ValueError for ids,
        positions, times and faults that cannot be.
        """
        ids = tuple(ids)
        starts = (start_ticks,) * len(ids) if isinstance(start_ticks, int) else tuple(start_ticks)
        if not ids or len(set(ids)) != len(ids) or not all(0 <= id <= 252 for id in ids):
            raise ValueError(f"servo ids: wanted different ones from 0 to 252, got {list(ids)}")
        if len(starts) != len(ids) or not all(0 <= ticks <= 4095 for ticks in starts):
            raise ValueError(
                f"start ticks: wanted one from 0 to 4095 each for {counted(len(ids), 'servo')}, got {list(starts)}"
            )
        if not 0.005 <= lag_s <= 1.0:
            raise ValueError(f"lag: wanted 0.005 to 1 s, got {lag_s}")
        if not 0.0 <= delay_s <= 1.0:
            raise ValueError(f"delay: expected 0 to 1 s, got {delay_s}")
        if not 0.0 <= noise_deg <= 10.0:
            raise ValueError(f"noise: expected 0 to 10 degrees, got {noise_deg}")
        if not -360.0 <= sag_deg_s <= 360.0:
            raise ValueError(f"sag: wanted -360 to 360 degrees/s, got {sag_deg_s}")
        self.path = ""
        self.history: deque[tuple[float, int, int]] = deque(maxlen=HISTORY)
        """The latest goal positions that servos took: time by `clock` in s, id, ticks."""
        self.events: deque[str] = deque(maxlen=EVENT_LINES)
        """The latest lines of what happened."""
        self.disconnected = False
        self._clock, self._on_event = clock, on_event
        self._link = None if link is None else Path(link)
        self._random = random.Random(seed)
        self._noise_ticks = noise_deg / 360.0 * TICKS_PER_TURN
        self._lock = threading.RLock()
        self._started = clock()
        self._torque_at: float | None = None  # when it was first on
        self._faults: list[Fault] = []  # of answers
        self._waiting: list[Fault] = []  # for their time
        self._silent: set[int] = set()
        self._reader = PacketReader()
        self._answers: list[tuple[float, int, bytes]] = []  # a heap: when, which number, what
        self._sent = 0
        self._servos = [
            Servo(
                id,
                ticks,
                self._started,
                lag_s=lag_s,
                delay_s=delay_s,
                sag_deg_s=sag_deg_s,
                keeps_goal=keeps_goal,
                say=self._say,
                record=lambda now, id, ticks: self.history.append((now, id, ticks)),
            )
            for id, ticks in zip(ids, starts, strict=True)
        ]
        self._master = self._slave = -1
        self._thread: threading.Thread | None = None
        self._bell: tuple[int, int] | None = None  # a pipe that wakes the thread
        for fault in faults:
            self._add(fault)

    def __enter__(self) -> Self:
        """Open the port and start to answer."""
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.path = os.ttyname(self._slave)
        try:
            if self._link is not None:
                # Of an emulator that was killed: to a port that is gone, or that now is this one's. Others stay.
                ours = self._link.is_symlink() and str(self._link.readlink()).startswith("/dev/pts/")
                if ours and (not self._link.exists() or self._link.resolve() == Path(self.path).resolve()):
                    self._link.unlink()
                self._link.symlink_to(self.path)
        except OSError as error:
            self._close_port()
            raise ValueError(f"cannot link {self._link} to the port: {error.strerror}") from None
        self._bell = os.pipe()
        self._thread = threading.Thread(target=self._serve, name="emulator", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, close the port and remove the link."""
        if self._thread is None or self._bell is None:
            return
        os.write(self._bell[1], b"x")
        self._thread.join()
        self._thread = None
        for end in self._bell:
            os.close(end)
        self._bell = None
        self._close_port()

    def positions(self) -> dict[int, int]:
        """Each servo's present position in ticks, by its id."""
        with self._now():
            return {servo.id: servo.ticks for servo in self._servos}

    def register(self, name: str, id: int) -> int:
        """What a register of a servo holds, such as "torque_enable"; names as in `control_table.REGISTERS`."""
        register = REGISTERS[name]
        with self._now():
            _, data = self._find(id).read(register.address, register.size)
            return int.from_bytes(data, "little", signed=register.signed)

    def inject(self, kind: str, id: int | None = None, probability: float | None = None) -> None:
        """Let something go wrong from now on, with one servo or all; answers go wrong always, unless told otherwise.

        Raises ValueError for an unknown kind or servo.
        """
        if kind in ANSWER_FAULTS and probability is None:
            probability = 1.0
        fault = Fault(kind, probability, None, id)
        with self._now():
            self._add(fault)

    def heal(self, kind: str | None = None, id: int | None = None) -> None:
        """End a fault, or all: answers and readings are right again, joints free and fast, servos heard and healthy.

        Hardware errors stay until a reboot, as those of genuine servos do.
        """
        with self._now():
            for faults in (self._faults, self._waiting):
                faults[:] = [f for f in faults if kind not in (None, f.kind) or id not in (None, f.id)]
            for servo in self._servos:
                if id not in (None, servo.id):
                    continue
                if kind in (None, "silent"):
                    self._silent.discard(servo.id)
                if kind in (None, "stuck"):
                    servo.stuck = False
                if kind in (None, "slow"):
                    servo.slow = False
                if kind in (None, "frozen"):
                    servo.frozen_ticks = None
                if kind in (None, "drift"):
                    servo.drifts_since = None
                if kind in (None, "swapped") and servo.swapped_with is not None:
                    partner, servo.swapped_with = servo.swapped_with, None
                    partner.swapped_with = None
                if kind in (None, "wrap"):
                    servo.wrap_ticks = 0
                if kind in (None, "voltage"):
                    servo.supply_v = SUPPLY_V
                if kind in (None, "overheating"):
                    servo.temperature_c = min(servo.temperature_c, ROOM_TEMPERATURE_C)

    def answer(self, data: bytes) -> list[tuple[float, bytes]]:
        """What servos answer to the bytes on the bus: each after how many seconds, and what."""
        with self._now() as now:
            return [answer for packet in self._reader.feed(data) for answer in self._answer(packet, now)]

    # The port

    def _serve(self) -> None:
        assert self._bell is not None
        heard_at = time.monotonic()
        with selectors.SelectSelector() as selector:  # epoll waits whole milliseconds
            selector.register(self._bell[0], selectors.EVENT_READ)
            selector.register(self._master, selectors.EVENT_READ)
            while True:
                wait = TICK_S
                if self._answers:
                    wait = min(wait, max(0.0, self._answers[0][0] - time.monotonic()))
                ready = [key.fd for key, _ in selector.select(wait)]
                if self._bell[0] in ready:
                    return
                now = time.monotonic()
                if self._master in ready:
                    heard_at = now
                    self._schedule(self.answer(os.read(self._master, 4096)), now)
                elif self._reader.waiting and now - heard_at > QUIET_S:
                    with self._now() as instant:
                        hidden = self._reader.give_up()
                        self._schedule([a for packet in hidden for a in self._answer(packet, instant)], now)
                if not ready:
                    with self._now():
                        pass  # time passes
                self._send(now)
                if self.disconnected:
                    selector.unregister(self._master)
                    self._close_port()
                    selector.select()  # the bell is what remains
                    return

    def _schedule(self, answers: list[tuple[float, bytes]], now: float) -> None:
        for delay, data in answers:
            self._sent += 1
            heapq.heappush(self._answers, (now + delay, self._sent, data))

    def _send(self, now: float) -> None:
        due = b""
        while self._answers and self._answers[0][0] <= now:
            due += heapq.heappop(self._answers)[2]
        if due:
            with suppress(BlockingIOError):  # nobody reads: on a wire these bytes would be gone, too
                os.write(self._master, due)

    def _close_port(self) -> None:
        if self._link is not None and self._link.is_symlink() and str(self._link.readlink()) == self.path:
            self._link.unlink()
        for end in (self._master, self._slave):
            if end >= 0:
                os.close(end)
        self._master = self._slave = -1

    # The bus

    def _answer(self, packet: Packet, now: float) -> Iterator[tuple[float, bytes]]:
        awake = [servo for servo in self._servos if servo.id not in self._silent and servo.awake(now)]
        for servo in awake:
            servo.hear(now)
        delay = 0.0
        for servo, level, error, data in self._obey(packet, awake):
            delay += servo["return_delay"] * RETURN_DELAY_UNIT_S
            if servo["status_return_level"] >= level:
                yield from self._spoil(servo, make_status(servo.id, error | ALERT * servo.alert, data), delay)
            if packet.instruction == Instruction.REBOOT:
                servo.reboot()
        self._note_torque(now)

    def _obey(self, packet: Packet, awake: list[Servo]) -> Iterator[tuple[Servo, int, int, bytes]]:
        """Who answers, from which status return level on, with which error and data."""
        instruction, parameters = packet.instruction, packet.parameters
        if instruction == Instruction.STATUS:
            return
        if instruction in (Instruction.SYNC_READ, Instruction.BULK_READ):
            wanted = _split_read(instruction, parameters) if packet.id == BROADCAST_ID else []
            for id, address, size in wanted:
                for servo in awake:
                    if servo.id == id:
                        yield servo, 1, *self._read(servo, address, size)
            return
        if instruction in _SILENT_WRITES:
            writes = _split_write(instruction, parameters) if packet.id == BROADCAST_ID else []
            for id, address, data in writes:
                for servo in awake:
                    if servo.id == id:
                        servo.write(address, data)
            return
        broadcast = packet.id == BROADCAST_ID
        for servo in sorted(awake, key=lambda servo: servo.id) if broadcast else awake:
            if not broadcast and servo.id != packet.id:
                continue
            level, error, answer = self._obey_alone(servo, instruction, parameters)
            if not broadcast or instruction == Instruction.PING:
                yield servo, level, error, answer
            elif instruction == Instruction.REBOOT:
                servo.reboot()

    def _obey_alone(self, servo: Servo, instruction: int, parameters: bytes) -> tuple[int, int, bytes]:
        """From which status return level on the servo answers, with which error and data."""
        word, rest = int.from_bytes(parameters[:2], "little"), parameters[2:]
        if instruction == Instruction.PING:
            return 0, ErrorNumber.NONE, servo["model_number"].to_bytes(2, "little") + bytes([servo["firmware"]])
        if instruction == Instruction.READ:
            if len(parameters) != 4:
                return 1, ErrorNumber.DATA_LENGTH, b""
            return 1, *self._read(servo, word, int.from_bytes(rest, "little"))
        if instruction == Instruction.WRITE:
            return 2, servo.write(word, rest), b""
        if instruction == Instruction.REG_WRITE:
            return 2, servo.register_write(word, rest), b""
        if instruction == Instruction.ACTION:
            return 2, servo.action(), b""
        if instruction == Instruction.REBOOT:
            return 2, ErrorNumber.NONE, b""
        if instruction == Instruction.CLEAR:
            return 2, servo.clear_turns() if parameters == CLEAR_TURNS else ErrorNumber.DATA_RANGE, b""
        return 2, ErrorNumber.INSTRUCTION, b""

    def _read(self, servo: Servo, address: int, size: int) -> tuple[int, bytes]:
        noisy = self._happens("noise", servo)
        servo.noise_ticks = self._random.randint(-NOISE_TICKS, NOISE_TICKS) if noisy else 0
        if self._noise_ticks:
            servo.noise_ticks += round(self._random.gauss(0.0, self._noise_ticks))
        return servo.read(address, size)

    def _find(self, id: int) -> Servo:
        for servo in self._servos:
            if servo.id == id:
                return servo
        raise ValueError(f"fault of a servo: wanted one of {[servo.id for servo in self._servos]}, got {id}")

    # Faults

    def _happens(self, kind: str, servo: Servo) -> bool:
        return any(
            fault.kind == kind and fault.concerns(servo.id) and self._random.random() < (fault.probability or 0.0)
            for fault in self._faults
        )

    def _spoil(self, servo: Servo, status: bytes, delay: float) -> Iterator[tuple[float, bytes]]:
        if not self._faults:
            yield delay, status
            return
        if self._happens("lost", servo):
            return
        if self._happens("corrupt", servo):
            # Not in the header: then it would be lost rather than corrupt.
            index = self._random.randrange(7, len(status))
            status = status[:index] + bytes([status[index] ^ 1 << self._random.randrange(8)]) + status[index + 1 :]
        if self._happens("late", servo):
            delay += LATE_S
        yield delay, status
        if self._happens("duplicated", servo):
            yield delay, status

    def _add(self, fault: Fault) -> None:
        if fault.id is not None:
            self._find(fault.id)
        if fault.kind == "swapped" and len(self._servos) < 2:
            raise ValueError("fault swapped: wanted at least two servos on the bus, got one")
        if fault.at_s is not None:
            self._waiting.append(fault)
        elif fault.kind in ANSWER_FAULTS:
            self._faults.append(fault)
            self._say(f"fault {fault}")
        else:
            self._say(f"fault {fault}")
            if fault.kind == "disconnect":
                self.disconnected = True
            now = self._clock()
            for servo in self._servos:
                if fault.concerns(servo.id):
                    self._strike(fault.kind, servo, now)

    def _strike(self, kind: str, servo: Servo, now: float) -> None:
        if kind == "voltage":
            servo.supply_v = BROKEN_SUPPLY_V
        elif kind == "overheating":
            servo.temperature_c = servo["temperature_limit"] + 5.0
        elif kind == "stuck":
            servo.stuck = True
        elif kind == "slow":
            servo.slow = True
        elif kind == "frozen":
            servo.frozen_ticks = servo.ticks
        elif kind == "drift":
            servo.drifts_since = now
        elif kind == "swapped":
            following = self._servos[(self._servos.index(servo) + 1) % len(self._servos)]
            servo.swapped_with, following.swapped_with = following, servo
        elif kind == "wrap":
            servo.wrap_ticks += 4096
        elif kind == "silent":
            self._silent.add(servo.id)
        elif kind == "reboot":
            servo.reboot()
        if kind in ERROR_BITS:
            servo.fail(ERROR_BITS[kind])

    @contextmanager
    def _now(self) -> Iterator[float]:
        """Time has passed until now, for every servo and fault, and nothing else happens meanwhile."""
        with self._lock:
            now = self._clock()
            for servo in self._servos:
                servo.advance(now)
            self._note_torque(now)
            if self._waiting and self._torque_at is not None:
                passed = now - self._torque_at
                due = [fault for fault in self._waiting if (fault.at_s or 0.0) <= passed]
                self._waiting = [fault for fault in self._waiting if (fault.at_s or 0.0) > passed]
                for fault in due:
                    self._add(Fault(fault.kind, fault.probability, None, fault.id))
            yield now

    def _note_torque(self, now: float) -> None:
        if self._torque_at is None and any(servo.torque for servo in self._servos):
            self._torque_at = now

    def _say(self, text: str) -> None:
        line = f"{self._clock() - self._started:8.3f} s  {text}"
        self.events.append(line)
        if self._on_event is not None:
            self._on_event(line)


def _split_read(instruction: int, parameters: bytes) -> list[tuple[int, int, int]]:
    """The id, address and size of each part of a sync or bulk read."""
    if instruction == Instruction.SYNC_READ:
        address, size = int.from_bytes(parameters[:2], "little"), int.from_bytes(parameters[2:4], "little")
        return [(id, address, size) for id in parameters[4:]]
    parts = [parameters[start : start + 5] for start in range(0, len(parameters) - 4, 5)]
    return [(part[0], part[1] | part[2] << 8, part[3] | part[4] << 8) for part in parts]


def _split_write(instruction: int, parameters: bytes) -> list[tuple[int, int, bytes]]:
    """The id, address and data of each part of a sync or bulk write."""
    writes = []
    if instruction == Instruction.SYNC_WRITE:
        address, size = int.from_bytes(parameters[:2], "little"), int.from_bytes(parameters[2:4], "little")
        for start in range(4, len(parameters) - size, size + 1):
            writes.append((parameters[start], address, parameters[start + 1 : start + 1 + size]))
        return writes
    start = 0
    while start + 5 <= len(parameters):
        id, address = parameters[start], parameters[start + 1] | parameters[start + 2] << 8
        size = parameters[start + 3] | parameters[start + 4] << 8
        data = parameters[start + 5 : start + 5 + size]
        if len(data) == size:
            writes.append((id, address, data))
        start += 5 + size
    return writes
