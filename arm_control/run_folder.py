"""RunFolder: where one training keeps its configuration, checkpoints, metrics and results."""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from arm_control.config import ARM_FILE
from envs.files import open_regular, read_text

FORMAT_VERSION = 5
NO_TARGET_SPEED = "its observation lacks the previous target's speed"
# Why older versions cannot be read.
OLDER_VERSIONS = {
    1: NO_TARGET_SPEED,
    2: NO_TARGET_SPEED,
    3: NO_TARGET_SPEED,
    4: "its checkpoints lack the averaged and the best validated policy",
}
REPORTED = {"step", "updates", "elapsed_s"}  # what every line of metrics.jsonl has at least
LARGEST_CONFIG = 2**20  # bytes
LARGEST_METRICS = 2**26


@dataclass(frozen=True)
class PolicyOrigin:
    """Which of a run's policies is used."""

    kind: Literal["best", "last"]
    step: int
    validation_error_mm: float | None
    """Mean error on the validation goals, if it is the best one."""

    def __str__(self) -> str:
        if self.validation_error_mm is None:
            return f"last policy (step {self.step:,})"
        return f"best validated policy (step {self.step:,}, {self.validation_error_mm:.2f} mm)"


class RunFolder:
    """The files of a run, by name.

    | file | what |
    |---|---|
    | `config.json` | the configuration it was started with |
    | `arm.urdf` | the arm, unless it is the default one; without its meshes |
    | `checkpoints/` | the latest checkpoints, see `arm_control.checkpoint` |
    | `metrics.jsonl` | one JSON object a report |
    | `tensorboard/` | the same as TensorBoard scalars |
    | `curve.png` | the learning curve |
    | `policy.onnx` | the exported policy |
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.arm = self.path / ARM_FILE
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.curve = self.path / "curve.png"
        self.policy = self.path / "policy.onnx"

    @classmethod
    def create(cls, path: str | Path, config: dict[str, Any], arm_urdf: bytes | None = None) -> "RunFolder":
        """Start a run in a new or empty folder; with `arm_urdf`, the arm's file, that folder keeps its arm.

        Raises ValueError if there is something in it already.
        """
        run = cls(path)
        if run._has_nothing_to_lose():
            with run.locked():
                shutil.rmtree(run.path)
        if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
            raise ValueError(
                f"{run.path} exists already: name another folder (--out), or go on with 'resume {run.path}'"
            )
        run.path.mkdir(parents=True, exist_ok=True)
        if arm_urdf is not None:
            config = config | {"arm": ARM_FILE}
        write_text(run.config, json.dumps({"version": FORMAT_VERSION, **config}, indent=2) + "\n")
        if arm_urdf is not None:
            with written_whole(run.arm) as aside:
                aside.write_bytes(arm_urdf)
        return run

    @classmethod
    def open(cls, path: str | Path) -> tuple["RunFolder", dict[str, Any]]:
        """An existing run and its configuration. Raises ValueError if it is missing, incomplete, older or newer."""
        run = cls(path)
        if not run.path.is_dir():
            raise ValueError(f"no run folder {run.path}{_available(run.path.parent)}")
        try:
            config = read_json(run.config, LARGEST_CONFIG)
        except FileNotFoundError:
            raise ValueError(
                f"{run.path} is no run folder: it has no config.json{_available(run.path.parent)}"
            ) from None
        except (OSError, ValueError) as error:
            raise ValueError(f"{run.config} is damaged ({getattr(error, 'strerror', None) or error})") from None
        if not isinstance(config, dict) or config.get("version") != FORMAT_VERSION:
            version = config.get("version") if isinstance(config, dict) else None
            cause = "it was written by another arm-control"
            if version in OLDER_VERSIONS:
                cause = f"{OLDER_VERSIONS[version]} (train again; its exported policy still runs)"
            raise ValueError(f"{run.config} has format version {version}, this program reads {FORMAT_VERSION}: {cause}")
        return run, config

    def _has_nothing_to_lose(self) -> bool:
        """Whether this is a run, and no more than a run, that was killed before its first checkpoint."""
        if not self.config.is_file() or any(self.checkpoints.glob("step-*")):
            return False
        made_by_us = {path.name for path in (self.config, self.arm, self.checkpoints, self.tensorboard)}
        try:
            config = read_json(self.config, LARGEST_CONFIG)
        except (OSError, ValueError):
            return False
        names = {path.name for path in self.path.iterdir()}
        return isinstance(config, dict) and {"version", "agent", "settings"} <= config.keys() and names <= made_by_us

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training into this folder: to be entered before anything in it is changed.

        Raises ValueError if one does, or if a file that is to be written is a symbolic link.
        """
        busy = f"{self.path} is being trained by another process"
        with open_regular(self.config) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The folder may have been removed or made anew between opening and locking.
                same = os.path.samestat(os.fstat(file.fileno()), self.config.stat())
            except OSError:
                raise ValueError(busy) from None
            if not same:
                raise ValueError(busy)
            for path in (self.config, self.arm, self.checkpoints, self.metrics, self.tensorboard, self.curve):
                check_no_link(path)
            for path in (self.config, self.arm, self.metrics, self.curve):
                remove_partial(path)
            yield

    def read_metrics(self) -> list[dict[str, Any]]:
        """All complete lines of `metrics.jsonl`; one cut short by a crash is left out."""
        try:
            lines = read_text(self.metrics, LARGEST_METRICS).split("\n")[:-1]
            rows = [parse_json(line) for line in lines]
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.metrics} is damaged ({getattr(error, 'strerror', None) or error})") from None
        if not all(isinstance(row, dict) and row.keys() >= REPORTED for row in rows):
            raise ValueError(f"{self.metrics} is damaged: wanted {', '.join(sorted(REPORTED))} on each line")
        numbers = (value for row in rows for name, value in row.items() if value is not None or name in REPORTED)
        if not all(isinstance(value, int | float) for value in numbers):
            raise ValueError(f"{self.metrics} is damaged: expected numbers as values")
        return rows

    def cut_metrics(self, step: int) -> None:
        """Forget what was reported after `step`."""
        rows = [row for row in self.read_metrics() if row["step"] <= step]
        write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))


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


def _available(folder: Path) -> str:
    runs = sorted(config.parent.name for config in folder.glob("*/config.json"))[:8] if folder.is_dir() else []
    return f"; in {folder} there are {', '.join(runs)}" if runs else ""
