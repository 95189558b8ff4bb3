"""Extensions of each kind: one new file or folder, used through the command line without other changes."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from helpers import reports
from locations import ROOT
from trees import copy_program

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


# A viewer: one file, with a flag of its own, that shows trajectories as text and saves them as tables.
VIEWER = """
    from dataclasses import dataclass
    from pathlib import Path
    from arm_control.viewers.common.viewer import Viewer

    @dataclass(frozen=True)
    class TextFlags:
        digits: int | None = None
        '''Digits of each coordinate.'''

    def rows(shown, digits):
        return [[f"{x:.{digits}f}" for x in tip] for tip in shown[0].segment(0.0, 0.1).tip_m.tolist()]

    def load_show(flags):
        return lambda shown: print(rows(shown, flags.digits or 3)[0])

    def load_save():
        def save(shown, path):
            Path(path).write_text("\\n".join(",".join(row) for row in rows(shown, 6)))
            return f"{len(rows(shown, 6))} tips of {shown[0].name}"
        return save

    VIEWER = Viewer(
        summary="tip positions as text", flags=TextFlags,
        load_show=load_show, load_save=load_save, endings=(".csv",),
    )
"""

# A bench, and a command: each its flags and `run`.
BENCH = """
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class BenchLimits:
        '''Compute the range of each joint.'''
        joints: int = 3
        '''Number of joints.'''

    def run(command: BenchLimits) -> None:
        print("ranges of", command.joints, "joints")
