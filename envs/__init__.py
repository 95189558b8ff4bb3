"""The simulated arm as Gymnasium environments. Importing this registers the ids; making one loads PyBullet.

Each file of `envs/tasks/` declares the ids of its task:

| id | action | task |
|---|---|---|
| `ArmReach-v0` | `Box(0, 90, (3,))`: a target angle per joint, in degrees | reach a goal with the tip |
| `ArmReachDiscrete-v0` | `Discrete(753571)`: the index of a combination of whole-degree targets | the same |
| `ArmReachMultiDiscrete-v0` | `MultiDiscrete([91, 91, 91])`: a whole-degree target per joint | the same |
| `ArmTrack-v0` | `Box(0, 90, (3,))` | follow a moving goal with the tip |
"""

import gymnasium

from envs.tasks import ENVIRONMENTS

DISTRIBUTION = "arm-control"  # distinguishes this package from others called envs: arm_control/process/own_packages.py

for _environment in ENVIRONMENTS.values():
    gymnasium.register(
        _environment.id,
        entry_point="envs.arm_env:ArmEnv",
        kwargs={"task": _environment.task_name, "actions": _environment.actions},
    )
