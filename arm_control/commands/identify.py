"""`arm-control identify LOG`: measure delay, lag and noise of an arm from a recording."""

from dataclasses import dataclass

import tyro

from arm_control.runs.figures import check_writable, report_figures


@dataclass(frozen=True)
class Identify:
    """Measure delay, servo lag and noise of an arm from a recording of 'run', for --imperfections of train and run."""

    log: tyro.conf.Positional[str]
    """Recording of a run over several goals."""
    json: str | None = None
    """JSON file to write the figures to."""


def run(command: Identify) -> None:
    """Print the delay, lag and noise of a recorded arm."""
    from arm_control.recording.identification import identify
    from arm_control.recording.identification_table import format_identification

    check_writable(command.json)
    figures = identify(command.log)
    report_figures(command.json, figures, format_identification(figures, command.json))
