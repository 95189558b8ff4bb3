"""RunFolder: where one training keeps its configuration, checkpoints, metrics and results."""

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FORMAT_VERSION = 3
REPORTED = {"step", "updates", "elapsed_s"}  # what every line of metrics.jsonl has at least


class RunFolder:
    """The files of a run, by name.

    | file | what |
    |---|---|
    | `config.json` | the configuration it was started with |
    | `checkpoints/` | the latest checkpoints, see `arm_control.checkpoint` |
    | `metrics.jsonl` | one JSON object a report |
    | `tensorboard/` | the same as TensorBoard scalars |
    | `curve.png` | the learning curve |
    | `policy.onnx` | the exported policy |
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.curve = self.path / "curve.png"
        self.policy = self.path / "policy.onnx"

    @classmethod
    def create(cls, path: str | Path, config: dict[str, Any]) -> "RunFolder":
        """Start a run in a new or empty folder. Raises ValueError if there is something in it already."""
        run = cls(path)
        if run._has_nothing_to_lose():
            with run.locked():
                shutil.rmtree(run.path)
        if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
            raise ValueError(
                f"{run.path} exists already: name another folder (--out), or go on with 'resume {run.path}'"
            )
        run.path.mkdir(parents=True, exist_ok=True)
        write_text(run.config, json.dumps({"version": FORMAT_VERSION, **config}, indent=2) + "\n")
        return run

    @classmethod
    def open(cls, path: str | Path) -> tuple["RunFolder", dict[str, Any]]:
        """An existing run and its configuration. Raises ValueError if it is missing, incomplete or newer."""
        run = cls(path)
        if not run.path.is_dir():
            raise ValueError(f"no run folder {run.path}{_available(run.path.parent)}")
        try:
            config = json.loads(run.config.read_text())
        except FileNotFoundError:
            raise ValueError(
                f"{run.path} is no run folder: it has no config.json{_available(run.path.parent)}"
            ) from None
        except (OSError, ValueError) as error:
            raise ValueError(f"{run.config} is damaged ({error})") from None
        if not isinstance(config, dict) or config.get("version") != FORMAT_VERSION:
            version = config.get("version") if isinstance(config, dict) else None
            raise ValueError(
                f"{run.config} has format version {version}, this program reads {FORMAT_VERSION}: "
                "it was written by another arm-control"
            )
        return run, config

    def _has_nothing_to_lose(self) -> bool:
        """Whether this is a run, and no more than a run, that was killed before its first checkpoint."""
        if not self.config.is_file() or any(self.checkpoints.glob("step-*")):
            return False
        made_by_us = {path.name for path in (self.config, self.checkpoints, self.tensorboard)}  # in this order
        try:
            config = json.loads(self.config.read_text())
        except (OSError, ValueError):
            return False
        names = {path.name for path in self.path.iterdir()}
        return isinstance(config, dict) and {"version", "agent", "settings"} <= config.keys() and names <= made_by_us

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training into this folder. Raises ValueError if one does."""
        with self.config.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ValueError(f"{self.path} is being trained by another process") from None
            yield

    def read_metrics(self) -> list[dict[str, Any]]:
        """All complete lines of `metrics.jsonl`; one cut short by a crash is left out."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_text().split("\n")[:-1]
        try:
            rows = [json.loads(line) for line in lines]
        except ValueError as error:
            raise ValueError(f"{self.metrics} is damaged ({error})") from None
        if not all(isinstance(row, dict) and row.keys() >= REPORTED for row in rows):
            raise ValueError(f"{self.metrics} is damaged: wanted {', '.join(sorted(REPORTED))} on each line")
        return rows

    def cut_metrics(self, step: int) -> None:
        """Forget what was reported after `step`."""
        rows = [row for row in self.read_metrics() if row["step"] <= step]
        write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    with written_whole(path) as aside:
        aside.write_text(text)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path aside to write to: renamed to `path` at the end, or removed, with `path` untouched, after an error."""
    path = path.resolve()  # a link stays a link
    if path.exists() and not path.is_file():
        raise OSError(f"cannot write {path}: it is no regular file")
    aside = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield aside
        aside.replace(path)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        aside.unlink(missing_ok=True)


def _available(folder: Path) -> str:
    runs = sorted(config.parent.name for config in folder.glob("*/config.json"))[:8] if folder.is_dir() else []
    return f"; in {folder} there are {', '.join(runs)}" if runs else ""
