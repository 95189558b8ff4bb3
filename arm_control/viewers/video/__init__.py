"""A video, rendered without a display."""

from collections.abc import Sequence

from arm_control.viewers.common.trajectory import Trajectory, described
from arm_control.viewers.common.viewer import Save, Viewer


def load_save() -> Save:
    """Write a video."""
    from arm_control.viewers.video.film import write_video

    def save(trajectories: Sequence[Trajectory], path: str) -> str:
        frame_count = write_video(trajectories[0], path)
        return f"{frame_count} frames of {described(trajectories)}"

    return save


VIEWER = Viewer(summary="a video", load_save=load_save, endings=(".mp4",))
