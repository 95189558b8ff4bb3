"""ArmEnv: a simulated arm that does a task, as a Gymnasium environment. The tasks are in `envs/tasks/`."""

import math
import time
from pathlib import Path
from typing import Any, get_args

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.actions import Actions
from envs.arm import DEFAULT_URDF, RADIANS, Arm
from envs.control import ActionKind, Control
from envs.imperfect_simulation import ImperfectSimulation
from envs.imperfections import Imperfections, open_imperfections
from envs.limits import limit_target
from envs.observation import observe_one
from envs.simulation import Simulation, SimulationState
from envs.tasks import task_named
from envs.tasks.base import GoalTrajectory, StillGoal, Task, check_goal, options_of, steps_for
from envs.tasks.reward import RewardKind, distance

Observation = dict[str, NDArray[np.float32]]

# Measured angles and speeds may slightly exceed their limits, by less than this (tests/envs/test_bounds.py).
ANGLE_MARGIN_DEG = 0.25
SPEED_MARGIN = 1.01


class ArmEnv(gymnasium.Env[Observation, NDArray[np.float32]]):
    """A simulated arm that does a task. The docstring of the task describes goals, end of an episode and info.

    ## Action space
    With `actions="degrees"` (`ArmReach-v0`, `ArmTrack-v0`), one number per joint in degrees, `Box(float32)`. The target
    is approached within the joints' speed and acceleration limits (`envs.limits.limit_target`), then held by servos.

    | `control` | space for the default arm | the target angle is |
    |---|---|---|
    | `absolute` (default) | `Box(0, 90, (3,))` | the action |
    | `from_measured` | `Box(-11.4, 11.4, (3,))`: what a joint can move in a step | the measured angle plus the action |
    | `from_target` | the same | the last target, as limited, plus the action |

    A target is approached such that the joint can stop on it. With changes, which keep the target near, a joint
    therefore reaches about half its full speed.

    With `actions="index"` (`ArmReachDiscrete-v0`), `Discrete(753571)`, and with `actions="positions"`
    (`ArmReachMultiDiscrete-v0`), `MultiDiscrete([91, 91, 91])`: absolute targets, `grid_step_deg` apart
    (`envs.degree_grid.DegreeGrid`).

    ## Observation space
    A `Dict` of `Box(float32)`, for goal-based learning (hindsight relabelling works: nothing in `observation` depends
    on the goal). For n joints:

    | key | index | meaning | unit | range |
    |---|---|---|---|---|
    | `observation` | 0 to n-1 | measured joint angles | rad | the joint's, and 0.25 degrees |
    | | n to 2n-1 | measured joint speeds | rad/s | the joint's, and 1 % |
    | | 2n to 3n-1 | previous target, as limited and sent to the servos | rad | the joint's |
    | | 3n to 4n-1 | speed of the previous target, the other state of the limiter | rad/s | the joint's |
    | `achieved_goal` | 0 to 2 | tip position x, y, z, by the measured angles | m | the arm's reach |
    | `desired_goal` | 0 to 2 | goal position x, y, z | m | the arm's reach |

    A task whose goals move adds velocities to both goals. The last target and its speed are the whole state of the
    limiter, so that on the ideal arm `observation` is the whole state of the motion (the Markov property): equal
    observations and actions lead to equal observations.

    ## Reward
    With d the distance between `achieved_goal` and `desired_goal` after the step, in metres:

    | `reward` | value | range |
    |---|---|---|
    | `dense` (default) | -d + exp(-d / 10 mm) | up to 1 |
    | `sparse` | 0 within `goal_tolerance_m`, else -1 | -1 or 0 |

    For an arm of another reach than 0.7 m, the lengths of `dense` are in proportion (`envs.tasks.reward`).
    `compute_reward` gives either for arrays of goals.

    ## Arguments
    `task` (the name of its file, set by the ids), `arm` (a URDF file of a serial arm of one to seven revolute
    joints), `reward`, `goal_tolerance_m` (0.01 m), `actions`, `grid_step_deg`, `control`, `imperfections` (`ideal`,
    `xl430`, `rough`, `late` or an `envs.imperfections.Imperfections`), `episode_steps`, `physics_step_s` (1/240),
    `control_period_s` (1/30, a whole multiple of it), `render_mode` (`human` opens a window, `rgb_array` needs no
    display), and the options of the task. Raises ValueError for values that are not accepted.

    ## Versions
    v0: first version.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  (as Gymnasium declares it)
        "render_modes": ["human", "rgb_array"],
        "render_fps": 30,
    }

    def __init__(
        self,
        task: str,
        arm: str | Path = DEFAULT_URDF,
        *,
        reward: RewardKind = "dense",
        goal_tolerance_m: float = 0.01,
        actions: ActionKind = "degrees",
        grid_step_deg: float = 1.0,
        control: Control = "absolute",
        imperfections: str | Imperfections = "ideal",
        episode_steps: int | None = None,
        physics_step_s: float = 1 / 240,
        control_period_s: float = 1 / 30,
        render_mode: str | None = None,
        **task_options: Any,
    ) -> None:
        # The arm and its task.
        task_type = _task_type(task, task_options)
        _check_arguments(render_mode, actions, control, control_period_s)
        self.arm = Arm(arm)
        self.task = task_type.for_arm(
            self.arm, control_period_s, reward=reward, goal_tolerance_m=goal_tolerance_m, **task_options
        )
        self._moving = self.task.moving
        self.episode_steps = self._episode_length(episode_steps, control_period_s)

        # Actions, and the dynamics that they meet.
        self.actions = actions
        self.control = control
        self._actions = Actions(
            self.arm.limits, actions, control, grid_step_deg=grid_step_deg, period_s=control_period_s
        )
        self.grid = self._actions.grid
        self.imperfections = open_imperfections(imperfections)
        self.task.check_arm(self.arm)

        # The body: what measures and is commanded, the simulation or imperfect servos and sensors around it.
        self.simulation = Simulation(self.arm, physics_step_s=physics_step_s, control_period_s=control_period_s)
        self._imperfect = ImperfectSimulation(self.simulation, self.imperfections) if self.imperfections.any else None
        self._body = self._imperfect or self.simulation
        self._period_s = control_period_s

        # Rendering; the scene is made when it is first shown.
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": round(1 / control_period_s)}
        self._scene: Any = None
        self._next_frame_s = 0.0

        self.action_space = self._actions.space
        self.observation_space: spaces.Dict = self._make_observation_space()  # type: ignore[assignment]
        self._begin(StillGoal((0.0,) * (6 if self._moving else 3)))

    def _episode_length(self, given: int | None, period_s: float) -> int:
        """The number of steps of an episode, by default that of the task for this arm."""
        steps = steps_for(self.task.episode_steps, self.arm.limits, period_s) if given is None else given
        if steps < 1:
            raise ValueError(f"expected at least one step an episode, got {steps}")
        return steps

    def _make_observation_space(self) -> spaces.Dict:
        # Angles, speeds, previous target and its speed: the limits, and what measurements may exceed them by.
        limits = self.arm.limits
        imperfections = self.imperfections
        margin = ANGLE_MARGIN_DEG + imperfections.angle_margin_deg
        lower = np.array(limits.lower_deg)
        upper = np.array(limits.upper_deg)
        speed = SPEED_MARGIN * np.array(limits.max_speed_deg_s) + imperfections.speed_margin_deg_s
        target_speed = np.array(limits.max_speed_deg_s)  # the limiter never exceeds it
        high = (np.concatenate([upper + margin, speed, upper, target_speed]) * RADIANS).astype(np.float32)
        low = (np.concatenate([lower - margin, -speed, lower, -target_speed]) * RADIANS).astype(np.float32)
        # Goals: the arm's reach, and the speed of the tip of the stretched arm with every joint at full speed.
        goal = np.full(3, self.arm.reach_m, np.float32)
        if self.task.moving:
            goal = np.append(goal, np.full(3, self.arm.reach_m * float(speed.sum()) * RADIANS, np.float32))
        return spaces.Dict(
            {
                "observation": spaces.Box(low, high),
                "achieved_goal": spaces.Box(-goal, goal),
                "desired_goal": spaces.Box(-goal, goal),
            }
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; `options` may hold `angles_deg` (joints,) and, for a fixed goal, `goal_m` (3,)."""
        # Check the options before anything changes.
        options = options or {}
        known = ["angles_deg"] if self.task.moving else ["angles_deg", "goal_m"]
        if unknown := set(options) - set(known):
            raise ValueError(f"expected reset options {' and '.join(known)}, got {sorted(unknown)}")
        given_goal = check_goal(self.arm, options["goal_m"]) if "goal_m" in options else None
        if "angles_deg" in options:
            self.simulation.check_angles(options["angles_deg"])
        super().reset(seed=seed)
        # Draw everything, also what the options replace, so that the generator advances equally.
        limits = self.arm.limits
        generator = self.np_random
        start = generator.uniform(limits.lower_deg, limits.upper_deg).tolist()
        trajectory = self.task.draw_goals(self.arm, generator, self.episode_steps, self._period_s)
        if self._imperfect is not None:
            self._imperfect.randomise(generator)
        self.simulation.reset(options.get("angles_deg", start))
        if self._imperfect is not None:
            self._imperfect.start(generator)
        self._begin(trajectory if given_goal is None else StillGoal(given_goal))
        result = self._observe()
        if self.render_mode == "human":
            self.render()
        return result

    def _begin(self, trajectory: GoalTrajectory) -> None:
        """Start an episode: its goals and counters, and the limiter at rest where the arm is."""
        self._begin_trajectory(trajectory)
        self._target_deg = self.arm.limits.clip(self._body.angles_deg)
        self._target_speed_deg_s = [0.0] * self.arm.joint_count

    def change_goals(self, trajectory: GoalTrajectory) -> Observation:
        """Begin another episode with these goals, from the arm's present pose and motion."""
        self._begin_trajectory(trajectory)
        return self._observe()[0]

    def _begin_trajectory(self, trajectory: GoalTrajectory) -> None:
        self._trajectory = trajectory
        self._steps = 0
        self._error_total = 0.0
        self._update_goal()

    @property
    def goal_m(self) -> tuple[float, ...]:
        """The goal now: position x, y, z in metres and, of one that moves, its velocity in m/s."""
        return self._goal

    @property
    def measured_deg(self) -> list[float]:
        """The joint angles, as measured."""
        return list(self._body.angles_deg)

    @property
    def measured_deg_s(self) -> list[float]:
        """The joint speeds, as measured."""
        return list(self._body.speeds_deg_s)

    @property
    def target_deg(self) -> list[float]:
        """The last target sent to the servos."""
        return list(self._target_deg)

    def _update_goal(self) -> None:
        """Set the goal to that of this step."""
        self._goal = self._trajectory.goal(self._steps)
        self._goal_seen = np.array(self._goal, np.float32)
        self._goal_point: list[float] = self._goal_seen.tolist()[:3]

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Run one control period. Raises ValueError for an action of another shape, non-finite or out of range."""
        return self.steer(self._actions.target_deg(action, self._body.angles_deg, self._target_deg))

    def steer(self, desired_deg: list[float]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Run one control period toward target angles, whatever the actions of this environment are."""
        # Limit the target in speed and acceleration, and move the arm.
        body = self._body
        self._target_deg, self._target_speed_deg_s = limit_target(
            desired_deg, self._target_deg, self._target_speed_deg_s, self.arm.limits, self._period_s
        )
        body.command(self._target_deg)
        body.step()
        # Observe the arm and the goal after the step; a time limit truncates, nothing terminates.
        self._steps += 1
        if self._moving:
            self._update_goal()
        observation, info = self._observe()
        if self.render_mode == "human":
            self.render()
        reward = float(self.task.reward(self._measured_distance_m))
        return observation, reward, False, self._steps >= self.episode_steps, info

    def _observe(self) -> tuple[Observation, dict[str, Any]]:
        body = self._body
        readings, achieved = observe_one(
            self.arm,
            body.angles_deg,
            body.speeds_deg_s,
            self._target_deg,
            self._target_speed_deg_s,
            moving=self._moving,
        )
        achieved_seen = np.array(achieved, np.float32)
        # The distance between the goals as observed, in float32, so that compute_reward gives exactly the same reward.
        x, y, z = achieved_seen.tolist()[:3]
        goal_x, goal_y, goal_z = self._goal_point
        dx = x - goal_x
        dy = y - goal_y
        dz = z - goal_z
        distance_m = math.sqrt(dx * dx + dy * dy + dz * dz)
        self._measured_distance_m = distance_m
        # `info` has the true distance, from the true tip position.
        if self._imperfect is not None:
            distance_m = math.dist(self._imperfect.true_tip(), self._goal[:3])
        observation = {
            "observation": np.array(readings, np.float32),
            "achieved_goal": achieved_seen,
            "desired_goal": self._goal_seen.copy(),
        }
        error_m, self._error_total = self.task.error_so_far(self._steps, distance_m, self._error_total)
        info = {"distance_m": distance_m}
        if self.task.error_key is not None:
            info[self.task.error_key] = error_m
        info["is_success"] = error_m <= self.task.goal_tolerance_m
        return observation, info

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        """Reward (...,) of ending a step at `achieved_goal` (..., 3) when the goal is `desired_goal` (..., 3)."""
        return self.task.reward(distance(achieved_goal, desired_goal))

    def compute_terminated(self, achieved_goal: Any, desired_goal: Any, info: Any) -> bool:
        """False: no state ends an episode, since the arm has to stay at the goal."""
        return False

    def compute_truncated(self, achieved_goal: Any, desired_goal: Any, info: Any) -> bool:
        """Return True if the episode has reached its time limit."""
        return self._steps >= self.episode_steps

    def save_state(self) -> dict[str, Any]:
        """The complete state, generator included, as values that JSON can hold."""
        state = self.simulation.save()
        return {
            "angles_rad": state.angles_rad,
            "speeds_rad_s": state.speeds_rad_s,
            "motor_target_rad": state.target_rad,
            "imperfect": None if self._imperfect is None else self._imperfect.save(),
            "target_deg": self._target_deg,
            "target_speed_deg_s": self._target_speed_deg_s,
            "course": self._trajectory.to_json(),
            "steps": self._steps,
            "square_sum_m2": self._error_total,  # as released checkpoints name it
            "generator": self.np_random.bit_generator.state,
        }

    def restore_state(self, state: dict[str, Any]) -> Observation:
        """Restore a state of `save_state` and return its observation; the continuation is bit-exact.

        Raises ValueError for a state of an environment with another task or imperfections.
        """
        # Check the state before anything is changed.
        try:
            trajectory = self.task.goals_from_json(state["course"], self.episode_steps, self._period_s)
        except ValueError as error:
            raise ValueError(f"the state is of an environment with another task: {error}") from None
        if (state["imperfect"] is None) != (self._imperfect is None):
            raise ValueError("the state is of an environment with other imperfections")
        # The generator, and the body.
        self.np_random.bit_generator.state = state["generator"]
        if self._imperfect is not None:
            self._imperfect.restore(state["imperfect"], self.np_random)
        self.simulation.restore(
            SimulationState(tuple(state["angles_rad"]), tuple(state["speeds_rad_s"]), tuple(state["motor_target_rad"]))
        )
        # The episode, and the limiter.
        self._trajectory = trajectory
        self._steps = state["steps"]
        self._update_goal()
        self._target_deg = list(state["target_deg"])
        self._target_speed_deg_s = list(state["target_speed_deg_s"])
        observation, _ = self._observe()
        self._error_total = state["square_sum_m2"]  # last, since observing adds this step's distance again
        return observation

    def render(self) -> Any:
        """Return the picture (480, 640, 3) uint8 in `rgb_array` mode; show it in a window in `human` mode."""
        if self.render_mode is None:
            raise ValueError("render requires a render_mode: make the environment with 'human' or 'rgb_array'")
        if self._scene is None:
            from envs.scene import Scene

            self._scene = Scene(self.arm, window=self.render_mode == "human")
        self._scene.show(self.simulation.angles_deg, self._goal[:3])
        if self.render_mode == "rgb_array":
            return self._scene.picture()
        # Slow down to real time.
        time.sleep(max(0.0, self._next_frame_s - time.monotonic()))
        self._next_frame_s = max(self._next_frame_s, time.monotonic()) + self.simulation.control_period_s
        return None

    def close(self) -> None:
        """Close the simulation and the picture; closing twice is fine."""
        self.simulation.close()
        if self._scene is not None:
            self._scene.close()
            self._scene = None


def _task_type(name: str, options: dict[str, Any]) -> type[Task]:
    """The class of a task. Raises TypeError for options that it does not have."""
    task_type = task_named(name)
    unknown = set(options) - set(options_of(task_type))
    if unknown:
        raise TypeError(f"unexpected arguments {sorted(unknown)}: the task '{name}' has no such options")
    return task_type


def _check_arguments(render_mode: str | None, actions: str, control: str, period_s: float) -> None:
    """Raise ValueError for an unknown render mode, kind of actions or kind of control, and for an invalid period."""
    if render_mode not in (None, *ArmEnv.metadata["render_modes"]):
        raise ValueError(f"expected a render mode of {ArmEnv.metadata['render_modes']}, got '{render_mode}'")
    if actions not in get_args(ActionKind):
        raise ValueError(f"expected actions of {get_args(ActionKind)}, got '{actions}'")
    if control not in get_args(Control):
        raise ValueError(f"expected control of {get_args(Control)}, got '{control}'")
    if not 0 < period_s < math.inf:
        raise ValueError(f"expected a positive control period, got {period_s} s")
