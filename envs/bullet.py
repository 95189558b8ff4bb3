"""PyBullet, imported without the line about itself that it prints on standard error."""

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

try:
    _stderr = os.dup(2)
except OSError:  # closed: nobody hears it anyway
    import pybullet
else:
    _silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(_silence, 2)
    try:
        import pybullet
    finally:
        os.dup2(_stderr, 2)
        os.close(_stderr)
        os.close(_silence)

__all__ = ["DISTRIBUTIONS", "bullet_version", "load_urdf", "pybullet"]

DISTRIBUTIONS = ("pybullet", "pybullet-arm64")  # the second, a fork, from Python 3.12 on


def load_urdf(path: Path, client: int, flags: int = 0) -> int:
    """Load an arm, its base fixed, and return PyBullet's number for it. Raises ValueError if PyBullet refuses it."""
    try:
        body: int = pybullet.loadURDF(str(path), useFixedBase=True, flags=flags, physicsClientId=client)
    except pybullet.error as error:
        raise ValueError(f"PyBullet cannot load the arm {path}: {error}") from None
    return body


def bullet_version() -> str:
    """The version of PyBullet, whichever distribution it is installed from."""
    for name in DISTRIBUTIONS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    raise PackageNotFoundError(DISTRIBUTIONS[0])
