"""Simulation: the dynamics of one arm, in a PyBullet client of its own."""

import contextlib
import hashlib
import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from envs.arm import RADIANS, Arm
from envs.bullet import load_urdf, pybullet
from envs.model import joint_names, simulated_urdf, tip_name

DEGREES = 1.0 / RADIANS

# The fraction of a position error that a servo removes in one physics step. 0.2 is a time constant of 19 ms, and holds
# a pose to 0.001 degrees under gravity.
POSITION_GAIN = 0.2
PHYSICS_STEP_S = 1 / 240
IDEAL_LAG_S = -PHYSICS_STEP_S / math.log1p(-POSITION_GAIN)  # that time constant, for other physics steps
LIMIT_TOLERANCE_DEG = 1e-6
# PyBullet's joint limits yield to a strong push, unlike mechanical stops: a joint further than this beyond a limit is
# reset to it, at rest. The joints of arm3 do not get there by themselves.
STOP_DEG = 0.2
# Number of random poses whose torques are computed, and of poses in which a solver must hold the arm: with too few
# iterations a light arm of many joints sags in some poses only, one in eight for example.
POSES_TRIED = 500
POSES_HELD = 40
TORQUE_MARGIN = 1.05  # over the largest torque in those poses, for poses in between
HOLD_S = 0.25
HOLD_DEG = 0.01  # in poses that are not tried it may be several times that


class Solver(NamedTuple):
    """PyBullet's constraint solver: its largest number of iterations per step, and the residual at which it stops."""

    iterations: int
    residual: float


# PyBullet's default first. The solver iterates from joint to joint, and converges slowly where joints are strongly
# coupled, as in a light arm of many joints.
SOLVERS = (Solver(50, 1e-7), *(Solver(iterations, 0.0) for iterations in (100, 200, 400, 800, 1600, 3200)))
# The solver found for each arm, by the hash of its URDF.
_found_solvers: dict[bytes, Solver] = {}


@dataclass(frozen=True)
class SimulationState:
    """The complete state of a simulation, in PyBullet's radians, so that restoring it is bit-exact."""

    angles_rad: tuple[float, ...]
    speeds_rad_s: tuple[float, ...]
    target_rad: tuple[float, ...]


