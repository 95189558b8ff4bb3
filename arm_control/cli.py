"""The `arm-control` command. Heavy imports wait until a command runs.

Bad input ends in one line on standard error and exit code 2, Ctrl-C in exit code 130, an arm that safety stopped in
exit code 3. With `ARM_CONTROL_DEBUG=1` an error shows its traceback.
"""

import contextlib
import dataclasses
import importlib.util
import io
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from itertools import chain, groupby
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Union, get_args

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    UnsupportedTypeAnnotationError,
)

from arm_control.commands import (
    BenchArgmax,
    BenchDelay,
    BenchDeterminism,
    BenchGrid,
    BenchLadder,
    BenchRunner,
    BenchSimulation,
    BenchViewer,
    Calibrate,
    Compare,
    Emulate,
    Evaluate,
    Export,
    Identify,
    Inspect,
    Recover,
    Replay,
    Report,
    Resume,
    Run,
    Train,
)
from arm_control.config import TrainConfig, check_choice
from arm_control.console import Console, say, write
from arm_control.printing import counted, encode_streams, printable, printable_output
from arm_control.signals import interrupt_on_signals, interrupt_program
from policies.settings import AGENTS

if TYPE_CHECKING:
    from arm_control.peers import PeerConfig
    from envs.imperfections import Imperfections

PROGRAM = "arm-control"
OUTPUT_LOST, BAD_INPUT, STOPPED, INTERRUPTED = 1, 2, 3, 130
LONGEST_ERROR = 2000  # characters


class ArmStoppedError(RuntimeError):
    """Safety stopped the arm."""


# The extra that brings a package which a command may lack.
EXTRAS = {
    "dynamixel_sdk": "dynamixel",
    "torch": "train",
    "safetensors": "train",
    "scipy": "train",
    "tensorboard": "train",
    "onnx": "train",
    "onnxscript": "train",
    "psutil": "train",
    "pybullet": "sim",
    "imageio_ffmpeg": "view",
    "PIL": "view",
    "matplotlib": "view",
    "markupsafe": "view",
    "viser": "view",
    "websockets": "view",
    "yourdfpy": "view",
    "panda_gym": "peers",
    "stable_baselines3": "peers",
}


def train(command: Train) -> None:
    """Train from the start."""
    from arm_control.training import train

    config = command.config
    train(config, command.out or f"runs/{config.agent}-seed{config.seed}")


def resume(command: Resume) -> None:
    """Go on with a run."""
    from arm_control.training import resume

    resume(command.run)


def evaluate(command: Evaluate) -> None:
    """Print the figures of a controller."""
    from arm_control.evaluation import format_evaluation
    from arm_control.sources import evaluate

    check_writable(command.json)
    figures = evaluate(
        command.source,
        goals=command.goals,
        seed=command.seed,
        arm=command.arm,
        env=command.env,
        imperfections=command.imperfections,
        last=command.last,
    )
    report_figures(command.json, figures, format_evaluation(command.source, figures))


def compare(command: Compare) -> None:
    """Print, write and draw how good agents are. Raises RuntimeError if no training succeeded."""
    from arm_control.comparison import check_results, compare, write_comparison

    configs = contestants(command)
    if configs is None:
        return
    check_writable(command.json)
    figures = compare(command, configs)
    report_figures(command.json, figures, write_comparison(figures, Path(command.out)))
    check_results(figures["agents"])


def contestants(command: Compare) -> "dict[str, TrainConfig | PeerConfig] | None":
    """The settings of a comparison's agents by their names; None if one's help was requested.

    Raises ValueError for agents that are invalid, repeated, or of different tasks.
    """
    from arm_control.comparison import check_same_task

    configs: dict[str, TrainConfig | PeerConfig] = {}
    for agent in command.agents:
        words = shlex.split(agent)
        name = shlex.join(words)
        if name in configs:
            raise ValueError(f"duplicate agent '{name}'")
        config = parse_contestant(words, command.imperfections)
        if config is None:
            return None
        configs[name] = config
    check_same_task(configs)
    return configs


def export(command: Export) -> None:
    """Write the ONNX file and say where."""
    from arm_control.exporter import agreement, write_policy
    from arm_control.training import load_policy

    loaded = load_policy(command.run, last=command.last)
    path = write_policy(loaded, command.run, command.output)
    size = path.stat().st_size
    shown = f"{size / 1e6:.0f} MB" if size > 1e7 else f"{size / 1000:.0f} kB"
    print(f"{printable(path)}: {shown}, {loaded.origin}; {agreement(loaded.config)}")


def inspect(command: Inspect) -> None:
    """Print a contract."""
    from arm_control.inspection import describe

    print(describe(command.policy))


