"""A video, rendered without a display."""

from collections.abc import Sequence

from arm_control.viewers.common.motion import Motion, described
from arm_control.viewers.common.viewer import Save, Viewer


def load_save() -> Save:
    """Write a video."""
    from arm_control.viewers.video.film import write_video

    def save(motions: Sequence[Motion], path: str) -> str:
        frame_count = write_video(motions[0], path)
        return f"{frame_count} frames of {described(motions)}"

    return save


VIEWER = Viewer(summary="a video", load_save=load_save, endings=(".mp4",))
