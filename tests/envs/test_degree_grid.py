"""The degree grid: indices of all combinations of joint angles, in the order of itertools.product."""

import itertools

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import envs  # noqa: F401  (registers the environments)
from envs.degree_grid import DegreeGrid

FULL = DegreeGrid([0, 0, 0], [90, 90, 90])


class TestGrid:
    """The mapping between indices, positions and degrees."""

    def test_all_indices_of_the_arm_map_both_ways(self) -> None:
        """All 91^3 = 753,571 indices map to the positions of itertools.product and back."""
        assert FULL.size == 753_571
        indices = np.arange(FULL.size)
        positions = FULL.positions(indices)
        assert np.array_equal(positions, list(itertools.product(range(91), repeat=3)))
        assert np.array_equal(FULL.index(positions), indices)
        assert np.array_equal(FULL.degrees(positions), positions)

    def test_first_second_and_last_index(self) -> None:
        """The last joint varies fastest: hand-computed angles of the indices 0, 1 and 753,570."""
        assert FULL.degrees(FULL.positions([0, 1, 753_570])).tolist() == [[0, 0, 0], [0, 0, 1], [90, 90, 90]]

    @given(
        st.lists(st.tuples(st.integers(-180, 100), st.integers(1, 12)), min_size=1, max_size=4),
        st.sampled_from([0.25, 0.5, 1.0, 5.0]),
        st.data(),
    )
    def test_any_number_of_joints_and_any_step(
        self, ranges: list[tuple[int, int]], step: float, data: st.DataObject
    ) -> None:
        """Grids of one to four joints follow itertools.product, and `nearest` rounds to the closest position."""
        lower = [float(low) for low, _ in ranges]
        upper = [low + count * step for low, count in ranges]
        grid = DegreeGrid(lower, upper, step)
        assert grid.shape == tuple(count + 1 for _, count in ranges)
        index = data.draw(st.integers(0, grid.size - 1))
        positions = grid.positions(index)
        every = itertools.product(*(range(count) for count in grid.shape))
        assert tuple(positions) == next(itertools.islice(every, index, None))
        assert grid.index(positions) == index
        angles = grid.degrees(positions)
        assert np.allclose(angles, np.array(lower) + positions * step)
        assert np.array_equal(grid.nearest(angles + 0.49 * step), positions)

    def test_angles_beyond_the_grid_are_nearest_to_its_edge(self) -> None:
        """Angles outside of the range are clipped to the edge of the grid."""
        assert FULL.nearest([-20.0, 44.4, 1000.0]).tolist() == [0, 44, 90]

    @pytest.mark.parametrize("step", [0.0, -1.0, 7.0, float("nan"), float("inf"), 180.0])
    def test_rejects_a_step_that_does_not_divide_the_range(self, step: float) -> None:
        """Steps must be positive, finite and a divisor of the range."""
        with pytest.raises(ValueError, match="grid step"):
            DegreeGrid([0, 0], [90, 90], step)

    def test_rejects_a_grid_with_too_many_indices(self) -> None:
        """91^12 combinations exceed a 64-bit index."""
        with pytest.raises(ValueError, match="64-bit"):
            DegreeGrid([0] * 12, [90] * 12)

    @pytest.mark.parametrize("index", [-1, 753_571, 0.5, "1", [0, -1]])
    def test_rejects_invalid_indices(self, index: object) -> None:
        """Indices outside of the grid or not of an integer type raise ValueError."""
        with pytest.raises(ValueError, match="expected"):
            FULL.positions(index)  # type: ignore[arg-type]

    @pytest.mark.parametrize("positions", [[0, 0], [0, 0, 91], [-1, 0, 0], [0.0, 0.0, 0.0], 3])
    def test_rejects_invalid_positions(self, positions: object) -> None:
        """Positions outside of the grid, of another length or not of an integer type raise ValueError."""
        with pytest.raises(ValueError, match="expected"):
            FULL.degrees(positions)  # type: ignore[arg-type]


class TestEnvironments:
    """The discrete environments."""

    def test_the_three_action_spaces_give_the_same_motion(self) -> None:
        """The same angles as index, positions or degrees give the same observation and reward."""
        angles = [12, 34, 56]
        actions = {
            "ArmReach-v0": np.array(angles, np.float32),
            "ArmReachDiscrete-v0": int(FULL.index(angles)),
            "ArmReachMultiDiscrete-v0": np.array(angles),
        }
        seen = []
        for name, action in actions.items():
            env = gymnasium.make(name)
            env.reset(seed=4)
            for _ in range(10):
                observation, reward, *_ = env.step(action)
            seen.append([*observation["observation"].tolist(), reward])
            env.close()
        assert seen[0] == seen[1] == seen[2]

    @pytest.mark.parametrize(
        ("name", "bad"),
        [
            ("ArmReachDiscrete-v0", [1, 2]),
            ("ArmReachDiscrete-v0", 753_571),
            ("ArmReachMultiDiscrete-v0", [0, 0, 91]),
            ("ArmReachMultiDiscrete-v0", [0.5, 0, 0]),
        ],
    )
    def test_rejects_an_action_off_the_grid(self, name: str, bad: object) -> None:
        """`step` rejects indices and positions that are not on the grid."""
        env = gymnasium.make(name, disable_env_checker=True)
        env.reset(seed=0)
        with pytest.raises(ValueError, match="expected"):
            env.step(bad)
        env.close()

    def test_action_spaces(self) -> None:
        """753,571 indices, 91 positions a joint, and 27 indices with a step of 45 degrees."""
        assert gymnasium.make("ArmReachDiscrete-v0").action_space == gymnasium.spaces.Discrete(753_571)
        assert gymnasium.make("ArmReachMultiDiscrete-v0").action_space == gymnasium.spaces.MultiDiscrete([91, 91, 91])
        coarse = gymnasium.make("ArmReachDiscrete-v0", grid_step_deg=45.0)
        assert coarse.action_space == gymnasium.spaces.Discrete(27)
