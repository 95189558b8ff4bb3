"""ActionGrid: indices, positions and values against plain enumeration."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from envs.degree_grid import DegreeGrid
from policies.agent import Spec
from policies.common.action_grid import ActionGrid

SHAPES = [(2,), (7,), (3, 5), (5, 3), (2, 2, 2), (3, 5, 4), (4, 2, 6, 3)]


def grid_of(
    shape: tuple[int, ...], low: tuple[float, ...] | None = None, high: tuple[float, ...] | None = None
) -> ActionGrid:
    """A grid with these bounds; without bounds, values equal positions."""
    joints = len(shape)
    return ActionGrid(
        Spec(1, 1, low or (0.0,) * joints, high or tuple(count - 1.0 for count in shape), grid_shape=shape)
    )


class TestState:
    """The grid in checkpoints."""

    def test_it_adds_nothing_to_a_state_dict(self) -> None:
        """The grid follows from the task's spec and is not saved."""
        assert grid_of((3, 5)).state_dict() == {}


class TestMapping:
    """The mapping between indices, positions and values."""

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_indices_follow_itertools_product(self, shape: tuple[int, ...]) -> None:
        """Indices enumerate the positions in the order of itertools.product, in both directions."""
        grid = grid_of(shape)
        wanted = torch.tensor(list(itertools.product(*map(range, shape))))
        assert grid.size == len(wanted)
        assert torch.equal(grid.positions(torch.arange(grid.size)), wanted)
        assert torch.equal(grid.index(wanted), torch.arange(grid.size))

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_values_are_evenly_spaced_from_the_lower_bound_to_the_upper(self, shape: tuple[int, ...]) -> None:
        """Values are evenly spaced from the lower to the upper bound, by the formula, within float32 rounding."""
        low = tuple(-10.0 + 7.0 * joint for joint in range(len(shape)))
        high = tuple(bound + 3.0 * (joint + 1) for joint, bound in enumerate(low))
        grid = grid_of(shape, low, high)
        each = [
            [first + (last - first) * place / (count - 1) for place in range(count)]
            for first, last, count in zip(low, high, shape, strict=True)
        ]
        wanted = torch.tensor(list(itertools.product(*each)))
        got = grid.values(grid.positions(torch.arange(grid.size)))
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, wanted, rtol=0, atol=4e-6)
        assert torch.equal(got[0], torch.tensor(low))

    def test_whole_degrees_are_exact(self) -> None:
        """Grids of whole degrees give exactly these integers, also with other lower bounds than zero."""
        grid = grid_of((91, 181, 51), (0.0, -90.0, 10.0), (90.0, 90.0, 60.0))
        index = torch.arange(0, grid.size, 7)
        values = grid.values(grid.positions(index))
        assert torch.equal(values, values.round())
        assert torch.equal(values[:, 0].long(), index // (181 * 51))
        assert torch.equal(values[:, 1].long(), index // 51 % 181 - 90)
        assert torch.equal(values[:, 2].long(), index % 51 + 10)

    def test_the_full_grid_of_three_joints(self) -> None:
        """91^3 = 753,571 indices: hand-computed positions of six of them, and all of them map both ways."""
        grid = grid_of((91, 91, 91))
        assert grid.size == 753_571
        assert grid.positions(torch.tensor([0, 90, 91, 8280, 8281, 753_570])).tolist() == [
            [0, 0, 0],
            [0, 0, 90],
            [0, 1, 0],
            [0, 90, 90],
            [1, 0, 0],
            [90, 90, 90],
        ]
        index = torch.arange(grid.size)
        assert torch.equal(grid.index(grid.positions(index)), index)

    def test_indices_beyond_float_precision_are_exact(self) -> None:
        """Indices above 2^24 and 2^32 map both ways without rounding."""
        grid = grid_of((91,) * 6)
        index = torch.tensor([2**24 + 1, 2**32 + 1, 91**6 - 1])
        assert grid.size == 91**6
        assert torch.equal(grid.index(grid.positions(index)), index)
        assert grid.positions(index[2:]).tolist() == [[90] * 6]

    @given(
        st.lists(st.integers(2, 9), min_size=1, max_size=4).map(tuple),
        st.integers(0, 2**31),
    )
    def test_positions_of_values_invert_values_of_positions(self, shape: tuple[int, ...], seed: int) -> None:
        """Values map back to their positions, also if moved by up to 49 % of a step."""
        generator = torch.Generator().manual_seed(seed)
        low = tuple((20.0 * torch.rand(len(shape), generator=generator) - 10.0).tolist())
        high = tuple(bound + 1.0 + bound % 5.0 for bound in low)
        grid = grid_of(shape, low, high)
        positions = grid.positions(torch.randint(grid.size, (20,), generator=generator))
        values = grid.values(positions)
        assert torch.equal(grid.positions_of(values), positions)
        near = grid.step * (torch.rand(values.shape, generator=generator) - 0.5) * 0.98
        assert torch.equal(grid.positions_of(values + near), positions)

    def test_values_outside_the_bounds_are_clipped_to_the_edge(self) -> None:
        """Values outside of the bounds map to the edge, others to the nearest position (computed by hand)."""
        grid = grid_of((3, 5), (0.0, -1.0), (2.0, 1.0))
        far = torch.tensor([[-0.6, 1.3], [-1e9, 1e9], [2.6, -1.3], [1e9, -1e9], [1.4, 0.2], [1.6, 0.3]])
        assert grid.positions_of(far).tolist() == [[0, 4], [0, 4], [2, 0], [2, 0], [1, 2], [2, 3]]

    def test_bounds_and_counts_are_taken_joint_by_joint(self) -> None:
        """Each joint has its own bounds and number of positions (computed by hand)."""
        grid = grid_of((3, 2), (0.0, 5.0), (1.0, 9.0))
        assert grid.values(torch.tensor([[0, 0], [1, 1], [2, 0]])).tolist() == [[0.0, 5.0], [0.5, 9.0], [1.0, 5.0]]
        assert math.prod(grid.shape) == grid.size == 6

    @pytest.mark.parametrize("step_deg", [1.0, 30.0])
    def test_it_agrees_with_the_environments_grid(self, step_deg: float) -> None:
        """The grids of policies (PyTorch) and environments (NumPy) number actions alike."""
        low, high = (0.0, -90.0, 10.0), (90.0, 90.0, 70.0)
        theirs = DegreeGrid(low, high, step_deg)
        ours = grid_of(theirs.shape, low, high)
        index = np.random.default_rng(0).integers(theirs.size, size=1000)
        positions = theirs.positions(index)
        np.testing.assert_array_equal(ours.positions(torch.from_numpy(index)), positions)
        np.testing.assert_array_equal(ours.index(torch.from_numpy(positions)), index)
        np.testing.assert_allclose(
            ours.values(torch.from_numpy(positions)), theirs.degrees(positions), rtol=0, atol=1e-5
        )
