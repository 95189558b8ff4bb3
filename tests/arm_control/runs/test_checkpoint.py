"""Checkpoints: lossless content, detection of any damage, and atomic writes."""

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
from helpers import content
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


class TestRoundTrip:
    """States are read back bit for bit."""

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
    def test_tensors_of_every_type(self, tmp_path: Path, dtype: torch.dtype) -> None:
        """Values and type, from float64 to bool."""
        generator = torch.Generator().manual_seed(0)
        tensor = (100 * torch.randn(5, 7, generator=generator)).to(dtype)
        path = save_checkpoint(tmp_path, 1, {"tensor": tensor})
        got = load_checkpoint(path)[1]["tensor"]
        assert got.dtype == dtype
        assert torch.equal(got, tensor)

    @pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.uint8, np.bool_])
    def test_arrays_become_tensors_with_the_same_bytes(self, tmp_path: Path, dtype: type) -> None:
        """NumPy arrays of five types."""
        array = np.random.default_rng(0).integers(0, 2, (3, 4)).astype(dtype) * dtype(1)
        got = load_checkpoint(save_checkpoint(tmp_path, 1, {"array": array}))[1]["array"].numpy()
        assert got.dtype == array.dtype
        assert got.tobytes() == array.tobytes()

    def test_numbers_that_json_easily_loses(self, tmp_path: Path) -> None:
        """Integers of 128 bits, NaN, -0.0, denormals, booleans and control characters."""
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
        assert repr(got) == repr(values)  # repr distinguishes True from 1 and -0.0 from 0.0

    def test_views_and_empty_scalar_and_shared_tensors(self, tmp_path: Path) -> None:
        """Shapes and values are kept."""
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

    def test_a_generator_continues_where_it_was(self, tmp_path: Path) -> None:
        """The next 100 numbers are those of the original."""
        generator, copy = np.random.default_rng(11), np.random.default_rng()
        generator.random(1001)
        path = save_checkpoint(tmp_path, 1, {"agent": {"generator": generator.bit_generator.state}})
        copy.bit_generator.state = load_checkpoint(path)[1]["agent"]["generator"]
        np.testing.assert_array_equal(copy.random(100), generator.random(100))

    @given(trees, st.integers(0, 10**9))
    def test_any_nested_state(self, tmp_path_factory: pytest.TempPathFactory, state: dict[str, Any], step: int) -> None:
        """Random nesting of all supported types."""
        folder = tmp_path_factory.mktemp("checkpoints")
        save_checkpoint(folder, step, state)
        got_step, got = load_latest(folder)
        assert got_step == step
        assert plain(got) == plain(state)

    def test_a_state_without_tensors(self, tmp_path: Path) -> None:
        """Its step and values are returned."""
        assert load_checkpoint(save_checkpoint(tmp_path, 5, {"a": 1})) == (5, {"a": 1})

    def test_the_files_are_json_and_safetensors(self, tmp_path: Path) -> None:
        """Both files are readable by their own libraries, and there is no other."""
        path = save_checkpoint(tmp_path, 12, small_state(12))
        assert path.name == "step-0000000012"
        assert names(path) == [MANIFEST, TENSORS]
        assert json.loads((path / MANIFEST).read_text())["step"] == 12
        assert list(safetensors.torch.load_file(path / TENSORS)) == ["weights"]


class TestKeptCheckpoints:
    """Checkpoints that are kept and loaded."""

    def test_only_the_last_two_are_kept_and_the_last_one_is_loaded(self, tmp_path: Path) -> None:
        """After five saves; steps of ten digits keep their order."""
        for step in (1, 20, 300, 4000, 10**10 - 1):
            save_checkpoint(tmp_path, step, small_state(step))
        assert names(tmp_path) == ["step-0000004000", "step-9999999999"]
        step, state = load_latest(tmp_path)
        assert step == state["step"] == 10**10 - 1
        assert (state["weights"] == step).all()

    def test_remains_of_a_killed_write_are_ignored_and_removed(self, tmp_path: Path) -> None:
        """The next save removes them."""
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

    def test_no_checkpoint_is_an_error_with_the_folder(self, tmp_path: Path) -> None:
        """For an empty folder and a missing one."""
        for folder in (tmp_path, tmp_path / "missing"):
            with pytest.raises(ValueError, match=f"no checkpoint in {folder}"):
                load_latest(folder)


def damaged(path: Path, file: Path) -> str:
    """The error of a checkpoint that must not load; it is one line that names the file."""
    with pytest.raises(ValueError, match=r"damaged|missing|version") as error:
        load_checkpoint(path)
    assert str(file) in str(error.value) or str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


