"""One bus of Dynamixel servos behind a serial port: registers by name, through the vendor's SDK, protocol 2.0.

What the SDK leaves open is closed here: two programs on one port, an adaptor that holds answers back, answers that are
taken for those to a later question, a port that is gone, and waiting that keeps a core busy.
"""

import fcntl
import os
import stat
import termios
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dynamixel_sdk as sdk

from arm_control.drivers.base import DriverError
from arm_control.drivers.dynamixel.control_table import BAUD_RATES, REGISTERS

DEFAULT_BAUD = 1_000_000
PATIENCE_S = 0.005  # for an answer, beside the time that its bytes take
ATTEMPTS = 5  # to ask or tell a servo something outside the loop: of a line that loses a fifth, one in 3,000 fails
LATE_S = 0.06  # after which no answer to an earlier question comes any more
USB_SERIAL = Path("/sys/bus/usb-serial/devices")

ALERT = 0x80  # in an answer's error byte: the hardware error status is not zero
ERRORS = {
    1: "could not do it",
    2: "does not know the instruction",
    3: "got a damaged packet",
    4: "does not take the value",
    5: "got too few bytes",
    6: "has limits that exclude the value",
    7: "does not allow that now",
}
_HEADER_BYTES, _ANSWER_BYTES = 9, 11  # of an answer: before its data, and all but its data


class NoAnswerError(DriverError):
    """A servo did not answer, or not intelligibly."""


class RefusedError(DriverError):
    """A servo answered that it does not do what it was told."""


