"""The JSON schemas of ticks and events."""

import json

import msgspec
from recordings import tick

from arm_control.recording.schema import Tick
from arm_control.recording.writer import schema_of


def test_the_schemas_say_what_is_in_a_message() -> None:
    schema = schema_of(Tick)
    assert "anyOf" not in json.dumps(schema)
    assert "$ref" not in json.dumps(schema)
    assert {*schema["required"]} == {
        *json.loads(msgspec.json.encode(tick(goal_m=None, angle_deg=None, target_deg=None)))
    }
    assert schema["properties"]["angle_deg"] == {"type": "array", "items": {"type": "number"}}
