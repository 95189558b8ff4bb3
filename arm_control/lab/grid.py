"""The degree grid: what a value function has to search when the angles of an arm are cut into steps.

A joint from 0 to 90 degrees in whole degrees has 91 positions, three joints have 91^3 = 753,571 actions. They are
numbered as `itertools.product` lists them, the last joint fastest:

    index(j1, j2, j3)  =  91^2 j1 + 91 j2 + j3

A network with one output an action knows only this number. It says little about where the arm goes: actions one degree
apart are 8,281, 91 or 1 apart in index, and where j3 goes from 90 back to 0, successive actions are 90 degrees apart.

The grid costs accuracy, too: for a goal that the tip can reach exactly, the nearest of all grid poses misses it by some
millimetres, and rounding the angles of the exact pose by more. Both errors are proportional to the step.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from arm_control.evaluation.grid_floor import grid_floor
from arm_control.lab.common.drawing import COLOURS, MARKERS
from arm_control.lab.common.experiment import Case, Experiment, Row, Verdict
from arm_control.lab.common.statistics import mean_interval
from envs.arm import Arm
from envs.degree_grid import DegreeGrid

Array = NDArray[np.float64]

# The expected errors of a grid of one degree, in mm, as derived for an arm of 0.25 + 0.2 m from 2,000 goals.
EXPECTED_MM = {"rounding_mean": 2.65, "rounding_worst": 6.1, "best_mean": 1.98, "best_worst": 4.1}
EXPECTED_PRECISION = 0.03  # relative: about three standard errors of a mean over 2,000 goals
RANGE_DEG = 90.0  # of each joint
LARGEST_GRID = 1_000_000  # actions, all of which are in memory
ERRORS = {"mean": "mean", "p95": "95 % below", "worst": "worst"}
POINTS = 1_500  # of the curves over the distance in index
START_STRIDE = 101  # pairs start at each 101st action; coprime to 91, so that all positions of each joint occur


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    step_deg: float = 1.0
    """Step of the grid in degrees; it must divide 90."""
    goals: int = 10_000
    """Number of random reachable goals of each seed."""


def make_grid(step_deg: float) -> DegreeGrid:
    """The grid of the project's three-joint arm."""
    limits = Arm().limits
    return DegreeGrid(limits.lower_deg, limits.upper_deg, step_deg)


