"""Stable-Baselines3's agents as a comparison trains them: settings, time limit, actions and best policy."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from arm_control.comparison import baselines, trial
from arm_control.comparison.baselines import (
    BASELINES,
    BEST,
    OFF_POLICY,
    BaselineConfig,
    BaselineController,
    train_baseline,
)
from arm_control.runs.environment import environment_maker

Reports = list[tuple[int, float, float]]


def trained(config: BaselineConfig, reports: int = 3) -> tuple[BaselineController, Reports]:
    """Its policy, and at each report the step, the seconds and the learning rate."""
    message: Reports = []

    def report(controller: BaselineController, step: int, elapsed_s: float) -> None:
        optimizer = getattr(controller._model, "actor", controller._model.policy).optimizer
        message.append((step, elapsed_s, optimizer.param_groups[0]["lr"]))

    return train_baseline(config, reports, report), message


QUICK = {("sb3-td3", "defaults"), ("sb3-a2c", "zoo")}  # off policy, and on policy with normalisation


class TestTraining:
    """A baseline is trained with its own settings."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "settings"),
        [
            pytest.param(name, settings, marks=() if (name, settings) in QUICK else pytest.mark.soak)
            for name in BASELINES
            for settings in ("defaults", "zoo")
        ],
    )
    def test_a_baseline_trains_for_its_steps_and_acts(self, name: str, settings: Any) -> None:
        """It reports at each third, and its actions are the library's own for normalised observations."""
        config = BaselineConfig(name, settings=settings, discount=0.7, steps=600)
        controller, message = trained(config)
        model = controller._model
        assert model.gamma == 0.7
        assert [step for step, _, _ in message] == [200, 400, 600]
        assert model.n_envs == (1 if name in OFF_POLICY else 8)
        env = environment_maker(config.task)()
        observation, _ = env.reset(seed=0)
        targets = controller(observation, [env])
        assert env.action_space.contains(targets)
        assert np.abs(controller.decide(observation)).max() <= 1

        # What VecNormalize has learned goes with the policy.
        assert (model.get_vec_normalize_env() is not None) == (settings == "zoo" and name not in OFF_POLICY)
        seen = (
            observation
            if model.get_vec_normalize_env() is None
            else model.get_vec_normalize_env().normalize_obs(observation)
        )
        np.testing.assert_array_equal(controller.decide(observation), model.predict(seen, deterministic=True)[0])

    @pytest.mark.slow
    def test_reports_do_not_count_as_training_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The learning rate falls as 8e-4 (1 - progress), with progress in training time only."""
        now = 0.0

        def perf_counter() -> float:
            """A clock that a look at moves on."""
            nonlocal now
            now += 0.01
            return now

        monkeypatch.setattr(baselines, "time", SimpleNamespace(perf_counter=perf_counter))
        rates: list[tuple[float, float]] = []

        def report(controller: BaselineController, step: int, elapsed_s: float) -> None:
            """Takes far longer than the whole training."""
            nonlocal now
            now += 1000.0
            rates.append((elapsed_s, controller._model.policy.optimizer.param_groups[0]["lr"]))

        train_baseline(BaselineConfig("sb3-a2c", settings="zoo", minutes=0.1), 3, report)
        assert [elapsed_s for elapsed_s, _ in rates] == pytest.approx([2, 4, 6], abs=0.1)
        # 8e-4 (1 - progress), set at every update.
        assert [rate for _, rate in rates] == pytest.approx([8e-4 * share for share in (2 / 3, 1 / 3, 0)], abs=4e-5)

    @pytest.mark.slow
    def test_environments_in_processes_are_the_same_training(self) -> None:
        """One and two processes give bit-equal parameters."""
        one, several = (
            trained(BaselineConfig("sb3-a2c", settings="defaults", steps=400, processes=processes))[0]
            for processes in (1, 2)
        )
        for mine, other in zip(one._model.policy.parameters(), several._model.policy.parameters(), strict=True):
            np.testing.assert_array_equal(mine.detach().numpy(), other.detach().numpy())

    def test_actions_from_minus_one_to_one_span_the_joints(self) -> None:
        """Actions -1, 0 and 1 are 0, 45 and 90 degrees."""
        env = environment_maker(BaselineConfig("sb3-ddpg").task)()
        controller = BaselineController(
            SimpleNamespace(  # type: ignore[arg-type]
                get_vec_normalize_env=lambda: None, predict=lambda seen, deterministic: (np.float32([-1, 0, 1]), None)
            )
        )
        assert controller({}, [env]).tolist() == [0.0, 45.0, 90.0]

    def test_default_settings_are_the_best_measured_ones(self) -> None:
        """Settings and discount that are not given are those of the table `BEST`."""
        for name in BASELINES:
            config = BaselineConfig(name)
            assert (config.settings, config.discount) == BEST[name]


class TestBestPolicy:
    """Like our own agents, a baseline is evaluated by its best validated policy."""

    @pytest.mark.slow
    def test_a_restored_snapshot_decides_as_before(self) -> None:
        """It holds the policy's parameters and the statistics of the observations, as copies."""
        config = BaselineConfig("sb3-a2c", settings="zoo", steps=400)
        controller = trained(config)[0]
        env = environment_maker(config.task)()
        observation, _ = env.reset(seed=0)
        env.close()
        snapshot = controller.snapshot()
        before = controller.decide(observation)
        for parameter in controller._model.policy.parameters():
            parameter.data.add_(0.1)
        assert controller._normalizer is not None
        for statistics in controller._normalizer.obs_rms.values():  # type: ignore[union-attr]
            statistics.mean += 0.5
        assert not np.array_equal(controller.decide(observation), before)
        controller.restore(snapshot)
        np.testing.assert_array_equal(controller.decide(observation), before)

    def test_the_best_of_the_reports_is_evaluated(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Of a policy that gets better and then worse, not the last one."""
        restored: list[float] = []

        class Constant:
            """Holds all joints at one angle."""

            def __init__(self) -> None:
                self.angle_deg = 0.0

            def __call__(self, observation: Any, arms: list[Any]) -> Any:
                return np.full((len(arms), 3), self.angle_deg, np.float32)

            def decide(self, observation: Any) -> Any:
                return np.zeros(3, np.float32)

            def snapshot(self) -> float:
                return self.angle_deg

            def restore(self, snapshot: float) -> None:
                restored.append(snapshot)
                self.angle_deg = snapshot

        def train(config: BaselineConfig, reports: int, report: Any) -> Constant:
            controller = Constant()
            for number, controller.angle_deg in enumerate((0.0, 45.0, 90.0), 1):
                report(controller, number * config.task.steps // 3, float(number))  # type: ignore[operator]
            return controller

        monkeypatch.setattr(trial, "train_baseline", train)
        config = BaselineConfig("sb3-ddpg", steps=6000)
        result = trial._run_baseline(trial.Trial(config, tmp_path / "trial", 10, 0), config)
        errors = [row["mean_error_mm"] for row in result["curve"]]
        assert errors[1] < errors[2] / 1.5  # in the middle of its range the arm is nearer to the goals
        assert restored == [45.0]
