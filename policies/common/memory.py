"""How much memory there is, asked before much of it is taken."""

import resource
from pathlib import Path

import psutil

CGROUPS = (  # limit, use, and the statistics that say how much of the use is a cache that can go
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def free_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process can still take: of the machine, of its container, and of its own limit."""
    free = [int(psutil.virtual_memory().available)]
    for limit, use in CGROUPS:
        try:
            most, used = (int((cgroup / name).read_text(encoding="ascii")) for name in (limit, use))
        except (OSError, ValueError):  # there is none, or no limit
            continue
        try:
            words = (cgroup / limit).with_name("memory.stat").read_text(encoding="ascii").split()
            cached = int(words[words.index("inactive_file") + 1])
        except (OSError, ValueError, IndexError):
            cached = 0
        free.append(most - used + cached)
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most != resource.RLIM_INFINITY:
        free.append(most - int(psutil.Process().memory_info().vms))
    return max(0, min(free))


def check_memory(needed: int, what: str) -> None:
    """Raise MemoryError, with both figures, if less is free than is needed."""
    free = free_memory()
    if needed > free:
        raise MemoryError(f"{what} needs {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free")
