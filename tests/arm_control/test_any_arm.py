"""Every command with an arm that nobody here made: the KUKA iiwa that comes with PyBullet, seven joints."""

import json
import os
from pathlib import Path

import pybullet_data
import pytest

from arm_control import evaluation, exporter, training
from arm_control.cli import main
from arm_control.runner import PolicyRunner

KUKA = os.path.join(pybullet_data.getDataPath(), "kuka_iiwa", "model.urdf")  # noqa: PTH118


@pytest.mark.slow
def test_the_same_commands_train_evaluate_export_run_and_film_another_arm(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "REPORTS", 2)
    monkeypatch.setattr(evaluation, "VALIDATION_GOALS", 2)
    monkeypatch.setattr(exporter, "RANDOM_STATES", 1000)
    run, policy, figures = tmp_path / "kuka", tmp_path / "kuka" / "policy.onnx", tmp_path / "kuka.json"
    words = ["train", "ddpg", "--arm", KUKA, "--steps", "2400", "--hidden-units", "16", "--fourier-octaves", "1"]
    assert main([*words, "--out", str(run)]) == 0
    assert main(["evaluate", str(run), "--goals", "3"]) == 0
    assert main(["export", str(run)]) == 0
    contract = PolicyRunner.load(policy).contract
    assert len(contract.joints) == 7
    assert [tensor.size for tensor in contract.inputs] == [7, 7, 7, 3]
    assert main(["evaluate", str(policy), "--goals", "3", "--arm", KUKA]) == 0
    walk = ["--arm", KUKA, "--random", "2", "--pace", "fast", "--seconds-per-goal", "0.5", "--json", str(figures)]
    assert main(["run", str(policy), *walk]) == 0
    assert len(json.loads(figures.read_text())["goals"]) == 2
    assert main(["replay", str(policy), "--arm", KUKA, "--goals", "1", "--save", str(tmp_path / "kuka.mp4")]) == 0
    capfd.readouterr()
    assert main(["run", str(policy), "--random", "1"]) == 2
    assert "trained on the arm lbr_iiwa" in capfd.readouterr().err