"""
COMMAND = BENCH.replace("BenchLimits", "Limits").replace("ranges", "limits")


# A task: stationary goals above a height, which is an option, and an error metric of its own.
TASK = """
    from dataclasses import dataclass
    from typing import Annotated
    from envs.tasks.base import Option, StillGoal, check_options, draw_pose
    from envs.tasks.reward import DEFAULT_REACH_M, check_reward, distance_reward

    def mean_distance(distances_m):
        return distances_m[..., distances_m.shape[-1] // 2 :].mean(-1)

    class HighGoal(StillGoal):
        def error_m(self, distances_m):
            return mean_distance(distances_m)

    @dataclass(frozen=True)
    class Hover:
        reward_kind: str = "dense"
        goal_tolerance_m: float = 0.01
        reach_m: float = DEFAULT_REACH_M
        height_m: Annotated[float, Option("the height of the lowest goal", (0.0, 1.0), "m")] = 0.1
        moving = False
        error_name = "mean error of the second half"
        error_key = None
        goals_name = "perches"
        episode_steps = 20

        def __post_init__(self):
            check_reward(self.reward_kind, self.goal_tolerance_m)
            check_options(self)

        @classmethod
        def for_arm(cls, arm, period_s, *, reward="dense", goal_tolerance_m=0.01, **options):
            return cls(reward, goal_tolerance_m, arm.reach_m, **options)

        def reward(self, distance_m):
            return distance_reward(self.reward_kind, self.goal_tolerance_m, self.reach_m, distance_m)

        def check_arm(self, arm): pass

        def draw_goals(self, arm, generator, steps, period_s, *, table_m=0.0):
            drawn = draw_pose(arm, generator, table_m=max(table_m, self.height_m))
            return HighGoal(drawn.goal_m, drawn.pose_deg)

        def goals_from_json(self, values, steps, period_s):
            return HighGoal(tuple(values))

        def errors_m(self, distances_m):
            return mean_distance(distances_m)

        def error_so_far(self, step, distance_m, total):
            return distance_m, total

    TASK = Hover
    ENVIRONMENTS = {"ArmHover-v0": "degrees", "ArmHoverDiscrete-v0": "index"}
"""
# An agent: a folder with its settings, which need no PyTorch, and the learner.
AGENT_SETTINGS = '''
    """Settings of random search."""

    from dataclasses import dataclass

    from policies.common.settings import AgentSettings, check_numbers


    @dataclass(frozen=True)
    class RandomSearchSettings(AgentSettings):
        """Random search: keep a perturbation of the policy if its rewards are higher."""

        perturbation: float = 0.05
        """Standard deviation of the perturbation of each parameter."""

        def __post_init__(self) -> None:
            check_numbers(self, ("perturbation",), fractions=())
'''
AGENT = '''
    """Random search over the parameters of a deterministic policy."""

    import copy

    import numpy as np
    import torch

    from policies.agent import tensors_of
    from policies.common.networks import DeterministicPolicy

    STEPS_PER_TRIAL = 50


    def make(spec, settings, compute_reward, seed):
        """The agent."""
        return RandomSearch(spec, settings, seed)


    class RandomSearch:
        """The best policy so far, and the one that is being tried."""

        def __init__(self, spec, settings, seed):
            self._settings = settings
            self._generator = np.random.default_rng(seed)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self._best = DeterministicPolicy(spec, 8, 0)
            self._tried = copy.deepcopy(self._best)
            self._highest = -np.inf
            self._rewards = []

        @torch.no_grad()
        def act(self, observation, *, explore):
            policy = self._tried if explore else self._best
            return policy(*tensors_of(observation)).numpy()

        def observe(self, transition):
            self._rewards.append(float(transition.reward.mean()))

        @torch.no_grad()
        def update(self, progress):
            if len(self._rewards) < STEPS_PER_TRIAL:
                return {}
            mean = float(np.mean(self._rewards))
            self._rewards = []
            if mean > self._highest:
                self._highest = mean
                self._best.load_state_dict(self._tried.state_dict())
            self._tried.load_state_dict(self._best.state_dict())
            for parameter in self._tried.parameters():
                noise = self._generator.normal(0.0, self._settings.perturbation, tuple(parameter.shape))
                parameter.add_(torch.from_numpy(noise.astype(np.float32)))
            return {"updates": 1, "highest": self._highest}

        def policy(self):
            return self._best

        def load_networks(self, state):
            self._best.load_state_dict(state["best"])
            self._tried.load_state_dict(state["tried"])

        def state_dict(self):
            return {
                "best": self._best.state_dict(),
                "tried": self._tried.state_dict(),
                "highest": self._highest,
                "rewards": self._rewards,
                "generator": self._generator.bit_generator.state,
            }

        def load_state_dict(self, state):
            self.load_networks(state)
            self._highest = state["highest"]
            self._rewards = state["rewards"]
            self._generator.bit_generator.state = state["generator"]
'''


class Tree:
    """A copy of the program, and files added to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        copy_program(folder)

    def add(self, path: str, text: str) -> None:
        """Write a new file."""
        assert not (self.folder / path).exists()
        (self.folder / path).parent.mkdir(exist_ok=True)
        (self.folder / path).write_text(textwrap.dedent(text))

    def run(self, *words: str | Path) -> "subprocess.CompletedProcess[str]":
        """Run `arm-control` of the copy, in its folder."""
        return subprocess.run(
            [sys.executable, "-m", "arm_control.cli", *map(str, words)],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(self.folder)},
            cwd=self.folder,
            timeout=120,
        )

    def interrupt(self, run_folder: Path, *words: str | Path) -> None:
        """Run a training of the copy, and send Ctrl-C after its first checkpoint."""
        with subprocess.Popen(
            [sys.executable, "-m", "arm_control.cli", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(self.folder)},
            cwd=self.folder,
        ) as process:
            deadline = time.monotonic() + 120
            while not list(run_folder.glob("checkpoints/step-*")) and process.poll() is None:
                assert time.monotonic() < deadline, "no checkpoint was written"
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            output = process.communicate(timeout=120)[0]
        assert process.returncode == 130, output

    def output(self, *words: str | Path) -> str:
        """The standard output of a command that must succeed."""
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A copy of the program."""
    return Tree(tmp_path / "tree")


@pytest.mark.slow
class TestNewViewer:
    """A file in `arm_control/viewers/` is a viewer."""

    @pytest.fixture
    def tree(self, tree: Tree) -> Tree:
        """The program with the viewer `text`."""
        tree.add("arm_control/viewers/text.py", VIEWER)
        return tree

    def test_shows_with_flags_of_its_own(self, tree: Tree) -> None:
        """`--viewer` selects it by its file's name; so does a flag that only it has."""
        for words in (["--viewer", "text"], ["--digits", "2"]):
            shown = tree.output("replay", "ik", "--goals", "1", *words)
            digits = 2 if "--digits" in words else 3
            assert re.fullmatch(rf"\['-?\d\.\d{{{digits}}}'(, '-?\d\.\d{{{digits}}}'){{2}}\]\n", shown), shown

    def test_saves_files_of_its_ending(self, tree: Tree) -> None:
        """The ending of --save selects it."""
        assert tree.output("replay", "ik", "--goals", "1", "--save", "tips.csv") == "tips.csv: 4 tips of ik\n"
        assert len((tree.folder / "tips.csv").read_text().splitlines()) == 4

    def test_is_in_help_and_errors(self, tree: Tree) -> None:
        """Its name, summary, ending and flags are listed, and its largest number of sources is enforced."""
        text = re.sub(r"[│\s]+", " ", tree.output("replay", "--help"))
        for part in ("{page,plot,text,video,web,window}", "text: tip positions as text", ".csv (text)", "--digits INT"):
            assert part in text
        failed = tree.run("replay", "ik", "zero", "--viewer", "text")
        assert failed.returncode == 2
        assert "--viewer text: expected at most 1 source, got 2" in failed.stderr


