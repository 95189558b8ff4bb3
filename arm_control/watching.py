"""`arm-control replay`: what is to be watched, and the viewer for it."""

import sys
from pathlib import Path

from arm_control.commands import Replay
from arm_control.replay.live import LiveArm, roll_out
from arm_control.replay.motion import Motion, open_motion
from arm_control.sources import Source, open_source

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
    if viewer in ("window", "web") and command.save is None and command.goals is None:
        [source, *others] = command.sources
        if not others and not is_recording(source):
            return show_live(command, viewer)
    motions = [open_or_roll_out(command, source) for source in command.sources]
    for motion in motions:
        if not motion.arm.moves_like(motions[0].arm):
            raise ValueError(
                f"{motions[0].name} is of the arm {motions[0].arm.name}, {motion.name} of {motion.arm.name}: "
                "wanted two of the same arm"
            )
        tell_damage(motion)
    if command.save is not None:
        print(write(command.save, viewer, motions))
    else:
        show(command, viewer, motions)
    for motion in motions:
        tell_damage(motion)


def default_viewer(command: Replay) -> str:
    """The window, unless there is no display or there are two to be compared."""
    from envs.scene import has_display

    return "window" if len(command.sources) == 1 and has_display() else "web"


def check_again(command: Replay) -> None:
    """Re-run a recording."""
    from arm_control.replay.verification import verify

    [source] = command.sources
    ticks, missing = verify(source, command.arm)
    print(f"{source}: {ticks} ticks, each read bit for bit as recorded" + (f"; missing: {missing}" if missing else ""))


def write_curves(command: Replay) -> None:
    """The learning curves of runs."""
    from arm_control.replay.plot import save_curves

    assert command.save is not None
    save_curves(command.sources, command.save)
    print(f"{command.save}: learning curves of {', '.join(command.sources)}")


def is_recording(source: str) -> bool:
    """Whether it is one by its name."""
    return source.endswith(".mcap")


def open_controller(command: Replay, source: str) -> Source:
    """A controller, on the arm and in the environment that the command names."""
    return open_source(source, command.seed, arm=command.arm, env=command.env, imperfections=command.imperfections)


def open_or_roll_out(command: Replay, source: str) -> Motion:
    """A recording's motion, or that of a controller going through its goals."""
    if not is_recording(source):
        return roll_out(open_controller(command, source), command.goals or GOALS, command.seed)
    for name in ("env", "imperfections"):
        if getattr(command, name) is not None and all(map(is_recording, command.sources)):
            raise ValueError(f"--{name}: is for controllers, and {source} is a recording")
    return open_motion(source, command.arm)


def tell_damage(motion: Motion) -> None:
    """Say what of a recording cannot be shown, once for each thing found."""
    if motion.lost:
        print(f"{motion.name} is damaged: {motion.lost}", file=sys.stderr, flush=True)


def write(path: str, viewer: str, motions: list[Motion]) -> str:
    """Write the file; returns a line that says what is in it."""
    what = " and ".join(f"{motion.name}, {motion.length_s:.1f} s" for motion in motions)
    if viewer == "video":
        from arm_control.replay.video import write_video

        return f"{path}: {write_video(motions[0], path)} frames of {what}"
    if viewer == "plot":
        from arm_control.replay.plot import save_plot

        save_plot(motions, path)
    else:
        from arm_control.replay.page import save_page

        save_page(motions, path)
    return f"{path}: {what}"


def show(command: Replay, viewer: str, motions: list[Motion]) -> None:
    """Show motions until the person has seen enough."""
    if viewer == "window":
        from arm_control.replay.window import show_window

        show_window(motions[0])
    else:
        from arm_control.replay.web import serve

        serve(motions, host=command.host or "127.0.0.1", port=command.port or PORT)


def show_live(command: Replay, viewer: str) -> None:
    """Let a controller move its arm while it is watched."""
    live = LiveArm(open_controller(command, command.sources[0]), command.seed)
    try:
        if viewer == "window":
            from arm_control.replay.window import show_window

            show_window(live)
        else:
            from arm_control.replay.web import serve

            serve(live, host=command.host or "127.0.0.1", port=command.port or PORT)
    finally:
        live.close()
