"""What the tests share: one thread each, repeatable hypotheses, and one small trained run."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Presses Ctrl-C during the step after which a training has done so many."""
    from arm_control.training import Training

    advance = Training.advance

    def at(step: int) -> None:
        def advance_and_press(self: Training) -> dict[str, float]:
            metrics = advance(self)
            if self.step == step:
                signal.raise_signal(signal.SIGINT)
            return metrics

        monkeypatch.setattr(Training, "advance", advance_and_press)

    return at


@pytest.fixture
def files_at_most() -> Callable[[int], AbstractContextManager[None]]:
    """As on a full disk: within `files_at_most(size)` no file of this process can grow beyond `size` bytes."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)

    return limited
