"""How much memory is free: of the machine, of a container, of the process, and what is said when it is too little."""

import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from policies.common import memory
from policies.common.memory import check_memory, free_memory

V2 = {"memory.max": "1000000", "memory.current": "600000", "memory.stat": "anon 500000\ninactive_file 50000\n"}
V1 = {
    "memory/memory.limit_in_bytes": "1000000\n",
    "memory/memory.usage_in_bytes": "600000\n",
    "memory/memory.stat": "cache 90000\ninactive_file 50000\nactive_file 40000\n",
}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> int:
    """A machine with so many free bytes, more than any container of these tests."""
    free = 10**9
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=4 * free, available=free))
    return free


def container(folder: Path, files: dict[str, str]) -> Path:
    """Write a container's files."""
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_without_a_container_it_is_what_the_machine_has(tmp_path: Path, machine: int) -> None:
    assert free_memory(tmp_path) == machine
    assert free_memory(tmp_path / "missing") == machine


@pytest.mark.parametrize("files", [V2, V1], ids=["v2", "v1"])
def test_a_containers_limit_counts_less_what_is_used_but_for_a_cache_that_can_go(
    files: dict[str, str], tmp_path: Path, machine: int
) -> None:
    assert free_memory(container(tmp_path, files)) == 1_000_000 - 600_000 + 50_000


@pytest.mark.parametrize("files", [V2, V1], ids=["v2", "v1"])
def test_statistics_that_name_no_cache_give_none_away(files: dict[str, str], tmp_path: Path, machine: int) -> None:
    stat = next(name for name in files if name.endswith("memory.stat"))
    assert free_memory(container(tmp_path, files | {stat: "active_file 70000\n"})) == 400_000
    assert free_memory(container(tmp_path, files | {stat: ""})) == 400_000


@pytest.mark.parametrize("files", [V2, V1], ids=["v2", "v1"])
def test_without_statistics_that_can_be_read_there_is_no_cache_and_the_limit_still_holds(
    files: dict[str, str], tmp_path: Path, machine: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = next(name for name in files if name.endswith("memory.stat"))
    folder = container(tmp_path, files)

    def refuse(path: Path, *arguments: Any, read: Any = Path.read_text, **named: Any) -> Any:
        if path.name == "memory.stat":
            raise PermissionError(path)
        return read(path, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refuse)
        assert free_memory(folder) == 400_000
    assert free_memory(folder) == 450_000
    (folder / stat).unlink()
    assert free_memory(folder) == 400_000
    (folder / stat).mkdir()
    assert free_memory(folder) == 400_000


def test_of_two_containers_the_narrower_counts(tmp_path: Path, machine: int) -> None:
    both = V2 | V1 | {"memory/memory.limit_in_bytes": "800000"}
    assert free_memory(container(tmp_path, both)) == 250_000
    assert free_memory(container(tmp_path, both | {"memory.max": "700000"})) == 150_000


@pytest.mark.parametrize(
    "changed",
    [{"memory.max": "max\n"}, {"memory.max": str(2**63 - 4096)}, {"memory.max": "5000000000"}],
    ids=["max", "huge", "wide"],
)
def test_a_container_without_a_limit_or_with_a_wider_one_leaves_what_the_machine_has(
    changed: dict[str, str], tmp_path: Path, machine: int
) -> None:
    assert free_memory(container(tmp_path, V2 | changed)) == machine


def test_version_1s_way_to_say_no_limit_leaves_what_the_machine_has(tmp_path: Path, machine: int) -> None:
    files = V1 | {"memory/memory.limit_in_bytes": "9223372036854771712\n"}
    assert free_memory(container(tmp_path, files)) == machine


def test_a_container_that_has_used_more_than_its_limit_has_nothing_free(tmp_path: Path, machine: int) -> None:
    assert free_memory(container(tmp_path, V2 | {"memory.current": "1200000"})) == 0


def test_a_machine_that_has_less_than_its_container_may_take_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1234))
    assert free_memory(container(tmp_path, V2)) == 1234


def test_this_machine_has_some_memory_and_not_more_than_it_has() -> None:
    assert 0 < free_memory() <= psutil.virtual_memory().total


def test_the_processs_own_limit_counts_less_what_it_has_taken(tmp_path: Path) -> None:
    limit = 700 * 2**20
    program = f"""
import resource
from pathlib import Path
from types import SimpleNamespace
from policies.common.memory import free_memory
import psutil
psutil.virtual_memory = lambda: SimpleNamespace(available=2**40)
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
before = free_memory(Path({str(tmp_path)!r}))
taken = bytearray(100 * 2**20)
print(before, free_memory(Path({str(tmp_path)!r})), psutil.Process().memory_info().vms)
"""
    root = Path(memory.__file__).parents[2]
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root, timeout=60
    )
    before, after, taken = map(int, output.stdout.split())
    assert after == pytest.approx(limit - taken, abs=2**21)
    assert before - after == pytest.approx(100 * 2**20, abs=2**21)
    assert 0 < after < limit - 100 * 2**20


def test_a_limit_below_what_the_process_has_taken_leaves_nothing(
    tmp_path: Path, machine: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1000, 1000))
    assert free_memory(tmp_path) == 0


def test_exactly_what_is_free_is_enough_and_a_byte_more_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 5_000_000)
    check_memory(4_999_999, "a table")
    check_memory(5_000_000, "a table")
    with pytest.raises(MemoryError):
        check_memory(5_000_001, "a table")


def test_the_refusal_says_what_needs_how_much_and_how_much_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 1_234_400_000)
    with pytest.raises(MemoryError) as caught:
        check_memory(12_056_700_000, "a head of 64 units")
    assert str(caught.value) == "a head of 64 units needs 12,057 MB, 1,234 MB are free"
