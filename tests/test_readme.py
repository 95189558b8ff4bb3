"""What the README and the docs tell people to type works as it stands there, but for the length of the trainings."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
EVERY_AGENT = (
    'ddpg branching-dqn dqn actor-critic dpg reinforce "reinforce --baseline none" sb3-ddpg sb3-td3 '
    '"a2c --processes 2" a3c "sb3-a2c --processes 2" "sb3-ppo --processes 2"'
)
SHORTER = [
    (EVERY_AGENT, 'ddpg "a2c --processes 2" sb3-td3'),
    ("--seeds 3", "--seeds 2"),
    ("--seeds 6", "--seeds 2"),
    ("--minutes 1.5", "--steps 3000"),
    ("--steps 200000", "--steps 3000"),
    ("--steps 40000", "--steps 2500"),
    ("--minutes 3", "--steps 3000"),
    ("--minutes 5", "--steps 6000"),
    ("minutes=1.5", "steps=3000"),
    ("--goals 1000", "--goals 20"),
    ("bench runner", "bench runner --seconds 1 --rounds 1"),
    ("bench viewer", "bench viewer --seconds 4"),
    ("bench simulation", "bench simulation --seconds 0.05 --rounds 1"),
    ("bench argmax", "bench argmax --grid-step-deg 10 --rounds 1"),
    ("bench ladder", "bench ladder --minutes 0.04 --seeds 1 --goals 5 --grid-step-deg 30"),
]


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)
    for long, short in SHORTER:
        found = [text.replace(long, short) for text in found]
    return found


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


@contextlib.contextmanager
def terminal(words: list[str], folder: Path) -> Iterator[None]:
    """A command that goes on in another terminal, until it is interrupted."""
    process = subprocess.Popen(words, cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()  # it is there
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_the_pages_work(page: Path, tmp_path: Path, tiny_policy: Path) -> None:
    commands = [line for block in blocks(page, "sh") for line in block.splitlines() if line.startswith("arm-control")]
    if page.name in ("running.md", "watching.md"):  # what `make demo` leaves
        (tmp_path / "runs/demo").mkdir(parents=True)
        shutil.copy(tiny_policy, tmp_path / "runs/demo/policy.onnx")
    with contextlib.ExitStack() as others:
        for line in commands:
            words = shlex.split(line, comments=True)
            if words[1] == "emulate":  # in another terminal
                others.enter_context(terminal(words, tmp_path))
                continue
            done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    if page == README:
        assert len(commands) >= 6
        assert (tmp_path / "runs/mine/policy.onnx").exists()
        assert (tmp_path / "runs/mine/video.mp4").exists()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_the_pages_works(page: Path, tmp_path: Path) -> None:
    for code in blocks(page, "python"):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_named_in_the_pages_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} names {target}"
    for target in re.findall(r"`((?:envs|policies|arm_control|assets|tests)/[\w./]*)`", page.read_text()):
        assert (ROOT / target).exists(), f"{page.name} names {target}"


@pytest.mark.slow
@pytest.mark.alone
def test_make_demo_trains_to_a_few_millimetres_and_writes_its_report(tmp_path: Path) -> None:
    """The real thing, in a copy of the tree; only the virtual environment is this one."""
    for name in ("arm_control", "envs", "policies", "assets"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Makefile", tmp_path)
    make = ["make", "demo", f"BIN={Path(sys.executable).parent}", "READY="]
    demo_environment = environment() | {"PYTHONPATH": str(tmp_path), "DISPLAY": ""}
    done = subprocess.run(make, cwd=tmp_path, env=demo_environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    report = (tmp_path / "runs/demo/report.md").read_text()
    error = re.search(r"mean error at the last step \| \*\*([\d.]+) mm", report)
    success = re.search(r"\| 10 mm \| ([\d.]+)%", report)
    assert error is not None
    assert success is not None
    assert float(error[1]) <= 3.0
    assert float(success[1]) >= 99.0
    for name in ("curve.png", "policy.onnx", "video.mp4", "page.html"):
        assert (tmp_path / "runs/demo" / name).stat().st_size > 10_000
