"""Checkpoints: what is kept comes back bit for bit, damage is told, and a failed or killed write costs nothing."""

import errno
import json
import math
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from arm_control.runs import checkpoint
from arm_control.runs.checkpoint import list_checkpoints, load_checkpoint, load_latest, save_checkpoint

MANIFEST, TENSORS = "manifest.json", "tensors.safetensors"
PCG64 = np.random.default_rng(3).bit_generator.state  # holds two integers of 128 bits


def small_state(number: int) -> dict[str, Any]:
    return {"weights": torch.full((4, 3), float(number)), "step": number, "generator": PCG64}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------------ round trip


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    ],
    ids=str,
)
def test_tensors_of_every_type_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    tensor = (100 * torch.randn(5, 7, generator=generator)).to(dtype)
    path = save_checkpoint(tmp_path, 1, {"tensor": tensor})
    got = load_checkpoint(path)[1]["tensor"]
    assert got.dtype == dtype
    assert torch.equal(got, tensor)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.uint8, np.bool_])
def test_arrays_come_back_as_tensors_with_the_same_bytes(tmp_path: Path, dtype: type) -> None:
    array = np.random.default_rng(0).integers(0, 2, (3, 4)).astype(dtype) * dtype(1)
    got = load_checkpoint(save_checkpoint(tmp_path, 1, {"array": array}))[1]["array"].numpy()
    assert got.dtype == array.dtype
    assert got.tobytes() == array.tobytes()


def test_numbers_that_are_easily_lost_come_back(tmp_path: Path) -> None:
    odd = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1], dtype=torch.float64)
    values = {
        "wide": 2**128 - 1,
        "tenth": 0.1,
        "tiny": 5e-324,
        "third": 1 / 3,
        "zero": -0.0,
        "infinite": math.inf,
        "none": None,
        "yes": True,
        "no": False,
        "text": "π\n\0",
        "list": [1, [2.5, None]],
        "empty": {},
        "odd": odd,
    }
    got = load_checkpoint(save_checkpoint(tmp_path, 1, values))[1]
    assert got.pop("odd").numpy().tobytes() == values.pop("odd").numpy().tobytes()  # type: ignore[attr-defined]
    assert repr(got) == repr(values)  # also tells True from 1 and -0.0 from 0.0


def test_tensors_that_are_views_empty_scalar_or_shared_come_back(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    state = {
        "transposed": base.T,
        "column": base[:, 1],
        "same": base,
        "again": base,
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(7),
        "learned": torch.nn.Parameter(torch.ones(2)),
    }
    got = load_checkpoint(save_checkpoint(tmp_path, 1, state))[1]
    assert got.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(got[name], tensor.detach())
        assert got[name].shape == tensor.shape


def test_a_real_generator_draws_on_where_it_was(tmp_path: Path) -> None:
    generator, copy = np.random.default_rng(11), np.random.default_rng()
    generator.random(1001)
    path = save_checkpoint(tmp_path, 1, {"agent": {"generator": generator.bit_generator.state}})
    copy.bit_generator.state = load_checkpoint(path)[1]["agent"]["generator"]
    np.testing.assert_array_equal(copy.random(100), generator.random(100))


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**128), 2**128)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.lists(st.floats(width=32, allow_nan=False), max_size=4).map(torch.tensor)
)
trees = st.dictionaries(
    st.text("abc.0", min_size=1, max_size=3),
    st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text("abc.0", min_size=1, max_size=3), inner, max_size=3)
        ),
        max_leaves=12,
    ),
    max_size=4,
)


def plain(value: Any) -> Any:
    """With tensors as their type and bytes."""
    if isinstance(value, torch.Tensor):
        return ("tensor", value.dtype, tuple(value.shape), value.numpy().tobytes())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


@given(trees, st.integers(0, 10**9))
def test_any_nested_state_comes_back(
    tmp_path_factory: pytest.TempPathFactory, state: dict[str, Any], step: int
) -> None:
    folder = tmp_path_factory.mktemp("checkpoints")
    save_checkpoint(folder, step, state)
    got_step, got = load_latest(folder)
    assert got_step == step
    assert plain(got) == plain(state)


def test_a_state_without_tensors_comes_back(tmp_path: Path) -> None:
    assert load_checkpoint(save_checkpoint(tmp_path, 5, {"a": 1})) == (5, {"a": 1})


def test_the_files_are_json_and_safetensors_and_never_pickle(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 12, small_state(12))
    assert path.name == "step-0000000012"
    assert names(path) == [MANIFEST, TENSORS]
    assert json.loads((path / MANIFEST).read_text())["step"] == 12
    assert list(safetensors.torch.load_file(path / TENSORS)) == ["weights"]