class TestDamage:
    """Damaged checkpoints are never loaded."""

    @pytest.mark.parametrize("size", [0, 1, 8, 100, -1])
    def test_truncated_tensors(self, tmp_path: Path, size: int) -> None:
        """Cut at several lengths."""
        path = save_checkpoint(tmp_path, 1, small_state(1))
        file = path / TENSORS
        file.write_bytes(file.read_bytes()[:size])
        assert f"{file} is damaged: expected" in damaged(path, file)

    @pytest.mark.parametrize("name", [TENSORS, MANIFEST])
    def test_a_missing_file(self, tmp_path: Path, name: str) -> None:
        """Tensors or manifest."""
        path = save_checkpoint(tmp_path, 1, small_state(1))
        (path / name).unlink()
        assert name in damaged(path, path / name)

    @pytest.mark.parametrize("name", [TENSORS, MANIFEST])
    def test_a_flipped_bit_anywhere(self, tmp_path: Path, name: str) -> None:
        """The lowest bit of each byte of both files."""
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

    def test_a_manifest_cut_anywhere(self, tmp_path: Path) -> None:
        """Cut at each byte."""
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
    def test_a_manifest_with_other_values(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        """Missing hashes, unknown tensors and invalid steps."""
        path = save_checkpoint(tmp_path, 1, small_state(1))
        file = path / MANIFEST
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        damaged(path, file)

    @pytest.mark.parametrize("text", ["", "null", "[]", "7", '"manifest"', "{}", "{", "\xff"])
    def test_a_manifest_of_other_content(self, tmp_path: Path, text: str) -> None:
        """Other JSON, and no JSON."""
        path = save_checkpoint(tmp_path, 1, small_state(1))
        (path / MANIFEST).write_bytes(text.encode("latin-1"))
        assert f"{path / MANIFEST} is damaged" in damaged(path, path / MANIFEST)

    def test_a_newer_version_is_an_error_with_the_remedy(self, tmp_path: Path) -> None:
        """The message names both versions and suggests an update."""
        path = save_checkpoint(tmp_path, 1, small_state(1))
        file = path / MANIFEST
        file.write_text(json.dumps(json.loads(file.read_text()) | {"version": 2}))
        message = damaged(path, path)
        assert "format version 2, this program reads 1" in message
        assert "update" in message

    def test_the_error_names_the_checkpoint_to_continue_from(self, tmp_path: Path) -> None:
        """Deleting the damaged one makes the earlier one the latest."""
        save_checkpoint(tmp_path, 1, small_state(1))
        latest = save_checkpoint(tmp_path, 2, small_state(2))
        (latest / TENSORS).write_bytes(b"")
        with pytest.raises(ValueError, match="delete that folder to go on from step-0000000001"):
            load_latest(tmp_path)
        for file in latest.iterdir():
            file.unlink()
        latest.rmdir()
        assert load_latest(tmp_path)[0] == 1


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


class TestFailedWrites:
    """Writes that fail keep the earlier checkpoints."""

    @pytest.mark.parametrize("full", ["tensors", "manifest"])
    def test_a_full_disk_keeps_the_earlier_checkpoints(
        self, files_at_most: Callable[[int], Any], tmp_path: Path, full: str
    ) -> None:
        """While writing tensors or the manifest, with files limited to 20 kB."""
        for earlier in (1, 2):
            save_checkpoint(tmp_path, earlier, small_state(earlier))
        before = content(tmp_path)
        large = {"tensors": torch.zeros(50_000), "manifest": [0.5] * 50_000}[full]
        with files_at_most(20_000), pytest.raises(OSError, match=f"cannot write a checkpoint into {tmp_path}"):
            save_checkpoint(tmp_path, 3, small_state(3) | {"large": large})
        assert content(tmp_path) == before
        assert names(tmp_path) == ["step-0000000001", "step-0000000002"]

    def test_a_full_disk_keeps_the_checkpoint_of_the_same_step(
        self, files_at_most: Callable[[int], Any], tmp_path: Path
    ) -> None:
        """Saving a step again does not remove it first."""
        save_checkpoint(tmp_path, 2, small_state(2))
        before = content(tmp_path)
        with files_at_most(100), suppress(OSError):  # it may notice that there is nothing to write
            save_checkpoint(tmp_path, 2, small_state(2))
        assert content(tmp_path) == before

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
    def test_an_interrupted_write_keeps_the_earlier_checkpoint(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        """Full, defective and read-only disks; a later save succeeds."""
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

    def test_a_file_in_the_place_of_the_folder(self, tmp_path: Path) -> None:
        """The file is kept."""
        (tmp_path / "checkpoints").write_text("mine")
        with pytest.raises(OSError, match="cannot write a checkpoint"):
            save_checkpoint(tmp_path / "checkpoints", 1, small_state(1))
        assert content(tmp_path) == {"checkpoints": b"mine"}

    @pytest.mark.slow
    @pytest.mark.parametrize("step", [3, 2], ids=["a new step", "the latest step again"])
    def test_a_kill_at_any_moment_leaves_a_usable_checkpoint(self, tmp_path: Path, step: int) -> None:
        """An audit hook kills the writer at its first event, then at its second, and so on."""
        words = [sys.executable, "-c", KILLED_AT_EVERY_CALL, str(tmp_path / "checkpoints"), str(step)]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
