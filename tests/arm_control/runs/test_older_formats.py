"""Run folders of older versions, converted to the present names."""

import json
from pathlib import Path

import torch

from arm_control.runs.config import TrainConfig
from arm_control.runs.older_formats import FIELDS, SETTINGS, present_config, present_state
from arm_control.runs.run_folder import RunFolder
from policies.dpg.settings import DPGSettings


def as_version_5(config: TrainConfig) -> dict[str, object]:
    """A configuration as version 5 stored it."""
    fields = {new: old for old, new in FIELDS.items()}
    settings = {new: old for old, new in SETTINGS.items()}
    values = config.to_json()
    values["settings"] = {settings.get(name, name): value for name, value in values["settings"].items()}
    options = values.pop("task_options")
    values = {fields.get(name, name): value for name, value in values.items()}
    return {"version": 5, **values, "path": options.get("path"), "speed_m_s": options.get("speed_m_s")}


class TestConfig:
    """Names of fields and settings."""

    def test_a_configuration_of_version_5_is_read(self) -> None:
        """Four agents' configurations with the old names are equal to the present ones."""
        for config in (TrainConfig("ddpg", num_envs=3), TrainConfig("a2c"), TrainConfig("dqn"), TrainConfig("a3c")):
            older = as_version_5(config)
            assert "arms" in older
            assert "num_envs" not in older
            assert TrainConfig.from_json(older) == config

    def test_top_level_task_options_are_moved(self) -> None:
        """`path` and `speed_m_s` become `task_options`."""
        values = present_config({"path": "circle", "speed_m_s": 0.3})
        assert values["task_options"] == {"path": "circle", "speed_m_s": 0.3}
        assert "path" not in values

    def test_noise_that_did_not_fall_stays_constant(self) -> None:
        """A run of `dpg` without `final_noise` is continued with the noise that it was started with."""
        older = TrainConfig("dpg", DPGSettings(noise=0.2)).to_json()
        del older["settings"]["final_noise"]
        assert TrainConfig.from_json(older).settings.final_noise == 0.2

    def test_a_present_configuration_is_unchanged(self) -> None:
        """Conversion is idempotent."""
        values = TrainConfig("ddpg").to_json()
        assert present_config(values) == values

    def test_a_run_folder_of_version_5_is_opened(self, tmp_path: Path) -> None:
        """Its configuration is read from config.json."""
        (tmp_path / "config.json").write_text(json.dumps(as_version_5(TrainConfig("ddpg", seed=4))))
        _, values = RunFolder.open(tmp_path)
        assert TrainConfig.from_json(values).seed == 4


class TestState:
    """Names of parameters in a checkpoint."""

    def test_parameters_are_renamed_at_any_depth(self) -> None:
        """`log_deviation` becomes `log_std`; other entries are kept."""
        weight = torch.ones(2)
        state = {"policy": {"log_deviation": weight, "net.0.bias": weight}, "step": 3}
        assert present_state(state) == {"policy": {"log_std": weight, "net.0.bias": weight}, "step": 3}
