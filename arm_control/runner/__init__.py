"""Running exported policies: without PyTorch and without PyBullet."""

from arm_control.runner.policy_runner import PolicyFileError, PolicyRunner

__all__ = ["PolicyFileError", "PolicyRunner"]
