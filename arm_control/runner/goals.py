"""The work of a policy: goal after goal, or path after path."""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from arm_control.runner.loop import ControlLoop
from arm_control.runner.motions import Script, smoothstep
from arm_control.runner.policy_runner import PolicyRunner
from arm_control.runner.prediction import Predictor
from arm_control.runner.report import GoalResult
from arm_control.runner.rest import Rest, RestWindow, rest_fault, rest_figures
from envs.imperfections import PRESETS, Imperfections
from envs.tasks.base import GoalTrajectory


class GoalWork:
    """Runs the policy at its own rate, goal after goal; at a higher rate of the loop, its targets are interpolated.

    The first goal, and the first one after a reset, begins with a soft start: for two seconds before the goal's own
    time, the policy's commands are blended with the start pose.
    """

    def __init__(
        self,
        runner: PolicyRunner,
        goals: Iterable[GoalTrajectory | None],
        *,
        seconds_per_goal: float,
        arm: Imperfections = PRESETS["ideal"],
        on_goal: Callable[[GoalResult], None] = lambda result: None,
    ) -> None:
        """`goals` yields None while no goal is available: the arm then holds its pose.

        `arm` describes the delay and lag of the arm that moves. `on_goal` receives the result of each goal.
        """
        self._runner = runner
        self._goals = iter(goals)
        self._seconds = seconds_per_goal
        self._arm = arm
        self._on_goal = on_goal
        self._number = 0

    def __call__(self, loop: ControlLoop) -> Script:
        """The targets of all remaining goals."""
        if loop.period_s > self._runner.period_s * (1.0 + 1e-9):
            raise ValueError(
                f"expected a rate of at least the policy's {1 / self._runner.period_s:g} Hz, got {1 / loop.period_s:g}"
            )
        predictor = Predictor(self._arm, self._runner.arm.joint_count, loop.period_s)
        soft = True
        for trajectory in self._goals:
            if trajectory is None:
                self._wait(loop)
                predictor.reset()
                yield loop.safety.toward(loop.safety.target_deg)
                continue
            yield from self._reach(loop, trajectory, soft, predictor)
            soft = False

    @staticmethod
    def _wait(loop: ControlLoop) -> None:
        """Record the beginning of a wait for a goal."""
        if loop.ticker.phase != "wait":
            loop.ticker.phase = "wait"
            loop.ticker.goal_m = None
            loop.ticker.record_event("phase", "wait")

    def _reach(self, loop: ControlLoop, trajectory: GoalTrajectory, soft: bool, predictor: Predictor) -> Script:
        """The targets of one goal: the soft start in steps up to 0, then `steps` steps of the policy.

        A step of the policy takes several ticks of a faster loop: `admit` begins it, `go_on` continues it.
        """
        # Durations in steps of the policy.
        period_s = self._runner.period_s
        ease_s = loop.settings.ease_s
        soft_steps = math.ceil(ease_s / period_s) if soft else 0
        steps = max(1, round(self._seconds / period_s))
        progress = GoalProgress(self._runner, loop, trajectory, steps, soft_steps)
        self._runner.reset_memory()
        self._number += 1
        loop.ticker.record_event("goal", f"{'goal' if trajectory.path_kind is None else 'path'} {self._number}")
        loop.ticker.phase = "soft start" if soft else "run"
        targets = loop.safety.targets
        ticks = 0
        for step in range(1 - soft_steps, steps + 1):
            if step == 1:
                loop.ticker.phase = "run"
            # The tick in which the next step is due; a step takes at least one tick.
            until = max(ticks + 1, round((step + soft_steps) * period_s / loop.period_s))
            # The first tick of the step.
            command_deg = self._command(loop, trajectory, step, until - ticks, predictor)
            blend = smoothstep(until * loop.period_s / ease_s) if soft else 1.0
            sent_deg = loop.admit(command_deg, blend=blend, ticks=until - ticks)
            yield sent_deg
            predictor.tick(targets.ahead_deg)
            progress.add_tick()
            # The other ticks of the step.
            for _ in range(ticks + 1, until):
                sent_deg = loop.go_on(command_deg)
                yield sent_deg
                predictor.tick(targets.ahead_deg)
                progress.add_tick()
            ticks = until
            progress.add_step(step, sent_deg)
        # The goal's time is over.
        result = progress.result()
        loop.report.goals.append(result)
        loop.ticker.goal_error_mm = result.error_mm
        self._on_goal(result)

    def _command(
        self, loop: ControlLoop, trajectory: GoalTrajectory, step: int, ticks: int, predictor: Predictor
    ) -> list[float]:
        """The policy's command in degrees for a step of `ticks` ticks."""
        goal = trajectory.goal(max(0, step - 1))
        goal_m = goal[:3]
        velocity_m_s = (0.0, 0.0, 0.0) if step < 1 else goal[3:] or (0.0, 0.0, 0.0)
        loop.ticker.goal_m = goal
        # Interpolated targets are late: extrapolate a moving goal to the time at which they arrive.
        if any(velocity_m_s):
            ahead_s = (ticks - 1) * loop.period_s
            goal_m = tuple(at + ahead_s * speed for at, speed in zip(goal_m, velocity_m_s, strict=True))
        state = loop.ticker.state
        targets = loop.safety.targets
        return self._runner.decide(
            predictor.angles(state.angles_deg),
            predictor.speeds(state.speeds_deg_s),
            targets.previous_step_deg(ticks),
            targets.speed_deg_s,
            goal_m,
            velocity_m_s,
        )