def enumerate_positions(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """All positions (actions, joints) of a grid of this shape in the order of `itertools.product`."""
    product = itertools.product(*map(range, shape))
    count = int(np.prod(shape)) * len(shape)
    numbers = np.fromiter(itertools.chain.from_iterable(product), np.int64, count)
    return numbers.reshape(-1, len(shape))


def distances_deg(degrees: Array, index_distance: int) -> Array:
    """The largest difference (pairs,) of a joint's angle between actions (actions, joints) this far apart in index."""
    largest: Array = np.abs(degrees[index_distance:] - degrees[:-index_distance]).max(axis=-1)
    return largest


def distances_mm(tips_m: Array, index_distance: int) -> Array:
    """The distance (pairs,) between the tips (actions, 3) of actions this far apart in index."""
    apart_m: Array = np.linalg.norm(tips_m[index_distance:] - tips_m[:-index_distance], axis=-1)
    return 1000.0 * apart_m


def cases(settings: Settings, seeds: int) -> list[Case]:
    """The enumeration, and the accuracy of the grid with random goals of each seed."""
    size = make_grid(settings.step_deg).size
    if size > LARGEST_GRID:
        raise ValueError(f"--step-deg: expected a grid of at most {LARGEST_GRID:,} actions, got {size:,}")
    floors: list[Case] = [{"part": "floor", "seed": seed} for seed in range(seeds)]
    return [{"part": "index"}, *floors]


def measure(settings: Settings, case: Case) -> Row:
    """The enumeration and its distances, or the errors of the grid in mm."""
    if case["part"] == "floor":
        return grid_floor(settings.goals, case["seed"], settings.step_deg)
    return {**measure_neighbours(settings.step_deg), **measure_curves(settings.step_deg)}


def measure_neighbours(step_deg: float) -> Row:
    """The enumeration's head and tail, and how far neighbours in angle and neighbours in index are apart."""
    grid = make_grid(step_deg)
    positions = enumerate_positions(grid.shape)
    indices = np.arange(grid.size)
    agrees = np.array_equal(grid.positions(indices), positions) and np.array_equal(grid.index(positions), indices)
    degrees = grid.degrees(positions)
    tips_m = Arm().forward_kinematics(degrees)

    # Neighbours in angle: one joint moves by one step, from each position but its last.
    index_distances = []
    largest_mm = 0.0
    for joint in range(len(grid.shape)):
        movable = positions[positions[:, joint] < grid.shape[joint] - 1]
        moved = movable.copy()
        moved[:, joint] += 1
        before = grid.index(movable)
        after = grid.index(moved)
        index_distances.append(sorted(set((after - before).tolist())))
        largest_mm = max(largest_mm, 1000.0 * float(np.linalg.norm(tips_m[after] - tips_m[before], axis=-1).max()))

    # Neighbours in index: each action and the next one.
    next_deg = distances_deg(degrees, 1)
    return {
        "actions": grid.size,
        "agrees": agrees,
        "head_deg": degrees[:2],
        "tail_deg": degrees[-2:],
        "angle_neighbours_index": index_distances,
        "angle_neighbours_mm": largest_mm,
        "index_neighbours_deg": next_deg.max(),
        "index_neighbours_far": float((next_deg == RANGE_DEG).mean()),
        "index_neighbours_mm": distances_mm(tips_m, 1).max(),
    }


def measure_curves(step_deg: float) -> Row:
    """Mean distance in degrees and in mm of pairs of actions against their distance in index."""
    grid = make_grid(step_deg)
    # Multiples of the strides, such as 91 and 8,281, are where pairs are close again.
    stride = grid.shape[-1]
    chosen = [np.geomspace(1, grid.size // 2, POINTS), stride * np.arange(1, stride), stride**2 * np.arange(1, stride)]
    offsets = np.unique(np.concatenate(chosen).astype(np.int64))
    offsets = offsets[offsets <= grid.size // 2]
    arm = Arm()
    row: Row = {"index_distance": offsets, "mean_deg": [], "mean_mm": []}
    for offset in offsets:
        start = np.arange(0, grid.size - offset, START_STRIDE)
        first_deg = grid.degrees(grid.positions(start))
        second_deg = grid.degrees(grid.positions(start + offset))
        apart_m = arm.forward_kinematics(second_deg) - arm.forward_kinematics(first_deg)
        row["mean_deg"].append(np.abs(second_deg - first_deg).max(axis=-1).mean())
        row["mean_mm"].append(1000.0 * np.linalg.norm(apart_m, axis=-1).mean())
    return row


def judge(settings: Settings, rows: list[Row]) -> Verdict:
    """The enumeration is the product, its numbers do not say what is near, and it misses goals as derived."""
    [index] = [row for row in rows if row["part"] == "index"]
    floors = [row for row in rows if row["part"] == "floor"]
    shape = make_grid(settings.step_deg).shape
    strides = [[shape[1] * shape[2]], [shape[2]], [1]]
    enumerated = index["agrees"] and index["actions"] == round(RANGE_DEG / settings.step_deg + 1) ** 3
    strangers = index["angle_neighbours_index"] == strides and index["index_neighbours_deg"] == RANGE_DEG
    rounding = mean_interval([row["rounding_mean_mm"] for row in floors])
    best = mean_interval([row["best_mean_mm"] for row in floors])
    # Errors are proportional to the step, up to effects of the second order.
    expected_rounding = EXPECTED_MM["rounding_mean"] * settings.step_deg
    expected_best = EXPECTED_MM["best_mean"] * settings.step_deg
    as_derived = (
        abs(rounding.mean / expected_rounding - 1.0) < EXPECTED_PRECISION
        and abs(best.mean / expected_best - 1.0) < EXPECTED_PRECISION
    )
    head = ", ".join(text_of(action) for action in index["head_deg"])
    tail = ", ".join(text_of(action) for action in index["tail_deg"])
    sentence = (
        f"The enumeration has {index['actions']:,} actions, {head} ... {tail}; neighbours in angle, up to "
        f"{index['angle_neighbours_mm']:.1f} mm apart, are {strides[0][0]:,}, {strides[1][0]} or 1 apart in index, "
        f"while {index['index_neighbours_far']:.1%} of neighbours in index are {index['index_neighbours_deg']:.0f} "
        f"degrees and up to {index['index_neighbours_mm']:.0f} mm apart; the best action misses a goal by {best} mm "
        f"(derived: {expected_best:.2f}), the rounded pose by {rounding} mm (derived: {expected_rounding:.2f})."
    )
    return Verdict(bool(enumerated and strangers and as_derived), sentence)


def text_of(action_deg: list[float]) -> str:
    """An action, such as (0, 0, 1)."""
    return "(" + ", ".join(f"{angle:g}" for angle in action_deg) + ")"


def draw(settings: Settings, rows: list[Row], figure: Figure) -> None:
    """Distance in millimetres and degrees against distance in index, and the errors of the grid."""
    [index] = [row for row in rows if row["part"] == "index"]
    floors = [row for row in rows if row["part"] == "floor"]
    panels = figure.subplot_mosaic([["mm", "floor"], ["deg", "floor"]], width_ratios=[2, 1])
    grid = make_grid(settings.step_deg)
    strides = (grid.shape[2], grid.shape[1] * grid.shape[2])
    labels = {"mm": "distance of the tips\n(mean, mm)", "deg": "largest joint difference\n(mean, degrees)"}
    for name, label in labels.items():
        axes = panels[name]
        axes.plot(index["index_distance"], index[f"mean_{name}"], color=COLOURS[0], linewidth=0.8)
        for joint, stride in zip((2, 1), strides, strict=True):
            at = index["index_distance"].index(stride)
            axes.plot(
                stride,
                index[f"mean_{name}"][at],
                MARKERS[joint],
                color=COLOURS[joint],
                label=f"one step of joint {joint}: index + {stride:,}",
            )
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_ylabel(label)
        axes.set_xlabel("distance in index of two actions")
    panels["mm"].legend(frameon=False, fontsize=8, loc="upper left")

    axes = panels["floor"]
    for place, (kind, label) in enumerate((("rounding", "exact pose, rounded"), ("best", "best grid action"))):
        for row in floors:
            values = [row[f"{kind}_{name}_mm"] for name in ERRORS]
            axes.plot(range(len(values)), values, MARKERS[place], color=COLOURS[place], alpha=0.6, label=label)
            label = "_"  # one entry in the legend
        for at, name in enumerate(ERRORS):
            if f"{kind}_{name}" in EXPECTED_MM:
                expected = EXPECTED_MM[f"{kind}_{name}"] * settings.step_deg
                axes.hlines(expected, at - 0.3, at + 0.3, color="black", linestyle="--", linewidth=1)
    axes.plot([], [], "--", color="black", linewidth=1, label="derived")
    axes.set_xticks(range(len(ERRORS)), list(ERRORS.values()))
    axes.set_xlim(-0.5, len(ERRORS) - 0.5)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("statistic over the goals")
    axes.set_ylabel("distance of the grid to the goal (mm)")
    axes.legend(frameon=False, fontsize=8, loc="upper left")


EXPERIMENT = Experiment(
    claim="Three joints in whole degrees make 753,571 actions, and neighbours in angle are strangers in index.",
    settings=Settings(),
    quick=Settings(goals=2_000),
    cases=cases,
    measure=measure,
    judge=judge,
    draw=draw,
    seeds=5,
    quick_seeds=3,
    min_seeds=2,
    size=(10.0, 4.6),
)
