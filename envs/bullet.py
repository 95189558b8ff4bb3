"""PyBullet, without what it prints to standard output and standard error."""

import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@contextmanager
def silenced() -> Iterator[None]:
    """Discard what C code prints: redirect the descriptors of standard output and standard error to the null device."""
    libc = ctypes.CDLL(None) if os.name == "posix" else None
    # Flush what C code printed before, which is to appear.
    if libc is not None:
        libc.fflush(None)
    null = os.open(os.devnull, os.O_WRONLY)
    kept: dict[int, int] = {}
    for stream in (1, 2):
        # A closed stream cannot be duplicated, and need not be.
        with suppress(OSError):
            kept[stream] = os.dup(stream)
            os.dup2(null, stream)
    try:
        yield
    finally:
        if libc is not None:
            libc.fflush(None)
        for stream, copy in kept.items():
            os.dup2(copy, stream)
            os.close(copy)
        os.close(null)


with silenced():
    import pybullet

__all__ = ["DISTRIBUTIONS", "bullet_version", "load_urdf", "pybullet", "readable_meshes", "silenced"]

DISTRIBUTIONS = ("pybullet", "pybullet-arm64")  # the second, a fork, from Python 3.12 on

LONGEST_TRIAL_S = 60.0


def load_urdf(urdf: str, client: int, *, flags: int = 0, files: Mapping[str, Path] | None = None) -> int:
    """Load an arm with a fixed base, and return its body id. Raises ValueError if PyBullet cannot load it.

    `files` are the files that the text refers to, by the names in it.
    """
    with tempfile.TemporaryDirectory(prefix="arm-control-") as folder:
        path = Path(folder) / "arm.urdf"
        path.write_text(urdf, encoding="utf-8")
        for name, target in (files or {}).items():
            (Path(folder) / name).symlink_to(target)
        # PyBullet's cache would keep each file for ever, under a name that is never used again.
        pybullet.setPhysicsEngineParameter(enableFileCaching=0, physicsClientId=client)
        try:
            with silenced():
                body: int = pybullet.loadURDF(str(path), useFixedBase=True, flags=flags, physicsClientId=client)
        except pybullet.error as error:
            raise ValueError(f"PyBullet cannot load the arm: {error}") from None
    return body


def bullet_version() -> str:
    """The version of PyBullet, whichever distribution it is installed from."""
    for name in DISTRIBUTIONS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    raise PackageNotFoundError(DISTRIBUTIONS[0])


def readable_meshes(paths: Iterable[Path]) -> frozenset[Path]:
    """The meshes that PyBullet can read. They are loaded in a child process: a damaged mesh can crash the loader."""
    files = []
    for path in sorted(set(paths)):
        status = path.stat()
        files.append((str(path), status.st_mtime_ns, status.st_size))
    return _readable_meshes(tuple(files))


@lru_cache
def _readable_meshes(files: tuple[tuple[str, int, int], ...]) -> frozenset[Path]:
    """The readable ones of meshes with these paths, modification times and sizes."""
    waiting = [path for path, _, _ in files]
    readable: set[Path] = set()
    while waiting:
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import _try_meshes; _try_meshes(sys.argv[1:])"
        command = [sys.executable, "-c", code, *waiting]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LONGEST_TRIAL_S, check=False
            )
            replies = done.stdout
        except subprocess.TimeoutExpired as error:
            replies = error.stdout or b""
        # One reply for each mesh, but none for one at which the process crashed or hung: skip that, and go on.
        readable.update(Path(path) for path, reply in zip(waiting, replies, strict=False) if reply == ord("1"))
        waiting = waiting[len(replies) + 1 :]
    return frozenset(readable)


def _try_meshes(paths: list[str]) -> None:
    """Load each mesh, and write 1 (readable) or 0 to standard output."""
    client = pybullet.connect(pybullet.DIRECT)
    for path in paths:
        name = f"mesh{Path(path).suffix.lower()}"
        shape = f'<visual><geometry><mesh filename="{name}"/></geometry></visual>'
        try:
            load_urdf(f'<robot name="mesh"><link name="mesh">{shape}</link></robot>', client, files={name: Path(path)})
            reply = b"1"
        except ValueError:
            reply = b"0"
        os.write(1, reply)
