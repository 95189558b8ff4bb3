"""Reading untrusted files: regular files of bounded size only.

Opening a pipe blocks until its other end is opened, and a device such as /dev/zero never ends. All files named by
flags, configurations or run folders are read with these functions.
"""

import codecs
import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

CHUNK_BYTES = 2**20


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading, without blocking.

    Raises OSError, whose `strerror` is one line, for a file that is missing, a folder, a pipe or a device.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    try:
        # Check before opening: opening a serial port resets some boards.
        _check_regular(Path(path).stat(), path)
        descriptor = os.open(path, flags)
    except ValueError:
        raise OSError(errno.EINVAL, "its name contains a null byte", str(path)) from None
    try:
        # The file may have been replaced in between.
        _check_regular(os.fstat(descriptor), path)
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_file(path: str | Path, most_bytes: int) -> bytes:
    """Read a regular file of at most `most_bytes`.

    Raises OSError, whose `strerror` is one line, for a larger file, and as `open_regular`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise _too_large(path, size, most_bytes)
        # Read its present size at once; then up to the end or the bound, since a file may grow and those in /proc
        # report no size.
        parts = [file.read(size + 1)]
        left = most_bytes + 1 - len(parts[0])
        while parts[-1] and left > 0:
            parts.append(file.read(min(left, CHUNK_BYTES)))
            left -= len(parts[-1])
    if left > 0:
        return b"".join(part for part in parts if part)
    raise _too_large(path, most_bytes + 1, most_bytes)


def read_text(path: str | Path, most_bytes: int) -> str:
    """Read a regular UTF-8 file of at most `most_bytes`, without its byte order mark, whatever the locale.

    Raises OSError as `read_file`, and UnicodeDecodeError, with the expected encoding, for text in another one.
    """
    data = read_file(path, most_bytes)
    expected = "expected UTF-8 text (save it again as UTF-8)"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UnicodeDecodeError("utf-8", data, 0, 2, f"it is UTF-16 text; {expected}")
    null = data.find(b"\0")
    if null >= 0:
        reason = f"a null byte, as UTF-16 and binary files have; {expected}"
        raise UnicodeDecodeError("utf-8", data, null, null + 1, reason)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        error.reason = f"{error.reason}; {expected}"
        raise


def _check_regular(status: os.stat_result, path: str | Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def _too_large(path: str | Path, size: int, most_bytes: int) -> OSError:
    return OSError(errno.EFBIG, f"it is too large: {size:,} bytes; expected at most {most_bytes:,}", str(path))
