"""Golden trajectories: the environments compared with recorded episodes."""

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


class TestGoldenTrajectories:
    """Recorded trajectories of every environment."""

    @pytest.mark.parametrize("name", RECORDER.IDS)
    def test_the_trajectory_is_unchanged(self, name: str) -> None:
        """Two episodes equal the recorded ones: exactly on the build that recorded them, to 1e-5 on others."""
        golden = json.loads((GOLDEN / f"{name}.json").read_text())
        rows = RECORDER.trajectory(name)
        if golden["build"] == RECORDER.build():
            assert rows == golden["rows"]
        else:
            np.testing.assert_allclose(rows, golden["rows"], rtol=0, atol=1e-5)

    def test_every_environment_has_a_golden_trajectory(self) -> None:
        """The recorder covers every registered id."""
        from arm_control.runs.config import environment_ids

        assert sorted(RECORDER.IDS) == environment_ids()
