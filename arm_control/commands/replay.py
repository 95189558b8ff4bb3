"""`arm-control replay`: watch controllers and recordings with one of the viewers."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

from arm_control.process.console import say
from arm_control.process.printing import counted, printable
from arm_control.runs.checks import (
    MOST_GOALS,
    check_count,
    check_seed,
)
from arm_control.runs.imperfections_flag import OptionalImperfectionsFlag
from arm_control.viewers.common.trajectory import Trajectory, open_trajectory
from arm_control.viewers.common.viewer import Show, Viewer, load_viewers, viewer_names

if TYPE_CHECKING:
    from arm_control.evaluation.opening import OpenedController

    ViewerName = str
else:
    ViewerName = tyro.extras.literal_type_from_choices(viewer_names())

GOALS = 6  # of a controller that is not shown live


def viewer_help() -> str:
    """The help of --viewer: what each viewer shows."""
    summaries = "; ".join(f"{name}: {viewer.summary}" for name, viewer in load_viewers().items())
    return f"Viewer, which the ending of --save also selects. {summaries}."


def save_help() -> str:
    """The help of --save: the endings of all viewers."""
    endings = []
    for name, viewer in load_viewers().items():
        endings += [f"{ending} ({name})" for ending in viewer.endings]
    return f"File to write: {', '.join(endings)}."


def own_flags_type() -> type[Any]:
    """Make a dataclass that holds the own flags of each viewer, in a field with the viewer's name."""
    own = []
    for name, viewer in load_viewers().items():
        if viewer.flags is not None:
            own.append((name, viewer.flags, field(default_factory=viewer.flags)))
    return make_dataclass("OwnFlags", own, frozen=True)


OwnFlags = own_flags_type()


@dataclass(frozen=True)
class Replay:
    """Watch a controller or a recording: in a window, in a browser, as a video or as plots.

    A single controller is simulated live until the viewer is closed; with --goals or --save, for a number of goals.
    """

    sources: tyro.conf.Positional[tuple[str, ...]]
    """Run folders, policy files, recordings (ending in .mcap), or the controllers zero, random and ik. The
    viewers web, page and plot overlay two."""
    viewer: Annotated[ViewerName | None, tyro.conf.arg(help=viewer_help())] = None
    save: Annotated[str | None, tyro.conf.arg(help=save_help())] = None
    goals: int | None = None
    """Number of goals of a controller (default: 6 with --save or two sources, otherwise unlimited)."""
    seed: int = 0
    """Seed of the goals; none of them is used in training."""
    stochastic: bool = False
    """Draw the actions from the runs' stochastic policies, by the seed, instead of their deterministic actions."""
    verify: bool = False
    """Re-simulate a recording of the simulated arm, and check that all readings are identical bit for bit."""
    own_flags: Annotated[Any, tyro.conf.arg(constructor=OwnFlags, name="")] = field(default_factory=OwnFlags)
    """The flags of single viewers."""
    arm: str | None = None
    """URDF file of the arm, or the name of a shipped one (arm1), for zero, random and ik, or for a policy or recording
    of another arm than the default one; for a run, it must match the arm of the training, and may add meshes."""
    env: str | None = None
    """Environment id, for zero, random and ik (default: ArmReach-v0); runs and policies have their own."""
    imperfections: OptionalImperfectionsFlag = None
    """Dynamics randomisation of a controller's arm: a preset, or a file written by 'identify --json' (default: that of
    the training)."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("expected a source: run folders, policies, recordings, or zero, random, ik")
        if self.goals is not None:
            check_count("goals", self.goals, MOST_GOALS)
        check_seed("seed", self.seed)
        if self.verify:
            self._check_verify()

    def _check_verify(self) -> None:
        if len(self.sources) != 1 or not is_recording(self.sources[0]):
            raise ValueError(f"--verify: expected one recording, ending in .mcap, got {' '.join(self.sources)}")
        names = ["viewer", "save", "goals", "seed", "stochastic", "env", "imperfections"]
        unused = [name for name in names if getattr(self, name)]
        for own in self.given_flags().values():
            unused += own
        if unused:
            flags = ", ".join(f"--{name}" for name in unused)
            raise ValueError(f"--verify shows nothing: expected no {flags}")

    def given_flags(self) -> dict[str, list[str]]:
        """The viewers' own flags that were given, by viewer."""
        given = {}
        for viewer in fields(self.own_flags):
            own = getattr(self.own_flags, viewer.name)
            names = [flag.name for flag in fields(own) if getattr(own, flag.name) is not None]
            if names:
                given[viewer.name] = names
        return given


