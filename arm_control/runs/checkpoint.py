"""Checkpoints: the complete state of a training, as JSON and safetensors; never pickle.

A checkpoint is a folder `step-NNNNNNNNNN` with `manifest.json` (format, plain values, and size and hash of the other
file) and `tensors.safetensors`. It is written to a temporary folder and renamed when complete, so that a process killed
at any time leaves the previous checkpoint usable.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from arm_control.runs.files import read_json
from arm_control.runs.older_formats import present_state

FORMAT_VERSION = 1
KEPT = 2  # number of checkpoints that are kept
TENSORS = "tensors.safetensors"
MANIFEST = "manifest.json"
LARGEST_MANIFEST = 2**28  # bytes


class StoredFile(msgspec.Struct):
    """Size and hash of a file of a checkpoint, in its manifest."""

    bytes: int
    sha256: str


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write `state` (nested dicts of tensors, arrays and JSON values) as the checkpoint of `step`; delete old ones."""
    target = folder / f"step-{step:010d}"
    # A folder of this name is always complete, and the same step has the same state.
    if target.is_dir():
        return target
    aside = folder / ".writing"
    tensors: dict[str, torch.Tensor] = {}
    values = _split(state, "", tensors)
    shutil.rmtree(aside, ignore_errors=True)  # left by a killed process
    try:
        aside.mkdir(parents=True)
        save_file(tensors, aside / TENSORS)
        manifest = {
            "format": "arm-control checkpoint",
            "version": FORMAT_VERSION,
            "step": step,
            "files": {TENSORS: {"bytes": (aside / TENSORS).stat().st_size, "sha256": _sha256(aside / TENSORS)}},
            "state": values,
        }
        text = json.dumps(manifest | {"sha256": _json_sha256(manifest)})
        (aside / MANIFEST).write_text(text, encoding="utf-8")
        # Sync the files before the rename and the folder after it: even after a power failure, the name implies the
        # content.
        for name in (TENSORS, MANIFEST):
            _sync(aside / name)
        aside.replace(target)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        raise OSError(f"cannot write a checkpoint into {folder}: {error}; earlier checkpoints are untouched") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    for old in list_checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def load_latest(folder: Path) -> tuple[int, dict[str, Any]]:
    """Step and state of the latest checkpoint. Raises ValueError if there is none or it is damaged."""
    checkpoints = list_checkpoints(folder)
    if not checkpoints:
        raise ValueError(f"no checkpoint in {folder}: the run was stopped before its first one, train it again")
    try:
        return load_checkpoint(checkpoints[-1])
    except ValueError as error:
        hint = f"; delete that folder to go on from {checkpoints[-2].name}" if len(checkpoints) > 1 else ""
        raise ValueError(f"{error}{hint}") from None


def load_checkpoint(path: Path) -> tuple[int, dict[str, Any]]:
    """Step and state of one checkpoint. Raises ValueError, naming the file, for a damaged or newer one."""
    # The manifest: its form, its version and its own hash.
    manifest_path = path / MANIFEST
    try:
        manifest = read_json(manifest_path, LARGEST_MANIFEST)
        version = manifest["version"]
        step = manifest["step"]
        files = manifest["files"]
        values = manifest["state"]
        own_hash = manifest.pop("sha256", None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"checkpoint {manifest_path} is damaged ({type(error).__name__}: {error})") from None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"checkpoint {path} has format version {version}, this program reads {FORMAT_VERSION}: "
            "it was written by a newer arm-control, update this one"
        )
    if own_hash != _json_sha256(manifest):
        raise ValueError(f"checkpoint {manifest_path} is damaged: its content does not match its hash")
    # The tensors: a file of the size and hash in the manifest.
    try:
        expected = msgspec.convert(files, dict[str, StoredFile])[TENSORS]
    except (msgspec.ValidationError, KeyError) as error:
        raise ValueError(f"checkpoint {manifest_path} is damaged: files: {error}") from None
    file = path / TENSORS
    if not file.is_file():
        raise ValueError(f"checkpoint file {file} is missing")
    size = file.stat().st_size
    if size != expected.bytes:
        raise ValueError(f"checkpoint file {file} is damaged: expected {expected.bytes} bytes, got {size}")
    if _sha256(file) != expected.sha256:
        raise ValueError(f"checkpoint file {file} is damaged: its content does not match its hash")
    # Put the tensors into their places in the state.
    try:
        tensors = load_file(file)
        return int(step), present_state(_join(values, tensors))
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"checkpoint file {file} is damaged ({error})") from None


def _split(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """The value with each tensor moved into `tensors` and replaced by {"$tensor": name}."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, torch.Tensor):
        tensors[name] = value.detach().clone().contiguous()
        return {"$tensor": name}
    if isinstance(value, dict):
        return {str(key): _split(item, f"{name}/{key}" if name else str(key), tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_split(item, f"{name}/{index}", tensors) for index, item in enumerate(value)]
    return value


def _join(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The inverse of `_split`."""
    if isinstance(value, list):
        return [_join(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    return {key: _join(item, tensors) for key, item in value.items()}


def _json_sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
