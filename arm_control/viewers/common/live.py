"""A live simulated arm for viewers: its controller moves it, and the user can move the goal or the joints."""

import bisect
import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import msgspec
import numpy as np

from arm_control.evaluation.controllers import Observation, begin_episodes
from arm_control.evaluation.opening import OpenedController
from arm_control.process.printing import printable
from arm_control.recording.schema import Tick
from arm_control.runner.safety.latch import SafetyLevel
from arm_control.runs.environment import environment_maker
from arm_control.runs.seeding import EVALUATION, derived_seeds
from arm_control.viewers.common.playback import Playback
from arm_control.viewers.common.trajectory import (
    Episode,
    FloatArray,
    Segment,
    TicksInMemory,
    Trajectory,
    check_length,
    to_segment,
)
from envs.arm import DEFAULT_URDF, Arm
from envs.arm_env import ArmEnv
from envs.tasks.base import GoalTrajectory, StillGoal, last_distance, rms_distance

HISTORY_S = 60.0
Point = tuple[float, float, float]
REACHED_M = 1e-5  # tolerance of inverse kinematics for a goal within reach
MOST_STEPS = 20  # per frame; further ones are skipped


class LiveArm:
    """A simulated arm and its controller. Each goal begins from the current pose and velocity.

    `manual_deg` are target angles set by the user; None leaves the joints to the controller.
    """

    def __init__(self, source: OpenedController, seed: int, start_deg: FloatArray | None = None) -> None:
        """Draw goals, and the start pose unless given, like an evaluation with this seed, which no training uses."""
        self.name = shown_name(source)
        self._controller = source.controller
        env = cast(ArmEnv, environment_maker(source.config)().unwrapped)
        self._env = env
        self.arm = env.arm
        self.period_s = env.simulation.control_period_s
        self.moving = env.task.moving
        self.tolerance_m = source.config.goal_tolerance_m
        self.episode_steps = env.episode_steps
        # The user's control, and the goals so far.
        self.manual_deg: list[float] | None = None
        self.goal_number = 0
        self.held = False
        self._seed = seed
        self._steps = 0
        self._history: deque[Tick] = deque(maxlen=round(HISTORY_S / self.period_s))
        pose = {}
        if start_deg is not None:
            pose["angles_deg"] = self.arm.limits.clip(start_deg.tolist())
        env.reset(seed=derived_seeds(seed, EVALUATION, 1)[0], options=pose)
        self.next_goal()

    @property
    def time_s(self) -> float:
        """Simulated time in s."""
        return self._steps * self.period_s

    @property
    def episode_name(self) -> str:
        """Name of the current goal."""
        if self.held:
            return "goal by hand"
        kind = "path" if self.moving else "goal"
        return f"{kind} {self.goal_number}"

    def distance_m(self, goal_m: Sequence[float] | None = None) -> float:
        """Distance from the tip, by the measured angles, to a goal, by default the current one."""
        return math.dist(self.arm.tip_position(self._env.measured_deg), (goal_m or self._env.goal_m)[:3])

    def error_mm(self, distances_m: Sequence[float]) -> float:
        """The task's error in mm, from the tip's distances to the goal before the first and after each step."""
        return 1000.0 * float(self._env.task.errors_m(np.array(distances_m)))

    def next_goal(self) -> None:
        """Draw another goal, or path."""
        self.goal_number += 1
        limits = self.arm.limits
        # The evaluation's generator of this episode, past the start pose that it draws first.
        generator = np.random.default_rng(derived_seeds(self._seed, EVALUATION, self.goal_number)[-1])
        generator.uniform(limits.lower_deg, limits.upper_deg)
        self._begin(self._env.task.draw_goals(self.arm, generator, self.episode_steps, self.period_s), held=False)

    def move_goal(self, goal_m: tuple[float, float, float]) -> tuple[float, float, float]:
        """Move the goal to a position, or to the nearest reachable point, until `next_goal`; returns its position.

        Raises ValueError for an arm that follows paths.
        """
        if self.moving:
            raise ValueError("a goal that follows a path cannot be moved by hand")
        goal = self.arm.nearest_reachable(goal_m)
        self._begin(StillGoal(goal), held=True)
        return goal

    def set_goal(self, goal_m: Point, *, new_episode: bool) -> None:
        """Set the controller's goal, in the same or a new episode.

        A goal out of reach is replaced by the nearest reachable one, as when it is moved by hand.
        """
        if new_episode:
            self.held = False
        nearest_m = self.arm.nearest_reachable(goal_m)
        in_reach = math.dist(nearest_m, goal_m) <= REACHED_M
        self._begin(StillGoal(goal_m if in_reach else nearest_m), held=True)

    def _begin(self, goals: GoalTrajectory, *, held: bool) -> None:
        """Begin an episode with these goals; `held` if the goal was set by hand."""
        # Dragging a goal continues the same episode.
        if not (held and self.held):
            begin_episodes(self._controller)
        self.held = held
        self._left = self.episode_steps
        self._observation: Observation = self._env.change_goals(goals)

    def step(self) -> Tick:
        """Simulate one control period; after the end of an episode the next goal follows, unless it was set by hand."""
        if self._left == 0 and not self.held:
            self.next_goal()
        # Act on the current readings, and store them with the target that was sent.
        before = self.now()
        if self.manual_deg is not None:
            following = self._env.steer(self.arm.limits.clip(self.manual_deg))
        else:
            batch = {key: value[None] for key, value in self._observation.items()}
            following = self._env.step(self._controller(batch, [self._env])[0])
        self._observation = following[0]
        tick = msgspec.structs.replace(before, target_deg=self._env.target_deg)
        self._history.append(tick)
        self._steps += 1
        self._left = max(0, self._left - 1)
        return tick

    def advance(self, until_s: float, most_steps: int) -> bool:
        """Simulate up to a time, by at most `most_steps`; returns True if the time was reached."""
        for _ in range(most_steps):
            if self.time_s + self.period_s > until_s + 1e-9:
                return True
            self.step()
        return self.time_s + self.period_s > until_s + 1e-9

    def follow(self, playback: Playback) -> None:
        """Simulate up to the position of a playback; a machine that is too slow skips time."""
        if not self.advance(playback.position_s, MOST_STEPS):
            playback.seek(self.time_s)

    def step_paused(self, playback: Playback) -> None:
        """Pause, and simulate one control period."""
        playback.pause()
        self.step()
        playback.seek(self.time_s)

    def recent(self, seconds: float) -> Segment:
        """The last seconds; the last row is the current state, with the last target sent."""
        count = min(len(self._history), round(seconds / self.period_s))
        ticks = [self._history[place] for place in range(len(self._history) - count, len(self._history))]
        return to_segment(self.arm, [*ticks, self.now()])

    def now(self) -> Tick:
        """The current readings, and the last target sent."""
        env = self._env
        return Tick(
            time_s=self.time_s,
            phase="run",
            goal_m=env.goal_m,
            stamp_s=self.time_s,
            angle_deg=env.measured_deg,
            speed_deg_s=env.measured_deg_s,
            target_deg=env.target_deg,
            band=SafetyLevel.OK.value,
            period_error_us=0.0,
            read_us=0.0,
            decide_us=0.0,
            safety_us=0.0,
            write_us=0.0,
        )

    def close(self) -> None:
        """Close the simulation."""
        self._env.close()