def run(command: Run) -> None:
    """Drive the arm. A run that was interrupted or stopped keeps its exit code where its figures cannot be written."""
    from arm_control.running import run

    check_writable(command.json)
    with Console() as console:
        figures = run(command, console)
        end = end_of_run(figures)
        try:
            write_json(command.json, figures)
        except OSError as error:
            if end is None:
                raise
            console.err(f"{PROGRAM}: error: {error}")
    if end is not None:
        raise end
    if console.output_error is not None:
        raise console.output_error


def end_of_run(figures: dict[str, Any]) -> BaseException | None:
    """What a run that did not come to its end raises: ArmStoppedError or KeyboardInterrupt."""
    if figures["refusals"]:
        said = (f"{refusal['check']}: {refusal['text']}" for refusal in figures["refusals"])
        return ArmStoppedError("; ".join(dict.fromkeys(said)))
    return KeyboardInterrupt() if figures["interrupted"] else None


def replay(command: Replay) -> None:
    """Show motion, write it into a file, or check it."""
    from arm_control.watching import watch

    watch(command)


def calibrate(command: Calibrate) -> None:
    """Measure the arm with a person's help, or stamp a file anew."""
    from arm_control.calibrating import calibrate_arm

    calibrate_arm(command)


def emulate(command: Emulate) -> None:
    """Emulate servos until Ctrl-C."""
    from arm_control.emulating import emulate_servos

    if emulate_servos(command):
        raise KeyboardInterrupt


def report(command: Report) -> None:
    """Write the page and say where."""
    from arm_control.report import write_report

    print(printable(write_report(command.run)))


def recover(command: Recover) -> None:
    """Write what can be read of a recording, and say how much that is."""
    from arm_control.trajectory import recover

    log = Path(command.log)
    out = command.out or str(log.parent / f"{log.stem}-recovered.mcap")
    saved = recover(log, out)
    found = f"{counted(saved.ticks, 'tick')}, {counted(saved.events, 'event')}"
    print(printable(f"{out}: {found}; unreadable: {saved.lost or 'nothing'}"))


def identify(command: Identify) -> None:
    """Print how late and how slow a recorded arm is."""
    from arm_control.identification import format_identification, identify

    check_writable(command.json)
    figures = identify(command.log)
    report_figures(command.json, figures, format_identification(figures, command.json))


def bench_grid(command: BenchGrid) -> None:
    """Print the grid's accuracy floor."""
    from arm_control.bench.grid import bench_grid, format_grid

    check_writable(command.json)
    figures = bench_grid(command.goals, command.seed, command.step_deg)
    report_figures(command.json, figures, format_grid(figures))


def bench_argmax(command: BenchArgmax) -> None:
    """Print, and draw, what decisions and updates cost."""
    from arm_control.bench.argmax import bench_argmax, draw, format_argmax

    check_writable(command.save)
    check_writable(command.json)
    figures = bench_argmax(command.grid_step_deg, command.rounds)
    if command.save is not None:
        draw(figures, Path(command.save))
    report_figures(command.json, figures, format_argmax(figures))


def bench_ladder(command: BenchLadder) -> None:
    """Print, and draw, what each rung reaches."""
    from arm_control.bench.ladder import Length, bench_ladder, draw, format_ladder

    check_writable(command.save)
    check_writable(command.json)
    figures = bench_ladder(Length(command.minutes, command.grid_step_deg), command.seeds, command.goals, command.out)
    if command.save is not None:
        draw(figures, Path(command.save))
    report_figures(command.json, figures, format_ladder(figures))


def bench_runner(command: BenchRunner) -> None:
    """Print what running a policy costs."""
    from arm_control.bench.runner import bench_runner, format_runner

    check_writable(command.json)
    figures = bench_runner(command.seconds, command.rounds)
    report_figures(command.json, figures, format_runner(figures))


def bench_simulation(command: BenchSimulation) -> None:
    """Print how fast the arm is simulated."""
    from arm_control.bench.simulation import bench_simulation, format_simulation

    check_writable(command.json)
    figures = bench_simulation(command.seconds, command.rounds)
    report_figures(command.json, figures, format_simulation(figures))


def bench_delay(command: BenchDelay) -> None:
    """Print, and draw, errors against delays."""
    from arm_control.bench.delay import bench_delay, draw_delay, format_delay

    check_writable(command.save)
    check_writable(command.json)
    figures = bench_delay(command.sources, command.goals, command.seed)
    if command.save is not None:
        draw_delay(figures, Path(command.save))
    report_figures(command.json, figures, format_delay(figures))


