"""The simulated arm as Gymnasium environments. Importing this registers the ids; PyBullet is loaded by making one.

| id | action | task |
|---|---|---|
| `ArmReach-v0` | `Box(0, 90, (3,))`: a target angle a joint, in degrees | reach a goal with the tip |
"""

import gymnasium

gymnasium.register("ArmReach-v0", entry_point="envs.arm_env:ArmEnv")
