"""The agents by name: every folder of this package with an `agent.py` is an agent. There is no other list.

An agent has two modules. `settings.py` defines one frozen dataclass, derived from
`policies.common.settings.AgentSettings`, whose fields are its flags; it must not import PyTorch. `agent.py` defines
`make(spec, settings, compute_reward, seed, **options)`, which returns an agent (`policies.agent.Agent`).
"""

import inspect
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import policies
from policies.common.settings import AgentSettings

if TYPE_CHECKING:  # these import PyTorch
    from policies.agent import Agent, ComputeReward, Spec


def agent_names() -> list[str]:
    """Names of the agents on the command line, in alphabetical order: their folders, with hyphens."""
    names = set()
    for path in policies.__path__:
        for file in Path(path).glob("*/agent.py"):
            names.add(file.parent.name.replace("_", "-"))
    return sorted(names)


def settings_class(name: str) -> type[AgentSettings]:
    """Return the class of an agent's settings. Raises TypeError unless its `settings.py` defines exactly one."""
    module = import_module(f"policies.{name.replace('-', '_')}.settings")
    classes = []
    for _, value in inspect.getmembers(module, inspect.isclass):
        if value.__module__ == module.__name__ and issubclass(value, AgentSettings):
            classes.append(value)
    if len(classes) != 1:
        raise TypeError(f"{module.__name__}: expected one class of settings, got {len(classes)}")
    return classes[0]


AGENTS: dict[str, type[AgentSettings]] = {name: settings_class(name) for name in agent_names()}


def make_agent(
    name: str, spec: "Spec", settings: AgentSettings, compute_reward: "ComputeReward", seed: int, **options: Any
) -> "Agent":
    """Create an agent by name for a task of these sizes and bounds. `options` are specific to the agent."""
    module = import_module(f"policies.{name.replace('-', '_')}.agent")
    agent: Agent = module.make(spec, settings, compute_reward, seed, **options)
    return agent
