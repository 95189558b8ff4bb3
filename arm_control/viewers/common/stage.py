"""A scene in the browser: arms from their URDF files, their goals, and traces of their tips."""

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence

import numpy as np
import viser
import yourdfpy
from viser.extras import ViserUrdf

from arm_control.viewers.common.trajectory import FloatArray, Segment
from arm_control.viewers.common.web_access import start_guarded
from envs.arm import RADIANS, Arm
from envs.model import Drawing, drawn_urdf

BLUE = (0, 114, 178)
ORANGE = (213, 94, 0)
GREEN = (26, 158, 76)
TABLE = (219, 204, 178)
TRACE_S = 3.0  # length of the tip's trace
TRACE_POINTS = 60
SECOND_ARM = (0.84, 0.37, 0.0, 0.45)  # orange, translucent


@contextlib.contextmanager
def serving(host: str, port: int) -> Iterator[viser.ViserServer]:
    """A web server that prints nothing; it takes another port if this one is in use."""
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # ignore clients that disconnect
    with contextlib.redirect_stdout(io.StringIO()):
        server = start_guarded(host, port)
    try:
        server.gui.configure_theme(show_logo=False, show_share_button=False)
        yield server
    finally:
        with contextlib.redirect_stdout(io.StringIO()):
            server.stop()


class Stage:
    """A scene with one arm, or two overlaid."""

    def __init__(self, server: viser.ViserServer, arms: Sequence[Arm]) -> None:
        scene = server.scene
        reach_m = arms[0].reach_m
        scene.set_up_direction("+z")
        scene.world_axes.visible = False
        server.initial_camera.position = (1.95 * reach_m, -1.15 * reach_m, 1.15 * reach_m)
        server.initial_camera.look_at = (0.32 * reach_m, 0.3 * reach_m, 0.4 * reach_m)
        server.initial_camera.fov = np.radians(45.0)
        size = (0.96 * reach_m, 0.96 * reach_m, 0.02)
        scene.add_box("/table", dimensions=size, color=TABLE, position=(0.28 * reach_m, 0.28 * reach_m, -0.011))
        # The arms, each with its goal and the trace of its tip.
        self._urdfs = []
        self._goals = []
        self._traces = []
        for place, arm in enumerate(arms):
            colour = SECOND_ARM if place else None
            urdf = ViserUrdf(server, _shapes(arm), root_node_name=f"/arm{place}", mesh_color_override=colour)
            goal = scene.add_icosphere(
                f"/goal{place}", radius=0.02 * reach_m, color=ORANGE if place else GREEN, opacity=0.6 if place else 0.9
            )
            trace = scene.add_line_segments(
                f"/trace{place}",
                points=np.zeros((1, 2, 3), np.float32),
                colors=ORANGE if place else BLUE,
                thickness=0.006 * reach_m,
            )
            self._urdfs.append(urdf)
            self._goals.append(goal)
            self._traces.append(trace)

    def show(self, place: int, now: Segment, trace_m: FloatArray) -> None:
        """Show an arm and its goal as in the row `now`, and the trace `trace_m` (n, 3) of its tip."""
        angles = now.angle_deg[0]
        if not np.isnan(angles).any():
            # The URDF has the arm's joints in the same order.
            self._urdfs[place].update_cfg(angles * RADIANS)
        goal = self._goals[place]
        first = self._goals[0]
        has_goal = not np.isnan(now.goal_m).any()
        if has_goal:
            goal.position = now.goal_m[0]
        # Draw a goal that both arms share only once.
        same = place > 0 and first.visible and np.allclose(goal.position, first.position, atol=1e-4)
        goal.visible = bool(has_goal and not same)
        if len(trace_m) > 1:
            self._traces[place].points = np.stack([trace_m[:-1], trace_m[1:]], axis=1).astype(np.float32)
        self._traces[place].visible = len(trace_m) > 1


def _shapes(arm: Arm) -> yourdfpy.URDF:
    """The arm's shapes; without meshes if one of them is damaged."""
    try:
        return _load(drawn_urdf(arm.chain, arm.mesh_folder))
    except Exception:  # readers of meshes raise errors of many types
        return _load(drawn_urdf(arm.chain, arm.mesh_folder, usable=()))


def _load(drawing: Drawing) -> yourdfpy.URDF:
    files = drawing.files
    return yourdfpy.URDF.load(io.StringIO(drawing.urdf), filename_handler=lambda fname: str(files[fname]))
