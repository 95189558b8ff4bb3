"""The recording of a run: its files, its metadata, and what became of it."""

import json
import os
import tempfile
from datetime import datetime
from pathlib import Path

from arm_control.drivers.base import Driver, DriverType
from arm_control.process.console import Console
from arm_control.recording.recorder import Recorder
from arm_control.runner.planning import Plan
from arm_control.runner.session_config import SessionConfig


def make_recorder(
    config: SessionConfig, plan: Plan, driver_type: DriverType, driver: Driver, start_deg: list[float]
) -> Recorder:
    """Record every tick into the file that the command names; the last seconds before a fault in any case.

    `start_deg` is where a simulated arm starts, which is needed to simulate the recording again.
    """
    here = Path() if os.access(".", os.W_OK) else Path(tempfile.gettempdir())
    post_mortem = here / datetime.now().strftime(f"post-mortem-%Y%m%d-%H%M%S-{os.getpid()}.mcap")
    if config.record is not None:
        post_mortem = Path(config.record).with_suffix(".post-mortem.mcap")
    metadata = {
        "arm": plan.arm.name,
        "arm_urdf": plan.arm.urdf_text,
        "joint_names": json.dumps(plan.arm.joint_names),
        "period_s": repr(plan.period_s),
        "driver": config.driver,
        "simulated": json.dumps(driver_type.simulated),
        "imperfections": plan.imperfections.to_text(),
        "calibration_sha256": driver.calibration_sha256 or "",
        "shadow": json.dumps(config.shadow),
    }
    if driver_type.simulated:
        metadata["start_deg"] = json.dumps(start_deg)
    return Recorder(config.record, metadata | plan.metadata, post_mortem=post_mortem)


def close_recorder(recorder: Recorder, console: Console) -> None:
    """Finish the recording, and say what became of it."""
    if (problem := recorder.close()) is not None:
        console.err(f"recording: {problem}")
    said = "recorded" if problem is None else "recorded, as far as it goes"
    if not recorder.ticks:
        said = "not a single tick was recorded"
    for path in (recorder.path, recorder.post_mortem):
        if path is not None and path.exists():
            console.err(f"{said}: {path}")
