"""Adding one of each kind: written as one file or folder, and used through the command line, without other changes."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from locations import ROOT

from arm_control.recording.reading import read_recording

GOAL = "0.2372,0.3338,0.2699"

# A real arm: its entry point is a function of the arm and the options.
REAL_ARM = """
    import time
    from arm_control.drivers.base import JointState

    class Lamp:
        calibration_sha256 = None
        fastest_rate_hz = 500.0

        def __init__(self, arm, options):
            if set(options) - {"colour", "port"}:
                raise ValueError(f"driver lamp: expected colour and port, got {sorted(options)}")
            self.joint_names = arm.joint_names
            self.limits = arm.limits
            self.angles = list(arm.limits.lower_deg)
            print("opened", dict(options))

        def enable(self): print("enabled")
        def read(self): return JointState(time.monotonic(), list(self.angles), [0.0] * len(self.angles))
        def write(self, target_deg): self.angles = list(target_deg)
        def disable(self): print("disabled")
        def close(self): print("closed")
"""

# A simulation: its entry point is a DriverType, which declares so and receives the context of the session.
SIMULATED_ARM = """
    from arm_control.drivers.base import DriverType, JointState

    class Instant:
        calibration_sha256 = None
        fastest_rate_hz = 500.0

        def __init__(self, arm, options, context):
            self.joint_names = arm.joint_names
            self.limits = arm.limits
            self.angles = list(context.start_deg)
            self.now_s = context.now_s
            print("opened", context.period_s, context.imperfections.name)

        def enable(self): pass
        def read(self): return JointState(self.now_s(), list(self.angles), [0.0] * len(self.angles))
        def write(self, target_deg): self.angles = list(target_deg)
        def disable(self): pass
        def close(self): pass

    DRIVER = DriverType(Instant, simulated=True)
"""


class TestNewDriver:
    """Another package adds drivers by entry points of the group `arm_control.drivers`."""

    @pytest.fixture
    def package(self, tmp_path: Path) -> Path:
        """A folder for PYTHONPATH with an installed package that adds the drivers `lamp`, `instant` and `broken`."""
        (tmp_path / "lamp_arm.py").write_text(textwrap.dedent(REAL_ARM))
        (tmp_path / "instant_arm.py").write_text(textwrap.dedent(SIMULATED_ARM))
        information = tmp_path / "other_arms-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: other-arms\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text(
            "[arm_control.drivers]\nlamp = lamp_arm:Lamp\ninstant = instant_arm:DRIVER\nbroken = lamp_arm:Missing\n"
        )
        return tmp_path

    def run(self, package: Path, *words: str | Path) -> "subprocess.CompletedProcess[str]":
        """Run `arm-control` with the package installed, in its folder."""
        return subprocess.run(
            [sys.executable, "-m", "arm_control.cli", *map(str, words)],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{package}"},
            cwd=package,
            timeout=120,
        )

    @pytest.mark.slow
    def test_a_real_arm_is_driven_through_goals(self, package: Path, tiny_policy: Path) -> None:
        """A driver of two arguments gets the options of the command line, and its verbs in order."""
        flags = ["--driver", "lamp", "--option", "colour=blue", "--port", "x", "--seconds-per-goal", "0.1"]
        done = self.run(package, "run", tiny_policy, "--goal", GOAL, *flags)
        assert done.returncode == 0, done.stderr
        verbs = ("opened", "enabled", "disabled", "closed")
        said = [line for line in done.stdout.splitlines() if line.startswith(verbs)]
        assert said == ["opened {'port': 'x', 'colour': 'blue'}", "enabled", "disabled", "closed"]
        assert "real-time priority" in done.stdout

    @pytest.mark.slow
    def test_a_simulated_arm_runs_in_its_own_time(self, package: Path, tiny_policy: Path) -> None:
        """A driver that declares itself simulated takes --pace fast, a start pose and imperfections."""
        flags = ["--driver", "instant", "--pace", "fast", "--imperfections", "late", "--record", "run.mcap"]
        done = self.run(package, "run", tiny_policy, "--goal", GOAL, "--seconds-per-goal", "0.1", *flags)
        assert done.returncode == 0, done.stderr
        assert f"opened {1 / 30} late" in done.stdout
        assert "real-time priority" not in done.stdout
        metadata = read_recording(package / "run.mcap").metadata
        assert (metadata["driver"], metadata["simulated"]) == ("instant", "true")
        # The recording can be re-simulated by the same driver.
        verified = self.run(package, "replay", "run.mcap", "--verify")
        assert verified.returncode == 0, verified.stderr

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--driver", "lamp", "--option", "size=3"), "driver lamp: expected colour and port, got ['size']"),
            (("--driver", "broken"), "driver broken (lamp_arm:Missing) cannot be loaded"),
            (
                ("--driver", "lamps"),
                "unknown driver 'lamps' (did you mean lamp?); available: broken, dynamixel, instant, lamp, sim",
            ),
            (("--driver", "lamp", "--option", "size"), "--option: wanted NAME=VALUE, got 'size'"),
            (("--driver", "lamp", "--pace", "fast"), "--pace: is for the simulated arm, not for --driver lamp"),
        ],
    )
    def test_bad_options_are_one_line(
        self, package: Path, tiny_policy: Path, words: tuple[str, ...], message: str
    ) -> None:
        """Bad options and drivers that cannot be loaded end in one line and exit code 2."""
        done = self.run(package, "run", tiny_policy, "--goal", GOAL, *words)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert message in done.stderr
