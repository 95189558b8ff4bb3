"""The degree grid: its enumeration, distances worked out by hand, and the claim."""

from typing import Any

import numpy as np
import pytest

from arm_control.lab import grid as grid_experiment
from arm_control.lab.grid import (
    EXPERIMENT,
    Settings,
    distances_deg,
    distances_mm,
    enumerate_positions,
    make_grid,
    measure_curves,
    measure_neighbours,
)
from envs.degree_grid import DegreeGrid

COARSE = Settings(step_deg=5.0, goals=1_000)  # 19^3 = 6,859 actions


def judge_all(settings: Settings) -> bool:
    """Return True if the claim holds for the enumeration and two seeds."""
    rows: list[dict[str, Any]] = []
    for case in EXPERIMENT.cases(settings, 2):
        rows.append({**case, **EXPERIMENT.measure(settings, case)})
    return EXPERIMENT.judge(settings, rows).holds


class TestEnumeration:
    """The actions in the order of `itertools.product`."""

    def test_a_small_product_by_hand(self) -> None:
        """The last joint is the fastest."""
        assert enumerate_positions((2, 3)).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]

    def test_whole_degrees_of_three_joints(self) -> None:
        """753,571 actions from (0, 0, 0) to (90, 90, 90); neighbours in angle are 8281, 91 or 1 apart in index."""
        row = measure_neighbours(1.0)
        assert row["actions"] == 753_571
        assert row["agrees"]
        assert row["head_deg"].tolist() == [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
        assert row["tail_deg"].tolist() == [[90.0, 90.0, 89.0], [90.0, 90.0, 90.0]]
        assert row["angle_neighbours_index"] == [[8281], [91], [1]]
        # The last of each 91 actions is followed by one that is 90 degrees away: 91^2 - 1 of 91^3 - 1.
        assert row["index_neighbours_deg"] == 90.0
        assert row["index_neighbours_far"] == pytest.approx(8280 / 753_570)
        # A degree about the base turns the tip by 0.45 m pi / 180 at most.
        assert row["angle_neighbours_mm"] == pytest.approx(7.85, abs=0.02)


class TestDistances:
    """Distances of actions in degrees and in millimetres."""

    def test_of_a_few_actions_by_hand(self) -> None:
        """The largest of the joints' differences, and the Euclidean distance of the tips."""
        degrees = np.array([[0.0, 0.0], [0.0, 90.0], [1.0, 0.0]])
        assert distances_deg(degrees, 1).tolist() == [90.0, 90.0]
        assert distances_deg(degrees, 2).tolist() == [1.0]
        tips_m = np.array([[0.0, 0.0, 0.0], [0.003, 0.004, 0.0], [0.003, 0.004, 0.001]])
        assert distances_mm(tips_m, 1) == pytest.approx([5.0, 1.0])

    def test_near_in_index_is_not_near_in_space(self) -> None:
        """A difference of a whole stride in index is nearer than one of half a stride."""
        row = measure_curves(5.0)
        offsets = row["index_distance"].tolist()
        half = offsets.index(9)
        whole = offsets.index(19)
        assert row["mean_mm"][whole] < 0.5 * row["mean_mm"][half]
        assert row["mean_deg"][whole] < 0.5 * row["mean_deg"][half]


class TestClaim:
    """The claim on a grid of five degrees, as it is and broken."""

    def test_holds(self) -> None:
        """Errors are those of one degree, five times."""
        assert judge_all(COARSE)

    def test_fails_when_the_first_joint_is_the_fastest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The enumeration is that of `itertools.product`, no other."""
        monkeypatch.setattr(grid_experiment, "enumerate_positions", lambda shape: enumerate_positions(shape)[:, ::-1])
        assert not judge_all(COARSE)

    def test_fails_when_angles_are_rounded_down(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Errors of rounding are twice as large as derived."""
        nearest = DegreeGrid.nearest
        monkeypatch.setattr(DegreeGrid, "nearest", lambda self, angles: nearest(self, np.asarray(angles) - 2.5))
        assert not judge_all(COARSE)

    @pytest.mark.parametrize(("step_deg", "said"), [(7.0, "divides the joint ranges"), (0.5, "at most 1,000,000")])
    def test_a_step_that_makes_no_grid_is_an_error(self, step_deg: float, said: str) -> None:
        """It is found before anything is measured."""
        with pytest.raises(ValueError, match=said):
            EXPERIMENT.cases(Settings(step_deg=step_deg), 2)

    def test_the_grid_is_that_of_the_arm(self) -> None:
        """Three joints from 0 to 90 degrees."""
        assert make_grid(1.0).shape == (91, 91, 91)
