"""PyBullet, imported without the line about itself that it prints on standard error."""

import os

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

__all__ = ["pybullet"]
