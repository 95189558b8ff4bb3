"""The agents by name. Each folder of this package that holds an `agent.py` is one; nothing else lists them.

An agent is two modules. `settings.py` defines one frozen dataclass, derived from
`policies.common.settings.AgentSettings`, whose fields are its flags; it loads no PyTorch. `agent.py` defines
`make(spec, settings, compute_reward, seed, **options)`, which returns an agent (`policies.agent.Agent`).
"""

import inspect
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import policies
from policies.common.settings import AgentSettings

if TYPE_CHECKING:  # they load PyTorch
    from policies.agent import Agent, ComputeReward, Spec


def agent_names() -> list[str]:
    """The agents' names on the command line, in alphabetical order: their folders, with hyphens."""
    folders = {file.parent.name for path in policies.__path__ for file in Path(path).glob("*/agent.py")}
    return sorted(folder.replace("_", "-") for folder in folders)


def settings_class(name: str) -> type[AgentSettings]:
    """The class of an agent's settings. Raises TypeError unless its `settings.py` defines exactly one."""
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
    """The agent of this name, for a task of these sizes and bounds. `options` are the agent's own."""
    module = import_module(f"policies.{name.replace('-', '_')}.agent")
    agent: Agent = module.make(spec, settings, compute_reward, seed, **options)
    return agent
