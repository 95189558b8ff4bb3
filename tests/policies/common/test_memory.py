"""Free memory of machine, container and process, and the error when it is too little."""

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
    """A machine with 1 GB of free memory, more than any container of these tests."""
    free = 10**9
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=4 * free, available=free))
    return free


def container(folder: Path, files: dict[str, str]) -> Path:
    """Write a container's files."""
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


class TestFreeMemory:
    """Free memory of machine, container and process."""

    def test_without_a_container_the_machine_counts(self, tmp_path: Path, machine: int) -> None:
        """Without cgroup files, the machine's available memory is returned."""
        assert free_memory(tmp_path) == machine
        assert free_memory(tmp_path / "missing") == machine

    @pytest.mark.parametrize("files", [V2, V1], ids=["v2", "v1"])
    def test_a_container_has_its_limit_less_usage_plus_cache(
        self, files: dict[str, str], tmp_path: Path, machine: int
    ) -> None:
        """Limit less usage plus reclaimable cache, from cgroup v1 and v2 files (computed by hand)."""
        assert free_memory(container(tmp_path, files)) == 1_000_000 - 600_000 + 50_000

    @pytest.mark.parametrize("files", [V2, V1], ids=["v2", "v1"])
    def test_without_inactive_files_no_cache_is_added(
        self, files: dict[str, str], tmp_path: Path, machine: int
    ) -> None:
        """Statistics without `inactive_file` add no cache."""
        stat = next(name for name in files if name.endswith("memory.stat"))
        assert free_memory(container(tmp_path, files | {stat: "active_file 70000\n"})) == 400_000
        assert free_memory(container(tmp_path, files | {stat: ""})) == 400_000

    @pytest.mark.parametrize("files", [V2, V1], ids=["v2", "v1"])
    def test_unreadable_statistics_count_as_no_cache(
        self, files: dict[str, str], tmp_path: Path, machine: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Statistics that are unreadable, missing or a folder add no cache, and the limit still applies."""
        stat = next(name for name in files if name.endswith("memory.stat"))
        folder = container(tmp_path, files)

        def deny(path: Path, *arguments: Any, read: Any = Path.read_text, **named: Any) -> Any:
            if path.name == "memory.stat":
                raise PermissionError(path)
            return read(path, *arguments, **named)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_text", deny)
            assert free_memory(folder) == 400_000
        assert free_memory(folder) == 450_000
        (folder / stat).unlink()
        assert free_memory(folder) == 400_000
        (folder / stat).mkdir()
        assert free_memory(folder) == 400_000

    def test_the_narrower_of_two_limits_counts(self, tmp_path: Path, machine: int) -> None:
        """With both cgroup versions, the smaller amount is returned."""
        both = V2 | V1 | {"memory/memory.limit_in_bytes": "800000"}
        assert free_memory(container(tmp_path, both)) == 250_000
        assert free_memory(container(tmp_path, both | {"memory.max": "700000"})) == 150_000

    @pytest.mark.parametrize(
        "changed",
        [{"memory.max": "max\n"}, {"memory.max": str(2**63 - 4096)}, {"memory.max": "5000000000"}],
        ids=["max", "huge", "wide"],
    )
    def test_an_unlimited_container_has_the_machines_memory(
        self, changed: dict[str, str], tmp_path: Path, machine: int
    ) -> None:
        """Limits of `max`, or above the machine's memory, have no effect."""
        assert free_memory(container(tmp_path, V2 | changed)) == machine

    def test_cgroup_v1_without_a_limit(self, tmp_path: Path, machine: int) -> None:
        """The largest multiple of the page size, which means no limit in cgroup v1, has no effect."""
        files = V1 | {"memory/memory.limit_in_bytes": "9223372036854771712\n"}
        assert free_memory(container(tmp_path, files)) == machine

    def test_a_container_over_its_limit_has_no_free_memory(self, tmp_path: Path, machine: int) -> None:
        """Usage above the limit gives 0, not a negative number."""
        assert free_memory(container(tmp_path, V2 | {"memory.current": "1200000"})) == 0

    def test_the_machine_counts_if_it_has_less_than_the_container(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Available memory of the machine below the container's is returned."""
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1234))
        assert free_memory(container(tmp_path, V2)) == 1234

    def test_this_machine(self) -> None:
        """On this machine, the result is positive and at most its total memory."""
        assert 0 < free_memory() <= psutil.virtual_memory().total

    def test_the_process_limit_counts_less_its_usage(self, tmp_path: Path) -> None:
        """Under RLIMIT_AS, free memory falls by the 100 MiB that a process takes."""
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

    def test_a_process_over_its_limit_has_no_free_memory(
        self, tmp_path: Path, machine: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A limit below the process's size gives 0."""
        monkeypatch.setattr(resource, "getrlimit", lambda _: (1000, 1000))
        assert free_memory(tmp_path) == 0


class TestCheckMemory:
    """The check before large allocations."""

    def test_one_byte_more_than_free_is_rejected(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Exactly the free amount is accepted, one byte more raises MemoryError."""
        monkeypatch.setattr(memory, "free_memory", lambda: 5_000_000)
        check_memory(4_999_999, "a table")
        check_memory(5_000_000, "a table")
        with pytest.raises(MemoryError):
            check_memory(5_000_001, "a table")

    def test_the_error_states_both_amounts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The message names the object, the memory that it needs and the free memory."""
        monkeypatch.setattr(memory, "free_memory", lambda: 1_234_400_000)
        with pytest.raises(MemoryError) as caught:
            check_memory(12_056_700_000, "a head of 64 units")
        assert str(caught.value) == "a head of 64 units needs 12,057 MB, 1,234 MB are free"
