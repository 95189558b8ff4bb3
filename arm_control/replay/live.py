"""A controller that moves its simulated arm while it is watched, its goal or the arm itself in a person's hands."""

import math
from collections import deque
from pathlib import Path
from typing import cast

import msgspec
import numpy as np

from arm_control.evaluation import EVALUATION, Observation, begin_episodes, derived_seeds, environment_maker
from arm_control.replay.motion import (
    Episode,
    FloatArray,
    Motion,
    Stretch,
    TicksInMemory,
    check_length,
    to_stretch,
)
from arm_control.replay.playback import Playback
from arm_control.sources import Source
from arm_control.trajectory import Tick
from envs.arm_env import ArmEnv
from envs.tasks import Course, StillGoal

HISTORY_S = 60.0
MOST_STEPS = 20  # in a frame; what is more is left out


class LiveArm:
    """A simulated arm and its controller, goal after goal; each begins where the arm is, and as it moves.

    `manual_deg` are the angles that a person asks for instead of the controller; None lets the controller do it.
    """

    def __init__(self, source: Source, seed: int, start_deg: FloatArray | None = None) -> None:
        """The goals are those of evaluations with this seed, which no training sees; so is the pose, unless given."""
        self.name, self._controller = "/".join(Path(source.name).parts[-2:]), source.controller
        self._env = env = cast(ArmEnv, environment_maker(source.config)().unwrapped)
        self.arm, self.period_s = env.arm, env.simulation.control_period_s
        self.moving, self.tolerance_m = env.task.moving, source.config.goal_tolerance_m
        self.episode_steps = env.episode_steps
        self.manual_deg: list[float] | None = None
        self.goal_number, self.held = 0, False
        self._seed, self._steps = seed, 0
        self._history: deque[Tick] = deque(maxlen=round(HISTORY_S / self.period_s))
        pose = {} if start_deg is None else {"angles_deg": self.arm.limits.clip(start_deg.tolist())}
        self._env.reset(seed=derived_seeds(seed, EVALUATION, 1)[0], options=pose)
        self.next_goal()

    @property
    def time_s(self) -> float:
        """How long the arm has moved."""
        return self._steps * self.period_s

    @property
    def episode_name(self) -> str:
        """Which goal it is."""
        return "goal by hand" if self.held else f"{'path' if self.moving else 'goal'} {self.goal_number}"

    def next_goal(self) -> None:
        """Draw another goal, or path."""
        self.goal_number += 1
        limits = self.arm.limits
        generator = np.random.default_rng(derived_seeds(self._seed, EVALUATION, self.goal_number)[-1])
        generator.uniform(limits.lower_deg, limits.upper_deg)  # where that episode would begin
        self._begin(self._env.task.draw_course(self.arm, generator, self.episode_steps, self.period_s), held=False)

    def move_goal(self, goal_m: tuple[float, float, float]) -> tuple[float, float, float]:
        """Put the goal there, or as near as the arm can reach, until `next_goal`; returns where it is.

        Raises ValueError for an arm that follows paths.
        """
        if self.moving:
            raise ValueError("a goal that follows a path cannot be moved by hand")
        goal = self.arm.nearest_reachable(goal_m)
        self._begin(StillGoal(goal), held=True)
        return goal

    def _begin(self, course: Course, *, held: bool) -> None:
        if not (held and self.held):  # a goal that is dragged is one
            begin_episodes(self._controller)
        self.held, self._left = held, self.episode_steps
        self._observation: Observation = self._env.change_course(course)

    def step(self) -> Tick:
        """Let one control period pass; after an episode's last comes the next goal, but a goal put by hand stays."""
        if self._left == 0 and not self.held:
            self.next_goal()
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
        """Move on to a time, by so many steps at most; whether it got there."""
        for _ in range(most_steps):
            if self.time_s + self.period_s > until_s + 1e-9:
                return True
            self.step()
        return self.time_s + self.period_s > until_s + 1e-9

    def follow(self, playback: Playback) -> None:
        """Move on to where a playback is; what a slow machine cannot do is left out."""
        if not self.advance(playback.position_s, MOST_STEPS):
            playback.seek(self.time_s)

    def step_paused(self, playback: Playback) -> None:
        """Pause, and move on by one control period."""
        playback.pause()
        self.step()
        playback.seek(self.time_s)

    def recent(self, seconds: float) -> Stretch:
        """The last seconds; the last row is now, with the target that was sent last."""
        count = min(len(self._history), round(seconds / self.period_s))
        ticks = [self._history[place] for place in range(len(self._history) - count, len(self._history))]
        return to_stretch(self.arm, [*ticks, self.now()])

    def now(self) -> Tick:
        """What the arm measures now, and the target that was sent last."""
        env = self._env
        return Tick(
            time_s=self.time_s,
            phase="run",
            goal_m=env.goal_m,
            stamp_s=self.time_s,
            angle_deg=env.measured_deg,
            speed_deg_s=env.measured_deg_s,
            target_deg=env.target_deg,
            band="pass",
            period_error_us=0.0,
            read_us=0.0,
            decide_us=0.0,
            safety_us=0.0,
            write_us=0.0,
        )

    def close(self) -> None:
        """Close the simulation."""
        self._env.close()


def roll_out(source: Source, goals: int, seed: int) -> Motion:
    """A controller's motion through so many goals."""
    live = LiveArm(source, seed)
    try:
        ticks, episodes = [], []
        for _ in range(goals):
            start_s = live.time_s
            ticks += [live.step() for _ in range(live.episode_steps)]
            episodes.append(Episode(f"{live.episode_name} of {goals}", start_s, live.time_s))
        ticks.append(live.now())
    finally:
        live.close()
    return Motion(
        live.name, live.arm, live.period_s, TicksInMemory(ticks), episodes=episodes, tolerance_m=live.tolerance_m
    )


def roll_out_beside(source: Source, motion: Motion) -> Motion:
    """What a controller does in simulation with a recording's goals, each at its time, from where that begins.

    Raises ValueError for a controller of another arm or of paths, or a recording without goals.
    """
    check_length(motion)
    first = motion.moment(motion.episodes[0].start_s)
    if np.isnan(first.goal_m).any():
        raise ValueError(f"{motion.name} has no goals that {source.name} could be given: name another source beside it")
    began = motion.stretch(0.0, 1.0).angle_deg
    poses = began[~np.isnan(began).any(axis=1)]
    live = LiveArm(source, 0, poses[0] if len(poses) else None)
    try:
        if live.moving or not live.arm.moves_like(motion.arm):
            raise ValueError(f"{source.name} is not for goals that stay, or not for the arm {motion.arm.name}")
        ticks: list[Tick] = []
        goal_m: tuple[float, ...] = ()
        episode: Episode | None = None
        while live.time_s < motion.length_s:
            time_s = max(live.time_s, float(first.time_s[0]))
            if (now := motion.episode_at(time_s)) is not None and now != episode:
                episode, live.held = now, False  # whatever the controller remembers is of another goal
            x, y, z = motion.moment(time_s).goal_m[0].tolist()
            if (x, y, z) != goal_m and not math.isnan(x):
                goal_m = x, y, z
                live.move_goal(goal_m)
            ticks.append(live.step())
        ticks.append(live.now())
    finally:
        live.close()
    return Motion(
        live.name,
        live.arm,
        live.period_s,
        TicksInMemory(ticks),
        episodes=motion.episodes,
        tolerance_m=live.tolerance_m,
    )
