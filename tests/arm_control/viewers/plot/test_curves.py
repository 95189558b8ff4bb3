"""The learning curves of run folders in one plot."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arm_control.evaluation.metrics import LADDER_MM
from arm_control.viewers.plot.curves import curves_of, save_curves


class TestSaveCurves:
    """Learning curves of run folders."""

    def test_runs_without_a_learning_curve_are_rejected(self, tiny_run: Path, tmp_path: Path) -> None:
        """A run without a validation, and a missing run."""
        run = tmp_path / "run"
        shutil.copytree(tiny_run, run)
        [metrics] = run.glob("metrics*")
        rows = metrics.read_text().splitlines(keepends=True)
        metrics.write_text("")
        with pytest.raises(ValueError, match=r"no learning curve yet: no progress report"):
            save_curves([run], tmp_path / "out.png")
        metrics.write_text(rows[0])
        save_curves([run], tmp_path / "one.png")
        assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
        with pytest.raises((ValueError, OSError), match="nowhere"):
            save_curves([tmp_path / "nowhere"], tmp_path / "out.png")
        assert not (tmp_path / "out.png").exists()

    def test_seeds_of_one_configuration_are_one_curve(self, tiny_run: Path, tmp_path: Path) -> None:
        """Interquartile mean and interval of three seeds by hand; another configuration is a curve of its own."""
        for name, seed, step_s in (("a", 0, 1.0), ("b", 1, 2.0), ("c", 2, 4.0), ("other", 0, 3.0)):
            shutil.copytree(tiny_run, tmp_path / name)
            config = json.loads((tmp_path / name / "config.json").read_text()) | {"seed": seed}
            if name == "other":
                config["reward"] = "sparse"
            (tmp_path / name / "config.json").write_text(json.dumps(config))
            row = {"step": 0, "updates": 0, **{f"success_{mm}_mm": 0.5 for mm in LADDER_MM}}
            rows = [row | {"elapsed_s": at * 10.0, "mean_error_mm": 100.0 - step_s * 10 * at} for at in (0, 1, 2)]
            (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        folders = [tmp_path / name for name in ("a", "b", "c", "other")]
        together, alone = curves_of([*folders, folders[0]]).items()
        names = ", ".join(map(str, folders[:3]))
        assert together[0] == f"ddpg, 3 seeds, 95 % interval: {names}"
        assert alone[0] == f"ddpg, 1 seed: {folders[3]}"
        error, low, high = together[1].error[:, -1]
        assert (error, low, high) == pytest.approx(((0.25 * 80 + 60 + 0.25 * 20) / 1.5, 20, 80))  # interquartile mean
        assert alone[1].error[:, -1] == pytest.approx([40, 40, 40])
        save_curves(folders, tmp_path / "out.png")
        blue, orange = (picture_has(tmp_path / "out.png", colour) for colour in ((0, 114, 178), (213, 94, 0)))
        assert min(blue, orange) > 300


def picture_has(path: Path, colour: tuple[int, int, int]) -> int:
    """The number of pixels of this colour in a picture."""
    return int((np.abs(np.asarray(Image.open(path).convert("RGB")).astype(int) - colour).max(axis=-1) < 30).sum())
