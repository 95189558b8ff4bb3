"""Settings of the safety checks."""

import math
from typing import Any

import pytest

from arm_control.runner.safety import SafetySettings


@pytest.mark.parametrize(
    "box",
    [
        (0.0, 0.0, 0.0, 1.0, 1.0),
        (0.0, 0.0, 0.0, 1.0, 0.0, 1.0),
        (0.0, 0.0, 0.0, 1.0, math.inf, 1.0),
        (math.nan, 0.0, 0.0, 1.0, 1.0, 1.0),
    ],
)
def test_an_invalid_workspace_is_rejected(box: Any) -> None:
    """Boxes of other sizes, empty, infinite or NaN ones."""
    with pytest.raises(ValueError, match="workspace: expected x, y, z lowest and x, y, z highest"):
        SafetySettings(workspace_m=box)
