"""`arm-control report RUN`: write a one-page report of a run."""

from dataclasses import dataclass

import tyro


@dataclass(frozen=True)
class Report:
    """Write a one-page report.md into a run folder, from its evaluation.json, run.json and policy.onnx."""

    run: tyro.conf.Positional[str]
    """Run folder."""


def run(command: Report) -> None:
    """Write the page and print its path."""
    from arm_control.evaluation.report import write_report
    from arm_control.process.printing import printable

    print(printable(write_report(command.run)))
