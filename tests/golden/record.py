"""Golden trajectories: what each environment did, to be compared with what it does.

    python tests/golden/record.py      # after a change of the motion that is meant

Exact on the build that recorded them, to 1e-5 on others.
"""

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

import envs  # noqa: F401  (registers the environments)
from envs.bullet import bullet_version

FOLDER = Path(__file__).resolve().parent
IDS = ("ArmReach-v0", "ArmReachDiscrete-v0", "ArmReachMultiDiscrete-v0", "ArmTrack-v0")
EPISODES = 2


def build() -> dict[str, str]:
    """The values that are equal if two trajectories are equal to the last bit."""
    cpu = Path("/proc/cpuinfo")
    flags = [line for line in cpu.read_text().splitlines() if line.startswith("flags")] if cpu.exists() else []
    return {
        "pybullet": bullet_version(),
        "numpy": version("numpy"),
        "libc": " ".join(platform.libc_ver()),
        "processor": hashlib.sha256("".join(flags[:1]).encode()).hexdigest()[:12],  # mathematics goes by its features
    }


def trajectory(name: str) -> list[list[float]]:
    """Two whole episodes under random actions: a row each reset and step, of all that the environment returned."""
    env: Any = gymnasium.make(name, disable_env_checker=True)
    env.action_space.seed(7)
    rows = []
    for seed in range(EPISODES):
        observation, info = env.reset(seed=seed)
        rows.append(row(observation, 0.0, info))
        truncated = False
        while not truncated:
            observation, reward, _, truncated, info = env.step(env.action_space.sample())
            rows.append(row(observation, reward, info))
    env.close()
    return rows


def row(observation: dict[str, Any], reward: float, info: dict[str, Any]) -> list[float]:
    """Everything in one list, at full precision."""
    return [*np.concatenate(list(observation.values())).tolist(), reward, info["distance_m"]]


if __name__ == "__main__":
    for name in IDS:
        path = FOLDER / f"{name}.json"
        lines = ",\n".join(map(json.dumps, trajectory(name)))
        path.write_text(f'{{"build": {json.dumps(build())}, "rows": [\n{lines}\n]}}\n')
        print(path)
