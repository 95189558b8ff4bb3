"""RunFolder: the folder of a training with its configuration, checkpoints, metrics and results."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from arm_control.runs.config import ARM_FILE
from arm_control.runs.files import check_no_link, parse_json, read_json, remove_partial, write_text, written_whole
from envs.files import open_regular, read_text

FORMAT_VERSION = 6
READABLE_VERSIONS = (5, FORMAT_VERSION)  # 5: other names of settings, see `arm_control.runs.older_formats`
NO_TARGET_SPEED = "its observation lacks the previous target's speed"
# Why older versions cannot be read.
OLDER_VERSIONS = {
    1: NO_TARGET_SPEED,
    2: NO_TARGET_SPEED,
    3: NO_TARGET_SPEED,
    4: "its checkpoints lack the averaged and the best validated policy",
}
REPORTED = {"step", "updates", "elapsed_s"}  # required fields of a line of metrics.jsonl
LARGEST_CONFIG = 2**20  # bytes
LARGEST_METRICS = 2**26


@dataclass(frozen=True)
class PolicyOrigin:
    """The run's policy that is used: the best validated one or the last one."""

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
    | `config.json` | the configuration of the training |
    | `arm.urdf` | the arm, unless it is the default one; without its meshes |
    | `checkpoints/` | the latest checkpoints, see `arm_control.runs.checkpoint` |
    | `metrics.jsonl` | one JSON object per report |
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
        """Start a run in a new or empty folder; `arm_urdf`, the content of the arm's file, is stored in it.

        Raises ValueError for a folder that is not empty.
        """
        # Replace a run that was killed before its first checkpoint; leave everything else alone.
        run = cls(path)
        if run._has_nothing_to_lose():
            with run.locked():
                shutil.rmtree(run.path)
        if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
            raise ValueError(
                f"{run.path} exists already: choose another folder with --out, or continue it with 'resume {run.path}'"
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
        """Open a run and its configuration. Raises ValueError if it is missing, incomplete, older or newer."""
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
        if not isinstance(config, dict) or config.get("version") not in READABLE_VERSIONS:
            version = config.get("version") if isinstance(config, dict) else None
            cause = "it was written by another arm-control"
            if version in OLDER_VERSIONS:
                cause = f"{OLDER_VERSIONS[version]} (train again; its exported policy still runs)"
            readable = " and ".join(map(str, READABLE_VERSIONS))
            raise ValueError(f"{run.config} has format version {version}, this program reads {readable}: {cause}")
        return run, config

    def _has_nothing_to_lose(self) -> bool:
        """Return True if the folder holds only a run that was killed before its first checkpoint."""
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
        """Lock the folder against other trainings, before anything in it is changed.

        Raises ValueError if it is locked, or if a file to be written is a symbolic link.
        """
        busy = f"{self.path} is being trained by another process"
        with open_regular(self.config) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The folder may have been removed or replaced between opening and locking.
                same = os.path.samestat(os.fstat(file.fileno()), self.config.stat())
            except OSError:
                raise ValueError(busy) from None
            if not same:
                raise ValueError(busy)
            # Check that nothing else would be written to, and remove what an interrupted write has left.
            for path in (self.config, self.arm, self.checkpoints, self.metrics, self.tensorboard, self.curve):
                check_no_link(path)
            for path in (self.config, self.arm, self.metrics, self.curve):
                remove_partial(path)
            yield

    def read_metrics(self) -> list[dict[str, Any]]:
        """All complete lines of `metrics.jsonl`; a line truncated by a crash is skipped."""
        try:
            lines = read_text(self.metrics, LARGEST_METRICS).split("\n")[:-1]
            rows = [parse_json(line) for line in lines]
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.metrics} is damaged ({getattr(error, 'strerror', None) or error})") from None
        # Check each line: the required fields, and numbers as values, or null for other fields.
        for row in rows:
            if not isinstance(row, dict) or not row.keys() >= REPORTED:
                raise ValueError(f"{self.metrics} is damaged: expected {', '.join(sorted(REPORTED))} on each line")
        for row in rows:
            for name, value in row.items():
                is_missing = value is None and name not in REPORTED
                if not is_missing and not isinstance(value, int | float):
                    raise ValueError(f"{self.metrics} is damaged: expected numbers as values")
        return rows

    def cut_metrics(self, step: int) -> None:
        """Remove reports after `step`."""
        rows = [row for row in self.read_metrics() if row["step"] <= step]
        write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))


def _available(folder: Path) -> str:
    """A hint that lists the first runs in a folder; empty if there are none."""
    if not folder.is_dir():
        return ""
    runs = sorted(config.parent.name for config in folder.glob("*/config.json"))
    return f"; available in {folder}: {', '.join(runs[:8])}" if runs else ""
