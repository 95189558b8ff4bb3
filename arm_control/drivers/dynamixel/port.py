"""A serial port with DYNAMIXEL servos: the vendor's port handler, with other waiting, a lock and an adaptor check."""

import fcntl
import os
import stat
import termios
import time
from contextlib import suppress
from pathlib import Path

import dynamixel_sdk as sdk

from arm_control.drivers.base import DriverError

USB_SERIAL = Path("/sys/bus/usb-serial/devices")
READ_SLEEP_S = 0.001


class SerialPort(sdk.PortHandler):
    """The SDK's port handler, but for how it waits.

    | overridden | the SDK | here |
    |---|---|---|
    | `setupPort` | a read returns at once, so waiting keeps a core busy | a read sleeps up to 1 ms |
    | `getCurrentTime` | wall clock, which may be set while waiting | monotonic clock |
    | `setPacketTimeout` | 34 ms beside the bytes, for a slow adaptor | `patience_s` beside the bytes |
    | `readPort` | reads whatever is there, for ever on a noisy line | reads nothing after the deadline |
    """

    def __init__(self, path: str, patience_s: float) -> None:
        super().__init__(path)
        self._patience_ms = 1000.0 * patience_s
        self._deadline_s = 0.0

    def setupPort(self, cflag_baud: int) -> bool:
        """Open the port at a baud rate; in low-latency mode if it has one."""
        opened = bool(super().setupPort(cflag_baud))
        self.ser.timeout = READ_SLEEP_S
        with suppress(OSError, ValueError, NotImplementedError):
            self.ser.set_low_latency_mode(True)
        return opened

    def closePort(self) -> None:
        """Close the port; closing twice, or one that was never open, is fine."""
        if self.ser is not None:
            with suppress(OSError, termios.error):
                super().closePort()

    def getCurrentTime(self) -> float:
        """The monotonic clock in ms."""
        return 1000.0 * time.monotonic()

    def setPacketTimeout(self, packet_length: int) -> None:
        """Wait for a reply of so many bytes; no read returns any bytes after twice that time."""
        wait_ms = packet_length * self.tx_time_per_byte + self._patience_ms
        self.setPacketTimeoutMillis(wait_ms)
        self.set_deadline(0.002 * wait_ms)

    def set_deadline(self, wait_s: float) -> None:
        """Let reads return nothing from then on, even if a line full of noise has more."""
        self._deadline_s = time.monotonic() + wait_s

    @property
    def is_overdue(self) -> bool:
        """True if the packet timeout (which the SDK then sets to 0) or the deadline has passed."""
        return self.packet_timeout == 0 or time.monotonic() > self._deadline_s

    def readPort(self, length: int) -> bytes:
        """Read up to so many bytes; none after the deadline."""
        if time.monotonic() >= self._deadline_s:
            return b""
        data: bytes = self.ser.read(length)
        return data


def lock_port(path: str) -> int:
    """Lock a port for this program; returns the descriptor that holds the lock.

    Raises DriverError if there is no such port, it is not a serial one, or another program has locked it.
    """
    ports_here = f"ports here: {', '.join(serial_ports()) or 'none'}"
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
        raise DriverError(f"cannot open port {path}: {reason}; {ports_here}; {cause}") from None
    try:
        if not (stat.S_ISCHR(os.fstat(descriptor).st_mode) and os.isatty(descriptor)):
            raise DriverError(f"{path} is not a serial port; {ports_here}")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise DriverError(f"port {path} is used by another program: stop that one first") from None
    except DriverError:
        os.close(descriptor)
        raise
    return descriptor


def check_latency(path: str, usb_serial: Path = USB_SERIAL) -> None:
    """Raise DriverError, with the command that fixes it, for an FTDI adaptor that delays replies."""
    file = usb_serial / Path(path).resolve().name / "latency_timer"
    try:
        latency_ms = int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return  # not such an adaptor
    if latency_ms > 1:
        raise DriverError(
            f"the adaptor at {path} delays replies by {latency_ms} ms; expected 1: echo 1 | sudo tee {file}"
        )


def serial_ports() -> list[str]:
    """The serial ports at which an arm may be connected."""
    devices = Path("/dev")
    ports = [*devices.glob("ttyUSB*"), *devices.glob("ttyACM*")]
    return sorted(map(str, ports))


def only_port() -> str:
    """The serial port of this machine. Raises ValueError if there is none, or more than one."""
    ports = serial_ports()
    if len(ports) != 1:
        raise ValueError(f"expected --port; serial ports here: {', '.join(ports) or 'none'}")
    return ports[0]
