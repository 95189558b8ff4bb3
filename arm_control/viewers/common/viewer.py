"""The declaration of a viewer, and the list of viewers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import arm_control.viewers
from arm_control.process.discovery import load_module, module_names
from arm_control.viewers.common.trajectory import Trajectory

if TYPE_CHECKING:
    from arm_control.viewers.common.live import LiveArm

COMMON = "common"  # the package of shared code

Show = Callable[["LiveArm | Sequence[Trajectory]"], None]  # returns when the user closes the viewer
Save = Callable[[Sequence[Trajectory], str], str]  # writes a file; returns a description of its content
SaveRuns = Callable[[Sequence[str], str], str]  # the same, for run folders


def never_default(source_count: int) -> int:
    """The priority of a viewer that is never the default."""
    return 0


@dataclass(frozen=True)
class Viewer:
    """The declaration of a viewer, which is named after its file.

    It shows trajectories (`load_show`), saves them to a file (`load_save`) or both. These functions import what the
    viewer requires and return the function that does the work, so that a missing package is reported before a file is
    opened.
    """

    summary: str
    """Description for the help of --viewer."""
    max_sources: int = 1
    """The largest number of sources that it shows together."""
    load_show: Callable[[Any], Show] | None = None
    """Takes the viewer's own flags."""
    load_save: Callable[[], Save] | None = None
    endings: tuple[str, ...] = ()
    """Endings of the files that it saves, such as .mp4."""
    load_save_runs: Callable[[], SaveRuns] | None = None
    """Saves a file about any number of run folders."""
    flags: type[Any] | None = None
    """Frozen dataclass of the viewer's own flags, each None unless given."""
    default_priority: Callable[[int], int] = never_default
    """For a number of sources: the viewer with the highest priority is the default; 0 means never."""
    saves_for: str | None = None
    """Name of the viewer whose files this one saves: `--viewer web --save FILE.html` means `page`."""


def viewer_names() -> list[str]:
    """The names of all viewers in alphabetical order."""
    names = module_names(arm_control.viewers)
    names.remove(COMMON)
    return names


def load_viewer(name: str) -> Viewer:
    """The viewer of this name."""
    viewer: Viewer = load_module(arm_control.viewers, name).VIEWER
    return viewer


def load_viewers() -> dict[str, Viewer]:
    """All viewers by name."""
    return {name: load_viewer(name) for name in viewer_names()}
