"""Scene: pictures of the arm on its table with its goal, in a window or without a display.

It has its own PyBullet client, which is only set to poses and never stepped, so that rendering cannot affect a motion.
"""

import ctypes
import ctypes.util
import math
import os
import sys
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs.arm import RADIANS, Arm
from envs.bullet import load_urdf, pybullet, readable_meshes
from envs.model import drawn_urdf, joint_names, mesh_files

GOAL_COLOUR = (0.10, 0.62, 0.30, 0.85)
TABLE_COLOUR = (0.86, 0.80, 0.70, 1.0)
WINDOW_DISTANCE = 0.55  # of the window's camera, relative to that of pictures: its field of view is wider
TABLE_THICKNESS_M = 0.02
NOWHERE_M = (0.0, 0.0, -100.0)
FIELD_OF_VIEW_DEG = 38.0
NEAR_M = 0.05
COARSENESS = 8  # resolution in pixels at which the occupied part of a picture is found
# The colours of the backdrop, at its top and bottom.
BACKDROP_TOP = (206, 217, 228)
BACKDROP_BOTTOM = (244, 246, 248)


class Part(NamedTuple):
    """A rectangle of a picture in pixels, from its top left corner."""

    left: int
    top: int
    right: int
    bottom: int


class Scene:
    """The arm, a table under it and a ball at the goal; in a window, or as pictures without a display."""

    def __init__(self, arm: Arm, *, window: bool = False) -> None:
        """Raises RuntimeError if a window is requested and there is no display."""
        if window and not has_display():
            raise RuntimeError(
                f"a window requires a display, and there is none (DISPLAY={os.environ.get('DISPLAY', 'not set')}); "
                "without one, 'arm-control replay --viewer web' shows the arm in a browser, '--save FILE.mp4' "
                "makes a video, and render mode 'rgb_array' gives pictures"
            )
        self._client: int = pybullet.connect(pybullet.GUI if window else pybullet.DIRECT)
        if self._client < 0:
            raise RuntimeError("PyBullet refused another client: close scenes that are no longer used")
        self._close = weakref.finalize(self, _disconnect, self._client)
        # The arm, with the meshes that PyBullet can read.
        client = {"physicsClientId": self._client}
        if window:
            pybullet.configureDebugVisualizer(pybullet.COV_ENABLE_GUI, 0, **client)
        meshes = readable_meshes(mesh_files(arm.chain, arm.mesh_folder))
        drawing = drawn_urdf(arm.chain, arm.mesh_folder, meshes)
        self._body = load_urdf(drawing.urdf, self._client, files=drawing.files)
        count = pybullet.getNumJoints(self._body, **client)
        names = [pybullet.getJointInfo(self._body, index, **client)[1].decode() for index in range(count)]
        self._joints = [names.index(name) for name in joint_names(arm.chain)]
        # The table and the ball at the goal, in proportion to the arm.
        self._extent = arm.reach_m
        half = (0.48 * self._extent, 0.48 * self._extent, TABLE_THICKNESS_M / 2)
        centre = (0.28 * self._extent, 0.28 * self._extent, -TABLE_THICKNESS_M / 2)
        self._add(pybullet.GEOM_BOX, TABLE_COLOUR, centre, halfExtents=half)
        self._goal = self._add(pybullet.GEOM_SPHERE, GOAL_COLOUR, NOWHERE_M, radius=0.022 * self._extent)
        # The camera.
        self._eye = np.array([2.05, -0.92, 1.30]) * self._extent
        self._target = np.array([0.25, 0.23, 0.375]) * self._extent
        if window:
            offset = self._eye - self._target
            distance = float(np.linalg.norm(offset)) * WINDOW_DISTANCE
            yaw = math.degrees(math.atan2(offset[0], -offset[1]))
            pitch = -math.degrees(math.asin(offset[2] / np.linalg.norm(offset)))
            pybullet.resetDebugVisualizerCamera(distance, yaw, pitch, self._target.tolist(), **client)

    def _add(self, shape: int, colour: Sequence[float], position: Sequence[float], **size: Any) -> int:
        visual = pybullet.createVisualShape(
            shape, rgbaColor=colour, specularColor=(0, 0, 0), physicsClientId=self._client, **size
        )
        body: int = pybullet.createMultiBody(
            baseVisualShapeIndex=visual, basePosition=position, physicsClientId=self._client
        )
        return body

    def show(self, angles_deg: Sequence[float], goal_m: Sequence[float] | None) -> None:
        """Set the arm to this pose and the ball to the goal, or out of sight if there is none."""
        if not self._close.alive:
            raise RuntimeError("this scene is closed")
        for joint, angle in zip(self._joints, angles_deg, strict=True):
            pybullet.resetJointState(self._body, joint, angle * RADIANS, physicsClientId=self._client)
        place = NOWHERE_M if goal_m is None else goal_m
        pybullet.resetBasePositionAndOrientation(self._goal, place, (0, 0, 0, 1), physicsClientId=self._client)

    @property
    def client(self) -> int:
        """PyBullet's client id."""
        return self._client

    def picture(self, width: int = 640, height: int = 480, part: Part | None = None) -> NDArray[np.uint8]:
        """The camera's picture, or a part of it in pixels, (height, width, 3), rendered without a display."""
        part = part or Part(0, 0, width, height)
        pixels, depth, _ = self._render(width, height, part, pybullet.ER_NO_SEGMENTATION_MASK)
        picture: NDArray[np.uint8] = pixels[:, :, :3].astype(np.uint8)
        backdrop = np.linspace(BACKDROP_TOP, BACKDROP_BOTTOM, height)[part.top : part.bottom].astype(np.uint8)
        np.copyto(picture, backdrop[:, None], where=(depth >= 1.0)[:, :, None])
        return picture

    def occupied(self, width: int, height: int) -> Part:
        """The part of a picture of this size that shows the arm and its goal."""
        coarse = (width // COARSENESS, height // COARSENESS)
        _, _, bodies = self._render(*coarse, Part(0, 0, *coarse), 0)
        rows, columns = np.nonzero((bodies == self._body) | (bodies == self._goal))
        if not len(rows):
            return Part(0, 0, 0, 0)
        left = max(0, int(columns.min()) - 1)
        right = int(columns.max()) + 2
        top = max(0, int(rows.min()) - 1)
        bottom = int(rows.max()) + 2
        edges = (left * COARSENESS, top * COARSENESS, right * COARSENESS, bottom * COARSENESS)
        return Part(*edges[:2], min(width, edges[2]), min(height, edges[3]))

    def _render(self, width: int, height: int, part: Part, flags: int) -> tuple[NDArray[Any], ...]:
        """Pixels, depths and body ids of a part of a picture."""
        # The camera, and the part of its image that is rendered, on the near plane.
        view = pybullet.computeViewMatrix(self._eye.tolist(), self._target.tolist(), (0, 0, 1))
        up = NEAR_M * math.tan(math.radians(0.5 * FIELD_OF_VIEW_DEG))
        side = 2.0 * up / height  # of a pixel on the near plane
        projection = pybullet.computeProjectionMatrix(
            (part.left - 0.5 * width) * side,
            (part.right - 0.5 * width) * side,
            (0.5 * height - part.bottom) * side,
            (0.5 * height - part.top) * side,
            NEAR_M,
            10.0 * self._extent,
        )
        columns = part.right - part.left
        rows = part.bottom - part.top
        _, _, *found = pybullet.getCameraImage(
            columns,
            rows,
            view,
            projection,
            lightDirection=(1.0, -1.2, 2.2),
            lightAmbientCoeff=0.62,
            lightDiffuseCoeff=0.45,
            lightSpecularCoeff=0.05,
            renderer=pybullet.ER_TINY_RENDERER,
            flags=flags,
            physicsClientId=self._client,
        )
        pixels, depths, bodies = (np.reshape(values, (rows, columns, -1)) for values in found)
        return pixels, depths[:, :, 0], bodies[:, :, 0]

    def close(self) -> None:
        """Close the client; closing twice is fine."""
        self._close()


def _disconnect(client: int) -> None:
    """Close a client, whose window the user may have closed before."""
    if pybullet.isConnected(client):
        pybullet.disconnect(client)


def has_display() -> bool:
    """Return True if a window can be opened. Tested with the X server: PyBullet exits the process on failure."""
    if sys.platform != "linux":
        return True
    library = ctypes.util.find_library("X11")
    if library and os.environ.get("DISPLAY"):
        x11 = ctypes.CDLL(library)
        x11.XOpenDisplay.restype = ctypes.c_void_p
        # Not closed again: an X server may reset itself when its last client disconnects.
        return bool(x11.XOpenDisplay(None))
    return False
