"""Reproducibility of environments, bit for bit: repeated, restored, in vectors and in other processes."""

import functools
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from arm_control.process.own_packages import python_command
from arm_control.runs.config import environment_ids
from arm_control.runs.figures import check_writable, report_figures
from arm_control.runs.imperfections_flag import as_imperfections
from envs.imperfections import PRESETS, Imperfections, open_imperfections
from envs.vector.env import ArmVectorEnv


@dataclass(frozen=True)
class BenchDeterminism:
    """Check that every environment is reproducible, bit for bit, in six ways."""

    imperfections: tuple[str, ...] = ("ideal", "rough")
    """Dynamics randomisations to check: presets, or files written by 'identify --json'."""
    json: str | None = None
    """JSON file to write the figures to."""

    def __post_init__(self) -> None:
        if not self.imperfections:
            raise ValueError("--imperfections: got none; expected ideal, xl430, rough, late, or files")
        for what in self.imperfections:
            as_imperfections(what)


def run(command: BenchDeterminism) -> None:
    """Print the result of each check. Raises RuntimeError if one failed."""
    check_writable(command.json)
    figures = bench_determinism(command.imperfections)
    report_figures(command.json, figures, format_determinism(figures))
    if not figures["all_exact"]:
        raise RuntimeError("not everything is bit-exact")


SEED = 11
LATER_SEED = 5
ARMS = 5

Trace = list[list[str]]  # a row per reset and step: observation, reward, flags and info, floats as hex
MakeEnv = Callable[[], gymnasium.Env[Any, Any]]


def bench_determinism(imperfections: tuple[str, ...]) -> dict[str, Any]:
    """Run each check on each environment with each of these imperfections; returns which are bit-exact."""
    exact = {}
    for name in environment_ids():
        for number, given in enumerate(imperfections, 1):
            opened = open_imperfections(given)
            label = opened.name if opened.name in PRESETS else f"custom {number}"
            exact[f"{name}, {label}"] = check_environment(name, opened)
    all_exact = all(all(checks.values()) for checks in exact.values())
    return {"exact": exact, "all_exact": all_exact}


def check_environment(name: str, imperfections: Imperfections) -> dict[str, bool]:
    """Repeat the first two episodes of a seed in six ways; returns for each way True if it is bit-exact."""
    make_env = functools.partial(gymnasium.make, name, disable_env_checker=True, imperfections=imperfections)
    expected = trace(make_env)
    # One environment, used several times.
    env: Any = make_env().unwrapped
    play(env, LATER_SEED, stop_after=17)
    after_dirty_episode = play(env, SEED) == expected
    env.reset(seed=SEED)
    second_reset = play(env, SEED) == expected
    checks = {
        "same process": trace(make_env) == expected,
        "fresh process": fresh_trace(name, imperfections) == expected,
        "after a dirty episode": after_dirty_episode,
        "second reset": second_reset,
        f"arm {ARMS - 1} of {ARMS}": vector_trace(make_env) == alone(make_env),
        "save and restore": restored(make_env, env) == expected,
    }
    env.close()
    return checks


def trace(make_env: MakeEnv) -> Trace:
    """Two episodes of a new environment, the second without a seed."""
    env: Any = make_env().unwrapped
    rows = play(env, SEED)
    env.close()
    return rows


def play(env: Any, seed: int, stop_after: int | None = None) -> Trace:
    """Two episodes under random actions, or the first steps of them."""
    rows = []
    actions = draw_actions(env.action_space, 2 * env.episode_steps)
    for episode in range(2):
        rows.append(row(*env.reset(seed=seed if episode == 0 else None)))
        for step in range(env.episode_steps):
            if step == stop_after:
                return rows
            rows.append(row(*env.step(actions[episode * env.episode_steps + step])))
    return rows


def draw_actions(space: gymnasium.Space[Any], count: int) -> list[Any]:
    """Random actions, the same every time."""
    space.seed(3)
    return [space.sample() for _ in range(count)]


