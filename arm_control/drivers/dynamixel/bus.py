"""A bus of DYNAMIXEL servos on one serial port: registers by name, through the vendor's SDK, protocol 2.0.

Beyond the SDK, it discards late replies, which are not taken for replies to a later instruction, repeats instructions,
and reports a lost port. `port` opens, locks and reads the port.
"""

import os
import termios
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dynamixel_sdk as sdk

from arm_control.drivers.base import DriverError
from arm_control.drivers.dynamixel.control_table import BAUD_RATES, REGISTERS
from arm_control.drivers.dynamixel.port import USB_SERIAL, SerialPort, check_latency, lock_port

DEFAULT_BAUD = 1_000_000
PATIENCE_S = 0.005  # timeout of a reply, in addition to the time of its bytes
ATTEMPTS = 5  # of an instruction outside the control loop: with a fifth of the packets lost, one in 3,000 fails
LATE_S = 0.06  # no reply comes later than this
SCAN_S = 3.0  # timeout of a search for servos

ALERT = 0x80  # bit of the error byte of a reply: the hardware error status is not zero
# Error numbers of a reply: e-Manual, Protocol 2.0, "Error".
ERRORS = {
    1: "could not execute the instruction",
    2: "does not know the instruction",
    3: "received a damaged packet",
    4: "does not accept the value",
    5: "received too few bytes",
    6: "has limits that exclude the value",
    7: "does not allow that now",
}
_HEADER_BYTES = 9  # of a reply before its data
_REPLY_BYTES = 11  # of a reply without its data


class NoReplyError(DriverError):
    """A servo did not reply, or its reply was damaged."""


class RejectedError(DriverError):
    """A servo replied with an error."""


