"""Emulated DYNAMIXEL servos at a virtual serial port (pty): real packets, motion, and faults on request.

Any program that controls XL430 servos through a serial port can control these: the vendor's SDK, other programs, this
one (ROBOTIS e-Manual, Protocol 2.0). Not emulated: factory reset, indirect addresses, fast reads, and the baud rate,
which a pseudo-terminal does not have.
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

from arm_control.drivers.dynamixel.control_table import LARGEST_ID, REGISTERS, TICKS_PER_TURN
from arm_control.drivers.emulator.fault_injection import FaultInjector, find_servo
from arm_control.drivers.emulator.faults import REPLY_FAULTS, Fault
from arm_control.drivers.emulator.servo import Servo
from arm_control.drivers.emulator.servo_bus import Arrival, ServoBus
from arm_control.drivers.emulator.servo_dynamics import ServoDynamics
from arm_control.process.printing import counted

TICK_S = 0.01  # the servos are simulated at least this often
QUIET_S = 0.1  # an incomplete packet is dropped after this time without any bytes
READ_BYTES = 4096
HISTORY = 30_000  # goals kept
EVENT_LINES = 1000  # events kept


class Emulator:
    """Servos on a bus whose other end is a pseudo-terminal, `path`.

    Life cycle: the constructor makes the servos, `with` opens the port and starts the thread that serves it, and the
    end of the block stops the thread and closes the port. Without `with` there is no port, but `reply` works.

    Threads: the serving thread is the only one that uses the port and the heap of replies. Servos, bus and faults are
    shared, and used only while `_now` holds the lock, so every public method may be called from any thread.

    Time: servos move by `clock`, which a test may stop; replies are sent in real time, after each servo's return delay.
    """

    def __init__(
        self,
        ids: Sequence[int] = (1, 2, 3),
        *,
        start_ticks: int | Sequence[int] = TICKS_PER_TURN // 2,
        dynamics: ServoDynamics | None = None,
        faults: Sequence[Fault] = (),
        seed: int = 0,
        link: str | Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        """Make servos with these ids; `start_ticks` is one position for all or one each.

        `seed` determines which replies go wrong, and the noise. `link` is a symbolic link to `path` while the emulator
        runs. `on_event` receives a line for each event, in the serving thread. Raises ValueError for bad ids, positions
        and faults.
        """
        self.path = ""
        self.history: deque[tuple[float, int, int]] = deque(maxlen=HISTORY)
        """The latest goal positions that servos accepted: time by `clock` in s, id, ticks."""
        self.events: deque[str] = deque(maxlen=EVENT_LINES)
        """The latest events, a line each."""
        self._clock = clock
        self._on_event = on_event
        self._started = clock()
        self._torque_at: float | None = None  # when the torque was first on
        self._lock = threading.RLock()
        # The servos, and what is between them and the port.
        dynamics = dynamics or ServoDynamics()
        generator = random.Random(seed)
        self._servos = self._make_servos(ids, start_ticks, dynamics)
        self._faults = FaultInjector(self._servos, generator, self._say)
        self._bus = ServoBus(self._servos, self._faults, generator, dynamics.noise_ticks)
        for fault in faults:
            self._faults.add(fault, self._started)
        # The port and its thread, while there is one.
        self._link = None if link is None else Path(link)
        self._master = -1
        self._slave = -1
        self._thread: threading.Thread | None = None
        self._wakeup: tuple[int, int] | None = None  # a pipe; a byte in it ends the thread
        self._outgoing: list[tuple[float, int, bytes]] = []  # a heap: when due, number, packet
        self._number = 0

    def _make_servos(
        self, ids: Sequence[int], start_ticks: int | Sequence[int], dynamics: ServoDynamics
    ) -> list[Servo]:
        ids = tuple(ids)
        if not ids or len(set(ids)) != len(ids) or not all(0 <= id <= LARGEST_ID for id in ids):
            raise ValueError(f"servo ids: expected different ones from 0 to {LARGEST_ID}, got {list(ids)}")
        starts = (start_ticks,) * len(ids) if isinstance(start_ticks, int) else tuple(start_ticks)
        if len(starts) != len(ids) or not all(0 <= ticks < TICKS_PER_TURN for ticks in starts):
            raise ValueError(
                f"start ticks: expected one from 0 to {TICKS_PER_TURN - 1} each for {counted(len(ids), 'servo')}, "
                f"got {list(starts)}"
            )
        servos = []
        for id, ticks in zip(ids, starts, strict=True):
            servo = Servo(id, ticks, self._started, dynamics=dynamics, say=self._say, record=self._record)
            servos.append(servo)
        return servos

    def __enter__(self) -> Self:
        """Open the port and start the thread that serves it."""
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.path = os.ttyname(self._slave)
        try:
            self._make_link()
        except OSError as error:
            self._close_port()
            raise ValueError(f"cannot link {self._link} to the port: {error.strerror}") from None
        self._wakeup = os.pipe()
        self._thread = threading.Thread(target=self._serve, name="emulator", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the thread, close the port and remove the link."""
        if self._thread is None or self._wakeup is None:
            return
        os.write(self._wakeup[1], b"x")
        self._thread.join()
        self._thread = None
        for end in self._wakeup:
            os.close(end)
        self._wakeup = None
        self._close_port()

    @property
    def is_open(self) -> bool:
        """True if the port is open."""
        return self._master >= 0

    @property
    def disconnected(self) -> bool:
        """True if the fault `disconnect` closes, or has closed, the port."""
        return self._faults.disconnected

    def positions(self) -> dict[int, int]:
        """Each servo's present position in ticks, by its id."""
        with self._now():
            return {servo.id: servo.ticks for servo in self._servos}

    def register(self, name: str, id: int) -> int:
        """The value of a servo's register, such as "torque_enable"; names as in `control_table.REGISTERS`."""
        register = REGISTERS[name]
        with self._now():
            _, data = find_servo(self._servos, id).read(register.address, register.size)
            return int.from_bytes(data, "little", signed=register.signed)

    def set_register(self, name: str, id: int, value: int) -> None:
        """Set a register to what an earlier program may have left, also one that cannot be written."""
        with self._now():
            find_servo(self._servos, id)[name] = value

    def turn(self, id: int, ticks: float) -> None:
        """Turn a servo by hand. Raises ValueError if its torque is on."""
        with self._now():
            find_servo(self._servos, id).turn(ticks)

    def inject(self, kind: str, id: int | None = None, probability: float | None = None) -> None:
        """Begin a fault, with one servo or all; the default probability of a fault of replies is 1.

        Raises ValueError for an unknown kind or servo.
        """
        if kind in REPLY_FAULTS and probability is None:
            probability = 1.0
        fault = Fault(kind, probability, None, id)
        with self._now() as now:
            self._faults.add(fault, now)

    def heal(self, kind: str | None = None, id: int | None = None) -> None:
        """End the faults of a kind, or all, of one servo, or all.

        Hardware errors stay until a reboot, as those of real servos do.
        """
        with self._now():
            self._faults.end(kind, id)

    def reply(self, data: bytes) -> list[Arrival]:
        """The replies to bytes on the bus: for each its delay in s, and the packet."""
        with self._now() as now:
            arrivals = self._bus.receive(data, now)
            self._note_torque(now)
            return arrivals

    # The port

    def _serve(self) -> None:
        """Serve the port until `__exit__` or the fault `disconnect`: the body of the thread."""
        assert self._wakeup is not None
        wakeup = self._wakeup[0]
        received_at = time.monotonic()
        with selectors.SelectSelector() as selector:  # epoll waits whole milliseconds
            selector.register(wakeup, selectors.EVENT_READ)
            selector.register(self._master, selectors.EVENT_READ)
            while not self.disconnected:
                ready = [key.fd for key, _ in selector.select(self._until_due())]
                if wakeup in ready:
                    return
                now = time.monotonic()
                if self._master in ready:
                    received_at = now
                    self._schedule(self.reply(os.read(self._master, READ_BYTES)), now)
                elif self._bus.has_incomplete_packet and now - received_at > QUIET_S:
                    self._schedule(self._discard_incomplete(), now)
                if not ready:
                    with self._now():
                        pass  # only simulate
                self._send(now)
            # Disconnected: only the wakeup remains.
            selector.unregister(self._master)
            self._close_port()
            selector.select()

    def _until_due(self) -> float:
        """Time in s until a reply is due, at most TICK_S."""
        if not self._outgoing:
            return TICK_S
        due_in_s = self._outgoing[0][0] - time.monotonic()
        return min(TICK_S, max(0.0, due_in_s))

    def _discard_incomplete(self) -> list[Arrival]:
        with self._now() as now:
            arrivals = self._bus.discard_incomplete(now)
            self._note_torque(now)
            return arrivals

    def _schedule(self, arrivals: list[Arrival], now: float) -> None:
        """Keep replies until they are due; those due at the same time stay in their order."""
        for delay_s, packet in arrivals:
            self._number += 1
            heapq.heappush(self._outgoing, (now + delay_s, self._number, packet))

    def _send(self, now: float) -> None:
        """Send the replies that are due."""
        due = b""
        while self._outgoing and self._outgoing[0][0] <= now:
            due += heapq.heappop(self._outgoing)[2]
        if due:
            with suppress(BlockingIOError):  # nobody reads: on a wire these bytes would be lost, too
                os.write(self._master, due)

    def _make_link(self) -> None:
        """Link to the port; replace only the link of a killed emulator, which leads nowhere or to this port."""
        if self._link is None:
            return
        to_a_port = self._link.is_symlink() and str(self._link.readlink()).startswith("/dev/pts/")
        if to_a_port and (not self._link.exists() or self._link.resolve() == Path(self.path).resolve()):
            self._link.unlink()
        self._link.symlink_to(self.path)

    def _close_port(self) -> None:
        if self._link is not None and self._link.is_symlink() and str(self._link.readlink()) == self.path:
            self._link.unlink()
        for end in (self._master, self._slave):
            if end >= 0:
                os.close(end)
        self._master = -1
        self._slave = -1

    # Time

    @contextmanager
    def _now(self) -> Iterator[float]:
        """Hold the lock, with servos simulated and faults begun until now, which is yielded."""
        with self._lock:
            now = self._clock()
            for servo in self._servos:
                servo.advance(now)
            self._note_torque(now)
            if self._torque_at is not None:
                self._faults.begin_due(now - self._torque_at, now)
            yield now

    def _note_torque(self, now: float) -> None:
        if self._torque_at is None and any(servo.torque for servo in self._servos):
            self._torque_at = now

    def _record(self, now: float, id: int, ticks: int) -> None:
        self.history.append((now, id, ticks))

    def _say(self, text: str) -> None:
        line = f"{self._clock() - self._started:8.3f} s  {text}"
        self.events.append(line)
        if self._on_event is not None:
            self._on_event(line)
