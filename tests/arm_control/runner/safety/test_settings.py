"""Settings of the safety checks."""

import math
from typing import Any

import pytest

from arm_control.runner.safety import (
    SafetySettings,
)


@pytest.mark.parametrize(
    "box",
    [
        (0.0, 0.0, 0.0, 1.0, 1.0),
        (0.0, 0.0, 0.0, 1.0, 0.0, 1.0),
        (0.0, 0.0, 0.0, 1.0, math.inf, 1.0),
        (math.nan, 0.0, 0.0, 1.0, 1.0, 1.0),
    ],
)
def test_a_workspace_that_is_no_box_is_refused(box: Any) -> None:
    with pytest.raises(ValueError, match="workspace: expected x, y, z lowest and x, y, z highest"):
        SafetySettings(workspace_m=box)
