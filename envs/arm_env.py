"""ArmEnv: a simulated arm that does a task, as a Gymnasium environment. The tasks are in `envs/tasks/`."""

import math
import time
from pathlib import Path
from typing import Any, get_args

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.arm import DEFAULT_URDF, RADIANS, Arm
from envs.control import ActionKind, Control, target_of
from envs.degree_grid import DegreeGrid
from envs.imperfections import Imperfections, ImperfectSimulation, open_imperfections
from envs.limits import limit_target
from envs.observation import observe_one
from envs.simulation import Simulation, SimulationState
from envs.tasks import task_named
from envs.tasks.base import GoalTrajectory, RewardKind, StillGoal, check_goal, distance, options_of, steps_for

Observation = dict[str, NDArray[np.float32]]

# Measured angles and speeds pass their limits a little: by less than this (tests/envs/test_bounds.py).
ANGLE_MARGIN_DEG = 0.25
SPEED_MARGIN = 1.01
ROUNDING_DEG = 1e-3  # by which an action may lie outside its space: float32


class ArmEnv(gymnasium.Env[Observation, NDArray[np.float32]]):
    """A simulated arm that does a task of `envs/tasks/`, whose docstring describes goals, end of an episode and info.

    ## Action space
    With `actions="degrees"` (`ArmReach-v0`, `ArmTrack-v0`), one number a joint in degrees, `Box(float32)`. The target
    is approached within the joints' speed and acceleration limits (`envs.limits.limit_target`), then held by servos.

    | `control` | space for the default arm | the target angle is |
    |---|---|---|
    | `absolute` (default) | `Box(0, 90, (3,))` | the action |
    | `from_measured` | `Box(-11.4, 11.4, (3,))`: what a joint can move in a step | the measured angle plus the action |
    | `from_target` | the same | the last target, as limited, plus the action |

    A target is approached so that the joint could stop on it; with changes, which keep it near, a joint therefore gets
    to about half its full speed.

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
    | | 3n to 4n-1 | speed of the previous target, from which the limiter goes on | rad/s | the joint's |
    | `achieved_goal` | 0 to 2 | tip position x, y, z, by the measured angles | m | the arm's reach |
    | `desired_goal` | 0 to 2 | goal position x, y, z | m | the arm's reach |

    A task whose goals move adds velocities to both goals. The last target and its speed are the whole state of the
    limiter, so that on the ideal arm `observation` is the whole state of the motion (the Markov property): with equal
    actions, equal observations are followed by equal ones.

    ## Reward
    With d the distance between `achieved_goal` and `desired_goal` after the step, in metres:

    | `reward` | value | range |
    |---|---|---|
    | `dense` (default) | -d + exp(-d / 10 mm) | up to 1 |
    | `sparse` | 0 within `goal_tolerance_m`, else -1 | -1 or 0 |

    For an arm of another reach than 0.7 m, the lengths of `dense` are in proportion. `compute_reward` gives either for
    arrays of goals.

    ## Arguments
    `task` (the name of its file, which the ids set), `arm` (a URDF file of a serial arm of one to seven revolute
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
        task_type = task_named(task)
        if unknown := set(task_options) - set(options_of(task_type)):
            raise TypeError(f"unexpected arguments {sorted(unknown)}: the task '{task}' has no such options")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"expected a render mode of {self.metadata['render_modes']}, got '{render_mode}'")
        if actions not in get_args(ActionKind):
            raise ValueError(f"expected actions of {get_args(ActionKind)}, got '{actions}'")
        if control not in get_args(Control):
            raise ValueError(f"expected control of {get_args(Control)}, got '{control}'")
        if actions != "degrees" and control != "absolute":
            raise ValueError(f"expected control 'absolute' with actions on the degree grid, got '{control}'")
        if not (0 < control_period_s < math.inf):
            raise ValueError(f"expected a positive control period, got {control_period_s} s")
        self.arm = Arm(arm)
        self.task = task_type.for_arm(
            self.arm, control_period_s, reward=reward, goal_tolerance_m=goal_tolerance_m, **task_options
        )
        if episode_steps is None:
            episode_steps = steps_for(self.task.episode_steps, self.arm.limits, control_period_s)
        if episode_steps < 1:
            raise ValueError(f"expected at least one step an episode, got {episode_steps}")
        self.episode_steps = episode_steps
        self._moving = self.task.moving
        self.actions = actions
        self.control = control
        self.imperfections = open_imperfections(imperfections)
        self.task.check_arm(self.arm)
        self.simulation = Simulation(self.arm, physics_step_s=physics_step_s, control_period_s=control_period_s)
        # What a controller measures and commands: the simulation itself, or imperfect servos and sensors around it.
        self._imperfect = ImperfectSimulation(self.simulation, self.imperfections) if self.imperfections.any else None
        self._body = self._imperfect or self.simulation
        self._period_s = control_period_s

        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": round(1 / control_period_s)}
        self._scene: Any = None
        self._next_frame_s = 0.0

        self._make_action_space(grid_step_deg)
        self.observation_space: spaces.Dict = self._make_observation_space()  # type: ignore[assignment]
        self._begin(StillGoal((0.0,) * (6 if self.task.moving else 3)))

    def _make_action_space(self, grid_step_deg: float) -> None:
        """Set `action_space`, `grid`, and the bounds within which actions are accepted."""
        limits = self.arm.limits
        low = limits.lower_deg
        high = limits.upper_deg
        self.grid = DegreeGrid(low, high, grid_step_deg) if self.actions != "degrees" else None
        if self.control != "absolute":
            high = tuple(speed * self._period_s for speed in limits.max_speed_deg_s)
            low = tuple(-step for step in high)
        self._action_shape = (self.arm.joint_count,)
        self._action_bounds = [(a - ROUNDING_DEG, b + ROUNDING_DEG) for a, b in zip(low, high, strict=True)]
        if self.grid is None:
            self.action_space = spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
        elif self.actions == "index":
            self.action_space = spaces.Discrete(self.grid.size)  # type: ignore[assignment]
        else:
            self.action_space = spaces.MultiDiscrete(list(self.grid.shape))  # type: ignore[assignment]

    def _make_observation_space(self) -> spaces.Dict:
        limits = self.arm.limits
        imperfections = self.imperfections
        margin = ANGLE_MARGIN_DEG + imperfections.angle_margin_deg
        lower = np.array(limits.lower_deg)
        upper = np.array(limits.upper_deg)
        speed = SPEED_MARGIN * np.array(limits.max_speed_deg_s) + imperfections.speed_margin_deg_s
        target_speed = np.array(limits.max_speed_deg_s)  # the limiter never passes it
        high = (np.concatenate([upper + margin, speed, upper, target_speed]) * RADIANS).astype(np.float32)
        low = (np.concatenate([lower - margin, -speed, lower, -target_speed]) * RADIANS).astype(np.float32)
        goal = np.full(3, self.arm.reach_m, np.float32)
        if self.task.moving:  # no tip is faster than stretched out, with every joint at full speed
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
        """Start an episode; `options` may hold `angles_deg` (joints,) and, for a goal that stays, `goal_m` (3,)."""
        options = options or {}
        known = ["angles_deg"] if self.task.moving else ["angles_deg", "goal_m"]
        if unknown := set(options) - set(known):
            raise ValueError(f"expected reset options {' and '.join(known)}, got {sorted(unknown)}")
        # Refused before anything has changed.
        wanted_goal = check_goal(self.arm, options["goal_m"]) if "goal_m" in options else None
        if "angles_deg" in options:
            self.simulation.check_angles(options["angles_deg"])
        super().reset(seed=seed)
        # All is drawn whatever the options say, so that the generator advances alike.
        limits = self.arm.limits
        generator = self.np_random
        start = generator.uniform(limits.lower_deg, limits.upper_deg).tolist()
        course = self.task.draw_goals(self.arm, generator, self.episode_steps, self._period_s)
        if self._imperfect is not None:
            self._imperfect.randomise(generator)
        self.simulation.reset(options.get("angles_deg", start))
        if self._imperfect is not None:
            self._imperfect.start(generator)
        self._begin(course if wanted_goal is None else StillGoal(wanted_goal))
        result = self._observe()
        if self.render_mode == "human":
            self.render()
        return result

    def _begin(self, course: GoalTrajectory) -> None:
        """Start an episode's counters, its limiter at rest where the arm is."""
        self._begin_course(course)
        self._target_deg = self.arm.limits.clip(self._body.angles_deg)
        self._target_speed_deg_s = [0.0] * self.arm.joint_count

    def change_goals(self, course: GoalTrajectory) -> Observation:
        """Begin another episode, with these goals, from where the arm is and as it moves."""
        self._begin_course(course)
        return self._observe()[0]

    def _begin_course(self, course: GoalTrajectory) -> None:
        self._course = course
        self._steps = 0
        self._error_total = 0.0
        self._aim()

    @property
    def goal_m(self) -> tuple[float, ...]:
        """The goal now: x, y, z and, of one that moves, its velocity."""
        return self._goal

    @property
    def measured_deg(self) -> list[float]:
        """The angles as they are measured now."""
        return list(self._body.angles_deg)

    @property
    def measured_deg_s(self) -> list[float]:
        """The speeds as they are measured now."""
        return list(self._body.speeds_deg_s)

    @property
    def target_deg(self) -> list[float]:
        """The target that was sent last."""
        return list(self._target_deg)

    def _aim(self) -> None:
        """The goal at this step."""
        self._goal = self._course.goal(self._steps)
        self._goal_seen = np.array(self._goal, np.float32)
        self._goal_point: list[float] = self._goal_seen.tolist()[:3]

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One control period. Raises ValueError for an action of another shape, non-finite or out of range."""
        desired = self._checked(action)
        if self.control != "absolute":
            measured_deg = self._body.angles_deg
            desired = target_of(np.array(desired), self.control, measured_deg, self._target_deg).tolist()
        return self.steer(desired)

    def steer(self, desired_deg: list[float]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """The same toward target angles, whatever the actions of this environment are."""
        body = self._body
        self._target_deg, self._target_speed_deg_s = limit_target(
            desired_deg, self._target_deg, self._target_speed_deg_s, self.arm.limits, self._period_s
        )
        body.command(self._target_deg)
        body.step()
        self._steps += 1
        if self._moving:
            self._aim()
        observation, info = self._observe()
        if self.render_mode == "human":
            self.render()
        reward = float(self.task.reward(self._measured_distance_m))
        return observation, reward, False, self._steps >= self.episode_steps, info

    def _checked(self, action: Any) -> list[float]:
        """The angles that an action holds."""
        if self.grid is not None:
            if self.actions == "index" and np.ndim(action) != 0:
                raise ValueError(f"expected one grid index, got {action!r}")
            positions = self.grid.positions(action) if self.actions == "index" else action
            return self.grid.degrees(positions).tolist()  # type: ignore[no-any-return]
        array = np.asarray(action)
        if array.shape != self._action_shape or array.dtype.kind not in "fiu":
            raise ValueError(f"expected an action of {self._wanted_action()}, got {action!r}")
        angles: list[float] = array.tolist()
        for angle, (low, high) in zip(angles, self._action_bounds, strict=True):
            if not low <= angle <= high:  # also refuses NaN
                raise ValueError(f"expected an action of {self._wanted_action()}, got {angles}")
        return angles

    def _wanted_action(self) -> str:
        what = "target angles" if self.control == "absolute" else "changes of the target angles"
        low, high = (bound.tolist() for bound in (self.action_space.low, self.action_space.high))  # type: ignore[attr-defined]
        return f"{self.arm.joint_count} numbers, {what} from {low} to {high} degrees"

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
        # From the observation's own float32 values, so that compute_reward gives the very same numbers.
        x, y, z = achieved_seen.tolist()[:3]
        goal_x, goal_y, goal_z = self._goal_point
        dx = x - goal_x
        dy = y - goal_y
        dz = z - goal_z
        distance_m = math.sqrt(dx * dx + dy * dy + dz * dz)
        self._measured_distance_m = distance_m
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
        """Never: the arm is to reach the goal and stay."""
        return False

    def compute_truncated(self, achieved_goal: Any, desired_goal: Any, info: Any) -> bool:
        """Whether the episode is over by its length."""
        return self._steps >= self.episode_steps

    def save_state(self) -> dict[str, Any]:
        """All that the motion and the episodes to come depend on, as JSON can hold it."""
        state = self.simulation.save()
        return {
            "angles_rad": state.angles_rad,
            "speeds_rad_s": state.speeds_rad_s,
            "motor_target_rad": state.target_rad,
            "imperfect": None if self._imperfect is None else self._imperfect.save(),
            "target_deg": self._target_deg,
            "target_speed_deg_s": self._target_speed_deg_s,
            "course": self._course.to_json(),
            "steps": self._steps,
            "square_sum_m2": self._error_total,  # as released checkpoints name it
            "generator": self.np_random.bit_generator.state,
        }

    def restore_state(self, state: dict[str, Any]) -> Observation:
        """Go back to a state of `save_state`; what follows is bit for bit what followed then.

        Raises ValueError for a state of an environment with another task or imperfections.
        """
        try:
            course = self.task.goals_from_json(state["course"], self.episode_steps, self._period_s)
        except ValueError as error:
            raise ValueError(f"the state is of an environment with another task: {error}") from None
        if (state["imperfect"] is None) != (self._imperfect is None):
            raise ValueError("the state is of an environment with other imperfections")
        self.np_random.bit_generator.state = state["generator"]
        if self._imperfect is not None:
            self._imperfect.restore(state["imperfect"], self.np_random)
        self.simulation.restore(
            SimulationState(tuple(state["angles_rad"]), tuple(state["speeds_rad_s"]), tuple(state["motor_target_rad"]))
        )
        self._course = course
        self._steps = state["steps"]
        self._aim()
        self._target_deg = list(state["target_deg"])
        self._target_speed_deg_s = list(state["target_speed_deg_s"])
        observation, _ = self._observe()
        self._error_total = state["square_sum_m2"]  # observing has added this step's distance once more
        return observation

    def render(self) -> Any:
        """The picture (480, 640, 3) uint8 in `rgb_array` mode; nothing in `human` mode, which has a window."""
        if self.render_mode is None:
            raise ValueError("render requires a render_mode: make the environment with 'human' or 'rgb_array'")
        if self._scene is None:
            from envs.scene import Scene

            self._scene = Scene(self.arm, window=self.render_mode == "human")
        self._scene.show(self.simulation.angles_deg, self._goal[:3])
        if self.render_mode == "rgb_array":
            return self._scene.picture()
        # A window is for watching: no faster than the arm would move.
        time.sleep(max(0.0, self._next_frame_s - time.monotonic()))
        self._next_frame_s = max(self._next_frame_s, time.monotonic()) + self.simulation.control_period_s
        return None

    def close(self) -> None:
        """Close the simulation and the picture; closing twice is fine."""
        self.simulation.close()
        if self._scene is not None:
            self._scene.close()
            self._scene = None
