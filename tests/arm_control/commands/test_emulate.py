"""`arm-control emulate` in a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from emulated import sdk
from locations import ROOT

from arm_control.cli import main
from arm_control.drivers.dynamixel.calibration import load_calibration
from arm_control.drivers.dynamixel.driver import open_dynamixel
from envs.arm import Arm


@contextmanager
def command(*flags: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`arm-control emulate dynamixel` in a process of its own, killed if a test leaves it."""
    words = [sys.executable, "-m", "arm_control.cli", "emulate", "dynamixel", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        words, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def first_line(process: subprocess.Popen[str]) -> str:
    """The line that it prints once it is ready."""
    assert process.stdout is not None
    return process.stdout.readline()


class TestEmulate:
    """The command from its flags to its end."""

    @pytest.mark.slow
    @pytest.mark.alone  # the driver gives up servos whose replies are late because of other load
    def test_an_arm_with_a_new_calibration(self, tmp_path: Path) -> None:
        """The calibration that it writes fits its servos, and Ctrl-C removes its link."""
        with command("--link", "arm", "--calibration", "arm.json", folder=tmp_path) as process:
            assert "servos 1, 2, 3 (XL430-W250) at arm" in first_line(process)
            assert load_calibration(tmp_path / "arm.json").joint_names == Arm().joint_names
            options = {"port": str(tmp_path / "arm"), "calibration": str(tmp_path / "arm.json"), "watchdog": "2.5"}
            with closing(open_dynamixel(Arm(), options)) as driver:
                assert driver.read().angles_deg == pytest.approx([0.0, 0.0, 0.0], abs=0.1)
                driver.enable()
                driver.disable()
            process.send_signal(signal.SIGINT)
            assert process.stdout is not None
            assert process.stderr is not None
            message, wrong = process.stdout.read(), process.stderr.read()
            assert process.wait(60) == 130
        assert "--driver dynamixel --port arm --calibration arm.json" in message
        assert "servo 2: torque on at 1536 ticks" in message
        assert wrong == ""
        assert sorted(path.name for path in tmp_path.iterdir()) == ["arm.json"]

    def test_sigterm(self, tmp_path: Path) -> None:
        """Exit code 130, and the link is removed."""
        (tmp_path / "arm").symlink_to("/dev/pts/none")
        with command("--ids", "7,8", "--link", "arm", "--start", "100,200", folder=tmp_path) as process:
            assert "servos 7, 8 " in first_line(process)
            with sdk(str(tmp_path / "arm")) as (port, packets):
                # On a slow machine the reply may be too late.
                assert any(packets.ping(port, 8)[0] == 1060 for _ in range(20))
            process.terminate()
            process.communicate(timeout=60)
        assert process.returncode == 130
        assert not (tmp_path / "arm").is_symlink()

    def test_the_fault_disconnect_ends_the_command(self, capfd: pytest.CaptureFixture[str]) -> None:
        """Exit code 0."""
        assert main(["emulate", "dynamixel", "--fault", "disconnect"]) == 0
        assert "fault disconnect" in capfd.readouterr().out

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--fault", "gremlins"], "unknown fault 'gremlins'; available: lost, corrupt"),
            (["--fault", "lost=lots"], "expected a fault as KIND[=PROBABILITY][@SECONDS][:ID]"),
            (["--fault", "overload@5:9"], "no servo 9; expected one of [1, 2, 3]"),
            (["--servos", "0"], "expected a number from 1"),
            (["--servos", "2", "--ids", "1,2"], "got both"),
            (["--ids", "1,x"], "expected whole numbers such as 1,2,3, got '1,x'"),
            (["--ids", "1,1"], "expected different ones"),
            (["--start", "9999"], "expected one from 0 to 4095"),
            (["--lag-s", "0"], "expected 0.005 to 1 s"),
            (["--lag-s", "0.1", "--imperfections", "rough"], "expected one of --lag-s and --imperfections, got both"),
            (["--imperfections", "ruff"], "unknown imperfections 'ruff'; expected ideal"),
            (["--link", "/nowhere/arm"], "cannot link /nowhere/arm"),
            (["--servos", "2", "--calibration", "new.json"], "the arm has 3 joints, got 2 servos"),
            (["--calibration", "/nowhere/new.json"], "there is no folder /nowhere"),
            (["--calibration", "new.json", "--fault", "stuck:9"], "no servo 9"),
        ],
    )
    def test_invalid_flags(
        self,
        flags: list[str],
        message: str,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """One line on standard error, and no file."""
        monkeypatch.chdir(tmp_path)
        assert main(["emulate", "dynamixel", *flags]) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""
        assert list(tmp_path.iterdir()) == []

    def test_a_link_does_not_replace_a_file(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """An existing file is an error."""
        (tmp_path / "arm").write_text("mine")
        assert main(["emulate", "dynamixel", "--link", str(tmp_path / "arm")]) == 2
        assert "cannot link" in capsys.readouterr().err
        assert (tmp_path / "arm").read_text() == "mine"
