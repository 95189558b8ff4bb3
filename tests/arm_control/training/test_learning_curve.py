"""The learning curve of a training."""

from pathlib import Path

import pytest

from arm_control.training.learning_curve import draw_learning_curve

ROWS = [
    {"elapsed_s": 1.0, "mean_error_mm": 100.0, "success": 0.0},
    {"elapsed_s": 9.0, "mean_error_mm": 3.0, "success": 1.0},
]


class TestDrawLearningCurve:
    def test_writes_a_png(self, tmp_path: Path) -> None:
        """A picture of the validations."""
        draw_learning_curve(ROWS, tmp_path / "curve.png", 10.0, "error")
        assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")

    def test_leaves_nothing_behind_where_it_cannot_write(self, tmp_path: Path) -> None:
        """A folder in the file's place."""
        (tmp_path / "curve.png").mkdir()
        with pytest.raises(OSError, match=r"curve\.png"):
            draw_learning_curve(ROWS, tmp_path / "curve.png", 10.0, "error")
        assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]
