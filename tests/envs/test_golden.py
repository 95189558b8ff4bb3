"""Each environment does what it did when its golden trajectory was recorded."""

import importlib.util
import json
from types import ModuleType

import numpy as np
import pytest
from locations import GOLDEN


def load_recorder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record", GOLDEN / "record.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RECORDER = load_recorder()


@pytest.mark.parametrize("name", RECORDER.IDS)
def test_the_environment_does_what_it_did(name: str) -> None:
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    rows = RECORDER.trajectory(name)
    if golden["build"] == RECORDER.build():
        assert rows == golden["rows"]
    else:
        np.testing.assert_allclose(rows, golden["rows"], rtol=0, atol=1e-5)


def test_every_environment_has_a_golden_trajectory() -> None:
    from arm_control.runs.config import environment_ids

    assert sorted(RECORDER.IDS) == environment_ids()
