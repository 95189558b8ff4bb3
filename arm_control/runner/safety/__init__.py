"""Safety: everything between what a policy says and what a driver is sent, and the latch that stops the arm.

Readings are judged in `readings` (and `tracking`), targets are limited in `targets`, and `workspace` and `braking` keep
them inside the workspace. `Safety` composes these for a control loop.
"""

from arm_control.runner.safety.latch import Fault, SafetyLevel
from arm_control.runner.safety.safety import Safety
from arm_control.runner.safety.settings import SafetySettings
from arm_control.runner.safety.workspace import WorkspaceError

__all__ = ["Fault", "Safety", "SafetyLevel", "SafetySettings", "WorkspaceError"]