@pytest.mark.slow
class TestNewTask:
    """A file in `envs/tasks/` is a task."""

    SHORT = ("--steps", "256", "--num-envs", "4", "--hidden-units", "16", "--fourier-octaves", "1")

    @pytest.fixture
    def tree(self, tree: Tree) -> Tree:
        """The program with the task `hover`."""
        tree.add("envs/tasks/hover.py", TASK)
        return tree

    def test_is_trained_evaluated_exported_and_run(self, tree: Tree) -> None:
        """Its option reaches run folder, policy file and goals, and its own error metric is reported."""
        task = ("--env", "ArmHover-v0", "--height-m", "0.3")
        tree.output("train", "ddpg", *task, *self.SHORT, "--out", "run")
        config = json.loads((tree.folder / "run/config.json").read_text())
        assert (config["env"], config["task_options"]) == ("ArmHover-v0", {"height_m": 0.3})
        tree.output("export", "run")
        for source in ("run", "run/policy.onnx"):
            figures = tree.output("evaluate", source, "--goals", "2")
            assert "2 held-out perches" in figures
            assert "mean error of the second half" in figures
        ran = tree.output(
            *("run", "run/policy.onnx", "--driver", "sim", "--pace", "fast", "--random", "3"),
            *("--seconds-per-goal", "0.2", "--json", "ran.json"),
        )
        goals = json.loads((tree.folder / "ran.json").read_text())["goals"]
        assert min(goal["goal_m"][2] for goal in goals) >= 0.3 - 1e-6
        assert "mean error" in ran

    def test_compares_agents(self, tree: Tree) -> None:
        """Agents are compared on its goals, with inverse kinematics as the reference."""
        tree.output(
            *("compare", "ddpg --env ArmHover-v0 --hidden-units 16", "--seeds", "1", "--no-intervals"),
            *("--steps", "64", "--goals", "2"),
        )
        figures = json.loads((tree.folder / "runs/comparison/comparison.json").read_text())
        assert list(figures["references"]) == ["inverse kinematics"]

    def test_is_in_help_and_errors(self, tree: Tree) -> None:
        """Its option is a flag of `train`, rejected for other tasks and outside its limits."""
        assert "--height-m FLOAT" in tree.output("train", "ddpg", "--help")
        for words, message in (
            (["--height-m", "0.2"], "height_m: an option of ArmHover-v0, ArmHoverDiscrete-v0, not of ArmReach-v0"),
            (["--env", "ArmHover-v0", "--height-m", "2"], "height_m: expected from 0 to 1 m, got 2.0"),
            (["--env", "ArmHover-v0", "--path", "circle"], "path: an option of ArmTrack-v0, not of ArmHover-v0"),
        ):
            failed = tree.run("train", "ddpg", *words, "--out", "run")
            assert failed.returncode == 2
            assert message in failed.stderr


class TestNewBench:
    """A file in `arm_control/bench/` is a bench."""

    def test_runs_by_the_name_of_its_file(self, tree: Tree) -> None:
        """`bench joint-limits` runs it; flags and help come from its dataclass."""
        tree.add("arm_control/bench/joint_limits.py", BENCH)
        assert tree.output("bench", "joint-limits", "--joints", "2") == "ranges of 2 joints\n"
        assert "joint-limits" in tree.output("bench", "--help")
        assert "Number of joints." in tree.output("bench", "joint-limits", "--help")