class Bus:
    """An open port with servos, locked against other programs that lock theirs.

    Once the port is gone every call raises DriverError immediately. Not thread-safe.
    """

    def __init__(
        self,
        path: str,
        baud: int = DEFAULT_BAUD,
        *,
        patience_s: float = PATIENCE_S,
        usb_serial: Path = USB_SERIAL,
    ) -> None:
        """Open the port. Raises DriverError, with the likely cause, for one that cannot be used."""
        if baud not in BAUD_RATES:
            raise DriverError(f"baud rate {baud}; expected one of {', '.join(map(str, BAUD_RATES))}")
        self.path = path
        self.baud = baud
        self._patience_s = patience_s
        self._usb_serial = usb_serial
        self._packets: Any = sdk.PacketHandler(2.0)
        self._lost: str | None = None
        self._open()

    def _open(self) -> None:
        self._lock = lock_port(self.path)
        self._port = SerialPort(self.path, self._patience_s)
        try:
            self._port.setBaudRate(self.baud)
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
        """True if the port no longer works: the adaptor was unplugged, or the port was closed."""
        return self._lost is not None

    def reopen(self) -> None:
        """Open the port again, after the adaptor was plugged in again. Raises DriverError as the constructor does."""
        self.close()
        self._open()

    def close(self) -> None:
        """Close the port; closing twice is fine."""
        self._port.closePort()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        self._lost = self._lost or f"port {self.path} is closed"

    def scan(self) -> dict[int, int]:
        """The model number of every servo that replies, by its id; takes about a second."""
        # Ping twice: replies to a broadcast can collide.
        found: dict[int, int] = {}
        for _ in range(2):
            with self._wire():
                replies, result = self._packets.broadcastPing(self._port)
            found |= {id: reply[0] for id, reply in replies.items()}
            if result == sdk.COMM_SUCCESS:
                break  # no damaged reply, so nothing is missing
        return dict(sorted(found.items()))

    def ping(self, id: int) -> int | None:
        """A servo's model number; None if it does not reply."""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(LATE_S)
            with self._wire():
                model, result, _ = self._packets.ping(self._port, id)
            if result == sdk.COMM_SUCCESS:
                return int(model)
        return None

    def read(self, id: int, names: Iterable[str], attempts: int = ATTEMPTS) -> dict[str, int]:
        """Read registers of a servo in one instruction.

        Raises NoReplyError if all attempts fail, and RejectedError if the servo replies with an error.
        """
        # One read from the first to the last of the registers.
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
                raise RejectedError(f"servo {id} {_reason(error)}: reading {', '.join(registers)}")
        raise NoReplyError(f"servo {id} on {self.path} does not reply: is it powered, and its cable in place?")

    def read_all(self, ids: Sequence[int], address: int, size: int) -> dict[int, tuple[bytes, int]]:
        """Sync read: the data and error byte of each servo that replies; no data from one that reports an error.

        Replies of another size are late ones to an earlier instruction, and dropped.
        """
        replies: dict[int, tuple[bytes, int]] = {}
        with self._wire():
            if self._packets.syncReadTx(self._port, address, size, list(ids), len(ids), False) != sdk.COMM_SUCCESS:
                return replies
            self._port.setPacketTimeout((_REPLY_BYTES + size) * len(ids))
            # Collect replies, in any order, until all have arrived or the time is over.
            while len(replies) < len(ids):
                packet, result = self._packets.rxPacket(self._port, False)
                if result != sdk.COMM_SUCCESS:
                    if self._port.is_overdue:
                        break
                    continue  # damaged; the next one may be valid
                # FF FF FD 00, id, length (2 bytes, with instruction, error and CRC: 4), instruction, error, data, CRC
                id = packet[4]
                error = packet[8]
                parameters = packet[5] + (packet[6] << 8) - 4
                if id in ids and parameters == size:
                    replies[id] = bytes(packet[_HEADER_BYTES : _HEADER_BYTES + size]), error
                elif id in ids and parameters == 0 and error & ~ALERT:
                    replies[id] = b"", error
        return replies

    def write(self, id: int, name: str, value: int, attempts: int = ATTEMPTS) -> None:
        """Write a register; the servo acknowledges.

        Raises NoReplyError if all attempts fail, and RejectedError if the servo replies with an error.
        """
        register = REGISTERS[name]
        data = list(value.to_bytes(register.size, "little", signed=register.signed))
        for attempt in range(attempts):
            if attempt:
                time.sleep(LATE_S)
            with self._wire():
                result, error = self._packets.writeTxRx(self._port, id, register.address, register.size, data)
            if result == sdk.COMM_SUCCESS:
                if error & ~ALERT:
                    raise RejectedError(f"servo {id} {_reason(error)}: {name.replace('_', ' ')} {value}")
                return
        raise NoReplyError(f"servo {id} on {self.path} does not reply: is it powered, and its cable in place?")

    def confirm(self, id: int, name: str, value: int) -> None:
        """Write a register and read it back. Raises DriverError if another value is read."""
        self.write(id, name, value)
        got = self.read(id, [name])[name]
        if got != value:
            raise DriverError(f"servo {id}: {name.replace('_', ' ')} was set to {value} and reads {got}")

    def enable_replies(self, ids: Sequence[int]) -> None:
        """Set servos to reply to every instruction: status return level 2 (e-Manual, register 68).

        At level 1 a servo does not reply to writes, at level 0 only to pings. The register is in RAM and
        can be written at any time. Raises NoReplyError for servos that do not reply reads after that.
        """
        level = REGISTERS["status_return_level"]
        everything = level.initial.to_bytes(level.size, "little")
        missing = list(ids)
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(LATE_S)
            # A sync write has no reply at any level.
            self.write_all("status_return_level", dict.fromkeys(missing, level.initial))
            replies = self.read_all(missing, level.address, level.size)
            missing = [id for id in missing if id not in replies or replies[id][0] != everything]
            if not missing:
                return
        servos = f"servo{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
        raise NoReplyError(
            f"{servos} on {self.path}: pings are acknowledged, reads are not: set the status return level (register "
            f"68) to {level.initial} with Dynamixel Wizard, or check the cable"
        )

    def write_all(self, name: str, by_id: Mapping[int, int]) -> None:
        """Sync write: a register of several servos in one packet, without acknowledgement. Raises DriverError."""
        register = REGISTERS[name]
        # For each servo its id and the bytes of its value.
        parameters: list[int] = []
        for id, value in by_id.items():
            parameters += (id, *value.to_bytes(register.size, "little", signed=register.signed))
        with self._wire():
            result = self._packets.syncWriteTxOnly(
                self._port, register.address, register.size, parameters, len(parameters)
            )
        if result != sdk.COMM_SUCCESS:
            raise DriverError(f"cannot send to port {self.path}: {self._packets.getTxRxResult(result)}")

    @contextmanager
    def _wire(self) -> Iterator[None]:
        """Use the port: raise DriverError for one that is gone, and unmark it after an interruption of the SDK."""
        if self._lost is not None:
            raise DriverError(self._lost)
        self._port.is_using = False
        self._port.set_deadline(SCAN_S)  # other instructions set their own
        try:
            yield
        except (OSError, termios.error) as error:
            reason = " ".join(str(error.args[-1]).split()) if error.args else "no reason given"
            self._lost = f"port {self.path} is gone: was the adaptor unplugged? ({reason})"
            raise DriverError(self._lost) from None
        except IndexError:  # the SDK on a packet that is shorter than any reply
            raise NoReplyError(f"port {self.path}: damaged reply") from None
        finally:
            self._port.is_using = False


def values(data: bytes, start: int, registers: Mapping[str, Any]) -> dict[str, int]:
    """The registers in what was read from the address `start` on."""
    return {
        name: int.from_bytes(
            data[register.address - start : register.address - start + register.size], "little", signed=register.signed
        )
        for name, register in registers.items()
    }


def _reason(error: int) -> str:
    return ERRORS.get(error & ~ALERT, f"replies with error {error & ~ALERT}")
