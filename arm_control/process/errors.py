"""Exit codes, and errors as one line on standard error."""

import os

from arm_control.process.console import say
from arm_control.process.printing import printable

PROGRAM = "arm-control"
OUTPUT_LOST = 1
BAD_INPUT = 2
STOPPED = 3
INTERRUPTED = 130
LONGEST_ERROR = 2000  # characters

# The extras by the packages that they install, for errors about missing packages.
EXTRAS = {
    "dynamixel_sdk": "dynamixel",
    "torch": "train",
    "safetensors": "train",
    "scipy": "train",
    "tensorboard": "train",
    "onnx": "train",
    "onnxscript": "train",
    "psutil": "train",
    "pybullet": "sim",
    "imageio_ffmpeg": "view",
    "PIL": "view",
    "matplotlib": "view",
    "markupsafe": "view",
    "viser": "view",
    "websockets": "view",
    "yourdfpy": "view",
    "panda_gym": "baselines",
    "stable_baselines3": "baselines",
}


class ArmStoppedError(RuntimeError):
    """Safety stopped the arm."""


def debugging() -> bool:
    """Return True if errors show their traceback."""
    return bool(os.environ.get("ARM_CONTROL_DEBUG"))


def complain(text: str) -> int:
    """Print an error in one line; returns the exit code of bad input."""
    say(f"{PROGRAM}: error: {printable(text, LONGEST_ERROR)}")
    return BAD_INPUT