# --------------------------------------------------------------------------------------------- which ones are kept


def test_only_the_last_two_are_kept_and_the_last_one_is_loaded(tmp_path: Path) -> None:
    for step in (1, 20, 300, 4000, 10**10 - 1):
        save_checkpoint(tmp_path, step, small_state(step))
    assert names(tmp_path) == ["step-0000004000", "step-9999999999"]
    step, state = load_latest(tmp_path)
    assert step == state["step"] == 10**10 - 1
    assert (state["weights"] == step).all()


def test_what_a_killed_write_left_does_no_harm_and_goes_away(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, small_state(1))
    aside = tmp_path / ".writing"
    aside.mkdir()
    (aside / TENSORS).write_bytes((path / TENSORS).read_bytes()[:50])
    (aside / "more").mkdir()
    assert list_checkpoints(tmp_path) == [path]
    assert load_latest(tmp_path)[0] == 1
    save_checkpoint(tmp_path, 2, small_state(2))
    assert names(tmp_path) == ["step-0000000001", "step-0000000002"]
    assert names(tmp_path / "step-0000000002") == [MANIFEST, TENSORS]


def test_no_checkpoint_at_all_is_told_with_the_folder(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ValueError, match=f"no checkpoint in {folder}"):
            load_latest(folder)


# ---------------------------------------------------------------------------------------------------------- damage


def damaged(path: Path, file: Path) -> str:
    """What is said of a checkpoint that must not load: it names the file."""
    with pytest.raises(ValueError, match=r"damaged|missing|version") as error:
        load_checkpoint(path)
    assert str(file) in str(error.value) or str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("size", [0, 1, 8, 100, -1])
def test_truncated_tensors_are_told(tmp_path: Path, size: int) -> None:
    path = save_checkpoint(tmp_path, 1, small_state(1))
    file = path / TENSORS
    file.write_bytes(file.read_bytes()[:size])
    assert f"{file} is damaged: expected" in damaged(path, file)


@pytest.mark.parametrize("name", [TENSORS, MANIFEST])
def test_a_missing_file_is_told(tmp_path: Path, name: str) -> None:
    path = save_checkpoint(tmp_path, 1, small_state(1))
    (path / name).unlink()
    assert name in damaged(path, path / name)


@pytest.mark.parametrize("name", [TENSORS, MANIFEST])
def test_a_flipped_bit_anywhere_is_told(tmp_path: Path, name: str) -> None:
    path = save_checkpoint(tmp_path, 1, small_state(1))
    file = path / name
    good = file.read_bytes()
    for place in range(len(good)):
        changed = bytearray(good)
        changed[place] ^= 1
        file.write_bytes(changed)
        try:
            load_checkpoint(path)
        except ValueError as error:
            assert str(path) in str(error)
        else:
            pytest.fail(
                f"bit 0 of byte {place} of {name}: {good[place - 20 : place + 20]!r} was read as if nothing were"
            )
    file.write_bytes(good)
    assert load_checkpoint(path)[0] == 1


def test_a_manifest_cut_anywhere_is_told(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, small_state(1))
    file = path / MANIFEST
    good = file.read_bytes()
    for size in range(len(good)):
        file.write_bytes(good[:size])
        assert MANIFEST in damaged(path, file)


@pytest.mark.parametrize(
    "changes",
    [
        {"files": []},
        {"files": {}},
        {"files": {TENSORS: {}}},
        {"files": {TENSORS: None}},
        {"step": "many"},
        {"step": None},
        {"state": {"weights": {"$tensor": "no-such"}}},
        {"state": {"weights": {"$tensor": []}}},
        {"version": None},
    ],
    ids=str,
)
def test_a_manifest_with_other_values_than_it_should_have_is_told(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = save_checkpoint(tmp_path, 1, small_state(1))
    file = path / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    damaged(path, file)


@pytest.mark.parametrize("text", ["", "null", "[]", "7", '"manifest"', "{}", "{", "\xff"])
def test_a_manifest_that_is_something_else_is_told(tmp_path: Path, text: str) -> None:
    path = save_checkpoint(tmp_path, 1, small_state(1))
    (path / MANIFEST).write_bytes(text.encode("latin-1"))
    assert f"{path / MANIFEST} is damaged" in damaged(path, path / MANIFEST)


def test_a_newer_version_is_told_with_what_to_do(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, small_state(1))
    file = path / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | {"version": 2}))
    said = damaged(path, path)
    assert "format version 2, this program reads 1" in said
    assert "update" in said