def bench_determinism(command: BenchDeterminism) -> None:
    """Print what is bit-exact. Raises RuntimeError if something is not."""
    from arm_control.bench.determinism import bench_determinism, format_determinism

    check_writable(command.json)
    figures = bench_determinism(command.imperfections)
    report_figures(command.json, figures, format_determinism(figures))
    if not figures["all_exact"]:
        raise RuntimeError("not everything is bit-exact")


def bench_viewer(command: BenchViewer) -> None:
    """Print what watching costs a control loop."""
    from arm_control.bench.viewer import bench_viewer, format_viewer

    check_writable(command.json)
    figures = bench_viewer(command.seconds)
    report_figures(command.json, figures, format_viewer(figures))


FLAG_TYPES = ConstructorRegistry()
Work = tuple[type[Any], Callable[[Any], None]]

COMMANDS: dict[str, Work] = {
    "train": (Train, train),
    "resume": (Resume, resume),
    "evaluate": (Evaluate, evaluate),
    "compare": (Compare, compare),
    "export": (Export, export),
    "inspect": (Inspect, inspect),
    "run": (Run, run),
    "replay": (Replay, replay),
    "report": (Report, report),
    "calibrate": (Calibrate, calibrate),
    "emulate": (Emulate, emulate),
    "recover": (Recover, recover),
    "identify": (Identify, identify),
}
BENCHES: dict[str, Work] = {
    "argmax": (BenchArgmax, bench_argmax),
    "delay": (BenchDelay, bench_delay),
    "determinism": (BenchDeterminism, bench_determinism),
    "grid": (BenchGrid, bench_grid),
    "ladder": (BenchLadder, bench_ladder),
    "runner": (BenchRunner, bench_runner),
    "simulation": (BenchSimulation, bench_simulation),
    "viewer": (BenchViewer, bench_viewer),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # started with it closed
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    finally:
        write(sys.stdout, "")  # now, where a failure is harmless: at exit it would change the exit code


def _run(arguments: list[str]) -> int:
    """Run one command; the errors that people can mend become a line and an exit code."""
    try:
        with interrupt_on_signals():
            work = parse(arguments)
            if work is not None:
                with printable_output():
                    work()
            sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone
        return OUTPUT_LOST
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRAS or debugging():
            raise
        extra = EXTRAS[package]
        return complain(
            f"this requires {package}, which is not installed: pip install '.[{extra}]' in the folder of arm-control"
        )
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        if debugging():
            raise
        said = " ".join(str(error).split())
        if isinstance(error, ArmStoppedError):
            complain(said)
            return STOPPED
        return complain(f"not enough memory: {said}" if isinstance(error, MemoryError) else said)


def parse(words: list[str]) -> Callable[[], None] | None:
    """What the words ask for; None if they asked for help. Raises ValueError for words that make no command."""
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return None
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"{PROGRAM} {version('arm-control')}")
        return None
    name, rest = words[0], words[1:]
    check_choice("command", name, [*COMMANDS, "bench"])
    program, default = f"{PROGRAM} {name}", None
    if name in ("train", "bench"):  # a second word says which
        kinds = list(AGENTS if name == "train" else BENCHES)
        article, what = ("an", "agent") if name == "train" else ("a", "bench")
        if rest[:1] in (["-h"], ["--help"]):
            print(f"usage: {program} {what.upper()} [OPTIONS]\n\n{what}: {', '.join(kinds)}")
            return None
        if not rest or rest[0].startswith("-"):
            raise ValueError(f"{name}: wanted {article} {what} first; available: {', '.join(kinds)}")
        check_choice(what, rest[0], kinds)
        program = f"{program} {rest[0]}"
        if name == "train":
            default = Train(TrainConfig(rest[0]))
    kind, work = BENCHES[rest[0]] if name == "bench" else COMMANDS[name]
    command = parse_flags(kind, program, rest[1:] if name in ("train", "bench") else rest, default)
    return None if command is None else lambda: work(command)


def parse_contestant(
    words: list[str], imperfections: "str | Imperfections | None"
) -> "TrainConfig | PeerConfig | None":
    """An agent of a comparison, or another library's, with flags of its own; None if they asked for help."""
    from arm_control.peers import PEERS, PeerConfig

    name, *flags = words or [""]
    check_choice("agent", name, [*AGENTS, *PEERS])
    if name in PEERS and importlib.util.find_spec("stable_baselines3") is None:
        raise ModuleNotFoundError(name="stable_baselines3")
    default = PeerConfig(name) if name in PEERS else TrainConfig(name)
    program, see = f"{PROGRAM} train {name}", None
    if name in PEERS:
        program, see = f"{PROGRAM} compare {name}", f"{PROGRAM} compare '{name} --help'"
    config: TrainConfig | PeerConfig | None = parse_flags(type(default), program, flags, default, see)
    if config is None:
        return None
    for field in ("seed", "steps", "minutes"):
        if getattr(config, field) != getattr(default, field):
            raise ValueError(f"'{shlex.join(words)}': --{field} is for all agents, not for one")
    return config if imperfections is None else dataclasses.replace(config, imperfections=imperfections)


