"""`arm-control replay`: what is to be watched, and the viewer for it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from arm_control.commands import Replay
from arm_control.console import say
from arm_control.printing import counted, printable
from arm_control.replay.motion import Motion, open_motion

if TYPE_CHECKING:
    from arm_control.replay.live import LiveArm
    from arm_control.sources import Source

GOALS = 6  # of a controller in a file
PORT = 8080


def watch(command: Replay) -> None:
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
    from arm_control.replay.verification import verify

    [source] = command.sources
    ticks, missing = verify(source, command.arm)
    missing = f"; missing: {missing}" if missing else ""
    print(printable(f"{source}: {counted(ticks, 'tick', form='')}, each read bit for bit as recorded{missing}"))


def write_curves(command: Replay) -> None:
    """The learning curves of runs."""
    from arm_control.replay.plot import save_curves

    assert command.save is not None
    for name in ("goals", "seed", "arm", "env", "imperfections"):
        if getattr(command, name):
            raise ValueError(f"--{name}: the learning curves of runs have their own")
    save_curves(command.sources, command.save)
    print(printable(f"{command.save}: learning curves of {', '.join(command.sources)}"))


def find_writer(viewer: str) -> Callable[[Sequence[Motion], str], str]:
    """Writes motions into a file, and says what is in it."""
    if viewer == "video":
        from arm_control.replay.video import write_video

        return lambda motions, path: f"{write_video(motions[0], path)} frames of {described(motions)}"
    save: Callable[[Sequence[Motion], str], None]
    if viewer == "plot":
        from arm_control.replay.plot import save_plot

        save = save_plot
    else:
        from arm_control.replay.page import save_page

        save = save_page

    def write(motions: Sequence[Motion], path: str) -> str:
        """Write all of them into one file."""
        save(motions, path)
        return described(motions)

    return write


def find_viewer(viewer: str, command: Replay) -> "Callable[[LiveArm | Sequence[Motion]], None]":
    """Shows a live arm, or motions, until the person has seen enough."""
    if viewer == "web":
        from arm_control.replay.web import serve

        return partial(serve, host=command.host or "127.0.0.1", port=command.port or PORT)
    from arm_control.replay.window import show_window

    return lambda shown: show_window(shown[0] if isinstance(shown, Sequence) else shown)


def described(motions: Sequence[Motion]) -> str:
    """Which motions, and how long they are."""
    return " and ".join(f"{motion.name}, {motion.length_s:.1f} s" for motion in motions)


def show_live(command: Replay, show: "Callable[[LiveArm | Sequence[Motion]], None]") -> None:
    """Let a controller move its arm while it is watched."""
    from arm_control.replay.live import LiveArm

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
    from arm_control.sources import open_source

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
    from arm_control.replay.live import roll_out, roll_out_beside

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