class GoalProgress:
    """Measures the distance of the arm from one goal, and how still it rests there."""

    def __init__(
        self, runner: PolicyRunner, loop: ControlLoop, trajectory: GoalTrajectory, steps: int, soft_steps: int
    ) -> None:
        self._runner = runner
        self._loop = loop
        self._ticker = loop.ticker
        self._trajectory = trajectory
        self._steps = steps
        self._soft_steps = soft_steps
        # Number of steps after which the tip has stayed within the tolerance; None while it is outside.
        self._reached_steps: int | None = None
        self._distances_m = [self._distance_m(0)]  # by step, the first before the arm moves
        samples_per_step = runner.period_s / loop.period_s
        self._window = RestWindow(runner.period_s, steps, samples_per_step=samples_per_step)
        self._window.add_targets([list(loop.safety.target_deg)])
        self._window.add_angles([loop.state.angles_deg])

    def add_tick(self) -> None:
        """Add the reading of a tick."""
        self._window.add_angles([self._ticker.state.angles_deg])

    def add_step(self, step: int, sent_deg: Sequence[float]) -> None:
        """Add a step of the policy, with the target that was sent at its end."""
        self._window.add_targets([sent_deg])
        distance_m = self._distance_m(max(0, step))
        if step >= 1:
            self._distances_m.append(distance_m)
        if distance_m > self._runner.contract.goal_tolerance_m:
            self._reached_steps = None
        elif self._reached_steps is None:
            self._reached_steps = step + self._soft_steps

    def result(self) -> GoalResult:
        """The result, once the goal's time is over."""
        trajectory = self._trajectory
        path = trajectory.path_kind
        error_m = float(trajectory.error_m(np.array(self._distances_m)))
        reached_s = None if self._reached_steps is None else self._reached_steps * self._runner.period_s
        return GoalResult(
            goal_m=trajectory.goal(self._steps)[:3],
            path=path,
            error_mm=1000.0 * error_m,
            time_to_reach_s=reached_s,
            rest=self._rest(moving=path is not None),
        )

    def _rest(self, *, moving: bool) -> Rest | None:
        """The figures of rest at a goal; None where they are not defined, and in a dry run."""
        if self._loop.dry_run or rest_fault(self._window.steps, moving=moving):
            return None
        return rest_figures(self._window.targets_deg, self._window.angles_deg)

    def _distance_m(self, step: int) -> float:
        tip_m = self._runner.arm.tip_position(self._ticker.state.angles_deg)
        return math.dist(tip_m, self._trajectory.goal(step)[:3])