class Simulation:
    """A simulated arm under gravity, whose servos hold target angles.

    `reset` sets the arm to a pose at rest, `command` sets the servos' targets, `step` simulates one control period.
    Afterwards `angles_deg` and `speeds_deg_s` are the measured state. Close it, or use it as a context manager;
    otherwise its client is closed by garbage collection.

    The servos follow any target as fast as they can, as real ones do: limit it with `envs.limits.limit_target` first.
    """

    def __init__(
        self,
        arm: Arm,
        *,
        physics_step_s: float = PHYSICS_STEP_S,
        control_period_s: float = 1 / 30,
        solver: Solver | None = None,
    ) -> None:
        """Start a client, with the fastest solver that holds this arm unless one is given.

        Raises ValueError unless the control period is a whole multiple of the physics step, and for an arm that cannot
        be simulated: a link that turns has no mass, or the servos cannot hold the arm.
        """
        if not (0 < physics_step_s < math.inf and 0 < control_period_s < math.inf):
            raise ValueError(f"expected positive periods, got {physics_step_s} s and {control_period_s} s")
        # The number of physics steps in a control period, which must be whole.
        self.substeps = round(control_period_s / physics_step_s)
        if self.substeps < 1 or not math.isclose(self.substeps * physics_step_s, control_period_s, rel_tol=1e-9):
            raise ValueError(
                f"expected a control period that is a whole multiple of the physics step {physics_step_s:.6g} s, "
                f"got {control_period_s:.6g} s = {control_period_s / physics_step_s:.4f} steps"
            )
        self._solver = solver or fastest_solver(arm)
        self.arm = arm
        self.control_period_s = control_period_s
        limits = arm.limits
        slack = LIMIT_TOLERANCE_DEG
        pairs = list(zip(limits.lower_deg, limits.upper_deg, strict=True))
        # The angles that targets may have, and those at which the joints' stops begin.
        self._allowed = tuple(((low - slack) * RADIANS, (high + slack) * RADIANS) for low, high in pairs)
        self._stops = tuple((low - STOP_DEG, high + STOP_DEG) for low, high in pairs)
        # A physics engine of its own, with the arm at rest.
        self._client: int = pybullet.connect(pybullet.DIRECT)
        if self._client < 0:
            raise RuntimeError("PyBullet refused another client: close simulations that are no longer used")
        self._finalizer = weakref.finalize(self, _disconnect, self._client)
        self._physics_step_s = physics_step_s
        self._body, self._joints = self._load(physics_step_s)
        self._forces = list(arm.max_torque_nm)
        self._velocity_gains = [1.0] * len(self._joints)
        self._target_speeds = [0.0] * len(self._joints)
        self.set_dynamics()
        self.reset(arm.limits.lower_deg)

    def _load(self, physics_step_s: float) -> tuple[int, list[int]]:
        client = self._client
        chain = self.arm.chain
        pybullet.setGravity(0, 0, -9.81, physicsClientId=client)
        pybullet.setPhysicsEngineParameter(
            fixedTimeStep=physics_step_s,
            deterministicOverlappingPairs=1,
            numSolverIterations=self._solver.iterations,
            solverResidualThreshold=self._solver.residual,
            physicsClientId=client,
        )
        # Without collisions, shapes are not needed.
        try:
            urdf = simulated_urdf(chain)
        except ValueError as error:
            raise ValueError(f"arm {self.arm.urdf}: {error}") from None
        body = load_urdf(urdf, client, flags=pybullet.URDF_USE_INERTIA_FROM_FILE)
        count = pybullet.getNumJoints(body, physicsClientId=client)
        infos = [pybullet.getJointInfo(body, index, physicsClientId=client) for index in range(count)]
        names = [info[1].decode() for info in infos]
        joints = [names.index(name) for name in joint_names(chain)]
        self._tip_link = [info[12].decode() for info in infos].index(tip_name(chain))
        for link in range(-1, count):
            # PyBullet's default damping has no counterpart in the data sheet of a servo.
            pybullet.changeDynamics(
                body, link, linearDamping=0, angularDamping=0, jointDamping=0, physicsClientId=client
            )
        for joint, speed in zip(joints, self.arm.limits.max_speed_deg_s, strict=True):
            pybullet.changeDynamics(body, joint, maxJointVelocity=speed * RADIANS, physicsClientId=client)
        self._tip_mass, _, self._tip_inertia, *_ = pybullet.getDynamicsInfo(
            body, self._tip_link, physicsClientId=client
        )
        self._dynamics: tuple[float, float] = (0.0, 0.0)
        return body, joints

    def set_dynamics(
        self, *, servo_lag_s: float = 0.0, payload_kg: float = 0.0, friction_nm_s_rad: float = 0.0
    ) -> None:
        """Set the servos' time constant (0: the ideal one's), the payload at the tip, and the joints' friction."""
        # A first-order response removes 1 - exp(-step / lag) of an error in each physics step.
        gain = POSITION_GAIN
        if servo_lag_s or self._physics_step_s != PHYSICS_STEP_S:
            gain = -math.expm1(-self._physics_step_s / (servo_lag_s or IDEAL_LAG_S))
        self._position_gains = [gain] * len(self._joints)
        # Change the engine's bodies only if they differ.
        if self._dynamics == (payload_kg, friction_nm_s_rad):
            return
        client = self._open_client()
        self._dynamics = (payload_kg, friction_nm_s_rad)
        pybullet.changeDynamics(
            self._body,
            self._tip_link,
            mass=self._tip_mass + payload_kg,
            localInertiaDiagonal=self._tip_inertia,
            physicsClientId=client,
        )
        for joint in self._joints:
            pybullet.changeDynamics(self._body, joint, jointDamping=friction_nm_s_rad, physicsClientId=client)

    def reset(self, angles_deg: Sequence[float]) -> None:
        """Set the arm to these angles, at rest, with the servos' targets there."""
        radians = self.check_angles([float(angle) for angle in angles_deg])
        self.restore(SimulationState(radians, (0.0,) * len(radians), radians))

    def command(self, target_deg: Sequence[float]) -> None:
        """Set the servos' targets. Raises ValueError for a non-finite one or one outside the joint limits."""
        self._send(self.check_angles(target_deg))

    def step(self) -> None:
        """Simulate one control period and measure."""
        self.advance(self.substeps)
        self.measure()

    def advance(self, substeps: int) -> None:
        """Simulate some physics steps of a control period, without measuring."""
        step = pybullet.stepSimulation
        client = self._open_client()
        for _ in range(substeps):
            step(client)

    def save(self) -> SimulationState:
        """The present state, for `restore` of this or another Simulation of the same arm."""
        return self._state

    def restore(self, state: SimulationState) -> None:
        """Restore a saved state, motor targets included; the continuation is bit-exact."""
        client = self._open_client()
        for joint, angle, speed in zip(self._joints, state.angles_rad, state.speeds_rad_s, strict=True):
            pybullet.resetJointState(self._body, joint, angle, speed, physicsClientId=client)
        self._send(state.target_rad)
        self.measure()

    def close(self) -> None:
        """Close the client; closing twice is fine."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _state(self) -> SimulationState:
        angles, speeds = zip(*((state[0], state[1]) for state in self._states), strict=True)
        return SimulationState(angles, speeds, self._target_rad)

    def _open_client(self) -> int:
        if not self._finalizer.alive:
            raise RuntimeError("this simulation is closed")
        return self._client

    def check_angles(self, angles_deg: Sequence[float]) -> tuple[float, ...]:
        """The angles in radians. Raises ValueError for a wrong number of them, or one outside the joint limits."""
        if len(angles_deg) != len(self._joints):
            raise ValueError(f"expected {len(self._joints)} angles in degrees, got {list(angles_deg)}")
        radians = []
        for angle, (low, high) in zip(angles_deg, self._allowed, strict=True):
            angle *= RADIANS
            if not low <= angle <= high:
                limits = self.arm.limits
                raise ValueError(
                    f"expected angles from {limits.lower_deg} to {limits.upper_deg} degrees, got {list(angles_deg)}"
                )
            radians.append(angle)
        return tuple(radians)

    def _send(self, target_rad: tuple[float, ...]) -> None:
        self._target_rad = target_rad
        pybullet.setJointMotorControlArray(  # positional arguments: keywords would double the time of the call
            self._body,
            self._joints,
            pybullet.POSITION_CONTROL,
            target_rad,
            self._target_speeds,
            self._forces,
            self._position_gains,
            self._velocity_gains,
            self._open_client(),
        )

    def measure(self) -> None:
        """Update `angles_deg` and `speeds_deg_s`; `step` does this too."""
        self._states = states = pybullet.getJointStates(self._body, self._joints, self._client)
        angles = []
        speeds = []
        beyond = False
        for (angle, speed, _, _), (low, high) in zip(states, self._stops, strict=True):
            angle *= DEGREES
            if not low <= angle <= high:
                beyond = True
            angles.append(angle)
            speeds.append(speed * DEGREES)
        self.angles_deg = angles
        self.speeds_deg_s = speeds
        if beyond:
            self._stop_at_limits()

    def _stop_at_limits(self) -> None:
        """Reset joints that are beyond the mechanical stops to their limits, at rest."""
        stopped = False
        limits = zip(self._joints, self.angles_deg, self.arm.limits.clip(self.angles_deg), strict=True)
        for joint, angle, inside in limits:
            if abs(angle - inside) > STOP_DEG:
                pybullet.resetJointState(self._body, joint, inside * RADIANS, 0.0, physicsClientId=self._client)
                stopped = True
        if stopped:
            self.measure()


def fastest_solver(arm: Arm) -> Solver:
    """The first of `SOLVERS` with which the simulated arm holds its most loaded poses against gravity.

    Raises ValueError for an arm whose servos are too weak, or for masses with which no solver converges.
    """
    key = hashlib.sha256(arm.urdf_text.encode()).digest()
    if key not in _found_solvers:
        _found_solvers[key] = _find_solver(arm)
    return _found_solvers[key]


def _find_solver(arm: Arm) -> Solver:
    # Gravity torques in random poses and at the limits: can the servos hold them at all?
    low = np.array(arm.limits.lower_deg)
    high = np.array(arm.limits.upper_deg)
    poses_deg = np.random.default_rng(0).uniform(low, high, (POSES_TRIED, arm.joint_count))
    poses_deg = np.vstack([low, np.clip(0.0, low, high), high, poses_deg])
    torques_nm = np.abs(arm.gravity_torques_nm(poses_deg))
    hardest = torques_nm.argmax(axis=0)
    for name, needed_nm, effort_nm in zip(arm.joint_names, torques_nm.max(axis=0), arm.max_torque_nm, strict=True):
        if effort_nm < TORQUE_MARGIN * needed_nm:
            raise ValueError(
                f"arm {arm.urdf}: joint '{name}' cannot hold the arm: its effort is {effort_nm:.3g} N m, gravity needs "
                f"up to {TORQUE_MARGIN * needed_nm:.3g} N m (correct the effort in its <limit>, or the masses)"
            )
    # Simulate the poses with the largest torques and others, with one solver after the other.
    tried = [*hardest.tolist(), *range(POSES_HELD)]
    for solver in SOLVERS:
        worst_deg = _worst_sag_deg(arm, solver, poses_deg[tried])
        # NaN compares as false.
        if (worst_deg <= HOLD_DEG).all():
            return solver
    joint = int(np.argmax(np.nan_to_num(worst_deg, nan=np.inf)))
    raise ValueError(
        f"arm {arm.urdf}: the simulator cannot hold joint '{arm.joint_names[joint]}' still; expected less different "
        "masses and inertias (is an inertia zero, or in g mm^2?)"
    )


def _worst_sag_deg(arm: Arm, solver: Solver, poses_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest deviation of each joint (joints,) from these poses after `HOLD_S`; NaN where the simulation diverges.

    Stops at the first pose that is not held.
    """
    worst_deg = np.zeros(arm.joint_count)
    with Simulation(arm, solver=solver) as simulation:
        for pose_deg in poses_deg.tolist():
            simulation.reset(pose_deg)
            simulation.advance(round(HOLD_S / PHYSICS_STEP_S))
            simulation.measure()
            worst_deg = np.maximum(worst_deg, np.abs(np.subtract(simulation.angles_deg, pose_deg)))
            # NaN compares as false.
            if not (worst_deg <= HOLD_DEG).all():
                break
    return worst_deg


def _disconnect(client: int) -> None:
    with contextlib.suppress(pybullet.error):  # PyBullet may be shut down already as the process exits
        pybullet.disconnect(client)
