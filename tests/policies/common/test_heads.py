"""Heads: maxima against brute force, gradients against a dense layer's, targets, states and size limits."""

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learners import assert_equal
from torch import Tensor, nn

from policies.agent import Spec
from policies.branching_dqn.settings import BranchingDQNSettings
from policies.common import memory
from policies.common.action_grid import ActionGrid
from policies.common.branching_head import BranchingHead, make_branching_heads
from policies.common.heads import BatchColumns, raise_if_nan
from policies.dqn import enumerated_head, flat_head, heads
from policies.dqn.feature_head import FeatureHead
from policies.dqn.flat_head import FlatHead, LazyAdam
from policies.dqn.heads import make_heads
from policies.dqn.settings import DQNSettings

HIDDEN = 6
SHAPES = [(7,), (3, 5), (5, 2), (2, 2, 2), (3, 5, 4), (2, 3, 2, 4)]
BLOCKS = [(200,), (13, 11), (64, 2), (6, 5, 9), (3, 4, 7, 5)]  # of several blocks, even where these are of 64 actions
KINDS = ["flat", "features", "branching"]
INFINITY = math.inf


def grid_of(shape: tuple[int, ...]) -> ActionGrid:
    return ActionGrid(Spec(1, 1, (0.0,) * len(shape), tuple(count - 1.0 for count in shape), grid_shape=shape))


def every_action(shape: tuple[int, ...]) -> Tensor:
    """All positions (actions, joints), by their index."""
    return torch.tensor(list(itertools.product(*map(range, shape))))


def index_of(positions: Tensor, shape: tuple[int, ...]) -> list[int]:
    """Indices of positions in `every_action`."""
    places = {place: index for index, place in enumerate(itertools.product(*map(range, shape)))}
    return [places[tuple(row)] for row in positions.tolist()]


def generator_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def integers(generator: torch.Generator, *shape: int, size: int = 9) -> Tensor:
    """Whole numbers from -size to size: their sums of products are exact, in whatever order they are added."""
    return torch.randint(-size, size + 1, shape, generator=generator).float()


def flat(shape: tuple[int, ...], table: Tensor) -> FlatHead:
    """A head with this table: weights, and biases in the last row."""
    head = FlatHead(grid_of(shape), len(table) - 1, random=False, seed=0)
    head.table.copy_(table)
    return head


def made(kind: str, shape: tuple[int, ...], seed: int, hidden: int = HIDDEN) -> Any:
    """A head with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "flat":
            return FlatHead(grid_of(shape), hidden, random=True, seed=seed)
        if kind == "features":
            return FeatureHead(grid_of(shape), hidden)
        return BranchingHead(grid_of(shape), hidden, 1.0 + torch.arange(len(shape)))


def seen(kind: str, shape: tuple[int, ...], rows: int, seed: int) -> Tensor:
    """Random features and, for a branching head, present positions, some of them a little beyond the grid."""
    generator = generator_of(seed)
    x = torch.randn(rows, HIDDEN, generator=generator)
    if kind == "branching":
        counts = torch.tensor(shape)
        x = torch.cat([x, torch.rand(rows, len(shape), generator=generator) * (counts + 1.0) - 1.0], dim=1)
    return x


def enumerated(head: Any, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Q (batch, actions) of every action, computed one after another."""
    with torch.no_grad():
        return torch.stack([head.q(x, action.expand(len(x), -1)) for action in every_action(shape)], dim=1)