class ChosenViewer(NamedTuple):
    """A viewer and its name."""

    name: str
    viewer: Viewer


def run(command: Replay) -> None:
    """Show, save or verify the sources. Raises ValueError for sources that the viewer cannot show."""
    if command.verify:
        verify_recording(command)
        return
    chosen = choose_viewer(command)
    if command.save is None:
        show_sources(command, chosen)
    else:
        save_sources(command, chosen, command.save)


def choose_viewer(command: Replay) -> ChosenViewer:
    """The viewer that the flags select. Raises ValueError for flags that do not go together."""
    viewers = load_viewers()
    if command.save is not None:
        name = saving_viewer(command.save, command.viewer, viewers)
    elif command.viewer is not None:
        name = command.viewer
    else:
        name = default_viewer(command, viewers)
    for owner, flags in command.given_flags().items():
        if owner != name:
            raise ValueError(f"--{flags[0]}: expected --viewer {owner} without --save, got --viewer {name}")
    return ChosenViewer(name, viewers[name])


def saving_viewer(path: str, wanted: str | None, viewers: dict[str, Viewer]) -> str:
    """The name of the viewer that saves files with this ending."""
    by_ending = {}
    for name, viewer in viewers.items():
        if wanted in (None, name, viewer.saves_for):
            by_ending.update(dict.fromkeys(viewer.endings, name))
    ending = PurePath(path).suffix.lower()
    if ending not in by_ending:
        expected = f"a file ending in {', '.join(by_ending)}" if by_ending else f"no file with --viewer {wanted}"
        raise ValueError(f"--save: expected {expected}, got {path}")
    return by_ending[ending]


def default_viewer(command: Replay, viewers: dict[str, Viewer]) -> str:
    """The viewer whose own flags are given, otherwise the one with the highest priority."""
    given = command.given_flags()
    if given:
        return next(iter(given))
    source_count = len(command.sources)
    return max(viewers, key=lambda name: viewers[name].default_priority(source_count))


def show_sources(command: Replay, chosen: ChosenViewer) -> None:
    """Show the sources until the user closes the viewer: a single controller live, others from start to end."""
    viewer = chosen.viewer
    if viewer.load_show is None:
        raise ValueError(f"--viewer {chosen.name} only writes files: expected --save FILE")
    check_source_count(command, chosen)
    # Import the viewer's packages first: a missing one is reported before a file is opened.
    show = viewer.load_show(getattr(command.own_flags, chosen.name, None))
    if len(command.sources) == 1 and not is_recording(command.sources[0]) and command.goals is None:
        show_live(command, show)
        return
    with open_trajectories(command) as trajectories:
        show(trajectories)


def save_sources(command: Replay, chosen: ChosenViewer, path: str) -> None:
    """Write a file, and print what it shows."""
    viewer = chosen.viewer
    # The learning curves of runs, unless their motion is asked for by drawing its actions.
    only_runs = all(Path(source).is_dir() for source in command.sources)
    if viewer.load_save_runs is not None and only_runs and not command.stochastic:
        for name in ("goals", "seed", "arm", "env", "imperfections"):
            if getattr(command, name):
                raise ValueError(f"--{name}: has no effect on the learning curves of runs")
        save_runs = viewer.load_save_runs()
        print(printable(f"{path}: {save_runs(command.sources, path)}"))
        return
    check_source_count(command, chosen)
    assert viewer.load_save is not None
    # Import the viewer's packages first: a missing one is reported before a file is opened.
    save = viewer.load_save()
    with open_trajectories(command) as trajectories:
        print(printable(f"{path}: {save(trajectories, path)}"))


