"""ArmEnv: a simulated arm and a task as a Gymnasium environment."""

import math
import time
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.action_grid import DegreeGrid
from envs.arm import DEFAULT_URDF, RADIANS, Arm
from envs.limits import limit_target
from envs.simulation import Simulation, SimulationState
from envs.tasks import Reach, RewardKind, check_goal, distance, observe_one

Observation = dict[str, NDArray[np.float32]]
ActionKind = Literal["degrees", "index", "positions"]

# Measured angles and speeds pass their limits a little: by less than this (tests/envs/test_simulation.py).
ANGLE_MARGIN_DEG = 0.25
SPEED_MARGIN = 1.01


class ArmEnv(gymnasium.Env[Observation, NDArray[np.float32]]):
    """Reach a goal with the tip of a simulated arm.

    ## Action space
    `Box(0, 90, (3,), float32)`: the target angle of each joint, in degrees. A target is approached within the joints'
    speed and acceleration limits (`envs.limits.limit_target`), then held by servos.

    With `actions="index"`, `Discrete(753571)`, and with `actions="positions"`, `MultiDiscrete([91, 91, 91])`: the same
    targets, `grid_step_deg` apart (`envs.action_grid.DegreeGrid`).

    ## Observation space
    A `Dict`, for goal-based learning (hindsight relabelling works: nothing in `observation` depends on the goal).

    | key | index | meaning | unit |
    |---|---|---|---|
    | `observation` | 0-2 | measured joint angles | rad |
    | | 3-5 | measured joint speeds | rad/s |
    | | 6-8 | previous target, as limited and sent to the servos | rad |
    | `achieved_goal` | 0-2 | tip position x, y, z | m |
    | `desired_goal` | 0-2 | goal position x, y, z | m |

    ## Reward
    With d the distance between tip and goal after the step, in metres:
    `dense` (default): -5 d + exp(-d / 10 mm) / 2 + exp(-d / 50 mm) / 2, at most 1.
    `sparse`: 0 within `goal_tolerance_m`, else -1. `compute_reward` gives either for arrays of goals.

    ## Start and end
    The arm starts at rest in a pose drawn uniformly from the joint ranges; the goal is the tip position of another such
    pose, so it is always reachable. `reset(options={"angles_deg": ..., "goal_m": ...})` sets either. An episode is
    truncated after `episode_steps` steps (50 steps of 1/30 s) and never terminates.

    `info` holds `distance_m` (metres) and `is_success` (within `goal_tolerance_m`).

    ## Learning with other libraries
    Learners that expect actions in [-1, 1]: `gymnasium.wrappers.RescaleAction(env, -1.0, 1.0)`.

    ## Versions
    v0: first version.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  (as Gymnasium declares it)
        "render_modes": ["human", "rgb_array"],
        "render_fps": 30,
    }

    def __init__(
        self,
        arm: str | Path = DEFAULT_URDF,
        *,
        reward: RewardKind = "dense",
        goal_tolerance_m: float = 0.01,
        actions: ActionKind = "degrees",
        grid_step_deg: float = 1.0,
        episode_steps: int = 50,
        physics_step_s: float = 1 / 240,
        control_period_s: float = 1 / 30,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"wanted a render mode of {self.metadata['render_modes']}, got '{render_mode}'")
        if actions not in get_args(ActionKind):
            raise ValueError(f"wanted actions of {get_args(ActionKind)}, got '{actions}'")
        if episode_steps < 1:
            raise ValueError(f"wanted at least one step an episode, got {episode_steps}")
        self.arm = Arm(arm)
        self.task = Reach(reward, goal_tolerance_m)
        self.episode_steps = episode_steps
        self.render_mode = render_mode
        self.simulation = Simulation(self.arm, physics_step_s=physics_step_s, control_period_s=control_period_s)
        self.metadata = {**self.metadata, "render_fps": round(1 / control_period_s)}
        self._scene: Any = None
        self._next_frame_s = 0.0

        limits = self.arm.limits
        lower, upper = np.array(limits.lower_deg), np.array(limits.upper_deg)
        speed = SPEED_MARGIN * np.array(limits.max_speed_deg_s)
        high = np.concatenate([upper + ANGLE_MARGIN_DEG, speed, upper]) * RADIANS
        low = np.concatenate([lower - ANGLE_MARGIN_DEG, -speed, lower]) * RADIANS
        reach = self.arm.reach_m
        self._action_low, self._action_high = list(limits.lower_deg), list(limits.upper_deg)
        self.actions = actions
        self.grid = DegreeGrid(limits.lower_deg, limits.upper_deg, grid_step_deg) if actions != "degrees" else None
        self.action_space: spaces.Space[Any] = self._make_action_space()
        self.observation_space: spaces.Dict = spaces.Dict(  # type: ignore[assignment]
            {
                "observation": spaces.Box(low.astype(np.float32), high.astype(np.float32)),
                "achieved_goal": spaces.Box(-reach, reach, (3,)),
                "desired_goal": spaces.Box(-reach, reach, (3,)),
            }
        )
        self._goal = (0.0, 0.0, 0.0)
        self._target_deg = self.simulation.angles_deg
        self._target_speed_deg_s = [0.0] * self.arm.joint_count
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; `options` may hold `angles_deg` (joints,) and `goal_m` (3,)."""
        options = options or {}
        if unknown := set(options) - {"angles_deg", "goal_m"}:
            raise ValueError(f"wanted reset options angles_deg and goal_m, got {sorted(unknown)}")
        # Refused before anything has changed.
        wanted_goal = check_goal(self.arm, options["goal_m"]) if "goal_m" in options else None
        if "angles_deg" in options:
            self.simulation.check_angles(options["angles_deg"])
        super().reset(seed=seed)
        # Both are drawn whatever the options say, so that the generator advances alike.
        start = self.np_random.uniform(self.arm.limits.lower_deg, self.arm.limits.upper_deg).tolist()
        goal = self.task.draw_goal(self.arm, self.np_random)
        self._goal = wanted_goal or goal
        self.simulation.reset(options.get("angles_deg", start))
        self._target_deg = self.simulation.angles_deg
        self._target_speed_deg_s = [0.0] * self.arm.joint_count
        self._steps = 0
        observation = self._observe()
        if self.render_mode == "human":
            self.render()
        return observation, self._info(observation)

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One control period. Raises ValueError for an action of another shape, non-finite or out of range."""
        self._target_deg, self._target_speed_deg_s = limit_target(
            self._checked(action),
            self._target_deg,
            self._target_speed_deg_s,
            self.arm.limits,
            self.simulation.control_period_s,
        )
        self.simulation.command(self._target_deg)
        self.simulation.step()
        self._steps += 1
        observation = self._observe()
        info = self._info(observation)
        if self.render_mode == "human":
            self.render()
        return observation, float(self.task.reward(info["distance_m"])), False, self._steps >= self.episode_steps, info

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
            "target_deg": self._target_deg,
            "target_speed_deg_s": self._target_speed_deg_s,
            "goal_m": self._goal,
            "steps": self._steps,
            "generator": self.np_random.bit_generator.state,
        }

    def restore_state(self, state: dict[str, Any]) -> Observation:
        """Go back to a state of `save_state`; what follows is bit for bit what followed then."""
        self.simulation.restore(
            SimulationState(tuple(state["angles_rad"]), tuple(state["speeds_rad_s"]), tuple(state["motor_target_rad"]))
        )
        self._target_deg, self._target_speed_deg_s = list(state["target_deg"]), list(state["target_speed_deg_s"])
        goal = state["goal_m"]
        self._goal, self._steps = (goal[0], goal[1], goal[2]), state["steps"]
        self.np_random.bit_generator.state = state["generator"]
        return self._observe()

    def render(self) -> Any:
        """The picture (480, 640, 3) uint8 in `rgb_array` mode; nothing in `human` mode, which has a window."""
        if self.render_mode is None:
            raise ValueError("render wants a render_mode: make the environment with 'human' or 'rgb_array'")
        if self._scene is None:
            from envs.scene import Scene

            self._scene = Scene(self.arm, window=self.render_mode == "human")
        self._scene.show(self.simulation.angles_deg, self._goal)
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

    def _make_action_space(self) -> spaces.Space[Any]:
        if self.grid is None:
            return spaces.Box(np.array(self._action_low, np.float32), np.array(self._action_high, np.float32))
        if self.actions == "index":
            return spaces.Discrete(self.grid.size)
        return spaces.MultiDiscrete(list(self.grid.shape))

    def _checked(self, action: Any) -> list[float]:
        """The target angles that an action asks for."""
        if self.grid is not None:
            if self.actions == "index" and np.ndim(action) != 0:
                raise ValueError(f"wanted one grid index, got {action!r}")
            positions = self.grid.positions(action) if self.actions == "index" else action
            return self.grid.degrees(positions).tolist()  # type: ignore[no-any-return]
        array = np.asarray(action)
        if array.shape != (self.arm.joint_count,) or array.dtype.kind not in "fiu":
            raise ValueError(
                f"wanted an action of {self.arm.joint_count} numbers, degrees from {self._action_low} to "
                f"{self._action_high}, got {action!r}"
            )
        angles: list[float] = array.tolist()
        for angle, low, high in zip(angles, self._action_low, self._action_high, strict=True):
            if not low - 1e-3 <= angle <= high + 1e-3:  # also refuses NaN; the slack is float32 rounding
                raise ValueError(
                    f"wanted target angles from {self._action_low} to {self._action_high} degrees, got {angles}"
                )
        return angles

    def _observe(self) -> Observation:
        simulation = self.simulation
        observation, tip = observe_one(self.arm, simulation.angles_deg, simulation.speeds_deg_s, self._target_deg)
        return {
            "observation": np.array(observation, np.float32),
            "achieved_goal": np.array(tip, np.float32),
            "desired_goal": np.array(self._goal, np.float32),
        }

    def _info(self, observation: Observation) -> dict[str, Any]:
        # From the observation's own float32 values, so that compute_reward gives the very same numbers.
        x, y, z = observation["achieved_goal"].tolist()
        goal_x, goal_y, goal_z = observation["desired_goal"].tolist()
        x, y, z = x - goal_x, y - goal_y, z - goal_z
        distance_m = math.sqrt(x * x + y * y + z * z)
        return {"distance_m": distance_m, "is_success": distance_m <= self.task.goal_tolerance_m}
