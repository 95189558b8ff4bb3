"""`arm-control resume RUN`: continue an interrupted training."""

from dataclasses import dataclass

import tyro


@dataclass(frozen=True)
class Resume:
    """Resume an interrupted training. With --steps, the result equals that of an uninterrupted training bit for bit."""

    run: tyro.conf.Positional[str]
    """Run folder."""


def run(command: Resume) -> None:
    """Continue the training."""
    from arm_control.training.loop import resume

    resume(command.run)