def row(*parts: Any) -> list[str]:
    """All values returned by a step or a reset, as exact text."""
    cells: list[str] = []
    for part in parts:
        if isinstance(part, dict):
            for key in sorted(part):
                cells += row(part[key])
        else:
            cells += [float(value).hex() for value in np.ravel(part)]
    return cells


def fresh_trace(name: str, imperfections: Imperfections) -> Trace:
    """`trace` in a new process."""
    script = (
        "import functools, gymnasium, json\n"
        "from envs.imperfections import Imperfections\n"
        "from arm_control.bench.determinism import trace\n"
        f"options = dict(disable_env_checker=True, imperfections={imperfections!r})\n"
        f"make_env = functools.partial(gymnasium.make, {name!r}, **options)\n"
        "print(json.dumps(trace(make_env)))"
    )
    done = subprocess.run(python_command(f"\n{script}"), capture_output=True, encoding="utf-8", check=True)
    rows: Trace = json.loads(done.stdout)
    return rows


def alone(make_env: MakeEnv) -> Trace:
    """Observations and rewards of a single arm with the last arm's seed, past the end of an episode."""
    env: Any = make_env().unwrapped
    actions = draw_actions(env.action_space, env.episode_steps + 10)
    rows = [row(env.reset(seed=SEED + ARMS - 1)[0])]
    for action in actions:
        observation, reward, _, truncated, _ = env.step(action)
        if truncated:
            observation, _ = env.reset()
        rows.append(row(observation, reward))
    env.close()
    return rows


def vector_trace(make_env: MakeEnv) -> Trace:
    """`alone` for the last arm of a vector environment in two worker processes; the others take other actions."""
    env = ArmVectorEnv(make_env, ARMS, processes=2)
    try:
        observation, _ = env.reset(seed=SEED)
        one: Any = make_env().unwrapped
        steps = one.episode_steps + 10
        one.close()
        actions = draw_actions(env.single_action_space, steps)
        rows = [row(of_last_arm(observation))]
        for step, action in enumerate(actions):
            # The other arms take later actions, the last one this action.
            others = [actions[(step + arm + 1) % len(actions)] for arm in range(ARMS - 1)]
            observation, reward, *_ = env.step(np.array([*others, action]))
            rows.append(row(of_last_arm(observation), reward[-1]))
        return rows
    finally:
        env.close()


def of_last_arm(observation: dict[str, Any]) -> dict[str, Any]:
    """The observation of the last arm of a vector environment."""
    return {key: value[-1] for key, value in observation.items()}


def restored(make_env: MakeEnv, used: Any) -> Trace:
    """Half an episode, then the rest in a used environment after restoring the state from JSON, and a second one."""
    env: Any = make_env().unwrapped
    actions = draw_actions(env.action_space, 2 * env.episode_steps)
    half = env.episode_steps // 2
    # The first half of an episode, whose state goes through JSON.
    rows = [row(*env.reset(seed=SEED))]
    for action in actions[:half]:
        rows.append(row(*env.step(action)))
    state = json.loads(json.dumps(env.save_state()))
    env.close()
    # The rest in another environment, which was in the middle of an episode, and a second episode.
    play(used, LATER_SEED, stop_after=9)
    used.restore_state(state)
    for action in actions[half : env.episode_steps]:
        rows.append(row(*used.step(action)))
    rows.append(row(*used.reset()))
    for action in actions[env.episode_steps :]:
        rows.append(row(*used.step(action)))
    return rows


def format_determinism(figures: dict[str, Any]) -> str:
    """Format the checks as a table."""
    checks = list(next(iter(figures["exact"].values())))
    width = max(map(len, figures["exact"]))
    lines = [
        "two episodes, all that the environment returned, bit for bit",
        "  " + " " * width + "  " + "  ".join(checks),
    ]
    for name, results in figures["exact"].items():
        cells = []
        for check in checks:
            verdict = "exact" if results[check] else "DIFFERS"
            cells.append(f"{verdict:>{len(check)}}")
        lines.append(f"  {name:<{width}}  " + "  ".join(cells))
    return "\n".join(lines)