class Bus:
    """An open port, which no other program that asks has at the same time.

    Once the port is gone every call raises DriverError at once. Not to be used by several threads.
    """

    def __init__(
        self,
        path: str,
        baud: int = DEFAULT_BAUD,
        *,
        patience_s: float = PATIENCE_S,
        usb_serial: Path = USB_SERIAL,
    ) -> None:
        """Open the port. Raises DriverError, with what mends it, for one that cannot be used."""
        if baud not in BAUD_RATES:
            raise DriverError(f"baud rate: wanted one of {', '.join(map(str, BAUD_RATES))}, got {baud}")
        self.path, self.baud = path, baud
        self._patience_ms, self._usb_serial = 1000.0 * patience_s, usb_serial
        self._packets: Any = sdk.PacketHandler(2.0)
        self._lost: str | None = None
        self._open()

    def _open(self) -> None:
        self._give_up_s = 0.0
        self._lock = _lock_port(self.path)
        self._port: Any = sdk.PortHandler(self.path)
        # The wall clock may be set while waiting for an answer, and the SDK's own patience is that for a slow adaptor.
        self._port.getCurrentTime = lambda: 1000.0 * time.monotonic()
        self._port.setPacketTimeout = self._wait_for
        self._port.readPort = self._read_port
        try:
            self._port.setBaudRate(self.baud)
            self._port.ser.timeout = 0.001  # sleeps while there is nothing to read; the SDK would go round and round
            with suppress(OSError, ValueError, NotImplementedError):  # not every port knows of it
                self._port.ser.set_low_latency_mode(True)
            check_latency(self.path, self._usb_serial)
        except (OSError, ValueError, termios.error) as error:
            self.close()
            raise DriverError(f"cannot open port {self.path}: {error}") from None
        except DriverError:
            self.close()
            raise
        self._lost = None

    @property
    def is_gone(self) -> bool:
        """Whether nothing gets through any more: the adaptor was unplugged, or the port closed."""
        return self._lost is not None

    def reopen(self) -> None:
        """Open the port again, once the adaptor is plugged in again. Raises DriverError as when it was opened first."""
        self.close()
        self._open()

    def close(self) -> None:
        """Let go of the port; closing twice is fine."""
        if self._port.ser is not None:
            with suppress(OSError, termios.error):
                self._port.closePort()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        self._lost = self._lost or f"port {self.path} is closed"

    def scan(self) -> dict[int, int]:
        """The model number of every servo that answers, by its id; takes about a second."""
        found: dict[int, int] = {}
        for _ in range(2):
            with self._wire():
                answers, result = self._packets.broadcastPing(self._port)
            found |= {id: answer[0] for id, answer in answers.items()}
            if result == sdk.COMM_SUCCESS:
                break  # nothing but sound answers
        return dict(sorted(found.items()))

    def ping(self, id: int) -> int | None:
        """A servo's model number; None if it does not answer."""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(LATE_S)
            with self._wire():
                model, result, _ = self._packets.ping(self._port, id)
            if result == sdk.COMM_SUCCESS:
                return int(model)
        return None

    def read(self, id: int, names: Iterable[str], attempts: int = ATTEMPTS) -> dict[str, int]:
        """Registers of a servo, in one question. Raises NoAnswerError if all attempts fail, RefusedError."""
        registers = {name: REGISTERS[name] for name in names}
        start = min(register.address for register in registers.values())
        size = max(register.address + register.size for register in registers.values()) - start
        for attempt in range(attempts):
            if attempt:
                time.sleep(LATE_S)
            data, error = self.read_all([id], start, size).get(id, (b"", 0))
            if data:
                return values(data, start, registers)
            if error & ~ALERT:
                raise RefusedError(f"servo {id} {_reason(error)}: reading {', '.join(registers)}")
        raise NoAnswerError(f"servo {id} on {self.path} does not answer: is it powered, and its cable in place?")

    def read_all(self, ids: Sequence[int], address: int, size: int) -> dict[int, tuple[bytes, int]]:
        """The data and error byte of each servo that answers, to one sync read; no data from one that refuses.

        Answers of another size are those to an earlier question, and dropped.
        """
        answers: dict[int, tuple[bytes, int]] = {}
        with self._wire():
            if self._packets.syncReadTx(self._port, address, size, list(ids), len(ids), False) != sdk.COMM_SUCCESS:
                return answers
            self._wait_for((_ANSWER_BYTES + size) * len(ids))
            while len(answers) < len(ids):
                packet, result = self._packets.rxPacket(self._port, False)
                if result != sdk.COMM_SUCCESS:
                    if self._port.packet_timeout == 0 or time.monotonic() > self._give_up_s:
                        break
                    continue  # damaged; those behind it may be sound
                id, error, parameters = packet[4], packet[8], packet[5] + (packet[6] << 8) - 4
                if id in ids and parameters == size:
                    answers[id] = bytes(packet[_HEADER_BYTES : _HEADER_BYTES + size]), error
                elif id in ids and parameters == 0 and error & ~ALERT:
                    answers[id] = b"", error
        return answers

    def write(self, id: int, name: str, value: int, attempts: int = ATTEMPTS) -> None:
        """Write a register, which the servo confirms. Raises NoAnswerError if all attempts fail, RefusedError."""
        register = REGISTERS[name]
        data = list(value.to_bytes(register.size, "little", signed=register.signed))
        for attempt in range(attempts):
            if attempt:
                time.sleep(LATE_S)
            with self._wire():
                result, error = self._packets.writeTxRx(self._port, id, register.address, register.size, data)
            if result == sdk.COMM_SUCCESS:
                if error & ~ALERT:
                    raise RefusedError(f"servo {id} {_reason(error)}: {name.replace('_', ' ')} {value}")
                return
        raise NoAnswerError(f"servo {id} on {self.path} does not answer: is it powered, and its cable in place?")

    def confirm(self, id: int, name: str, value: int) -> None:
        """Write a register and read it back. Raises DriverError if it is not what was written."""
        self.write(id, name, value)
        if (got := self.read(id, [name])[name]) != value:
            raise DriverError(f"servo {id}: {name.replace('_', ' ')} was set to {value} and reads {got}")

    def enable_answers(self, ids: Sequence[int]) -> None:
        """Set servos to answer every instruction: status return level 2 (e-Manual, register 68).

        At level 1 a servo answers no writes, at level 0 pings only, as if it had no power. The register is in RAM and
        can be written at any time. Raises NoAnswerError for servos that do not answer reads after that.
        """
        level = REGISTERS["status_return_level"]
        everything = level.initial.to_bytes(level.size, "little")
        missing = list(ids)
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(LATE_S)
            # A sync write has no answer at any level.
            self.write_all("status_return_level", dict.fromkeys(missing, level.initial))
            answers = self.read_all(missing, level.address, level.size)
            missing = [id for id in missing if id not in answers or answers[id][0] != everything]
            if not missing:
                return
        servos = f"servo{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
        raise NoAnswerError(
            f"{servos} on {self.path}: pings are answered, reads are not: set the status return level (register 68) to "
            f"{level.initial} with Dynamixel Wizard, or check the cable"
        )

    def write_all(self, name: str, by_id: Mapping[int, int]) -> None:
        """Write a register of several servos in one packet, which no servo confirms. Raises DriverError."""
        register = REGISTERS[name]
        parameters: list[int] = []
        for id, value in by_id.items():
            parameters += (id, *value.to_bytes(register.size, "little", signed=register.signed))
        with self._wire():
            result = self._packets.syncWriteTxOnly(
                self._port, register.address, register.size, parameters, len(parameters)
            )
        if result != sdk.COMM_SUCCESS:
            raise DriverError(f"port {self.path} does not take what is sent: {self._packets.getTxRxResult(result)}")

    @contextmanager
    def _wire(self) -> Iterator[None]:
        """Around whatever the SDK does, which leaves the port marked as in use if it is interrupted."""
        if self._lost is not None:
            raise DriverError(self._lost)
        self._port.is_using = False
        self._give_up_s = time.monotonic() + 3.0  # a search; everything else sets its own
        try:
            yield
        except (OSError, termios.error) as error:
            reason = " ".join(str(error.args[-1]).split()) if error.args else "no reason given"
            self._lost = f"port {self.path} is gone: was the adaptor unplugged? ({reason})"
            raise DriverError(self._lost) from None
        except IndexError:  # the SDK on a packet that is shorter than any answer
            raise NoAnswerError(f"port {self.path}: an answer that is none") from None
        finally:
            self._port.is_using = False

    def _wait_for(self, size: int) -> None:
        """Let the SDK wait for so many bytes."""
        wait_ms = size * self._port.tx_time_per_byte + self._patience_ms
        self._port.setPacketTimeoutMillis(wait_ms)
        self._give_up_s = time.monotonic() + 0.002 * wait_ms

    def _read_port(self, size: int) -> bytes:
        """Some bytes, or none: after a while even if a line full of noise has more."""
        return self._port.ser.read(size) if time.monotonic() < self._give_up_s else b""


