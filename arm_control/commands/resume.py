"""`arm-control resume RUN`: continue an interrupted training."""

from dataclasses import dataclass

import tyro


@dataclass(frozen=True)
class Resume:
    """Go on with an interrupted run. One of --steps then ends bit for bit as if it had not been interrupted."""

    run: tyro.conf.Positional[str]
    """The run's folder."""


def run(command: Resume) -> None:
    """Continue the training."""
    from arm_control.training.loop import resume

    resume(command.run)