def test_a_damaged_latest_one_is_told_with_the_one_to_go_on_from(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, small_state(1))
    latest = save_checkpoint(tmp_path, 2, small_state(2))
    (latest / TENSORS).write_bytes(b"")
    with pytest.raises(ValueError, match="delete that folder to go on from step-0000000001"):
        load_latest(tmp_path)
    for file in latest.iterdir():
        file.unlink()
    latest.rmdir()
    assert load_latest(tmp_path)[0] == 1


# ------------------------------------------------------------------------------------------------- failing writes


@pytest.mark.parametrize("full", ["tensors", "manifest"])
def test_a_full_disk_keeps_the_earlier_checkpoints_and_leaves_nothing_else(
    files_at_most: Callable[[int], Any], tmp_path: Path, full: str
) -> None:
    for earlier in (1, 2):
        save_checkpoint(tmp_path, earlier, small_state(earlier))
    before = content(tmp_path)
    large = {"tensors": torch.zeros(50_000), "manifest": [0.5] * 50_000}[full]
    with files_at_most(20_000), pytest.raises(OSError, match=f"cannot write a checkpoint into {tmp_path}"):
        save_checkpoint(tmp_path, 3, small_state(3) | {"large": large})
    assert content(tmp_path) == before
    assert names(tmp_path) == ["step-0000000001", "step-0000000002"]


def test_a_full_disk_does_not_cost_the_checkpoint_of_the_same_step(
    files_at_most: Callable[[int], Any], tmp_path: Path
) -> None:
    save_checkpoint(tmp_path, 2, small_state(2))
    before = content(tmp_path)
    with files_at_most(100), suppress(OSError):  # it may notice that there is nothing to write
        save_checkpoint(tmp_path, 2, small_state(2))
    assert content(tmp_path) == before


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_write_that_fails_half_way_keeps_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    save_checkpoint(tmp_path, 1, small_state(1))
    before = content(tmp_path)

    def half(tensors: dict[str, torch.Tensor], path: Path) -> None:
        path.write_bytes(safetensors.torch.save(tensors)[:60])
        raise OSError(code, "no more")

    monkeypatch.setattr(checkpoint, "save_file", half)
    with pytest.raises(OSError, match="earlier checkpoints are untouched"):
        save_checkpoint(tmp_path, 2, small_state(2))
    assert content(tmp_path) == before
    assert names(tmp_path) == ["step-0000000001"]
    monkeypatch.undo()
    save_checkpoint(tmp_path, 2, small_state(2))
    assert load_latest(tmp_path)[0] == 2


def test_a_file_in_the_folders_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("mine")
    with pytest.raises(OSError, match="cannot write a checkpoint"):
        save_checkpoint(tmp_path / "checkpoints", 1, small_state(1))
    assert content(tmp_path) == {"checkpoints": b"mine"}


KILLED_AT_EVERY_CALL = """
import itertools, os, shutil, signal, sys
from pathlib import Path

import torch

from arm_control.runs.checkpoint import load_latest, save_checkpoint

folder, step = Path(sys.argv[1]), int(sys.argv[2])
state = lambda number: {"weights": torch.full((4, 3), float(number)), "step": number}
for last in itertools.count(1):
    shutil.rmtree(folder, ignore_errors=True)
    for number in (1, 2):
        save_checkpoint(folder, number, state(number))
    child = os.fork()
    if child == 0:
        count = itertools.count(1)
        sys.addaudithook(lambda *_: os.kill(os.getpid(), signal.SIGKILL) if next(count) == last else None)
        save_checkpoint(folder, step, state(step))
        os._exit(0)
    killed = os.waitpid(child, 0)[1] == signal.SIGKILL
    got, loaded = load_latest(folder)
    assert got in (2, step) and loaded["step"] == got and (loaded["weights"] == got).all(), (last, got)
    if not killed:
        break
assert got == step and (last > 10 or step == 2), last
save_checkpoint(folder, 4, state(4))
assert sorted(path.name for path in folder.iterdir()) == [f"step-{number:010d}" for number in (step, 4)]
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 2], ids=["a new step", "the latest step again"])
def test_a_kill_before_any_system_call_of_a_write_leaves_a_usable_checkpoint(tmp_path: Path, step: int) -> None:
    """An audit hook kills the writer, as kill -9 does, at the first event, then at the second, and so on."""
    words = [sys.executable, "-c", KILLED_AT_EVERY_CALL, str(tmp_path / "checkpoints"), str(step)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
