"""The configuration of each command: one frozen dataclass is its flags, its help and the JSON in the run folder."""

import dataclasses
import difflib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from envs.tasks import RewardKind
from policies.settings import AGENTS, DDPGSettings

Settings = DDPGSettings


@dataclass(frozen=True)
class TrainConfig:
    """What to train, on what, and for how long."""

    agent: str
    settings: Settings
    env: str = "ArmReach-v0"
    reward: RewardKind = "dense"
    goal_tolerance_m: float = 0.01
    arm: str | None = None
    arms: int = 8
    seed: int = 0
    steps: int | None = None
    minutes: float | None = None
    init: str | None = None

    def __post_init__(self) -> None:
        check_choice("agent", self.agent, AGENTS)
        check_choice("environment", self.env, environment_ids())
        if self.arms < 1 or self.arms > 512:
            raise ValueError(f"--arms: wanted from 1 to 512 arms, got {self.arms}")
        if self.seed < 0:
            raise ValueError(f"--seed: wanted a number from 0, got {self.seed}")
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("wanted one of --steps and --minutes")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"--steps: wanted a positive number, got {self.steps}")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise ValueError(f"--minutes: wanted a positive number, got {self.minutes}")
        if not 0 < self.goal_tolerance_m < math.inf:
            raise ValueError(f"--goal-tolerance-m: wanted a positive length, got {self.goal_tolerance_m}")

    def to_json(self) -> dict[str, Any]:
        """As it is kept in the run folder."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(config: dict[str, Any]) -> "TrainConfig":
        """Read one back. Raises ValueError, naming the field, for one that does not fit."""
        values = {key: value for key, value in config.items() if key != "version"}
        try:
            check_choice("agent", str(values.get("agent")), AGENTS)
            return msgspec.convert(values, TrainConfig)
        except (msgspec.ValidationError, ValueError) as error:
            raise ValueError(f"config.json is damaged: {error}") from None

    def environment_options(self) -> dict[str, Any]:
        """The keyword arguments of `gymnasium.make`."""
        options: dict[str, Any] = {"reward": self.reward, "goal_tolerance_m": self.goal_tolerance_m}
        return options if self.arm is None else options | {"arm": self.arm}


def environment_ids() -> list[str]:
    """The ids that `envs` registers."""
    import gymnasium

    import envs  # noqa: F401  (registers them)

    return sorted(name for name, spec in gymnasium.registry.items() if str(spec.entry_point).startswith("envs."))


def check_choice(kind: str, name: str, available: Iterable[str]) -> None:
    """Raise ValueError, with what there is and what was likely meant, unless `name` is available."""
    names = list(available)
    if name not in names:
        close = difflib.get_close_matches(name, names, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"unknown {kind} '{name}'{hint}; available: {', '.join(names)}")


def canonical_json(value: Any) -> bytes:
    """The same bytes for the same value, to be hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
