"""`arm-control replay`: what is to be watched, and the viewer for it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Literal

import tyro

from arm_control.process.console import say
from arm_control.process.printing import counted, printable
from arm_control.runs.checks import (
    MOST_GOALS,
    check_count,
    check_seed,
)
from arm_control.runs.imperfections_flag import OptionalImperfectionsFlag
from arm_control.viewers.motion import Motion, open_motion

if TYPE_CHECKING:
    from arm_control.evaluation.sources import Source
    from arm_control.viewers.live import LiveArm


@dataclass(frozen=True)
class Replay:
    """Watch a controller or a recording: in the simulator's window, in a browser, as a video or as plots.

    A single controller moves its simulated arm live, without end; with --goals or --save, through so many goals.
    """

    sources: tyro.conf.Positional[tuple[str, ...]]
    """Run folders, policy files, recordings (ending in .mcap), or zero, random, ik. The browser and the plots compare
    two; the plots of run folders alone are their learning curves, however many."""
    viewer: Literal["window", "web", "video", "plot"] | None = None
    """The way to look at it (as the ending of --save says; otherwise the window, but web for two sources, with --port
    or --host, and where there is no display)."""
    save: str | None = None
    """The file to write: .mp4 for video, .png for plots, .html for a web page that needs no server."""
    goals: int | None = None
    """How many goals a controller goes through (6 in files and comparisons; otherwise it moves without end)."""
    seed: int = 0
    """Which goals. No seed's are ever used in training."""
    verify: bool = False
    """Instead of showing it, re-run a recording of the simulated arm, and say whether every reading is bit-exact."""
    port: int | None = None
    """Port of the web viewer (8080, unless given)."""
    host: str | None = None
    """Address that the web viewer listens at (127.0.0.1, which only this machine reaches, unless given), without any
    password."""
    arm: str | None = None
    """URDF file of the arm: for a policy or recording of another than the default one; a run has its own and takes one
    that matches, such as one with meshes to draw."""
    env: str | None = None
    """The environment's id, for zero, random and ik (ArmReach-v0, unless given); a run or policy has its own."""
    imperfections: OptionalImperfectionsFlag = None
    """Dynamics randomisation of a controller's arm: a preset, or a file written by 'identify --json' (that of the
    training, unless given)."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("wanted something to watch: run folders, policies, recordings, or zero, random, ik")
        if self.goals is not None:
            check_count("goals", self.goals, MOST_GOALS)
        check_seed("seed", self.seed)
        if self.port is not None and not 1 <= self.port <= 65535:
            raise ValueError(f"--port: wanted 1 to 65535, got {self.port}")
        if self.verify:
            self._check_verify()
            return
        if self.save is not None:
            wanted = {".mp4": "video", ".png": "plot", ".html": "web"}
            suffix = PurePath(self.save).suffix.lower()
            if suffix not in wanted or self.viewer not in (None, wanted[suffix]):
                endings = [ending for ending, viewer in wanted.items() if self.viewer in (None, viewer)]
                ask = f"a file ending in {', '.join(endings)}" if endings else "no file with --viewer window"
                raise ValueError(f"--save: wanted {ask}, got {self.save}")
            object.__setattr__(self, "viewer", wanted[suffix])
        elif self.viewer in ("video", "plot"):
            raise ValueError(f"--viewer {self.viewer} writes a file: name it with --save")
        if (self.viewer in ("window", "video", "plot") or self.save is not None) and (self.port or self.host):
            raise ValueError("--port and --host are for --viewer web without --save")

    def _check_verify(self) -> None:
        if len(self.sources) != 1 or not self.sources[0].lower().endswith(".mcap"):
            raise ValueError(f"--verify: wanted one recording, ending in .mcap, got {' '.join(self.sources)}")
        names = ("viewer", "save", "goals", "seed", "port", "host", "env", "imperfections")
        if unused := [f"--{name}" for name in names if getattr(self, name)]:
            raise ValueError(f"--verify shows nothing: wanted no {', '.join(unused)}")


GOALS = 6  # of a controller in a file
PORT = 8080


def run(command: Replay) -> None:
    """Show, write or check what the command names. Raises ValueError for what cannot be shown so."""
    if command.verify:
        return check_again(command)
    viewer = command.viewer or default_viewer(command)
    if viewer == "plot" and all(Path(source).is_dir() for source in command.sources):
        return write_curves(command)
    if len(command.sources) > (most := 2 if viewer in ("web", "plot") else 1):
        raise ValueError(f"--viewer {viewer}: wanted {most} at most, got {len(command.sources)} to be shown together")
    if command.save is not None:
        write = find_writer(viewer)  # before anything is opened: the packages for it may be missing
        with open_motions(command) as motions:
            print(printable(f"{command.save}: {write(motions, command.save)}"))
        return
    show = find_viewer(viewer, command)
    if len(command.sources) == 1 and not is_recording(command.sources[0]) and command.goals is None:
        return show_live(command, show)
    with open_motions(command) as motions:
        show(motions)


def default_viewer(command: Replay) -> str:
    """The window, unless there is no display, there are two to be compared, or it is to be served."""
    if command.port is not None or command.host is not None:
        return "web"
    from envs.scene import has_display

    return "window" if len(command.sources) == 1 and has_display() else "web"


def check_again(command: Replay) -> None:
    """Re-run a recording."""
    from arm_control.viewers.verification import verify

    [source] = command.sources
    ticks, missing = verify(source, command.arm)
    missing = f"; missing: {missing}" if missing else ""
    print(printable(f"{source}: {counted(ticks, 'tick', form='')}, each read bit for bit as recorded{missing}"))


def write_curves(command: Replay) -> None:
    """The learning curves of runs."""
    from arm_control.viewers.plot import save_curves

    assert command.save is not None
    for name in ("goals", "seed", "arm", "env", "imperfections"):
        if getattr(command, name):
            raise ValueError(f"--{name}: the learning curves of runs have their own")
    save_curves(command.sources, command.save)
    print(printable(f"{command.save}: learning curves of {', '.join(command.sources)}"))


def find_writer(viewer: str) -> Callable[[Sequence[Motion], str], str]:
    """Writes motions into a file, and says what is in it."""
    if viewer == "video":
        from arm_control.viewers.video import write_video

        return lambda motions, path: f"{write_video(motions[0], path)} frames of {described(motions)}"
    save: Callable[[Sequence[Motion], str], None]
    if viewer == "plot":
        from arm_control.viewers.plot import save_plot

        save = save_plot
    else:
        from arm_control.viewers.page import save_page

        save = save_page

    def write(motions: Sequence[Motion], path: str) -> str:
        """Write all of them into one file."""
        save(motions, path)
        return described(motions)

    return write


def find_viewer(viewer: str, command: Replay) -> "Callable[[LiveArm | Sequence[Motion]], None]":
    """Shows a live arm, or motions, until the person has seen enough."""
    if viewer == "web":
        from arm_control.viewers.web import serve

        return partial(serve, host=command.host or "127.0.0.1", port=command.port or PORT)
    from arm_control.viewers.window import show_window

    return lambda shown: show_window(shown[0] if isinstance(shown, Sequence) else shown)


def described(motions: Sequence[Motion]) -> str:
    """Which motions, and how long they are."""
    return " and ".join(f"{motion.name}, {motion.length_s:.1f} s" for motion in motions)


def show_live(command: Replay, show: "Callable[[LiveArm | Sequence[Motion]], None]") -> None:
    """Let a controller move its arm while it is watched."""
    from arm_control.viewers.live import LiveArm

    live = LiveArm(open_controller(command, command.sources[0]), command.seed)
    try:
        show(live)
    finally:
        live.close()


def is_recording(source: str) -> bool:
    """Whether it is one, by its name."""
    return source.lower().endswith(".mcap")


def open_controller(command: Replay, source: str) -> "Source":
    """A controller, on the arm and in the environment that the command names."""
    from arm_control.evaluation.sources import open_source

    return open_source(source, command.seed, arm=command.arm, env=command.env, imperfections=command.imperfections)


@contextlib.contextmanager
def open_motions(command: Replay) -> Iterator[list[Motion]]:
    """The motions of recordings, and of controllers: with the goals of the recording beside them, if there is one."""
    with contextlib.ExitStack() as opened:
        recorded = {}
        for source in filter(is_recording, command.sources):
            recorded[source] = motion = open_motion(source, command.arm)
            opened.callback(motion.close)
            tell_damage(motion)
        motions = motions_of(command, recorded)
        told = {source: motion.lost for source, motion in recorded.items()}
        try:
            yield motions
        finally:
            for source, motion in recorded.items():
                if motion.lost != told[source]:  # found on the way
                    tell_damage(motion)


def motions_of(command: Replay, recorded: dict[str, Motion]) -> list[Motion]:
    """All motions, in the order of the command. Raises ValueError for two different arms."""
    from arm_control.viewers.live import roll_out, roll_out_beside

    if recorded:
        for name in ("env", "goals") if len(recorded) < len(command.sources) else ("env", "goals", "imperfections"):
            if getattr(command, name) is not None:
                raise ValueError(f"--{name}: {', '.join(recorded)} has its own")
    motions = []
    for source in command.sources:
        if source in recorded:
            motions.append(recorded[source])
        elif recorded:
            motions.append(roll_out_beside(open_controller(command, source), next(iter(recorded.values()))))
        else:
            motions.append(roll_out(open_controller(command, source), command.goals or GOALS, command.seed))
    first, *others = motions
    for other in others:
        if not other.arm.moves_like(first.arm):
            raise ValueError(
                f"{first.name} is of the arm {first.arm.name}, {other.name} of {other.arm.name}: "
                "only two of the same arm can be shown together"
            )
    return motions


def tell_damage(motion: Motion) -> None:
    """Say what of a recording could not be read so far."""
    if motion.lost:
        say(f"{motion.name} is damaged: {motion.lost}")
