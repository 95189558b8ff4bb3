"""What the tests share: one thread each, repeatable hypotheses, and one small trained run."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a real but very short training; not to be written to: copy it first."""
    from arm_control.config import TrainConfig
    from arm_control.training import train
    from policies.settings import DDPGSettings

    settings = DDPGSettings(hidden_units=16, fourier_octaves=1, batch_size=32, random_steps=200)
    config = TrainConfig("ddpg", settings, arms=4, steps=2000)
    return train(config, tmp_path_factory.mktemp("runs") / "tiny", quiet=True)


@pytest.fixture(scope="session")
def tiny_policy(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its exported policy; not to be written to."""
    from arm_control.exporter import export

    return export(tiny_run, tmp_path_factory.mktemp("policies") / "policy.onnx")
