"""Check of the available memory before large allocations."""

import resource
from pathlib import Path

import psutil

CGROUPS = (  # files with the limit and the usage, of cgroup v2 and v1
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def free_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process can still allocate, by the limits of the machine, its container and the process."""
    free = [int(psutil.virtual_memory().available)]

    # The container's limit, less its usage without the file cache that can be dropped.
    for limit_file, usage_file in CGROUPS:
        try:
            limit = int((cgroup / limit_file).read_text(encoding="ascii"))
            usage = int((cgroup / usage_file).read_text(encoding="ascii"))
        except (OSError, ValueError):  # no such file, or no limit
            continue
        try:
            words = (cgroup / limit_file).with_name("memory.stat").read_text(encoding="ascii").split()
            cached = int(words[words.index("inactive_file") + 1])
        except (OSError, ValueError, IndexError):
            cached = 0
        free.append(limit - usage + cached)

    # The process's own limit (ulimit -v).
    process_limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if process_limit != resource.RLIM_INFINITY:
        free.append(process_limit - int(psutil.Process().memory_info().vms))
    return max(0, min(free))


def check_memory(needed: int, what: str) -> None:
    """Raise MemoryError, with both figures, if fewer than `needed` bytes are available."""
    free = free_memory()
    if needed > free:
        raise MemoryError(f"{what} needs {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free")
