"""Shared by all tests: one thread each, repeatable hypothesis examples, test sizes, and one small trained run."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import ctypes
import resource
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from hypothesis import settings
from locations import TESTS

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

# A shell ignores Ctrl-C for what it starts in the background, and programs that the tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Set by `make soak`: tests that request the fixture `size` run at full size.
SOAK = os.environ.get("ARM_CONTROL_SOAK") == "1"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One worker more than there are cores, since tests wait for the programs that they start."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.hookimpl(tryfirst=True)  # before `-m` deselects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests whose size is a setting, so that `make soak` selects them, and note which run in it alone.

    Tests of the whole program come first: some take a minute, for which other workers would wait at the end.
    """
    items.sort(key=lambda item: item.path.parent != TESTS)
    for item in items:
        if item.get_closest_marker("soak"):
            item.user_properties.append(("soak", True))
        if "size" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.sized)


@pytest.fixture
def size(record_property: Callable[[str, object], None]) -> Callable[..., int]:
    """A function that returns a test's size, `size(small, full=..., of="episodes")`: full in `make soak`."""

    def choose(small: int, *, full: int, of: str) -> int:
        chosen = full if SOAK else small
        record_property(f"size:{of}", chosen)
        return chosen

    return choose


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print which sized tests ran, in how many cases, and their sizes in total."""
    cases: Counter[str] = Counter()
    totals: dict[str, Counter[str]] = {}
    for report in terminalreporter.getreports("passed"):
        if report.when != "call":
            continue
        sizes = [(name.removeprefix("size:"), value) for name, value in report.user_properties if "size:" in name]
        if not sizes and ("soak", True) not in map(tuple, report.user_properties):
            continue
        test = report.nodeid.partition("[")[0]
        cases[test] += 1
        for unit, value in sizes:
            totals.setdefault(test, Counter())[unit] += int(value)
    if not cases:
        return
    terminalreporter.section("full sizes (make soak)" if SOAK else "small sizes; make soak runs the full ones")
    for test, count in sorted(cases.items()):
        amounts = ", ".join(f"{total:,} {unit}" for unit, total in totals.get(test, Counter()).items())
        terminalreporter.line(f"{test}: {count} passed{', ' if amounts else ''}{amounts}")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a real but very short training. Read-only: copy it before changing anything."""
    from short_trainings import short_validations

    from arm_control.runs.config import TrainConfig
    from arm_control.training.loop import train
    from policies.ddpg.settings import DDPGSettings

    settings = DDPGSettings(hidden_units=16, fourier_octaves=1, batch_size=32, learning_starts=200)
    config = TrainConfig("ddpg", settings, num_envs=4, steps=2000)
    with short_validations(goals=5):
        return train(config, tmp_path_factory.mktemp("runs") / "tiny", quiet=True)


@pytest.fixture(scope="session")
def tiny_policy(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported policy of `tiny_run`. Read-only."""
    from arm_control.exporter.exporter import export

    return export(tiny_run, tmp_path_factory.mktemp("policies") / "policy.onnx")


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A function that sends Ctrl-C when a training reaches a number of steps."""
    from arm_control.training.loop import Training

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
def rejected(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A function that runs a command which must end in one line on standard error and exit code 2; returns the line.

    Nothing may be printed on standard output, unless `after_output` is given.
    """
    from arm_control.cli import main

    def run(*words: object, after_output: bool = False) -> str:
        capfd.readouterr()
        code = main([str(word) for word in words])
        out, error = capfd.readouterr()
        assert code == 2
        assert after_output or out == ""
        assert error.startswith("arm-control: error: ")
        assert error.endswith("\n")
        assert error.count("\n") == 1
        return error

    return run


@pytest.fixture
def file_permissions() -> Iterator[None]:
    """Make file permissions apply to root too: drop CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    if os.geteuid() != 0:
        yield
        return
    # capabilities(7): version 3, this thread; effective, permitted and inheritable sets, of 32 bits each, twice.
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, sets) == 0
    effective = sets[0]
    sets[0] &= ~0b110
    assert libc.capset(header, sets) == 0
    yield
    sets[0] = effective
    assert libc.capset(header, sets) == 0


@pytest.fixture
def files_at_most() -> Callable[[int], AbstractContextManager[None]]:
    """Simulate a full disk: within `files_at_most(size)`, no file of this process can grow beyond `size` bytes."""

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
