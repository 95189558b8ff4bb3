"""The recording of a run: its files and its metadata."""

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
    """Start recording to the file of --record; the last seconds before a fault are recorded in any case.

    `start_deg` is the start pose of a simulated arm, with which the recording can be simulated again.
    """
    # The post-mortem is beside the recording, else in the working directory, else in the temporary one.
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
    """Finish the recording, and print its files and errors."""
    problem = recorder.close()
    if problem is not None:
        console.err(f"recording: {problem}")
    outcome = "recorded" if problem is None else "recorded incompletely"
    if not recorder.ticks:
        outcome = "no tick was recorded"
    for path in (recorder.path, recorder.post_mortem):
        if path is not None and path.exists():
            console.err(f"{outcome}: {path}")