def parse_flags(kind: type[Any], program: str, words: list[str], default: Any, see: str | None = None) -> Any:
    """The command's dataclass from its flags; None if they asked for help.

    Raises ValueError with what tyro says first, and the command that says more, `see`, if not the program's --help.
    """
    said = io.StringIO()
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone, tyro.conf.HelptextFromCommentsOff)
    try:
        with contextlib.redirect_stderr(said):
            known = {} if default is None else {"default": default}
            return tyro.cli(kind, prog=program, args=words, config=config, registry=FLAG_TYPES, **known)
    except SystemExit as end:
        if not end.code:
            return None
        # A title; what is wrong; below a rule, what may have been meant. In a box if the terminal can show one.
        rows = [row.strip("│ ") for row in said.getvalue().splitlines()[1:]]
        parts = [list(part) for rule, part in groupby(rows, lambda row: set(row) <= set("─╰╯-")) if not rule]
        options = [row.split()[0] for row in chain(*parts[1:]) if row.startswith("--")]
        hint = next((f" (did you mean {option}?)" for option in options if option not in words), "")
        text = re.sub(r"^Error parsing (?:[\w.]+: )?", "", " ".join(parts[0]))
        raise ValueError(f"{text}{hint}; see {see or f'{program} --help'}") from None


@FLAG_TYPES.primitive_rule
def optional_flag(flag: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | UnsupportedTypeAnnotationError | None:
    """Parse a flag of type `T | None` as one of type T: tyro's own rule has 'None' among its choices."""
    options = [option for option in get_args(flag.type) if option is not NoneType]
    if flag.type_origin not in (Union, UnionType) or len(options) != 1:
        return None
    value = PrimitiveTypeInfo.make(options[0], flag.markers)
    spec = ConstructorRegistry.get_primitive_spec(value)
    if isinstance(spec, UnsupportedTypeAnnotationError):
        return spec
    return dataclasses.replace(
        spec,
        is_instance=lambda given: given is None or spec.is_instance(given),
        str_from_instance=lambda given: ["None"] if given is None else spec.str_from_instance(given),
    )


def overview() -> str:
    """The help of the whole program."""
    lines = [f"usage: {PROGRAM} COMMAND ...", "", "Train a controller for a robot arm, export it, and run it.", ""]
    for name, (kind, _) in COMMANDS.items():
        sentence = (kind.__doc__ or "").splitlines()[0].split(". ")[0].rstrip(".")
        lines.append(f"  {name:<10} {sentence}.")
    lines.append(f"  {'bench':<10} Measure a part of this program: {', '.join(BENCHES)}.")
    return "\n".join(
        [
            *lines,
            "",
            f"{PROGRAM} COMMAND --help says more. Errors exit with 2, an arm that was stopped with 3, Ctrl-C with 130.",
        ]
    )


def report_figures(path: str | None, figures: dict[str, Any], text: str) -> None:
    """Write figures to a file, if one is named, and print them as text, even if the file cannot be written."""
    try:
        write_json(path, figures)
    finally:
        print(text)


def write_json(path: str | None, figures: dict[str, Any]) -> None:
    """Write figures to a file, if one is named. Raises OSError if it cannot be written."""
    if path is not None:
        from arm_control.run_folder import write_text

        write_text(Path(path), json.dumps(figures, indent=2) + "\n")


def check_writable(path: str | None) -> None:
    """Raise ValueError for a file that cannot be written, before the work is done."""
    if path is None:
        return
    folder = Path(path).parent
    if Path(path).is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        reason = "it is a folder" if Path(path).is_dir() else f"{folder} is no folder that can be written to"
        raise ValueError(f"cannot write {path}: {reason}")


def debugging() -> bool:
    return bool(os.environ.get("ARM_CONTROL_DEBUG"))


def complain(text: str) -> int:
    say(f"{PROGRAM}: error: {printable(text, LONGEST_ERROR)}")
    return BAD_INPUT


def program() -> int:
    """The entry point of the program: `main` for a process that ends with it."""
    interrupt_program()
    encode_streams()
    return main()


if __name__ == "__main__":
    sys.exit(program())
