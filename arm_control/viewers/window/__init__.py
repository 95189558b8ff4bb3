"""The simulator's own window."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from arm_control.viewers.common.viewer import Show, Viewer

if TYPE_CHECKING:
    from arm_control.viewers.common.live import LiveArm
    from arm_control.viewers.common.trajectory import Trajectory


def default_priority(source_count: int) -> int:
    """The default for one source, where there is a display."""
    from envs.scene import has_display

    return 2 if source_count == 1 and has_display() else 0


def load_show(flags: None) -> Show:
    """Open a window."""
    from arm_control.viewers.window.window import show_window

    def show(shown: "LiveArm | Sequence[Trajectory]") -> None:
        show_window(shown[0] if isinstance(shown, Sequence) else shown)

    return show


VIEWER = Viewer(
    summary="the simulator's own window (default for one source, with a display)",
    load_show=load_show,
    default_priority=default_priority,
)
