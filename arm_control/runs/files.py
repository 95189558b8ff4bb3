"""Files written whole or not at all, and JSON read from files of bounded size."""

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
    """Write a whole UTF-8 file or nothing."""
    with written_whole(path) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A new file aside to write to: renamed to `path` at the end, or removed, with `path` untouched, after an error.

    Its name cannot be guessed and it did not exist before: no link in the same folder leads the writing elsewhere.
    """
    _check_owner_of_link(path)
    path = path.resolve()  # a link stays a link
    if path.exists() and not path.is_file():
        raise OSError(f"cannot write {path}: it is no regular file")
    aside = _partial(path, secrets.token_hex(8))
    try:
        os.close(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))
        yield aside
        aside.replace(path)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def remove_partial(path: Path) -> None:
    """Remove what processes that were killed left of writing this file."""
    for aside in path.parent.glob(_partial(path, "*").name):
        aside.unlink(missing_ok=True)


def _partial(path: Path, token: str) -> Path:
    """The file aside; its name is short enough for any file system, and has the file's ending."""
    return path.with_name(f".{path.stem[:40]}.{token}.partial{path.suffix[-12:]}")


def check_no_link(path: Path) -> None:
    """Raise ValueError for a symbolic link in the place of a file whose name nobody chose.

    A run folder may come from elsewhere, and such a link would lead the program to other files.
    """
    if path.is_symlink():
        raise ValueError(f"{path} is a symbolic link to {path.readlink()}, which is not followed: remove it")


def _check_owner_of_link(path: Path) -> None:
    """Raise OSError for somebody else's link in a folder that everyone may write to, such as /tmp.

    The same rule as the kernel's protected_symlinks, which does not hold for renaming.
    """
    if not path.is_symlink():
        return
    folder = path.parent.stat()
    shared = stat.S_ISVTX | stat.S_IWOTH
    if folder.st_mode & shared == shared and path.lstat().st_uid not in (os.geteuid(), folder.st_uid):
        raise OSError(f"cannot write {path}: it is another user's symbolic link in a shared folder")
