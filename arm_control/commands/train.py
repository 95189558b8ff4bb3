"""`arm-control train AGENT`: train an agent into a run folder."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from arm_control.process.discovery import Command, Variants, first_sentence
from arm_control.runs.config import TrainConfig
from policies.registry import AGENTS


@dataclass(frozen=True)
class Train:
    """Train an agent into a run folder. Ctrl-C stops it with a checkpoint, from which 'resume' continues."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    out: str | None = None
    """Run folder (default: runs/AGENT-seedSEED)."""


def variants() -> Variants:
    """The agents, each with its default settings."""
    summary = Command(Train, run).summary
    return Variants(
        "agent",
        summary,
        list(AGENTS),
        load=lambda agent: Command(Train, run, Train(TrainConfig(agent))),
        summarise=lambda agent: first_sentence(AGENTS[agent].__doc__),
    )


def run(command: Train) -> None:
    """Train from the start."""
    from arm_control.training.loop import train

    config = command.config
    train(config, command.out or f"runs/{config.agent}-seed{config.seed}")
