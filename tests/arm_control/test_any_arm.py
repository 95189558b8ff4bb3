"""Every command with arms of others: PyBullet's KUKA iiwa with seven joints, and a desk arm with joints of ±90°."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from locations import DESK
from other_arms import KUKA
from short_trainings import short_validations

from arm_control.cli import main
from arm_control.evaluation.opening import evaluate
from arm_control.exporter import exporter
from arm_control.exporter.exporter import export
from arm_control.recording.reading import read_recording
from arm_control.runner import PolicyRunner
from arm_control.runs.config import TrainConfig
from arm_control.training.loop import train
from arm_control.viewers.common.verification import verify
from envs.arm import Arm
from policies.ddpg.settings import DDPGSettings
from policies.reinforce.settings import ReinforceSettings


@pytest.fixture(scope="module")
def low_desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A desk arm whose shoulder is 30 mm above the table; at its lower limits, its tip is 90 mm below."""
    file = tmp_path_factory.mktemp("arms") / "low.urdf"
    file.write_text(DESK.read_text().replace('<origin xyz="0 0 0.08"/>', '<origin xyz="0 0 -0.01"/>'))
    return file


@pytest.fixture(scope="module")
def desk_policy(low_desk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of that arm."""
    settings = DDPGSettings(hidden_units=16, fourier_octaves=1, batch_size=32, learning_starts=100)
    config = TrainConfig("ddpg", settings, num_envs=2, steps=200, arm=str(low_desk))
    return export(train(config, tmp_path_factory.mktemp("runs") / "desk", quiet=True))


Ran = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def ran(low_desk: Path, desk_policy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Ran:
    """A function that runs that policy on its simulated arm; returns exit code, figures and standard error."""

    def run(*words: str) -> tuple[int, Any, str]:
        figures = tmp_path / "run.json"
        figures.unlink(missing_ok=True)
        quick = ["--pace", "fast", "--seconds-per-goal", "0.1", "--json", str(figures)]
        capfd.readouterr()
        code = main(["run", str(desk_policy), "--arm", str(low_desk), *quick, *words])
        return code, json.loads(figures.read_text()) if figures.exists() else None, capfd.readouterr().err

    return run


class TestOtherArms:
    """Training on other arms."""

    @pytest.mark.slow
    def test_all_commands_work_with_seven_joints(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Train, evaluate, export, run and replay; the default arm is then rejected for that policy."""
        monkeypatch.setattr(exporter, "RANDOM_STATES", 1000)
        run, policy, figures = tmp_path / "kuka", tmp_path / "kuka" / "policy.onnx", tmp_path / "kuka.json"
        words = ["train", "ddpg", "--arm", KUKA, "--steps", "2400", "--hidden-units", "16", "--fourier-octaves", "1"]
        with short_validations(reports=2):
            assert main([*words, "--out", str(run)]) == 0
        assert main(["evaluate", str(run), "--goals", "3"]) == 0
        assert main(["export", str(run)]) == 0
        contract = PolicyRunner.load(policy).contract
        assert len(contract.joints) == 7
        assert [tensor.size for tensor in contract.inputs] == [7, 7, 7, 7, 3]
        assert main(["evaluate", str(policy), "--goals", "3", "--arm", KUKA]) == 0
        walk = ["--arm", KUKA, "--random", "2", "--pace", "fast", "--seconds-per-goal", "0.5", "--json", str(figures)]
        assert main(["run", str(policy), *walk]) == 0
        assert len(json.loads(figures.read_text())["goals"]) == 2
        assert main(["replay", str(policy), "--arm", KUKA, "--goals", "1", "--save", str(tmp_path / "kuka.mp4")]) == 0
        capfd.readouterr()
        assert main(["run", str(policy), "--random", "1"]) == 2
        assert "trained on the arm lbr_iiwa" in capfd.readouterr().err

    def test_an_arm_that_reaches_nothing_above_the_table_is_not_trained(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Both environments report it in one line, and no folder is made."""
        hanging = tmp_path / "hanging.urdf"
        hanging.write_text(DESK.read_text().replace('<origin xyz="0 0 0.08"/>', '<origin xyz="0 0 -0.6"/>'))
        for env in ("ArmReach-v0", "ArmTrack-v0"):
            words = ["--arm", str(hanging), "--env", env, "--steps", "8", "--out", str(tmp_path / "run")]
            assert main(["train", "ddpg", *words]) == 2
            err = capfd.readouterr().err
            assert err.count("\n") == 1
            assert "reaches nothing above the table at z = 0 m" in err
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
class TestRunOnADeskArm:
    """An arm that can reach into the table starts, parks and moves above it."""

    def test_it_starts_and_parks_above_the_table(self, ran: Ran, low_desk: Path, tmp_path: Path) -> None:
        """Its recording verifies bit for bit."""
        log = tmp_path / "run.mcap"
        code, figures, _ = ran("--random", "2", "--record", str(log))
        assert (code, figures["parked"]) == (0, True)
        ticks = read_recording(log).ticks
        first_deg, last_deg = (tick.angle_deg or [] for tick in (ticks[0], ticks[-1]))
        assert min(end[2] for end in Arm(low_desk).link_ends(first_deg)) > 0.02
        np.testing.assert_allclose(last_deg, [0.0] * 3, atol=3.0)
        assert verify(log) == (len(ticks), "")

    def test_random_goals_are_above_the_table(self, ran: Ran) -> None:
        """For the default table, one at 0.02 m and one at -0.3 m."""
        lowest_m = {}
        for table in (None, "0.02", "-0.3"):
            words = [] if table is None else ["--table", table]
            code, figures, _ = ran("--random", "300", "--shadow", *words)
            assert code == 0
            lowest_m[table] = min(goal["goal_m"][2] for goal in figures["goals"])
        assert 0.0 <= lowest_m[None] < 0.02 <= lowest_m["0.02"]
        assert lowest_m["-0.3"] < 0.0

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (
                ["--random", "1", "--table", "0", "--park", "0,90,90"],
                r"parking pose .*the end of tip is 90 mm below the table .*--table.*--park",
            ),
            (
                ["--random", "1", "--park", "0,0,0", "--workspace=-1,-1,-1,1,1,0.2"],
                r"above z = 0.2 m of the box .*--workspace",
            ),
            (["--goal", "0.2,0,0.1", "--table", "0.11"], r"goal .* is 10 mm outside .* below the table at z = 0.11 m"),
            (["--random", "1", "--table", "0.5"], r"above the table at z = 0.5 m"),
        ],
    )
    def test_goals_and_poses_outside_are_rejected_with_their_flag(
        self, ran: Ran, words: list[str], message: str
    ) -> None:
        """The line has the link, the distance and the flag of that side."""
        code, figures, err = ran(*words)
        assert (code, figures) == (2, None)
        assert err.count("\n") == 1
        assert re.search(message, err), err


class TestInvalidUrdfs:
    """URDFs that PyBullet crashes at, prints about or reads with wrong masses."""

    @pytest.mark.parametrize(
        ("before", "after", "message"),
        [
            ("</robot>", '<link name="loose"/></robot>', "'loose'"),
            ('child link="tip"', 'child link="gone"', "'gone'"),
            ('<inertia ixx="6e-5" iyy="6e-5" izz="3e-6" ixy="0" ixz="0" iyz="0"/>', "", "link 'fore'"),
            ('ixx="6e-5"', 'ixx="nan"', "link 'fore'"),
            ('<axis xyz="0 1 0"/>', '<axis xyz="0 1 0"/><mimic joint="yaw"/>', "mimics joint 'yaw'"),
            ('effort="1.4"', 'effort="0.05"', "joint 'lift' cannot hold the arm"),
            ("<robot", "<mujoco", "MJCF"),
        ],
    )
    def test_training_is_rejected_in_one_line(
        self, before: str, after: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Exit code 2, and no run folder."""
        text = DESK.read_text()
        assert before in text
        text = text.replace(before, after)
        (tmp_path / "arm.urdf").write_text(text.replace("</robot>", "</mujoco>") if "<mujoco" in text else text)
        words = ["--arm", str(tmp_path / "arm.urdf"), "--steps", "8", "--out", str(tmp_path / "run")]
        assert main(["train", "ddpg", *words]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert message in err
        assert not (tmp_path / "run").exists()

    def test_inverse_kinematics_reaches_its_goals_with_frames_at_the_tip(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Frames without mass are not given 1 kg each, with which the errors would exceed 100 mm."""
        frame = '<link name="{0}"/><joint name="to_{0}" type="fixed"><parent link="tip"/><child link="{0}"/></joint>'
        text = DESK.read_text().replace("</robot>", frame.format("tool0") + frame.format("camera") + "</robot>")
        (tmp_path / "arm.urdf").write_text(text)
        figures = tmp_path / "figures.json"
        words = ["--arm", str(tmp_path / "arm.urdf"), "--goals", "5", "--json", str(figures)]
        assert main(["evaluate", "ik", *words]) == 0
        assert json.loads(figures.read_text())["mean_error_mm"] < 1.0
        assert "b3" not in "".join(capfd.readouterr())


class TestShippedOneJointArm:
    """`--arm arm1`, the arm for experiments that take seconds."""

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", [0, 1])
    def test_reinforce_learns_it_in_30000_steps(self, tmp_path: Path, seed: int) -> None:
        """To a mean error below 0.5 mm on 200 held-out goals, from more than 50 mm at the first validation."""
        run = train(TrainConfig("reinforce", arm="arm1", seed=seed, steps=30_000), tmp_path / "run", quiet=True)
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert rows[0]["mean_error_mm"] > 50.0
        assert evaluate(run, goals=200)["mean_error_mm"] < 0.5

    def test_its_run_needs_no_file_of_the_assets(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The run folder has a copy, by which its policy is opened; `--arm arm1` matches it."""
        monkeypatch.chdir(tmp_path)
        settings = ReinforceSettings(hidden_units=16, learning_starts=100)
        with short_validations():
            train(TrainConfig("reinforce", settings, arm="arm1", steps=400), "run", quiet=True)
        assert json.loads(Path("run/config.json").read_text())["arm"] == "arm.urdf"
        assert main(["evaluate", "run", "--goals", "2"]) == 0
        assert main(["evaluate", "run", "--goals", "2", "--arm", "arm1"]) == 0
