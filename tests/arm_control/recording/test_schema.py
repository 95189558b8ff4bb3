"""The JSON schemas of ticks and events."""

import json

import msgspec
import pytest
from recordings import tick

from arm_control.recording.schema import Tick, of_simulated_arm
from arm_control.recording.writer import schema_of


def test_a_schema_lists_required_fields_and_types() -> None:
    """Optional fields are not required, and types have no alternatives or references."""
    schema = schema_of(Tick)
    assert "anyOf" not in json.dumps(schema)
    assert "$ref" not in json.dumps(schema)
    assert {*schema["required"]} == {
        *json.loads(msgspec.json.encode(tick(goal_m=None, angle_deg=None, target_deg=None)))
    }
    assert schema["properties"]["angle_deg"] == {"type": "array", "items": {"type": "number"}}


class TestSimulatedArm:
    """The metadata tell a simulated arm from a real one."""

    @pytest.mark.parametrize(
        ("metadata", "simulated"),
        [
            ({"driver": "other", "simulated": "true"}, True),
            ({"driver": "dynamixel", "simulated": "false"}, False),
            # Recorded before drivers declared it.
            ({"driver": "sim"}, True),
            ({"driver": "dynamixel"}, False),
            ({}, False),
        ],
    )
    def test_metadata(self, metadata: dict[str, str], simulated: bool) -> None:
        """A driver's declaration counts; without one, its name does."""
        assert of_simulated_arm(metadata) == simulated
