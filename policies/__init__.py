"""Agents: what learns, and how. PyTorch and NumPy only: nothing here imports the arm or its environments.

`agent.py` defines the interface of an agent, `registry.py` finds the agents by name. Each agent is one folder (`ddpg`,
`dpg`, `dqn`, `branching_dqn`, `reinforce`, `actor_critic`, `a2c`, `a3c`); what several of them use is in `common`.
"""

DISTRIBUTION = "arm-control"  # tells this package from others of the same name: arm_control/process/own_packages.py
