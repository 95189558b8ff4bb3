"""Verifying a recording of the simulated arm: re-simulation must give the same readings, bit for bit."""

import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from arm_control.drivers.base import Driver, DriverType, OpeningContext
from arm_control.drivers.opening import available_drivers, load_driver
from arm_control.recording.index import IndexedRecording
from arm_control.recording.schema import POST_MORTEM, Tick, of_simulated_arm
from arm_control.runner.recorded import arm_of
from arm_control.viewers.common.trajectory import drawn_arm
from envs.arm import Arm
from envs.imperfections import imperfections_from_text


def verify(path: str | Path, urdf: str | None = None) -> tuple[int, str]:
    """Re-simulate a recording: send its targets to the simulated arm, and compare every reading.

    Returns the number of ticks, all equal, and a description of what is missing from the recording.

    Raises RuntimeError with the first tick that differs, and by how much; ValueError for a recording that cannot be
    re-simulated.
    """
    recording = IndexedRecording(path)
    try:
        return _verify(recording, urdf)
    finally:
        recording.close()


def _verify(recording: IndexedRecording, urdf: str | None) -> tuple[int, str]:
    path = recording.path
    metadata = recording.metadata
    arm, period_s = arm_of(path, metadata)
    driver_type = _simulated_driver(path, metadata)
    if POST_MORTEM in metadata:
        raise ValueError(f"{path} is a post-mortem, which begins in mid-motion: expected the whole recording")
    start_deg = _start_deg(path, arm, metadata)
    try:
        imperfections = imperfections_from_text(metadata.get("imperfections", "ideal"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    context = OpeningContext(period_s, start_deg, imperfections, time.monotonic)
    resimulated = driver_type.open(drawn_arm(path, arm, urdf), {}, context)
    # Compare each tick's readings, then send its target, as the runner did.
    try:
        ticks = 0
        for ticks, tick in enumerate(recording, 1):
            if difference := _difference(tick, resimulated, arm.joint_names):
                because = f"; the recording is incomplete ({recording.missing})" if recording.missing else ""
                raise RuntimeError(
                    f"{path}: tick {ticks}, at {tick.time_s - recording.start_s:.3f} s, is the first that differs "
                    f"from its re-simulation: {difference}{because}"
                )
            if tick.target_deg is not None:
                resimulated.write(tick.target_deg)
        return ticks, recording.missing
    finally:
        resimulated.close()


def _simulated_driver(path: Path, metadata: Mapping[str, str]) -> DriverType:
    """The driver that was recorded. Raises ValueError unless it is installed and of a simulated arm."""
    name = metadata.get("driver", "unknown")
    if of_simulated_arm(metadata):
        if name not in available_drivers():
            raise ValueError(f"{path} was recorded on the driver {name}, which is not installed")
        driver_type = load_driver(name)
        # The driver's own declaration counts: nothing in a file may open a real arm.
        if driver_type.simulated:
            return driver_type
    raise ValueError(f"{path} was recorded on the driver {name}: only a simulated arm can be re-simulated")


def _start_deg(path: Path, arm: Arm, metadata: Mapping[str, str]) -> tuple[float, ...] | None:
    """The recorded start pose; None if it is not recorded. Raises ValueError for one outside the limits."""
    if "start_deg" not in metadata:
        return None
    try:
        start_deg = msgspec.json.decode(metadata["start_deg"], type=list[float])
    except msgspec.MsgspecError:
        start_deg = []
    if len(start_deg) != arm.joint_count or start_deg != arm.limits.clip(start_deg):
        raise ValueError(
            f"{path}: start_deg: expected a pose within the arm's limits, got {metadata['start_deg'][:80]!r}"
        )
    return tuple(start_deg)


def _difference(tick: Tick, resimulated: Driver, names: tuple[str, ...]) -> str:
    """The joint whose reading differs most, and by how much; empty if none differs."""
    state = resimulated.read()
    readings = (
        ("", "degrees", tick.angle_deg, state.angles_deg),
        ("'s speed", "degrees/s", tick.speed_deg_s, state.speeds_deg_s),
    )
    for what, unit, recorded, now in readings:
        if recorded is None:
            return "it has no reading"
        if recorded != now:
            joint = int(np.argmax(np.abs(np.subtract(recorded, now))))
            apart = abs(recorded[joint] - now[joint])
            return f"{names[joint]}{what} {recorded[joint]!r}, now {now[joint]!r}, {apart:.3g} {unit} apart"
    return ""
