"""The Markov property: on the ideal arm, an observation and an action determine the next observation."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.arm import RADIANS, Arm
from envs.arm_env import ArmEnv
from envs.tasks.paths import Path

LIMITS = Arm().limits
PERIOD_S = 1 / 30
TOLERANCE = 1e-6  # of observations in radians, radians/s, metres and m/s: a few units in the last place of float32

fractions = st.floats(0.0, 1.0)
rows = st.lists(fractions, min_size=3, max_size=3)


def between(low: Any, high: Any, row: list[float]) -> list[float]:
    """The values at these fractions of ranges."""
    return (np.array(low) + np.array(row) * (np.array(high) - np.array(low))).tolist()  # type: ignore[no-any-return]


def angles(row: list[float]) -> list[float]:
    return between(LIMITS.lower_deg, LIMITS.upper_deg, row)


def speeds(row: list[float]) -> list[float]:
    return between([-speed for speed in LIMITS.max_speed_deg_s], LIMITS.max_speed_deg_s, row)


def radians(row: list[float]) -> list[float]:
    return [value * RADIANS for value in row]


def later(goals: Any, steps: int) -> Any:
    """The goal trajectory that is where this one is, so many steps earlier."""
    if not isinstance(goals, dict):
        return goals
    path = Path.from_json(goals)
    return asdict(replace(path, phase=path.phase - steps * PERIOD_S / path.period_s))


@pytest.fixture(scope="module", params=["reach", "track"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[ArmEnv, ArmEnv]]:
    """Two arms of one task, with different histories."""
    envs = ArmEnv(request.param), ArmEnv(request.param)
    for seed, env in enumerate(envs):
        env.reset(seed=seed)
        env.action_space.seed(seed)
        for _ in range(5 + 20 * seed):
            env.step(env.action_space.sample())
    yield envs
    for env in envs:
        env.close()


def state_of(
    env: ArmEnv, angle: list[float], speed: list[float], target: list[float], target_speed: list[float]
) -> Any:
    """A state of the environment with these fractions of the ranges of angles, speeds, targets and target speeds."""
    return env.save_state() | {
        "angles_rad": radians(angles(angle)),
        "speeds_rad_s": radians(speeds(speed)),
        "motor_target_rad": radians(angles(target)),
        "target_deg": angles(target),
        "target_speed_deg_s": speeds(target_speed),
        "steps": 0,
    }


def differing(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """The parts of two observations that differ by more than rounding."""
    return [key for key in first if np.abs(first[key].astype(float) - second[key]).max() > TOLERANCE]


class TestMarkov:
    """The Markov property under every difference that the observation does not show."""

    @given(rows, rows, rows, rows, rows, rows, rows, st.integers(0, 49))
    def test_equal_observations_and_actions_give_equal_next_observations(
        self,
        pair: tuple[ArmEnv, ArmEnv],
        angle: list[float],
        speed: list[float],
        target: list[float],
        target_speed: list[float],
        motor_target: list[float],
        other_speed: list[float],
        action: list[float],
        steps: int,
    ) -> None:
        """Changes of the saved state that do not show in the observation do not affect the next observation."""
        one, other = pair
        state = state_of(one, angle, speed, target, target_speed)
        hidden = {
            "motor_target_rad": radians(angles(motor_target)),
            "target_speed_deg_s": speeds(other_speed),
            "steps": steps,
            "course": later(state["course"], steps),
            "square_sum_m2": 1.0,
            "generator": other.save_state()["generator"],
        }
        # The fields of a state that are not changed below are angles, angular speeds, the target, and what an ideal arm
        # does not have.
        assert set(state) - set(hidden) == {"angles_rad", "speeds_rad_s", "target_deg", "imperfect"}
        seen = one.restore_state(state)
        changes: list[dict[str, Any]] = [{name: value} for name, value in hidden.items()]
        changes.append({name: value for name, value in hidden.items() if name != "target_speed_deg_s"})
        following = one.step(np.array(angles(action), np.float32))
        equal = []
        for change in changes:
            if differing(seen, other.restore_state(state | change)):
                continue
            equal.append(change)
            again = other.step(np.array(angles(action), np.float32))
            assert differing(following[0], again[0]) == [], change
            assert again[1] == pytest.approx(following[1], abs=1e-4)
        assert changes[-1] in equal
        assert len(equal) >= 4  # most of the fields change nothing that is seen

    def test_the_target_speed_is_observed_and_determines_the_next_state(self, pair: tuple[ArmEnv, ArmEnv]) -> None:
        """Two states that differ only in it differ in its observation, and then by (v_max - a_max T) T (closed
        form)."""
        one, other = pair
        middle = [0.5] * 3
        state = state_of(one, middle, middle, middle, middle)
        seen = one.restore_state(state)["observation"]
        moving = other.restore_state(state | {"target_speed_deg_s": speeds([1.0] * 3)})["observation"]
        np.testing.assert_array_equal(moving[:9], seen[:9])
        np.testing.assert_allclose((moving - seen)[9:], radians(list(LIMITS.max_speed_deg_s)), rtol=1e-6)
        action = np.array(angles(middle), np.float32)
        apart_deg = (other.step(action)[0]["observation"] - one.step(action)[0]["observation"]) / RADIANS
        # At rest on its target, the one stays; the other's target brakes by a_max T and goes on at v_max - a_max T.
        speed, acceleration = LIMITS.max_speed_deg_s[0], LIMITS.max_acceleration_deg_s2[0]
        assert apart_deg[9] == pytest.approx(speed - acceleration * PERIOD_S, rel=1e-4)
        assert apart_deg[6] == pytest.approx((speed - acceleration * PERIOD_S) * PERIOD_S, rel=1e-4)
        assert (apart_deg[:3] > 1.0).all()
