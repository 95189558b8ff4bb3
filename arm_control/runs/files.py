"""Atomic writing of files, and JSON from files of bounded size."""

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from envs.files import read_text


def read_json(path: Path, most_bytes: int) -> Any:
    """Read a regular JSON file. Raises OSError as `envs.files.read_file`, and ValueError for what is no JSON."""
    return parse_json(read_text(path, most_bytes))


def parse_json(text: str) -> Any:
    """Parse JSON. Raises ValueError, also for one that is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically."""
    with written_whole(path) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary file to write to, which is renamed to `path` at the end, or removed after an error.

    Its name is unpredictable and it must not exist: no symbolic link in the same folder can redirect the writing.
    """
    path = _destination(path)
    aside = _partial(path, secrets.token_hex(8))
    try:
        _create(aside)
        yield aside
        aside.replace(path)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def check_can_write(path: Path) -> None:
    """Raise OSError if `written_whole` cannot write this file: create its temporary file, and remove it.

    Permissions alone do not tell: file systems, flags of folders and capabilities of the process also forbid writing.
    """
    aside = _partial(_destination(path), secrets.token_hex(8))
    try:
        _create(aside)
        aside.unlink()
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}") from error


def _destination(path: Path) -> Path:
    """The file itself, behind symbolic links. Raises OSError for what must not be replaced."""
    _check_owner_of_link(path)
    resolved = path.resolve()  # a link stays a link
    if resolved.exists() and not resolved.is_file():
        raise OSError(f"cannot write {resolved}: it is no regular file")
    return resolved


def _create(aside: Path) -> None:
    """Create an empty temporary file, which must not exist."""
    os.close(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))


def remove_partial(path: Path) -> None:
    """Remove temporary files of this file that killed processes have left."""
    for aside in path.parent.glob(_partial(path, "*").name):
        aside.unlink(missing_ok=True)


def _partial(path: Path, token: str) -> Path:
    """The temporary file, with the file's ending and a name short enough for any file system."""
    return path.with_name(f".{path.stem[:40]}.{token}.partial{path.suffix[-12:]}")


def check_no_link(path: Path) -> None:
    """Raise ValueError for a symbolic link in place of a file with a fixed name.

    A run folder may be untrusted, and such a link would make the program write to other files.
    """
    if path.is_symlink():
        raise ValueError(f"{path} is a symbolic link to {path.readlink()}, which is not followed: remove it")


def _check_owner_of_link(path: Path) -> None:
    """Raise OSError for another user's link in a world-writable folder such as /tmp.

    The rule of the kernel's protected_symlinks, which does not apply to renaming.
    """
    if not path.is_symlink():
        return
    folder = path.parent.stat()
    shared = stat.S_ISVTX | stat.S_IWOTH
    if folder.st_mode & shared == shared and path.lstat().st_uid not in (os.geteuid(), folder.st_uid):
        raise OSError(f"cannot write {path}: it is another user's symbolic link in a shared folder")
