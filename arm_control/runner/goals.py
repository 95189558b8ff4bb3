"""The work of a policy: goal after goal, or path after path."""

import math
from collections.abc import Callable, Iterable

import numpy as np

from arm_control.runner.loop import EASE_S, ControlLoop, GoalResult, Script, smooth
from arm_control.runner.policy_runner import PolicyRunner
from arm_control.runner.prediction import Predictor
from arm_control.runner.rest import Rest, RestWindow, rest_fault, rest_figures
from envs.imperfections import PRESETS, Imperfections
from envs.tasks.base import Course


class GoalWork:
    """Asks the policy at its own rate; at a higher one, its targets are interpolated, which it does not notice.

    The first goal, and the first one after a reset, begins with a soft start: the policy's answers are blended with the
    place where the arm was, for two seconds, before the goal's own time.
    """

    def __init__(
        self,
        runner: PolicyRunner,
        courses: Iterable[Course | None],
        *,
        seconds_per_goal: float,
        arm: Imperfections = PRESETS["ideal"],
        on_goal: Callable[[GoalResult], None] = lambda result: None,
    ) -> None:
        """A course that is None is one that has not come yet: the arm rests where it is.

        `arm` is what the one that moves is like, of which only delay and lag matter.
        """
        self._runner, self._courses, self._seconds = runner, iter(courses), seconds_per_goal
        self._arm, self._on_goal = arm, on_goal
        self._number = 0

    def __call__(self, loop: ControlLoop) -> Script:
        """The targets of all goals that are left."""
        if loop.period_s > self._runner.period_s * (1.0 + 1e-9):
            raise ValueError(
                f"wanted a rate of at least the policy's {1 / self._runner.period_s:g} Hz, got {1 / loop.period_s:g}"
            )
        predictor = Predictor(self._arm, self._runner.arm.joint_count, loop.period_s)
        soft = True
        for course in self._courses:
            if course is None:
                if loop.phase != "wait":
                    loop.phase = "wait"
                    loop.goal_m = None
                    loop.tell("phase", "wait")
                predictor.forget()
                yield loop.safety.toward(loop.safety.target_deg)
                continue
            yield from self._reach(loop, course, soft, predictor)
            soft = False

    def _reach(self, loop: ControlLoop, course: Course, soft: bool, predictor: Predictor) -> Script:
        runner, period_s = self._runner, self._runner.period_s
        soft_steps = math.ceil(EASE_S / period_s) if soft else 0
        steps = max(1, round(self._seconds / period_s))
        reached: int | None = None
        distances_m = [self._distance_m(loop, course, 0)]  # the first before anything moves
        runner.forget()
        self._number += 1
        loop.tell("goal", f"{'goal' if course.path_kind is None else 'path'} {self._number}")
        window = RestWindow(period_s, steps, samples_per_step=period_s / loop.period_s)
        window.add_targets([list(loop.safety.target_deg)])
        window.add_angles([loop.state.angles_deg])
        ticks = 0
        loop.phase = "soft start" if soft else "run"
        for step in range(1 - soft_steps, steps + 1):
            if step == 1:
                loop.phase = "run"
            place = course.goal(max(0, step - 1))
            goal_m, velocity_m_s = place[:3], (0.0, 0.0, 0.0) if step < 1 else place[3:] or (0.0, 0.0, 0.0)
            loop.goal_m = place
            # The tick in which the next step is due; there is at least one before it.
            until = max(ticks + 1, round((step + soft_steps) * period_s / loop.period_s))
            if any(velocity_m_s):  # where it will be when interpolated targets get to where steps would be now
                ahead_s = (until - ticks - 1) * loop.period_s
                goal_m = tuple(at + ahead_s * speed for at, speed in zip(goal_m, velocity_m_s, strict=True))
            answer = runner.decide(
                predictor.angles(loop.state.angles_deg),
                predictor.speeds(loop.state.speeds_deg_s),
                loop.safety.previous_step_deg(until - ticks),
                loop.safety.speed_deg_s,
                goal_m,
                velocity_m_s,
            )
            share = smooth(until * loop.period_s / EASE_S) if soft else 1.0
            sent_deg = loop.admit(answer, share=share, ticks=until - ticks)
            yield sent_deg
            predictor.tick(loop.safety.ahead_deg)
            window.add_angles([loop.state.angles_deg])
            for _ in range(ticks + 1, until):
                sent_deg = loop.go_on(answer)
                yield sent_deg
                predictor.tick(loop.safety.ahead_deg)
                window.add_angles([loop.state.angles_deg])
            # The target at the end of the policy's control period, whatever the loop's rate is.
            window.add_targets([sent_deg])
            ticks = until
            distance_m = self._distance_m(loop, course, max(0, step))
            if step >= 1:
                distances_m.append(distance_m)
            if distance_m > runner.contract.goal_tolerance_m:
                reached = None
            elif reached is None:
                reached = step + soft_steps
        path = course.path_kind
        error = 1000.0 * float(course.error_m(np.array(distances_m)))
        rest = self._rest(loop, window, moving=path is not None)
        reached_s = None if reached is None else reached * period_s
        result = GoalResult(course.goal(steps)[:3], path, error, reached_s, rest)
        loop.report.goals.append(result)
        loop.goal_error_mm = error
        self._on_goal(result)

    @staticmethod
    def _rest(loop: ControlLoop, window: RestWindow, *, moving: bool) -> Rest | None:
        """The figures of rest at a goal; None where they are not defined, or where nothing is sent."""
        if loop.shadow or rest_fault(window.steps, moving=moving):
            return None
        return rest_figures(window.targets_deg, window.angles_deg)

    def _distance_m(self, loop: ControlLoop, course: Course, step: int) -> float:
        return math.dist(self._runner.arm.tip_position(loop.state.angles_deg), course.goal(step)[:3])
