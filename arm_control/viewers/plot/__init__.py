"""Plots of trajectories, and the learning curves of run folders."""

from collections.abc import Sequence

from arm_control.viewers.common.trajectory import Trajectory, described
from arm_control.viewers.common.viewer import Save, SaveRuns, Viewer


def load_save() -> Save:
    """Plot trajectories."""
    from arm_control.viewers.plot.figure import save_plot

    def save(trajectories: Sequence[Trajectory], path: str) -> str:
        save_plot(trajectories, path)
        return described(trajectories)

    return save


def load_save_runs() -> SaveRuns:
    """Plot the learning curves of run folders."""
    from arm_control.viewers.plot.curves import save_curves

    def save(folders: Sequence[str], path: str) -> str:
        save_curves(folders, path)
        return f"learning curves of {', '.join(folders)}"

    return save


VIEWER = Viewer(
    summary="plots; of run folders only, their learning curves",
    max_sources=2,
    load_save=load_save,
    endings=(".png",),
    load_save_runs=load_save_runs,
)
