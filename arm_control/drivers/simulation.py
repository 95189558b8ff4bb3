"""The simulated arm as a driver, `--driver sim`: one control period passes with each `write`."""

import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from arm_control.drivers.base import DriverType, JointState, OpeningContext
from envs.arm import Arm
from envs.imperfections import Imperfections, open_imperfections


class SimulationDriver:
    """A `Simulation`, optionally with imperfections, as a `Driver`.

    It starts in `start_deg`, or in the arm's default pose. Readings are stamped by the clock `now_s`.
    """

    def __init__(
        self,
        arm: Arm,
        control_period_s: float,
        imperfections: str | Imperfections = "ideal",
        now_s: Callable[[], float] = time.monotonic,
        *,
        start_deg: Sequence[float] | None = None,
    ) -> None:
        # These load PyBullet, so not before a simulated arm is opened.
        from envs.imperfect_simulation import ImperfectSimulation
        from envs.simulation import PHYSICS_STEP_S, Simulation

        self.joint_names = arm.joint_names
        self.limits = arm.limits
        self.calibration_sha256: str | None = None
        self.fastest_rate_hz = 1000.0
        self.now_s = now_s
        # Physics steps of at most the usual length, as many as fit.
        steps = math.ceil(control_period_s / PHYSICS_STEP_S - 1e-9)
        step_s = PHYSICS_STEP_S if math.isclose(steps * PHYSICS_STEP_S, control_period_s) else control_period_s / steps
        self._simulation = Simulation(arm, physics_step_s=step_s, control_period_s=control_period_s)
        self._simulation.reset(arm.default_pose_deg() if start_deg is None else start_deg)
        self._body: Simulation | ImperfectSimulation = self._simulation
        opened = open_imperfections(imperfections)
        if opened.any:
            generator = np.random.default_rng(0)
            self._body = ImperfectSimulation(self._simulation, opened)
            self._body.randomise(generator)
            self._body.start(generator)

    def enable(self) -> None:
        """Do nothing: a simulated servo holds its pose from the start."""

    def read(self) -> JointState:
        """Return the simulated angles and speeds."""
        return JointState(self.now_s(), list(self._body.angles_deg), list(self._body.speeds_deg_s))

    def write(self, target_deg: list[float]) -> None:
        """Send the targets, then simulate one control period."""
        self._body.command(target_deg)
        self._body.step()

    def disable(self) -> None:
        """Do nothing: a simulated servo holds its pose to the end."""

    def close(self) -> None:
        """Close the simulation."""
        self._simulation.close()


def open_simulation(arm: Arm, options: Mapping[str, str], context: OpeningContext) -> SimulationDriver:
    """Open a simulated arm. Raises ValueError for options, of which it has none."""
    if options:
        raise ValueError(f"driver sim: unexpected --{next(iter(options))}; it has no options (--driver missing?)")
    return SimulationDriver(arm, context.period_s, context.imperfections, context.now_s, start_deg=context.start_deg)


DRIVER = DriverType(open_simulation, simulated=True)