def shown_name(source: OpenedController) -> str:
    """The name of a controller for titles and legends."""
    name = printable("/".join(Path(source.name).parts[-2:]))
    return f"{name} (sampled actions)" if source.sampled else name


def roll_out(source: OpenedController, goals: int, seed: int) -> Trajectory:
    """Simulate a controller for a number of goals."""
    live = LiveArm(source, seed)
    try:
        ticks: list[Tick] = []
        episodes: list[Episode] = []
        # A goal's error is stored in the tick after its last one, in which the next goal begins.
        error: float | None = None
        for number in range(goals):
            if number:
                live.next_goal()
            start_s = live.time_s
            distances_m = [live.distance_m()]
            for _ in range(live.episode_steps):
                ticks.append(msgspec.structs.replace(live.step(), goal_error_mm=error))
                distances_m.append(live.distance_m())
                error = None
            episodes.append(Episode(f"{live.episode_name} of {goals}", start_s, live.time_s))
            error = live.error_mm(distances_m)
        ticks.append(msgspec.structs.replace(live.now(), goal_error_mm=error))
    finally:
        live.close()
    return Trajectory(
        live.name, live.arm, live.period_s, TicksInMemory(ticks), episodes=episodes, tolerance_m=live.tolerance_m
    )


def roll_out_beside(source: OpenedController, trajectory: Trajectory) -> Trajectory:
    """Simulate a controller with the goals of a recording, each at its time, from the recorded start pose.

    Each tick has the goal of the last recorded tick at or before it; while there is none, the arm holds its pose.
    Raises ValueError for a controller of another arm or of paths, or for a recording without goals.
    """
    check_length(trajectory)
    if not any(has_goals(trajectory, episode) for episode in trajectory.episodes):
        raise ValueError(f"{trajectory.name} has no goals for {source.name}: compare it with another source")
    if not Arm(source.config.arm or DEFAULT_URDF).moves_like(trajectory.arm):
        raise ValueError(f"{source.name} is for another arm: expected {trajectory.arm.name}, as in {trajectory.name}")
    # Start from the first pose that was read within a second.
    first_angles_deg = trajectory.segment(0.0, 1.0).angle_deg
    poses_deg = first_angles_deg[~np.isnan(first_angles_deg).any(axis=1)]
    live = LiveArm(source, 0, poses_deg[0] if len(poses_deg) else None)
    try:
        if live.moving:
            raise ValueError(
                f"{source.name} follows moving goals: expected a controller for the still goals of {trajectory.name}"
            )
        follower = RecordedGoalFollower(live, trajectory)
        ticks: list[Tick] = []
        while live.time_s < trajectory.length_s:
            ticks.append(follower.step())
        ticks.append(follower.now())
    finally:
        live.close()
    return Trajectory(
        live.name,
        live.arm,
        live.period_s,
        TicksInMemory(ticks),
        episodes=trajectory.episodes,
        tolerance_m=live.tolerance_m,
    )


