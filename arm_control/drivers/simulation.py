"""The simulated arm as a driver: one control period passes with each `write`."""

import time

import numpy as np

from arm_control.drivers import JointState
from envs.arm import Arm
from envs.imperfections import ImperfectSimulation, open_imperfections
from envs.limits import limit_target
from envs.simulation import Simulation

PARKING_TIME_S = 3.0


class SimulationDriver:
    """A `Simulation`, perhaps with imperfections, behind the driver's verbs.

    It starts in its parking pose: every joint at its lower limit.
    """

    def __init__(self, arm: Arm, control_period_s: float, imperfections: str = "ideal") -> None:
        self.joint_names = arm.joint_names
        self._arm = arm
        self._period_s = control_period_s
        self._simulation = Simulation(arm, control_period_s=control_period_s)
        self._body: Simulation | ImperfectSimulation = self._simulation
        if (wanted := open_imperfections(imperfections)).any:
            generator = np.random.default_rng(0)
            self._body = ImperfectSimulation(self._simulation, wanted)
            self._body.randomise(generator)
            self._body.start(generator)

    def enable(self) -> None:
        """A simulated servo holds its pose from the start."""

    def read(self) -> JointState:
        """The simulated angles and speeds."""
        return JointState(time.monotonic(), self._body.angles_deg, self._body.speeds_deg_s)

    def write(self, target_deg: list[float]) -> None:
        """Send the targets and let one control period pass."""
        self._body.command(target_deg)
        self._body.step()

    def park(self) -> None:
        """Go to the parking pose within the joints' limits."""
        target, speed = self._arm.limits.clip(self._body.angles_deg), [0.0] * len(self.joint_names)
        for _ in range(round(PARKING_TIME_S / self._period_s)):
            target, speed = limit_target(self._arm.limits.lower_deg, target, speed, self._arm.limits, self._period_s)
            self.write(target)

    def close(self) -> None:
        """Close the simulation."""
        self._simulation.close()
