"""Safety: the checks and limits between a policy and a driver, and the fault latch that stops the arm.

`readings` (with `tracking`) checks readings, `targets` limits commands, `workspace` and `braking` keep the arm inside
the workspace, `latch` holds a fault. `Safety` composes these for a control loop.
"""

from arm_control.runner.safety.latch import Fault, SafetyLevel
from arm_control.runner.safety.safety import Safety
from arm_control.runner.safety.settings import SafetySettings
from arm_control.runner.safety.workspace import WorkspaceError

__all__ = ["Fault", "Safety", "SafetyLevel", "SafetySettings", "WorkspaceError"]