def check_source_count(command: Replay, chosen: ChosenViewer) -> None:
    """Raise ValueError for more sources than the viewer can show together."""
    most = chosen.viewer.max_sources
    if len(command.sources) > most:
        raise ValueError(
            f"--viewer {chosen.name}: expected at most {counted(most, 'source')}, got {len(command.sources)}"
        )


def verify_recording(command: Replay) -> None:
    """Re-simulate a recording and compare its readings."""
    from arm_control.viewers.common.verification import verify

    [source] = command.sources
    ticks, missing = verify(source, command.arm)
    missing = f"; missing: {missing}" if missing else ""
    print(printable(f"{source}: {counted(ticks, 'tick', form='')}, all readings identical bit for bit{missing}"))


def show_live(command: Replay, show: Show) -> None:
    """Let a controller move its arm while it is watched."""
    from arm_control.viewers.common.live import LiveArm

    live = LiveArm(controller_of(command, command.sources[0]), command.seed)
    try:
        show(live)
    finally:
        live.close()


def is_recording(source: str) -> bool:
    """Return True if a source is named like a recording."""
    return source.lower().endswith(".mcap")


def controller_of(command: Replay, source: str) -> "OpenedController":
    """Open a controller, on the arm and in the environment of the flags."""
    from arm_control.evaluation.opening import open_controller

    return open_controller(
        source,
        command.seed,
        arm=command.arm,
        env=command.env,
        imperfections=command.imperfections,
        stochastic=command.stochastic,
    )


@contextlib.contextmanager
def open_trajectories(command: Replay) -> Iterator[list[Trajectory]]:
    """Open recordings and simulate controllers; a controller beside a recording gets the recorded goals."""
    with contextlib.ExitStack() as opened:
        recorded: dict[str, Trajectory] = {}
        for source in filter(is_recording, command.sources):
            trajectory = open_trajectory(source, command.arm)
            recorded[source] = trajectory
            opened.callback(trajectory.close)
            report_damage(trajectory)
        reported = {source: trajectory.lost for source, trajectory in recorded.items()}
        trajectories = simulate_trajectories(command, recorded)
        try:
            yield trajectories
        finally:
            # Report damage that was found while the trajectory was read.
            for source, trajectory in recorded.items():
                if trajectory.lost != reported[source]:
                    report_damage(trajectory)


def simulate_trajectories(command: Replay, recorded: dict[str, Trajectory]) -> list[Trajectory]:
    """The recorded trajectories and those of the controllers, in the order of the sources.

    Raises ValueError for two different arms, or for flags that a recording determines.
    """
    from arm_control.viewers.common.live import roll_out, roll_out_beside

    check_recorded_flags(command, recorded)
    trajectories = []
    for source in command.sources:
        if source in recorded:
            trajectories.append(recorded[source])
        elif recorded:
            first_recorded = next(iter(recorded.values()))
            trajectories.append(roll_out_beside(controller_of(command, source), first_recorded))
        else:
            trajectories.append(roll_out(controller_of(command, source), command.goals or GOALS, command.seed))
    # Trajectories of different arms cannot be overlaid.
    first, *others = trajectories
    for other in others:
        if not other.arm.moves_like(first.arm):
            raise ValueError(
                f"{first.name} is of the arm {first.arm.name}, {other.name} of {other.arm.name}: "
                "expected two of the same arm"
            )
    return trajectories


def check_recorded_flags(command: Replay, recorded: dict[str, Trajectory]) -> None:
    """Raise ValueError for flags that a recording determines."""
    if not recorded:
        return
    names = ["env", "goals"]
    if len(recorded) == len(command.sources):
        names += ["imperfections", "stochastic"]
    for name in names:
        if getattr(command, name) not in (None, False):
            raise ValueError(f"--{name}: determined by the recording {', '.join(recorded)}")


def report_damage(trajectory: Trajectory) -> None:
    """Print which part of a recording could not be read so far."""
    if trajectory.lost:
        say(f"{trajectory.name} is damaged: {trajectory.lost}")
