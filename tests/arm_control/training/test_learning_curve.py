"""The learning curve of a training."""

from pathlib import Path

import pytest

from arm_control.training.learning_curve import draw_learning_curve

ROWS = [
    {"elapsed_s": 1.0, "mean_error_mm": 100.0, "success": 0.0},
    {"elapsed_s": 9.0, "mean_error_mm": 3.0, "success": 1.0},
]


class TestDrawLearningCurve:
    """The learning curve as a picture."""

    def test_it_writes_a_png(self, tmp_path: Path) -> None:
        """The file begins with the PNG signature."""
        draw_learning_curve(ROWS, tmp_path / "curve.png", 10.0, "error")
        assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")

    def test_no_partial_file_is_left(self, tmp_path: Path) -> None:
        """A folder in the place of the file is an error."""
        (tmp_path / "curve.png").mkdir()
        with pytest.raises(OSError, match=r"curve\.png"):
            draw_learning_curve(ROWS, tmp_path / "curve.png", 10.0, "error")
        assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]