class TestNewCommand:
    """A file in `arm_control/commands/` is a command."""

    def test_runs_by_the_name_of_its_file(self, tree: Tree) -> None:
        """`arm-control limits` runs it; flags and help come from its dataclass."""
        tree.add("arm_control/commands/limits.py", COMMAND)
        assert tree.output("limits") == "limits of 3 joints\n"
        assert re.search(r"\n  limits +Compute the range of each joint\.\n", tree.output("--help"))
        assert "Number of joints." in tree.output("limits", "--help")


class TestNewAgent:
    """A folder in `policies/` with `settings.py` and `agent.py` is an agent."""

    @pytest.fixture
    def tree(self, tree: Tree) -> Tree:
        """The program with the agent `random-search`."""
        tree.add("policies/random_search/__init__.py", "")
        tree.add("policies/random_search/settings.py", AGENT_SETTINGS)
        tree.add("policies/random_search/agent.py", AGENT)
        return tree

    def test_its_settings_are_flags_on_the_base_install(self, tree: Tree) -> None:
        """`train --help` lists it, and its own help shows its settings, without loading PyTorch."""
        assert "random-search" in tree.output("train", "--help")
        assert "--perturbation" in tree.output("train", "random-search", "--help")
        code = "import sys\nfrom policies.registry import AGENTS\nprint(sorted(AGENTS), 'torch' in sys.modules)"
        environment = os.environ | {"PYTHONPATH": str(tree.folder)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=tree.folder, capture_output=True, text=True, timeout=60
        )
        assert done.stdout.endswith("False\n"), done.stderr
        assert "random-search" in done.stdout

    @pytest.mark.slow
    def test_it_trains_resumes_evaluates_and_exports(self, tree: Tree) -> None:
        """An interrupted and resumed training equals an uninterrupted one; its policy is evaluated and exported."""
        words = ("train", "random-search", "--perturbation", "0.1", "--steps", "4000", "--seed", "3", "--out")
        tree.output(*words, "whole")
        tree.interrupt(tree.folder / "cut", *words, "cut")
        tree.output("resume", "cut")
        assert reports(tree.folder / "cut") == reports(tree.folder / "whole") != []

        tree.output("evaluate", "whole", "--goals", "10", "--json", "evaluation.json")
        assert json.loads((tree.folder / "evaluation.json").read_text())["mean_error_mm"] > 0.0
        tree.output("export", "whole")
        tree.output("evaluate", "whole/policy.onnx", "--goals", "10")


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
        """A driver of two arguments receives the command line's options, and is called in the right order."""
        flags = ["--driver", "lamp", "--option", "colour=blue", "--port", "x", "--seconds-per-goal", "0.1"]
        done = self.run(package, "run", tiny_policy, "--goal", GOAL, *flags)
        assert done.returncode == 0, done.stderr
        verbs = ("opened", "enabled", "disabled", "closed")
        printed = [line for line in done.stdout.splitlines() if line.startswith(verbs)]
        assert printed == ["opened {'port': 'x', 'colour': 'blue'}", "enabled", "disabled", "closed"]
        assert "real-time priority" in done.stdout

    @pytest.mark.slow
    def test_a_simulated_arm_runs_in_its_own_time(self, package: Path, tiny_policy: Path) -> None:
        """A driver that declares itself simulated accepts --pace fast, a start pose and imperfections."""
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
            (("--driver", "lamp", "--option", "size"), "--option: expected NAME=VALUE, got 'size'"),
            (("--driver", "lamp", "--pace", "fast"), "--pace: applies to the simulated arm only, not to --driver lamp"),
        ],
    )
    def test_bad_options_are_reported_in_one_line(
        self, package: Path, tiny_policy: Path, words: tuple[str, ...], message: str
    ) -> None:
        """Bad options and drivers that cannot be loaded end in one line and exit code 2."""
        done = self.run(package, "run", tiny_policy, "--goal", GOAL, *words)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert message in done.stderr