def has_goals(trajectory: Trajectory, episode: Episode) -> bool:
    """Return True if any tick of an episode has a goal."""
    goals_m = trajectory.segment(trajectory.tick_s(episode.start_s), episode.end_s, most=100).goal_m
    return not bool(np.isnan(goals_m).all())


class RecordedGoalFollower:
    """Moves a live arm to the goals of a recording, tick by tick.

    Episodes begin and end with the ticks in which they began and ended in the recording, even if ticks are irregular.
    """

    def __init__(self, live: LiveArm, trajectory: Trajectory) -> None:
        self._live = live
        self._trajectory = trajectory
        self._starts_s = [trajectory.tick_s(episode.start_s) for episode in trajectory.episodes]
        self._ends_s = [trajectory.tick_s(episode.end_s) for episode in trajectory.episodes]
        self._begun = 0  # number of episodes
        self._goal_m: Point | None = None
        # The goals, and the distances to them, in the current episode.
        self._goals_m: set[Point] = set()
        self._distances_m: list[float] = []

    def step(self) -> Tick:
        """Set the current goal, and simulate one control period."""
        goal_m, error = self._update_goal()
        return msgspec.structs.replace(self._live.step(), goal_m=goal_m, goal_error_mm=error)

    def now(self) -> Tick:
        """Set the current goal, and return the state without a step."""
        goal_m, error = self._update_goal()
        return msgspec.structs.replace(self._live.now(), goal_m=goal_m, goal_error_mm=error)

    def _update_goal(self) -> tuple[Point | None, float | None]:
        """Set the recorded goal of the current time; returns it, and the error of a goal whose episode has ended.

        While the recording has no goal, the arm holds its pose.
        """
        now = self._trajectory.sample(self._live.time_s)
        tick_s = float(now.time_s[0])
        error = self._error_mm(tick_s)
        x, y, z = now.goal_m[0].tolist()
        # Hold the pose while there is no goal.
        if math.isnan(x):
            self._live.manual_deg = self._live.now().target_deg
            return None, error
        self._live.manual_deg = None
        # Set a goal that is new, or one that begins an episode.
        begun = bisect.bisect_right(self._starts_s, tick_s)
        if begun > self._begun or (x, y, z) != self._goal_m:
            self._live.set_goal((x, y, z), new_episode=begun > self._begun)
        self._begun = begun
        self._goal_m = (x, y, z)
        if begun and tick_s < self._ends_s[begun - 1]:
            self._add_distance(settling=now.phase[0] == "soft start")
        return self._goal_m, error

    def _add_distance(self, *, settling: bool) -> None:
        """Add the distance to the goal to those of the episode; during a soft start only the first one."""
        assert self._goal_m is not None
        if not (settling and self._distances_m):
            self._distances_m.append(self._live.distance_m(self._goal_m))
        self._goals_m.add(self._goal_m)

    def _error_mm(self, tick_s: float) -> float | None:
        """The error of the current episode's goal, if the episode ends with the recorded tick of this time."""
        if self._goal_m is None or not self._distances_m or tick_s < self._ends_s[self._begun - 1]:
            return None
        distances_m = [*self._distances_m, self._live.distance_m(self._goal_m)]
        # The error of a goal that has moved is that of a path, as in the recorded run.
        error_of = rms_distance if len(self._goals_m) > 1 else last_distance
        error_mm = 1000.0 * float(error_of(np.array(distances_m)))
        self._distances_m.clear()
        self._goals_m.clear()
        return error_mm
