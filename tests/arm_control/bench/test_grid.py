"""The discretisation error of the degree grid."""

import json
from pathlib import Path

import numpy as np
import pytest

from arm_control.cli import main
from arm_control.evaluation.grid_floor import grid_errors_m, grid_floor
from envs.arm import Arm
from envs.degree_grid import DegreeGrid


class TestGridFloor:
    """Distances from goals to poses of the grid."""

    @pytest.mark.slow
    def test_the_best_pose_equals_an_exhaustive_search(self) -> None:
        """40 goals against all 19^3 poses of a grid of 5 degrees."""
        arm = Arm()
        grid = DegreeGrid([0] * 3, [90] * 3, 5.0)
        poses = np.random.default_rng(1).uniform(0, 90, (40, 3))
        rounded, best = grid_errors_m(arm, grid, poses)
        for pose, near, nearest in zip(poses, rounded, best, strict=True):
            goal = np.array(arm.tip_position(pose.tolist()))
            every = [
                np.linalg.norm(arm.tip_position([float(a), float(b), float(c)]) - goal)
                for a in range(0, 91, 5)
                for b in range(0, 91, 5)
                for c in range(0, 91, 5)
            ]
            assert np.isclose(nearest, np.min(every), rtol=1e-12)
            to_grid = (np.round(pose / 5.0) * 5.0).tolist()
            assert np.isclose(near, np.linalg.norm(arm.tip_position(to_grid) - goal), atol=1e-12)

    def test_a_goal_on_the_grid_has_no_error(self) -> None:
        """To 1e-12 m."""
        poses = np.array([[10.0, 20.0, 30.0], [90.0, 0.0, 45.0]])
        rounded, best = grid_errors_m(Arm(), DegreeGrid([0] * 3, [90] * 3), poses)
        assert rounded.max() < 1e-12
        assert best.max() < 1e-12

    def test_the_command_writes_the_figures(self, tmp_path: Path) -> None:
        """JSON equals the function's result; the best pose is nearer than the rounded one."""
        path = tmp_path / "grid.json"
        assert main(["bench", "grid", "--goals", "50", "--step-deg", "5", "--json", str(path)]) == 0
        figures = json.loads(path.read_text())
        assert figures == json.loads(json.dumps(grid_floor(50, 0, 5.0)))
        assert figures["actions"] == 19**3
        assert 0 < figures["best_mean_mm"] < figures["rounding_mean_mm"]
