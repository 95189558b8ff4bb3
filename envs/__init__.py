"""The simulated arm as Gymnasium environments. Importing this registers the ids; PyBullet is loaded by making one.

| id | action | task |
|---|---|---|
| `ArmReach-v0` | `Box(0, 90, (3,))`: a target angle a joint, in degrees | reach a goal with the tip |
| `ArmReachDiscrete-v0` | `Discrete(753571)`: one of all whole-degree targets | the same |
| `ArmReachMultiDiscrete-v0` | `MultiDiscrete([91, 91, 91])`: a whole-degree target a joint | the same |
| `ArmTrack-v0` | `Box(0, 90, (3,))` | follow a moving goal with the tip |
"""

import gymnasium

DISTRIBUTION = "arm-control"  # tells this package from others of the same name: arm_control/process/own_packages.py

gymnasium.register("ArmReach-v0", entry_point="envs.arm_env:ArmReach")
gymnasium.register("ArmReachDiscrete-v0", entry_point="envs.arm_env:ArmReach", kwargs={"actions": "index"})
gymnasium.register("ArmReachMultiDiscrete-v0", entry_point="envs.arm_env:ArmReach", kwargs={"actions": "positions"})
gymnasium.register("ArmTrack-v0", entry_point="envs.arm_env:ArmTrack")
