"""`arm-control run POLICY|RECORDING`: drive an arm."""

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from arm_control.process.console import Console
from arm_control.process.errors import PROGRAM, ArmStoppedError
from arm_control.runner.session_config import SessionConfig
from arm_control.runs.figures import check_writable, write_json


@dataclass(frozen=True)
class Run:
    """Drive an arm with an exported policy, or replay a recording on it. Ctrl-C parks the arm.

    The exit code is 3 after a fault stop. While the arm is held: r resets and continues, p parks.
    """

    session: Annotated[SessionConfig, tyro.conf.arg(name="")]
    json: str | None = None
    """JSON file to write the figures to."""


def run(command: Run) -> None:
    """Drive the arm. A run that was interrupted or stopped keeps its exit code where its figures cannot be written."""
    from arm_control.runner.session import run_session

    check_writable(command.json)
    with Console() as console:
        figures = run_session(command.session, console)
        end = end_of_run(figures)
        try:
            write_json(command.json, figures)
        except OSError as error:
            if end is None:
                raise
            console.err(f"{PROGRAM}: error: {error}")
    if end is not None:
        raise end
    if console.output_error is not None:
        raise console.output_error


def end_of_run(figures: dict[str, Any]) -> BaseException | None:
    """The exception of a run that did not complete: ArmStoppedError or KeyboardInterrupt; None if it did."""
    if figures["faults"]:
        reasons = [f"{fault['check']}: {fault['text']}" for fault in figures["faults"]]
        return ArmStoppedError("; ".join(dict.fromkeys(reasons)))
    return KeyboardInterrupt() if figures["interrupted"] else None