def values(data: bytes, start: int, registers: Mapping[str, Any]) -> dict[str, int]:
    """The registers in what was read from the address `start` on."""
    return {
        name: int.from_bytes(
            data[register.address - start : register.address - start + register.size], "little", signed=register.signed
        )
        for name, register in registers.items()
    }


def check_latency(path: str, usb_serial: Path = USB_SERIAL) -> None:
    """Raise DriverError, with the command that mends it, for an FTDI adaptor that holds answers back."""
    file = usb_serial / Path(path).resolve().name / "latency_timer"
    try:
        latency_ms = int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return  # no such adaptor
    if latency_ms > 1:
        raise DriverError(
            f"the adaptor at {path} holds answers back for {latency_ms} ms, wanted 1: echo 1 | sudo tee {file}"
        )


def serial_ports() -> list[str]:
    """The ports that may have an arm."""
    return sorted(str(port) for kind in ("ttyUSB*", "ttyACM*") for port in Path("/dev").glob(kind))


def _lock_port(path: str) -> int:
    """A descriptor that holds the port's lock. Raises DriverError for no port, or one that another program has."""
    there = f"ports here: {', '.join(serial_ports()) or 'none'}"
    try:
        # No terminal's hanging up, and no waiting for a carrier or for a pipe's other end.
        descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    except PermissionError:
        raise DriverError(
            f"no permission to use port {path}: sudo usermod -aG dialout $USER, then log out and in"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        cause = "is the adaptor plugged in, or the emulator running?"
        raise DriverError(f"cannot open port {path}: {reason}; {there}; {cause}") from None
    try:
        if not (stat.S_ISCHR(os.fstat(descriptor).st_mode) and os.isatty(descriptor)):
            raise DriverError(f"{path} is no serial port; {there}")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise DriverError(f"port {path} is used by another program: end that first") from None
    except DriverError:
        os.close(descriptor)
        raise
    return descriptor


def _reason(error: int) -> str:
    return ERRORS.get(error & ~ALERT, f"answers with error {error & ~ALERT}")
