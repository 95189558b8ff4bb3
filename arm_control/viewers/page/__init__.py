"""A web page in one file, which needs no server."""

from collections.abc import Sequence

from arm_control.viewers.common.trajectory import Trajectory, described
from arm_control.viewers.common.viewer import Save, Viewer


def load_save() -> Save:
    """Write a page."""
    from arm_control.viewers.page.html import save_page

    def save(trajectories: Sequence[Trajectory], path: str) -> str:
        save_page(trajectories, path)
        return described(trajectories)

    return save


VIEWER = Viewer(
    summary="a web page in one file, which needs no server",
    max_sources=2,
    load_save=load_save,
    endings=(".html",),
    saves_for="web",
)