def as_in_a_graph(head: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """`greedy` as during an export: without a loop."""
    head.prepare_export()
    with pytest.MonkeyPatch.context() as monkeypatch, torch.no_grad():
        monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
        largest, positions = head.greedy(x)
    return largest, positions


def assert_brute_force(head: FlatHead, x: Tensor, shape: tuple[int, ...]) -> None:
    """Assert that maximum, lowest index and margin are exactly those of the full product."""
    q = torch.cat([x, torch.ones(len(x), 1)], dim=1) @ head.table
    wanted = q.amax(dim=1)
    lowest = [row.index(max(row)) for row in q.tolist()]
    largest, positions = head.greedy(x)
    assert positions.dtype == torch.int64
    assert torch.equal(largest, wanted)
    assert torch.equal(head.maximum(x), wanted)
    assert index_of(positions, shape) == lowest
    at_once, at_once_positions = as_in_a_graph(head, x)
    assert torch.equal(at_once, wanted)
    assert torch.equal(at_once_positions, positions)
    top, second = q.sort(dim=1, descending=True).values[:, :2].T
    torch.testing.assert_close(head.action_gap(x), top - second, rtol=0, atol=0, equal_nan=True)  # inf less inf


class TestMaximum:
    """The largest Q of a table, compared with the complete matrix product."""

    @pytest.mark.parametrize("shape", SHAPES + BLOCKS, ids=str)
    @pytest.mark.parametrize("numbers", [1, 50, 1000, 2**17])
    def test_the_maximum_equals_the_full_product(
        self, shape: tuple[int, ...], numbers: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Maximum, first index and margin are exactly those of the full product, for any block size and batch."""
        monkeypatch.setattr(enumerated_head, "BLOCK_NUMBERS", numbers)
        generator = generator_of(math.prod(shape))
        for rows in (1, 2, 3, 7, 16, 33, 64, 70):
            table = integers(generator, HIDDEN + 1, math.prod(shape))
            assert_brute_force(flat(shape, table), integers(generator, rows, HIDDEN), shape)

    @given(
        st.sampled_from(SHAPES + BLOCKS),
        st.integers(1, 70),
        st.integers(1, 20_000),
        st.integers(1, 3),
        st.integers(0, 2**31),
    )
    def test_ties_give_the_lowest_index_for_any_blocks(
        self, shape: tuple[int, ...], rows: int, numbers: int, size: int, seed: int
    ) -> None:
        """Of equal largest values the lowest index is returned, for any block size."""
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(enumerated_head, "BLOCK_NUMBERS", numbers)
            generator = generator_of(seed)
            x = integers(generator, rows, 2, size=size)
            assert_brute_force(flat(shape, integers(generator, 3, math.prod(shape), size=size)), x, shape)

    @pytest.mark.parametrize("numbers", [1, 1200, 2**17])
    @pytest.mark.parametrize(
        "equal",
        [(8, 9), (63, 64), (9, 60), (8, 233), (0, 269), (12, 128, 247), tuple(range(270))],
        ids=["neighbours", "neighbours in two blocks", "one block", "two blocks", "first and last", "three", "all"],
    )
    def test_equal_columns_within_a_block_and_across_blocks(
        self, equal: tuple[int, ...], numbers: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Equal best columns within and across blocks give the lowest index."""
        monkeypatch.setattr(enumerated_head, "BLOCK_NUMBERS", numbers)
        table = integers(generator_of(1), HIDDEN + 1, 270)
        table[:, list(equal)] = table[:, equal[:1]]
        table[-1, list(equal)] = 1000.0  # better than all others
        head, x = flat((6, 5, 9), table), integers(generator_of(2), 9, HIDDEN)
        assert index_of(head.greedy(x)[1], (6, 5, 9)) == [equal[0]] * 9
        assert_brute_force(head, x, (6, 5, 9))

    @pytest.mark.parametrize("bias", [0.0, -7.0, -INFINITY, INFINITY])
    @pytest.mark.parametrize("numbers", [1, 2**17])
    def test_a_table_of_equal_columns_has_its_largest_at_index_0(
        self, bias: float, numbers: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A table of equal columns, also of infinite ones, gives index 0."""
        monkeypatch.setattr(enumerated_head, "BLOCK_NUMBERS", numbers)
        table = torch.zeros(HIDDEN + 1, 270)
        table[-1] = bias
        head, x = flat((6, 5, 9), table), integers(generator_of(0), 5, HIDDEN)
        assert head.greedy(x)[0].tolist() == [bias] * 5
        assert head.greedy(x)[1].tolist() == [[0, 0, 0]] * 5
        assert_brute_force(head, x, (6, 5, 9))

    @pytest.mark.parametrize("numbers", [1, 2500, 2**17])
    @pytest.mark.parametrize(
        ("up", "down"),
        [
            ((141,), ()),
            ((70, 241), ()),
            ((0,), (269,)),
            ((), tuple(range(269))),
            ((), tuple(range(1, 270))),
            ((269,), (3, 268)),
            ((268,), tuple(range(200))),
        ],
        ids=["one", "two", "first and last", "all but the last", "all but the first", "last", "whole blocks"],
    )
    def test_infinite_biases_are_the_largest_and_the_smallest(
        self, up: tuple[int, ...], down: tuple[int, ...], numbers: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Infinite biases win or lose as in the full product."""
        monkeypatch.setattr(enumerated_head, "BLOCK_NUMBERS", numbers)
        table = integers(generator_of(3), HIDDEN + 1, 270)
        table[-1, list(up)], table[-1, list(down)] = INFINITY, -INFINITY
        head, x = flat((6, 5, 9), table), integers(generator_of(4), 17, HIDDEN)
        if up:
            assert index_of(head.greedy(x)[1], (6, 5, 9)) == [up[0]] * 17
        assert_brute_force(head, x, (6, 5, 9))

    def test_all_753571_actions_are_searched(self) -> None:
        """Maximum, index and margin on the full grid equal NumPy's, also for the first and last action and ties."""
        shape, generator = (91, 91, 91), generator_of(5)
        table = integers(generator, 5, 91**3, size=40)
        head, x = flat(shape, table), integers(generator, 7, 4, size=40)
        q = torch.cat([x, torch.ones(7, 1)], dim=1) @ table
        lowest = torch.from_numpy(q.numpy().argmax(axis=1))  # NumPy's takes the first
        largest, positions = head.greedy(x)
        assert torch.equal(largest, q.amax(dim=1))
        assert torch.equal(positions[:, 0] * 8281 + positions[:, 1] * 91 + positions[:, 2], lowest)
        assert len(set(lowest.tolist())) > 3
        assert torch.equal(as_in_a_graph(head, x)[1], positions)
        top, second = q.topk(2).values.T
        assert torch.equal(head.action_gap(x), top - second)
        # The last action of all, the first, and two equal ones in different blocks.
        for indices in ([753_570], [0], [400_000, 700_000]):
            head.table[-1] = 0.0
            head.table[:, indices] = torch.tensor([[0.0]] * 4 + [[1e5]])
            assert torch.equal(
                head.greedy(x)[1], torch.tensor([[indices[0] // 8281, indices[0] // 91 % 91, indices[0] % 91]] * 7)
            )

    @pytest.mark.parametrize("random", [False, True])
    @pytest.mark.parametrize("shape", [(7,), (3, 5, 4), (8, 8), (13, 5), (64, 2), (6, 5, 9)], ids=str)
    def test_padding_of_rows_is_never_used(
        self, shape: tuple[int, ...], random: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Rows are padded to multiples of 64 numbers, and NaN in the padding is neither read nor overwritten."""
        size = math.prod(shape)
        head, like = (FlatHead(grid_of(shape), HIDDEN, random=random, seed=1) for _ in range(2))
        padded = 64 * math.ceil(size / 64)
        assert head.table.shape == (HIDDEN + 1, size)
        assert head.table.stride() == (padded, 1)
        whole = head.table.as_strided((HIDDEN + 1, padded), (padded, 1))
        assert torch.equal(whole[:, :size], head.table)
        assert (whole[:, size:] == 0).all()
        whole[:, size:] = math.nan  # reading it would show
        x = seen("flat", shape, 5, 2)
        for numbers in (1, 1000, 2**17):
            monkeypatch.setattr(enumerated_head, "BLOCK_NUMBERS", numbers)
            for got, wanted in zip(head.greedy(x), like.greedy(x), strict=True):
                assert torch.equal(got, wanted)
            assert torch.equal(head.maximum(x), like.maximum(x))
            assert torch.equal(head.action_gap(x), like.action_gap(x))
        for got, wanted in zip(as_in_a_graph(head, x), as_in_a_graph(like, x), strict=True):
            assert torch.equal(got, wanted)
        optimizers = [LazyAdam(one) for one in (head, like)]
        for step in range(3):
            for one, optimizer in zip((head, like), optimizers, strict=True):
                _, gathered = backward(one, *random_batch(step, size, 6))
                optimizer.step(gathered, 0.01)
        state = copy.deepcopy(head.state_dict())
        assert_equal(state, like.state_dict())
        assert state["_extra_state"]["size"] == [HIDDEN + 1, size]
        assert whole[:, size:].isnan().all()  # it was not written either
        head.load_state_dict(state)
        assert torch.equal(head.table, like.table)
        assert head.table.stride() == (padded, 1)
        assert whole[:, size:].isnan().all()

    @torch.no_grad()
    @pytest.mark.parametrize("kind", ["flat", "features"])
    @pytest.mark.parametrize("rows", [1, 2, 7, 25, 70])
    def test_blocks_cover_all_actions_at_the_largest_size(
        self, rows: int, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Blocks cover all actions in order and have the largest width that the memory limit allows (by formula)."""
        monkeypatch.setattr(enumerated_head, "BLOCK_NUMBERS", numbers := 1000)
        head, x = made(kind, (6, 5, 9), 0), torch.ones(rows, HIDDEN)
        quantum = head.block_multiple
        assert 1 <= quantum <= 64
        width = max(quantum, numbers // rows // quantum * quantum)
        wanted = [min(width, 270 - start) for start in range(0, 270, width)]
        blocks = [(start, q.clone()) for start, q in head._blocks(x)]
        assert [q.shape for _, q in blocks] == [(rows, count) for count in wanted]
        assert [start for start, _ in blocks] == [sum(wanted[:place]) for place in range(len(wanted))]
        whole = head.project(x) @ head.columns()(0, 270)
        torch.testing.assert_close(torch.cat([q for _, q in blocks], dim=1), whole, rtol=0, atol=1e-6)

    def test_a_last_block_of_one_action_has_a_margin(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A grid of one action more than a multiple of 64 has the exact margin."""
        monkeypatch.setattr(enumerated_head, "BLOCK_NUMBERS", 1)
        for shape in ((5, 13), (43, 3)):  # one more than a multiple of 64
            table = integers(generator_of(0), HIDDEN + 1, math.prod(shape))
            assert_brute_force(flat(shape, table), integers(generator_of(1), 5, HIDDEN), shape)


def angle_features(place: int, count: int) -> list[float]:
    """Features of one of `count` positions on the circle, by the formula."""
    angle = -math.pi + 2.0 * math.pi * place / (count - 1)
    return [angle, *(math.sin(angle * k) for k in (0.5, 1, 2)), *(math.cos(angle * k) for k in (0.5, 1, 2))]


class TestFeatureColumns:
    """Columns that a feature head computes from the joints' angles."""

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_columns_equal_the_formula(self, shape: tuple[int, ...]) -> None:
        """Columns are the rectified sum of one layer per joint over its angle features, computed with loops."""
        head = made("features", shape, 1)
        layers = [(layer.weight.tolist(), layer.bias.tolist()) for layer in head.layers]
        wanted = []
        for action in itertools.product(*map(range, shape)):
            angles = [angle_features(place, count) for place, count in zip(action, shape, strict=True)]
            column = [0.0] * HIDDEN
            for unit in range(HIDDEN):
                for (weight, bias), values in zip(layers, angles, strict=True):
                    column[unit] += bias[unit] + sum(w * v for w, v in zip(weight[unit], values, strict=True))
            wanted.append([max(0.0, value) for value in column])
        with torch.no_grad():
            columns = head.columns()(0, head.grid.size)
        torch.testing.assert_close(columns, torch.tensor(wanted).T, rtol=0, atol=1e-5)
        assert 0.1 < (columns == 0).float().mean() < 0.9  # the rectifier does something
        # Q is their product with the mixed features.
        x = seen("features", shape, 4, 2)
        mixed = x.double() @ head.mix.weight.double().T + head.mix.bias.double()
        q = mixed @ torch.tensor(wanted).double().T
        torch.testing.assert_close(enumerated(head, x, shape).double(), q, rtol=0, atol=1e-5)

    @torch.no_grad()
    @pytest.mark.parametrize("kind", ["flat", "features"])
    def test_partial_columns_equal_slices_of_all_columns(self, kind: str) -> None:
        """Columns computed for a range of actions equal the slice of all columns, in any order of calls."""
        head = made(kind, (16, 5, 8), 0)
        whole, columns = head.columns()(0, 640).clone(), head.columns()
        for start, stop in (
            (64, 128),
            (0, 64),
            (128, 640),
            (64, 192),
            (0, 640),
            (576, 640),
        ):  # the buffer grows, or is larger
            assert torch.equal(columns(start, stop), whole[:, start:stop])


class TestBranching:
    """Branching heads: sums over the joints."""

    def test_q_values_by_hand(self) -> None:
        """One feature, two joints of 3 and 5 positions with largest steps of 1 and 4: Q computed by hand."""
        head = BranchingHead(grid_of((3, 5)), 1, torch.tensor([1.0, 4.0]))
        signed, unsigned = (
            [[10.0, 20.0, 30.0, 40.0], [1.0, 2.0, 3.0, 4.0]],
            [[5.0, 6.0, 7.0, 8.0], [0.1, 0.2, 0.3, 0.4]],
        )
        with torch.no_grad():
            head.table.weight.copy_(torch.arange(8.0)[:, None])
            head.table.bias.fill_(100.0)
            head.gains.weight.zero_()
            head.gains.bias.copy_(torch.tensor([*signed[0], *unsigned[0], *signed[1], *unsigned[1]]))
        x = torch.tensor([[2.0, 0.75, 3.0]])  # the feature, then where the joints are
        # Joint 0 from 0.75 to 1: a step of 1/4, ramps of 1/8, 1/4, 1/2 and 1: 1, 1, 1/2, 1/4.
        first = (100.0 + 2.0 * 1) + (10 + 20 + 15 + 10) + (5 + 6 + 3.5 + 2)
        # Joint 1 from 3 to 2: a step of -1, ramps of 1/2, 1, 2 and 4: -1, -1, -1/2, -1/4.
        second = (100.0 + 2.0 * 5) - (1 + 2 + 1.5 + 1) + (0.1 + 0.2 + 0.15 + 0.1)
        assert head.q(x, torch.tensor([[1, 2]])).item() == pytest.approx((first + second) / 2, rel=1e-6)
        # Standing still, joint 1 has no ramp at all.
        still = 100.0 + 2.0 * 6
        assert head.q(x, torch.tensor([[1, 3]])).item() == pytest.approx((first + still) / 2, rel=1e-6)
        # To 0, joint 0 makes a step of -3/4: -1, -1, -1, -3/4.
        back = (100.0 + 2.0 * 0) - (10 + 20 + 30 + 30) + (5 + 6 + 7 + 6)
        assert head.q(x, torch.tensor([[0, 3]])).item() == pytest.approx((back + still) / 2, rel=1e-6)

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_q_values_equal_the_formula(self, shape: tuple[int, ...]) -> None:
        """Q is the mean over joints of table value and ramps of the step, computed with loops."""
        head, x = made("branching", shape, 3), seen("branching", shape, 5, 4)
        features, present = x[:, :HIDDEN].double(), x[:, HIDDEN:].tolist()
        table = (features @ head.table.weight.double().T + head.table.bias.double()).tolist()
        gains = (features @ head.gains.weight.double().T + head.gains.bias.double()).tolist()
        wanted = []
        for row in range(5):
            wanted.append([])
            for action in itertools.product(*map(range, shape)):
                total = 0.0
                for joint, place in enumerate(action):
                    total += table[row][sum(shape[:joint]) + place]
                    for ramp, fraction in enumerate((1 / 8, 1 / 4, 1 / 2, 1)):
                        height = min(1.0, max(-1.0, (place - present[row][joint]) / (fraction * (1.0 + joint))))
                        total += gains[row][8 * joint + ramp] * height + gains[row][8 * joint + 4 + ramp] * abs(height)
                wanted[-1].append(total / len(shape))
        torch.testing.assert_close(enumerated(head, x, shape), torch.tensor(wanted), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("best", [(0, 0, 0), (1, 4, 2), (2, 0, 3)])
    def test_ties_give_the_lowest_position(self, best: tuple[int, ...]) -> None:
        """Of equally good positions of a joint, the lowest one is chosen."""
        shape = (3, 5, 4)
        head = BranchingHead(grid_of(shape), HIDDEN, torch.ones(3))
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.zero_()
            bias = torch.cat([(torch.arange(n) >= place).float() for n, place in zip(shape, best, strict=True)])
            head.table.bias.copy_(bias)  # equally good from there on
        largest, positions = head.greedy(seen("branching", shape, 6, 0))
        assert positions.tolist() == [list(best)] * 6
        assert largest.tolist() == [1.0] * 6

    @pytest.mark.parametrize("infinite", [INFINITY, -INFINITY])
    def test_infinite_outputs_win_and_lose(self, infinite: float) -> None:
        """Infinite outputs win or lose as in an enumeration of all actions."""
        shape = (3, 5, 4)
        head = made("branching", shape, 0)
        head.table.bias.data[3:8] = -INFINITY
        head.table.bias.data[5] = max(
            0.0, infinite
        )  # the third position of joint 1: infinite, or the only one not to be
        x = seen("branching", shape, 6, 0)
        q = enumerated(head, x, shape)
        largest, positions = head.greedy(x)
        torch.testing.assert_close(largest.detach(), q.amax(dim=1), rtol=0, atol=1e-5)
        assert positions[:, 1].tolist() == [2] * 6


class TestAllHeads:
    """Properties of flat, feature and branching heads."""

    @pytest.mark.parametrize("numbers", [1, 1000, 2**17])
    @pytest.mark.parametrize("shape", SHAPES + BLOCKS, ids=str)
    @pytest.mark.parametrize("kind", KINDS)
    def test_maximum_and_margin_equal_an_enumeration(
        self, kind: str, shape: tuple[int, ...], numbers: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Maximum, position and margin equal an enumeration to 2e-6, in blocks and in exported graphs."""
        monkeypatch.setattr(enumerated_head, "BLOCK_NUMBERS", numbers)
        head = made(kind, shape, 1)
        for rows in (1, 5, 66):
            x = seen(kind, shape, rows, rows)
            q = enumerated(head, x, shape)
            largest, positions = head.greedy(x)
            assert largest.shape == (rows,)
            assert positions.shape == (rows, len(shape))
            ordered = q.sort(dim=1, descending=True)
            torch.testing.assert_close(largest.detach(), ordered.values[:, 0], rtol=0, atol=2e-6)
            torch.testing.assert_close(head.maximum(x).detach(), ordered.values[:, 0], rtol=0, atol=2e-6)
            margin = ordered.values[:, 0] - ordered.values[:, 1]
            torch.testing.assert_close(head.action_gap(x).detach(), margin, rtol=0, atol=2e-6)
            clear = margin > 1e-5  # near ties may go either way
            assert clear.float().mean() > 0.9
            got = torch.tensor(index_of(positions, shape))
            assert torch.equal(got[clear], ordered.indices[:, 0][clear])
            at_once, at_once_positions = as_in_a_graph(head, x)
            torch.testing.assert_close(at_once, largest.detach(), rtol=0, atol=2e-6)
            assert torch.equal(at_once_positions[clear], positions[clear])

    @pytest.mark.parametrize("kind", ["flat", "features"])
    def test_frozen_columns_stay_unchanged_and_follow_new_weights(
        self, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Frozen columns are all columns; later searches do not change them, and loading weights renews them."""
        head, x = made(kind, (6, 5, 9), 0), seen(kind, (6, 5, 9), 5, 0)
        head.prepare_export()
        frozen = head._export_columns.clone()
        with torch.no_grad():
            assert torch.equal(frozen, head.columns()(0, 270))
        monkeypatch.setattr(enumerated_head, "BLOCK_NUMBERS", 1)
        head.greedy(2.0 * x), head.maximum(x), head.action_gap(x)
        assert torch.equal(head._export_columns, frozen)
        # Another time it is that of other weights.
        first = as_in_a_graph(head, x)[0]
        head.load_state_dict(made(kind, (6, 5, 9), 1).state_dict())
        largest = as_in_a_graph(head, x)[0]
        torch.testing.assert_close(largest, head.maximum(x), rtol=0, atol=2e-6)
        assert (largest - first).abs().max() > 1e-3

    def test_the_full_grid_gives_the_same_maximum_in_blocks_and_at_once(self) -> None:
        """Both searches agree on 753,571 actions, and none of 40,000 other actions is better."""
        shape = (91, 91, 91)
        head, x = made("features", shape, 2), seen("features", shape, 3, 2)
        largest, positions = head.greedy(x)
        at_once, at_once_positions = as_in_a_graph(head, x)
        with torch.no_grad():
            torch.testing.assert_close(largest, at_once, rtol=0, atol=2e-6)
            torch.testing.assert_close(largest, head.q(x, positions), rtol=0, atol=2e-6)
            torch.testing.assert_close(largest, head.q(x, at_once_positions), rtol=0, atol=2e-6)
            # None of its neighbours is better, nor is any of many others.
            generator = generator_of(0)
            others = torch.randint(91, (3, 20_000, 3), generator=generator)
            nearby = (positions[:, None] + torch.randint(-3, 4, (3, 20_000, 3), generator=generator)).clamp(0, 90)
            for row in range(3):
                for candidates in (others[row], nearby[row]):
                    assert head.q(x[row].expand(20_000, -1), candidates).max() <= largest[row] + 2e-6

    @pytest.mark.parametrize("kind", KINDS)
    def test_rejects_nan_features(self, kind: str) -> None:
        """A NaN feature in any row raises an error that says that the training has diverged."""
        head, x = made(kind, (3, 5, 4), 0), seen(kind, (3, 5, 4), 6, 0)
        for row, column in ((0, 0), (5, HIDDEN - 1), (3, x.shape[1] - 1)):
            bad = x.clone()
            bad[row, column] = math.nan
            for method in (head.greedy, head.maximum):
                with pytest.raises(ValueError, match="NaN: the training has diverged"):
                    method(bad)

    @pytest.mark.parametrize("numbers", [1, 2**17])
    @pytest.mark.parametrize("place", [0, 63, 64, 269])
    @pytest.mark.parametrize("top", [0.0, INFINITY, -INFINITY])
    @pytest.mark.parametrize("row", [0, HIDDEN])
    def test_rejects_nan_in_a_table(
        self, row: int, top: float, place: int, numbers: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One NaN anywhere in the table raises ValueError, also beside infinities."""
        monkeypatch.setattr(enumerated_head, "BLOCK_NUMBERS", numbers)
        table = integers(generator_of(0), HIDDEN + 1, 270)
        table[-1, 130] = top
        table[row, place] = math.nan
        head, x = flat((6, 5, 9), table), integers(generator_of(1), 5, HIDDEN)
        for method in (head.greedy, head.maximum):
            with pytest.raises(ValueError, match="NaN"):
                method(x)

    def test_rejects_infinities_that_add_up_to_nan(self) -> None:
        """inf - inf is NaN and raises ValueError."""
        table = torch.ones(3, 60)
        table[:2, 44] = torch.tensor([INFINITY, -INFINITY])
        head = flat((3, 5, 4), table)
        for method in (head.greedy, head.maximum):
            with pytest.raises(ValueError, match="NaN"):
                method(torch.ones(2, 2))

    @pytest.mark.parametrize("kind", ["features", "branching"])
    def test_rejects_nan_in_the_weights(self, kind: str) -> None:
        """A NaN in any parameter of feature and branching heads raises ValueError."""
        original, x = made(kind, (3, 5, 4), 0), seen(kind, (3, 5, 4), 6, 0)
        for name, parameter in original.named_parameters():
            for place in (0, parameter.numel() - 1):
                head = copy.deepcopy(original)
                head.get_parameter(name).data.view(-1)[place] = math.nan
                for method in (head.greedy, head.maximum):
                    with pytest.raises(ValueError, match="NaN"):
                        method(x)

    def test_refuse_nan_returns_other_tensors_unchanged(self) -> None:
        """Tensors without NaN are returned as they are, infinities included."""
        q = torch.tensor([1.0, -INFINITY, INFINITY])
        assert raise_if_nan(q) is q
        with pytest.raises(ValueError, match="NaN"):
            raise_if_nan(torch.tensor([1.0, math.nan]))

    @pytest.mark.parametrize("kind", KINDS)
    def test_searching_does_not_change_the_state(self, kind: str) -> None:
        """Searches, with and without gradients, leave the state bit for bit."""
        head, x = made(kind, (3, 5), 0), seen(kind, (3, 5), 4, 0)
        x.requires_grad_()
        before = copy.deepcopy(head.state_dict())
        head.q(x, torch.zeros(4, 2, dtype=torch.int64))
        with torch.no_grad():
            head.greedy(x), head.maximum(x), head.action_gap(x), head.q(x, torch.ones(4, 2, dtype=torch.int64))
            as_in_a_graph(head, x)
        assert_equal(head.state_dict(), before)


def plain_layer(table: Tensor) -> nn.Linear:
    """A dense layer with the same weights and biases."""
    layer = nn.Linear(len(table) - 1, table.shape[1])
    with torch.no_grad():
        layer.weight.copy_(table[:-1].T)
        layer.bias.copy_(table[-1])
    return layer


def table_of(layer: nn.Linear) -> Tensor:
    return torch.cat([layer.weight.detach().T, layer.bias.detach()[None]])


def gradient_of(layer: nn.Linear) -> Tensor:
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    return torch.cat([layer.weight.grad.T, layer.bias.grad[None]])


def backward(head: FlatHead, x: Tensor, actions: Tensor, y: Tensor) -> tuple[Tensor, BatchColumns]:
    """The loss of a batch, and its columns with their gradients."""
    positions = head.grid.positions(actions)
    gathered = head.gather(positions)
    loss = ((head.q(x, positions, gathered) - y) ** 2).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), gathered


def backward_plain(layer: nn.Linear, x: Tensor, actions: Tensor, y: Tensor) -> Tensor:
    layer.zero_grad()
    loss = ((layer(x).gather(1, actions[:, None])[:, 0] - y) ** 2).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def random_batch(seed: int, size: int, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features, actions with repetitions, and targets."""
    generator = generator_of(seed)
    x, y = torch.randn(rows, HIDDEN, generator=generator), torch.randn(rows, generator=generator)
    return x, torch.randint(size, (rows,), generator=generator), y


class TestLazyAdam:
    """Learning of a table, compared with a dense layer and PyTorch's Adam."""

    @pytest.mark.parametrize("rows", [1, 7, 64])
    @pytest.mark.parametrize("random", [False, True])
    def test_gradients_equal_a_dense_layers(self, rows: int, random: bool) -> None:
        """Loss and gradients of the batch's columns equal a dense layer's, whose other gradients are zero."""
        head = FlatHead(grid_of((3, 5, 4)), HIDDEN, random=random, seed=3)
        before, layer = head.table.clone(), plain_layer(head.table)
        x, actions, y = random_batch(rows, 60, rows)
        actions[rows // 2] = actions[0]
        own, plain = x.clone().requires_grad_(), x.clone().requires_grad_()
        loss, gathered = backward(head, own, actions, y)
        assert loss == pytest.approx(backward_plain(layer, plain, actions, y).item(), abs=1e-6)
        touched = gathered.actions
        columns = gathered.columns
        wanted, rest = gradient_of(layer), torch.ones(60, dtype=torch.bool)
        assert touched.tolist() == sorted(set(actions.tolist()))
        torch.testing.assert_close(columns.grad, wanted[:, touched], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(own.grad, plain.grad, rtol=1e-6, atol=1e-6)
        rest[touched] = False
        assert rest.any()
        assert (wanted[:, rest] == 0).all()
        assert columns.grad is not None
        assert (columns.grad[-1] != 0).all()
        assert torch.equal(head.table, before)  # nothing is learned before the step

    @pytest.mark.parametrize("random", [False, True])
    def test_the_first_step_equals_adams_on_the_batchs_columns(self, random: bool) -> None:
        """The batch's columns move as with Adam, by the learning rate, and all others stay unchanged."""
        head = FlatHead(grid_of((3, 5, 4)), HIDDEN, random=random, seed=3)
        before, layer = head.table.clone(), plain_layer(head.table)
        optimizer, adam = LazyAdam(head), torch.optim.Adam(layer.parameters(), 0.01)
        x, actions, y = random_batch(5, 60, 20)
        _, gathered = backward(head, x, actions, y)
        backward_plain(layer, x, actions, y)
        optimizer.step(gathered, 0.01)
        adam.step()
        touched = actions.unique()
        rest = [action for action in range(60) if action not in touched.tolist()]
        assert torch.equal(head.table[:, rest], before[:, rest])
        torch.testing.assert_close(head.table[:, touched], table_of(layer)[:, touched], rtol=0, atol=1e-6)
        moved = (head.table - before)[:, touched].abs()
        torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=0.01, atol=0)  # the first: g / |g|
        assert head.learned.nonzero()[:, 0].tolist() == touched.tolist()

    @pytest.mark.parametrize("seed", range(3))
    def test_it_equals_adam_if_every_batch_has_all_actions(self, seed: int) -> None:
        """Over 40 steps with all actions, the table stays within 2e-6 of Adam's."""
        head = FlatHead(grid_of((3, 5)), HIDDEN, random=True, seed=seed)
        layer = plain_layer(head.table)
        optimizer, adam = LazyAdam(head), torch.optim.Adam(layer.parameters(), 0.01)
        for step in range(40):
            rate = 0.01 * (1.0 - step / 50)
            x, actions, y = random_batch(100 * seed + step, 15, 40)
            actions[:15] = torch.randperm(15, generator=generator_of(step))
            _, gathered = backward(head, x, actions, y)
            backward_plain(layer, x, actions, y)
            adam.param_groups[0]["lr"] = rate
            optimizer.step(gathered, rate)
            adam.step()
            torch.testing.assert_close(head.table, table_of(layer), rtol=0, atol=2e-6)

    def test_columns_without_gradient_keep_moments_and_counts(self) -> None:
        """Steps of other actions do not affect a column: two steps equal Adam's formula in double precision."""
        head = FlatHead(grid_of((2, 3)), HIDDEN, random=True, seed=0)
        optimizer, rate = LazyAdam(head), 0.01
        start = head.table[:, 2].double()
        gradients = []
        for step, action in enumerate((2, 0, 5, 0, 2)):
            x, _, y = random_batch(step, 6, 4)
            _, gathered = backward(head, x, torch.full((4,), action), y)
            gradient = gathered.columns.grad
            assert gradient is not None
            if action == 2:
                gradients.append(gradient[:, 0].double())
            optimizer.step(gathered, rate)
            if step == 0:
                after_one = head.table[:, 2].clone()
            if step == 3:
                assert torch.equal(head.table[:, 2], after_one)
        first, second = gradients
        torch.testing.assert_close(after_one.double(), start - rate * first / (first.abs() + 1e-8), rtol=0, atol=1e-6)
        mean, square = 0.9 * 0.1 * first + 0.1 * second, 0.999 * 0.001 * first**2 + 0.001 * second**2
        step_two = rate * (mean / (1 - 0.9**2)) / ((square / (1 - 0.999**2)).sqrt() + 1e-8)
        assert (step_two.abs() > 1e-4).any()
        torch.testing.assert_close(head.table[:, 2].double(), after_one.double() - step_two, rtol=0, atol=1e-6)
        state = optimizer.state_dict()
        assert state["actions"].tolist() == [0, 2, 5]
        assert state["count"].tolist() == [2, 2, 1]
        torch.testing.assert_close(state["mean"][:, 1].double(), mean, rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(state["square"][:, 1].double(), square, rtol=1e-3, atol=1e-12)

    def test_it_continues_from_its_state_exactly(self) -> None:
        """Restored from its state, the optimiser continues bit for bit, whatever was learned before."""
        head = FlatHead(grid_of((3, 5, 4)), HIDDEN, random=True, seed=0)
        optimizer = LazyAdam(head)

        def learn(head: FlatHead, optimizer: LazyAdam, steps: range) -> None:
            for step in steps:
                _, gathered = backward(head, *random_batch(step, 60, 8))
                optimizer.step(gathered, 0.01)

        learn(head, optimizer, range(5))
        state = copy.deepcopy((head.state_dict(), optimizer.state_dict()))
        assert len(state[1]["actions"]) < 60
        copied = FlatHead(grid_of((3, 5, 4)), HIDDEN, random=False, seed=9)
        copied_optimizer = LazyAdam(copied)
        learn(copied, copied_optimizer, range(50, 60))  # must leave no trace
        copied.load_state_dict(state[0])
        copied_optimizer.load_state_dict(state[1])
        learn(head, optimizer, range(5, 10))
        learn(copied, copied_optimizer, range(5, 10))
        assert torch.equal(copied.table, head.table)
        assert_equal(copied_optimizer.state_dict(), optimizer.state_dict())
        assert_equal(copied.state_dict(), head.state_dict())

    @pytest.mark.parametrize("kind", ["features", "branching"])
    def test_other_heads_gradients_equal_finite_differences(self, kind: str) -> None:
        """`gradcheck` passes for feature and branching heads, in all weights and features."""
        shape = (3, 5)
        head, x = made(kind, shape, 0).double(), seen(kind, shape, 7, 1).double().requires_grad_()
        positions = head.grid.positions(torch.tensor([0, 3, 3, 14, 7, 9, 10]))
        names = [name for name, _ in head.named_parameters()]

        def q(x: Tensor, *weights: Tensor) -> Tensor:
            return torch.func.functional_call(
                _QModule(head), dict(zip([f"head.{n}" for n in names], weights, strict=True)), (x, positions)
            )

        assert torch.autograd.gradcheck(q, (x, *head.parameters()))


class _QModule(nn.Module):
    """A module whose forward is a head's `q`."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor, positions: Tensor) -> Any:
        return self.head.q(x, positions)


Period = list[tuple[str, list[int]]]
CHANGES = st.tuples(st.sampled_from(["put", "learn"]), st.lists(st.integers(0, 14), min_size=1, max_size=6))


class TestTargets:
    """Target heads that follow a trained one."""

    @given(st.lists(st.lists(CHANGES, max_size=4), min_size=1, max_size=5), st.booleans(), st.integers(0, 1000))
    def test_the_target_is_a_full_copy_after_each_period(self, periods: list[Period], random: bool, seed: int) -> None:
        """After any sequence of changes, `follow` makes the target equal, and until then it stays as it was."""
        head, target = (FlatHead(grid_of((3, 5)), HIDDEN, random=random, seed=seed) for _ in range(2))
        optimizer = LazyAdam(head)
        for number, period in enumerate(periods):
            before = target.table.clone()
            for place, (change, actions) in enumerate(period):
                x, _, y = random_batch(seed + 10 * number + place, 15, len(actions))
                if change == "put":
                    distinct = torch.tensor(sorted(set(actions)))
                    head.put(distinct, x.new_full((HIDDEN + 1, len(distinct)), float(y[0])))
                else:
                    _, gathered = backward(head, x, torch.tensor(actions), y)
                    optimizer.step(gathered, 0.01)
                assert torch.equal(target.table, before)  # until the period is over
            target.copy_from(head)
            assert torch.equal(target.table, head.table)
            assert torch.equal(target.learned, head.learned)
            assert_equal(target.state_dict()["_extra_state"]["columns"], head.state_dict()["_extra_state"]["columns"])
            assert head.changed == target.changed == []

    def test_follow_copies_changed_columns_only(self) -> None:
        """Columns that did not change since the last copy are not written, as NaN placed in them shows."""
        head, target = (FlatHead(grid_of((3, 5)), HIDDEN, random=True, seed=1) for _ in range(2))
        head.put(torch.tensor([3, 8]), torch.full((HIDDEN + 1, 2), 5.0))
        head.put(torch.tensor([8, 9]), torch.full((HIDDEN + 1, 2), 6.0))
        target.table[:, 4] = math.nan  # NaN shows whether it is overwritten
        target.copy_from(head)
        rest = [action for action in range(15) if action != 4]
        assert torch.equal(target.table[:, rest], head.table[:, rest])
        assert target.table[:, 4].isnan().all()
        target.table[:, 8] = math.nan
        target.copy_from(head)
        assert target.table[:, 8].isnan().all()
        head.put(torch.tensor([4]), torch.full((HIDDEN + 1, 1), 7.0))
        target.copy_from(head)
        assert target.table[:, 8].isnan().all()
        assert (target.table[:, 4] == 7.0).all()

    def test_pending_changes_are_part_of_the_state(self) -> None:
        """After restoring both heads, the target copies exactly the columns that were pending."""
        head, target = (FlatHead(grid_of((3, 5)), HIDDEN, random=True, seed=1) for _ in range(2))
        head.put(torch.tensor([3, 8]), torch.full((HIDDEN + 1, 2), 5.0))
        target.copy_from(head)
        head.put(torch.tensor([9]), torch.full((HIDDEN + 1, 1), 6.0))
        states = copy.deepcopy((head.state_dict(), target.state_dict()))
        head, target = (FlatHead(grid_of((3, 5)), HIDDEN, random=False, seed=4) for _ in range(2))
        head.load_state_dict(states[0])
        target.load_state_dict(states[1])
        assert not torch.equal(target.table, head.table)
        target.table[:, 3] = math.nan  # copied before the state was taken: not again
        target.copy_from(head)
        assert (target.table[:, 9] == 6.0).all()
        assert target.table[:, 3].isnan().all()

    @pytest.mark.parametrize("kind", ["features", "branching"])
    def test_targets_of_other_heads_are_independent_copies(self, kind: str) -> None:
        """Feature and branching targets equal the head after `follow`, and do not change with it."""
        head, target, x = made(kind, (3, 5), 0), made(kind, (3, 5), 1), seen(kind, (3, 5), 4, 0)
        assert not torch.equal(target.maximum(x), head.maximum(x))
        target.copy_from(head)
        assert torch.equal(target.maximum(x), head.maximum(x))
        before = target.maximum(x).clone()
        for parameter in head.parameters():
            parameter.data += 1.0
        assert torch.equal(target.maximum(x), before)


class TestState:
    """States of heads."""

    @pytest.mark.parametrize("random", [False, True])
    def test_the_state_holds_learned_columns_only(self, random: bool) -> None:
        """A table is restored exactly from the columns that were learned, the rest from its seed."""
        head = FlatHead(grid_of((3, 5, 4)), HIDDEN, random=random, seed=7)
        optimizer = LazyAdam(head)
        for step in range(3):
            _, gathered = backward(head, *random_batch(step, 60, 4))
            optimizer.step(gathered, 0.01)
        state = copy.deepcopy(head.state_dict())
        touched = torch.cat([random_batch(step, 60, 4)[1] for step in range(3)]).unique()
        assert list(state) == ["_extra_state"]
        assert state["_extra_state"]["actions"].tolist() == touched.tolist()
        assert state["_extra_state"]["columns"].shape == (HIDDEN + 1, len(touched))
        assert len(touched) <= 12
        other = FlatHead(grid_of((3, 5, 4)), HIDDEN, random=not random, seed=8)
        other.put(torch.arange(0, 60, 2), torch.full((HIDDEN + 1, 30), 9.0))  # overwritten by loading
        other.load_state_dict(state)
        assert torch.equal(other.table, head.table)
        assert_equal(other.state_dict(), state)
        x = seen("flat", (3, 5, 4), 5, 0)
        assert torch.equal(other.greedy(x)[1], head.greedy(x)[1])

    def test_a_new_heads_state_has_no_columns(self) -> None:
        """Before learning, a head of 753,571 actions has an empty state."""
        for random in (False, True):
            head = FlatHead(grid_of((91, 91, 91)), 2, random=random, seed=0)
            state = head.state_dict()["_extra_state"]
            assert state["columns"].numel() == state["actions"].numel() == state["changed"].numel() == 0

    def test_a_state_is_a_copy(self) -> None:
        """Later learning does not modify a state that was saved before."""
        head = FlatHead(grid_of((3, 5)), HIDDEN, random=True, seed=0)
        head.put(torch.tensor([3, 8]), torch.full((HIDDEN + 1, 2), 5.0))
        state = head.state_dict()
        before = copy.deepcopy(state)
        head.put(torch.tensor([3, 4]), torch.full((HIDDEN + 1, 2), 6.0))
        assert_equal(state, before)

    def test_a_random_table_is_initialised_as_a_dense_layer(self) -> None:
        """Weights are uniform within 1 / sqrt(inputs), as PyTorch's Linear, and depend on the seed alone."""
        head = FlatHead(grid_of((30, 40)), 16, random=True, seed=5)
        bound = 1 / 4  # of 16 inputs
        assert head.table.abs().max() <= bound
        for part in (head.table[:-1], head.table[-1]):
            assert part.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
            assert part.abs().max() > 0.99 * bound
            counts = np.histogram(part.numpy(), 10, (-bound, bound))[0] / part.numel()
            assert np.abs(counts - 0.1).max() < 5 * math.sqrt(0.1 * 0.9 / part.numel())
        layer = nn.Linear(16, 1200)
        assert layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(head.table[:-1].std().item(), rel=0.05)
        same, other = (FlatHead(grid_of((30, 40)), 16, random=True, seed=seed) for seed in (5, 6))
        assert torch.equal(same.table, head.table)
        assert not torch.equal(other.table, head.table)
        assert (FlatHead(grid_of((30, 40)), 16, random=False, seed=5).table == 0).all()

    @pytest.mark.parametrize("kind", KINDS)
    def test_rejects_a_state_of_another_width(self, kind: str) -> None:
        """A state with another number of hidden units raises RuntimeError."""
        state = made(kind, (3, 5), 0).state_dict()
        for hidden in (HIDDEN - 1, HIDDEN + 1):
            with pytest.raises(RuntimeError):
                made(kind, (3, 5), 0, hidden).load_state_dict(state)

    @pytest.mark.parametrize("shape", [(3, 4), (4, 5), (3, 5, 2)])
    @pytest.mark.parametrize("kind", ["flat", "branching"])
    def test_rejects_a_state_of_another_grid(self, kind: str, shape: tuple[int, ...]) -> None:
        """A state of another grid raises RuntimeError; a table is left unchanged."""
        head = made(kind, shape, 0)
        before = copy.deepcopy(head.state_dict())
        with pytest.raises(RuntimeError):
            head.load_state_dict(made(kind, (3, 5), 1).state_dict())
        if kind == "flat":
            assert_equal(head.state_dict(), before)

    def test_feature_heads_reject_another_number_of_joints(self) -> None:
        """A state with another number of joints raises RuntimeError."""
        with pytest.raises(RuntimeError):
            made("features", (3, 5), 0).load_state_dict(made("features", (3, 5, 4), 0).state_dict())

    @pytest.mark.parametrize(("kind", "other"), list(itertools.permutations(KINDS, 2)))
    def test_rejects_a_state_of_another_kind(self, kind: str, other: str) -> None:
        """A state of another kind of head raises RuntimeError."""
        with pytest.raises(RuntimeError):
            made(kind, (3, 5), 0).load_state_dict(made(other, (3, 5), 0).state_dict())


WHOLE = 91**3


def fail_on_check(needed: int, what: str) -> None:
    raise AssertionError("memory was checked")


class _MemoryRequested(Exception):
    """Raised instead of allocating a head."""


def pair_of(settings: Any, grid: ActionGrid, seed: int) -> Any:
    """A head and its target, as the agent of these settings has them."""
    if isinstance(settings, DQNSettings):
        return make_heads(settings, grid, seed)
    return make_branching_heads(grid, settings.hidden_units, torch.ones(len(grid.shape)))


@pytest.fixture
def memory_requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """The requested amounts of memory; nothing is allocated."""
    calls: list[tuple[int, str]] = []

    def check(needed: int, what: str) -> None:
        calls.append((needed, what))
        raise _MemoryRequested

    monkeypatch.setattr(heads, "check_memory", check)
    return calls


class TestMakingHeads:
    """Pairs of head and target, and their size limits."""

    @pytest.mark.parametrize("head", ["random", "zero"])
    def test_the_widest_table_that_fits_an_onnx_file(self, head: Any, memory_requests: list[tuple[int, str]]) -> None:
        """The error states the largest number of units below ONNX's 2 GiB: that number is accepted, one more is not."""

        def make(hidden: int) -> None:
            pair_of(DQNSettings(hidden_units=hidden, head=head), grid_of((91, 91, 91)), 0)

        with pytest.raises(ValueError, match=r"hidden-units: 2000 on 753,571 actions .* at most 2 .*") as caught:
            make(2000)
        assert f"{4 * 2001 * WHOLE / 2**30:.2f} GiB" in str(caught.value)
        widest = int(str(caught.value).rsplit(" ", 1)[1])
        assert 4 * (widest + 1) * WHOLE <= 2**31 - 2**22 < 4 * (widest + 2) * WHOLE
        assert memory_requests == []  # rejected before the memory check
        with pytest.raises(_MemoryRequested):
            make(widest)
        assert len(memory_requests) == 1
        with pytest.raises(ValueError, match=f"expected at most {widest}$"):
            make(widest + 1)
        assert len(memory_requests) == 1

    def test_a_feature_heads_columns_must_fit_an_onnx_file(self) -> None:
        """On the full grid 710 units fit an ONNX file, 711 do not."""
        settings = DQNSettings(hidden_units=711, head="features")
        with pytest.raises(ValueError, match=r"expected at most 710$"):
            pair_of(settings, grid_of((91, 91, 91)), 0)

    @pytest.mark.parametrize("shape", [(1022, 2**18 + 1), (91,) * 5], ids=str)
    @pytest.mark.parametrize("head", ["random", "zero", "features"])
    def test_a_grid_on_which_no_unit_fits(
        self, head: Any, shape: tuple[int, ...], memory_requests: list[tuple[int, str]]
    ) -> None:
        """The error states a maximum of 0 units, before memory is checked."""
        settings = DQNSettings(hidden_units=1, head=head)
        with pytest.raises(ValueError, match=r"hidden-units: 1 on .* expected at most 0$"):
            pair_of(settings, grid_of(shape), 0)
        assert memory_requests == []

    @pytest.mark.parametrize("head", ["random", "zero"])
    def test_the_largest_grid_that_one_unit_fits_is_accepted(
        self, head: Any, memory_requests: list[tuple[int, str]]
    ) -> None:
        """A grid of (2^31 - 2^22) / 8 actions fits one unit and not two."""
        shape = (1022, 2**18)  # of 8 bytes each: 2^31 - 2^22
        with pytest.raises(ValueError, match=r"expected at most 1$"):
            pair_of(DQNSettings(hidden_units=2, head=head), grid_of(shape), 0)
        with pytest.raises(_MemoryRequested):
            pair_of(DQNSettings(hidden_units=1, head=head), grid_of(shape), 0)

    @pytest.mark.parametrize("hidden", [1, 64, 512])
    def test_the_memory_check_covers_four_tables(self, hidden: int, memory_requests: list[tuple[int, str]]) -> None:
        """The check covers head, target and two moments of Adam, 4 bytes a number, biases included."""
        with pytest.raises(_MemoryRequested):
            pair_of(DQNSettings(hidden_units=hidden, head="zero"), grid_of((91, 91, 91)), 0)
        # The head, its target and two moments, of four bytes each.
        assert memory_requests == [
            (4 * 4 * (hidden + 1) * WHOLE, f"a head of {hidden} units for each of 753,571 actions")
        ]

    @pytest.mark.parametrize("head", ["random", "zero"])
    def test_too_little_memory_is_rejected_before_allocation(self, head: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """The error states needed and free memory; exactly the needed amount is accepted."""

        def allocate(*_: Any, **__: Any) -> None:
            raise AssertionError("allocated")

        monkeypatch.setattr(flat_head, "untouched_zeros", allocate)
        needed = 16 * 65 * WHOLE  # 783,713,840
        settings = DQNSettings(hidden_units=64, head=head)
        monkeypatch.setattr(memory, "free_memory", lambda: 500_000_000)
        with pytest.raises(MemoryError, match="64 units for each of 753,571 actions needs 784 MB, 500 MB are free"):
            pair_of(settings, grid_of((91, 91, 91)), 0)
        monkeypatch.setattr(memory, "free_memory", lambda: needed - 1)
        with pytest.raises(MemoryError):
            pair_of(settings, grid_of((91, 91, 91)), 0)
        monkeypatch.setattr(memory, "free_memory", lambda: needed)
        with pytest.raises(AssertionError, match="allocated"):
            pair_of(settings, grid_of((91, 91, 91)), 0)

    @pytest.mark.parametrize(
        "settings", [DQNSettings(head="features"), BranchingDQNSettings()], ids=["features", "branching"]
    )
    def test_heads_without_a_table_are_small(self, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Feature and branching heads of the full grid have fewer than 100,000 parameters and no memory check."""
        monkeypatch.setattr(heads, "check_memory", fail_on_check)
        head, _ = pair_of(settings, grid_of((91, 91, 91)), 0)
        assert sum(parameter.numel() for parameter in head.parameters()) < 100_000

    @pytest.mark.parametrize(
        ("settings", "kind"),
        [
            (DQNSettings(hidden_units=HIDDEN, head="random"), FlatHead),
            (DQNSettings(hidden_units=HIDDEN, head="zero"), FlatHead),
            (DQNSettings(hidden_units=HIDDEN, head="features"), FeatureHead),
            (BranchingDQNSettings(hidden_units=HIDDEN), BranchingHead),
        ],
        ids=["random", "zero", "features", "branching"],
    )
    def test_a_pair_is_equal_and_independent(self, settings: Any, kind: type) -> None:
        """Head and target start equal, changes of the head do not reach the target, and only the head is trained."""
        shape = (3, 5)
        head, target = pair_of(settings, grid_of(shape), 4)
        x = seen("branching" if kind is BranchingHead else "flat", shape, 6, 0)
        assert type(head) is type(target) is kind
        assert torch.equal(head.maximum(x), target.maximum(x))
        assert torch.equal(head.greedy(x)[1], target.greedy(x)[1])
        assert (head.maximum(x) == 0).all() == (getattr(settings, "head", None) == "zero")
        assert all(parameter.requires_grad for parameter in head.parameters())
        assert not any(parameter.requires_grad for parameter in target.parameters())
        before = target.maximum(x).clone()
        if isinstance(head, FlatHead):
            head.put(torch.arange(15), torch.full((HIDDEN + 1, 15), 3.0))
        for parameter in head.parameters():
            parameter.data += 1.0
        assert not torch.equal(head.maximum(x), before)
        assert torch.equal(target.maximum(x), before)

    def test_random_tables_depend_on_the_seed(self) -> None:
        """Equal seeds give equal tables, others different ones."""
        settings = DQNSettings(hidden_units=HIDDEN, head="random")
        tables: list[Tensor] = [pair_of(settings, grid_of((3, 5)), seed)[0].table for seed in (4, 4, 5)]  # type: ignore[attr-defined]
        assert torch.equal(tables[0], tables[1])
        assert not torch.equal(tables[0], tables[2])
