"""Running exported policies on an arm, without PyTorch and PyBullet.

`policy_runner` runs a policy file in any control loop. `session` is `arm-control run`: `planning` and `connection`
prepare a run, `loop`, `ticks` and `motions` drive the arm, `goals` and `recorded` are its work, `safety` checks
readings and targets, and `report` sums up.
"""

from arm_control.runner.policy_runner import PolicyFileError, PolicyRunner

__all__ = ["PolicyFileError", "PolicyRunner"]
