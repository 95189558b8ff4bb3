"""The cost of one decision: a value function searches all actions for the best one, a policy computes it.

Three networks share two hidden layers; x is the second one's output. They differ in their output layer, for an arm of
n joints with m = 91 positions each:

    flat        a = argmax_a  w_a . x + b_a,  a = 1 ... m^n        one value for each of m^n actions
    branching   a_i = argmax_j  w_ij . x + b_ij,  j = 1 ... m      one value for each position of each joint: n m
    policy      a_i = 45 (1 + tanh(w_i . x + b_i)) degrees         one output for each joint: n

Memory and, once the output layer takes most of it, time of the flat network grow m-fold with each joint (more where the
weights leave the processor's cache), those of the others hardly: the policy's output layer grows from 1 to n outputs.
The branching network (Tavakoli et al. 2018) pays with a restriction: it can represent only values that are a sum over
the joints, Q(a) = sum_i Q_i(a_i).

A flat network for four joints has 91^4 = 68,574,961 outputs, and its float32 weights take 18 GB: it is not timed.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from arm_control.evaluation.torch_controller import one_thread
from arm_control.lab.common.drawing import COLOURS, MARKERS
from arm_control.lab.common.experiment import Case, Experiment, Row, Verdict
from arm_control.lab.common.statistics import Mean, mean_interval

KINDS = ("flat", "branching", "policy")
MOST_JOINTS = 4
RANGE_DEG = 90.0  # of each joint
STATE_SIZE = 12  # angles, speeds and goal, more or less
LARGEST_MB = 2_000.0  # of weights; a larger network is computed only
CONTROL_PERIOD_MS = 1000.0 / 30.0
BYTES = 4  # of a float32
# The slopes by which the claim is judged: of the logarithm of the time over the logarithm of the number of actions. In
# theory they are 1 and 0, up to the time that does not depend on the output layer.
LEAST_FLAT_SLOPE = 0.8
LARGEST_POLICY_SLOPE = 0.05


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    positions: int = 91
    """Number of positions of each joint."""
    hidden: int = 64
    """Number of units of each hidden layer."""
    decisions: int = 100
    """Number of decisions of each network that are timed."""


def output_size(kind: str, joints: int, positions: int) -> int:
    """The number of outputs of a network."""
    sizes: dict[str, int] = {"flat": positions**joints, "branching": positions * joints, "policy": joints}
    return sizes[kind]


def memory_mb(kind: str, joints: int, settings: Settings) -> float:
    """The memory of a network's weights and biases in MB."""
    hidden = settings.hidden
    layers = ((STATE_SIZE, hidden), (hidden, hidden), (hidden, output_size(kind, joints, settings.positions)))
    weights = sum((inputs + 1) * outputs for inputs, outputs in layers)
    return 1e-6 * BYTES * weights


def flat_action(values: Tensor, joints: int, positions: int) -> Tensor:
    """The joint angles (joints,) in degrees of the largest of all actions' values (positions^joints,)."""
    place = np.unravel_index(int(values.argmax()), (positions,) * joints)
    return torch.tensor(place) * (RANGE_DEG / (positions - 1))


def branching_action(values: Tensor, joints: int, positions: int) -> Tensor:
    """The joint angles (joints,) in degrees of the largest of each joint's values (joints * positions,)."""
    place = values.view(joints, positions).argmax(dim=1)
    return place * (RANGE_DEG / (positions - 1))


def policy_action(outputs: Tensor, joints: int, positions: int) -> Tensor:
    """The joint angles (joints,) in degrees: outputs (joints,) squashed into the range."""
    return 0.5 * RANGE_DEG * (1.0 + torch.tanh(outputs))


ACTIONS = {"flat": flat_action, "branching": branching_action, "policy": policy_action}


def make_decision(kind: str, joints: int, settings: Settings, seed: int) -> Callable[[], Tensor]:
    """One decision of a random network in a random state."""
    generator = torch.Generator().manual_seed(seed)
    hidden = nn.Sequential(
        nn.Linear(STATE_SIZE, settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, settings.hidden), nn.ReLU()
    )
    outputs = output_size(kind, joints, settings.positions)
    bound = settings.hidden**-0.5
    weight = torch.empty(outputs, settings.hidden).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(outputs).uniform_(-bound, bound, generator=generator)
    state = torch.rand(STATE_SIZE, generator=generator)

    def decide() -> Tensor:
        """From the state to joint angles in degrees."""
        x = hidden(state)
        # A product with a vector: for one state it is faster than `nn.Linear`.
        return ACTIONS[kind](torch.addmv(bias, weight, x), joints, settings.positions)

    return decide


def decision_time_ms(decide: Callable[[], Tensor], decisions: int) -> float:
    """The median time of a decision in ms: the processor's, which other programs do not lengthen."""
    decide()
    times_s = []
    for _ in range(decisions):
        begin_s = time.thread_time()
        decide()
        times_s.append(time.thread_time() - begin_s)
    return 1000.0 * median(times_s)


def cases(settings: Settings, seeds: int) -> list[Case]:
    """Each network for 1 to 4 joints, and all of that again for each seed."""
    return [
        {"kind": kind, "joints": joints, "seed": seed}
        for seed in range(seeds)
        for joints in range(1, MOST_JOINTS + 1)
        for kind in KINDS
    ]


@one_thread()
@torch.no_grad()
def measure(settings: Settings, case: Case) -> Row:
    """The memory of a network's weights, and the median time of a decision unless it would not fit."""
    kind = case["kind"]
    joints = case["joints"]
    needed_mb = memory_mb(kind, joints, settings)
    row: Row = {"memory_mb": needed_mb, "decision_ms": None}
    if needed_mb <= LARGEST_MB:
        decide = make_decision(kind, joints, settings, case["seed"])
        row["decision_ms"] = decision_time_ms(decide, settings.decisions)
    return row


def times_ms(rows: list[Row], kind: str, joints: int) -> list[float]:
    """The decision times of a network, one a seed; empty if it was not timed."""
    chosen = [row for row in rows if row["kind"] == kind and row["joints"] == joints]
    return [row["decision_ms"] for row in chosen if row["decision_ms"] is not None]


def memory_of(rows: list[Row], kind: str, joints: int) -> float:
    """The memory of a network in MB."""
    [needed_mb] = {row["memory_mb"] for row in rows if row["kind"] == kind and row["joints"] == joints}
    return float(needed_mb)


def slope(rows: list[Row], kind: str, fewer: int, more: int, positions: int) -> Mean:
    """By which power of the number of actions the decision time grows from fewer to more joints."""
    ratios = np.array(times_ms(rows, kind, more)) / np.array(times_ms(rows, kind, fewer))
    # d log time / d log actions, where actions = positions^joints
    return mean_interval(np.log(ratios) / ((more - fewer) * math.log(positions)))


def largest_timed(rows: list[Row], kind: str) -> int:
    """The largest number of joints for which a network was timed."""
    timed: list[int] = [row["joints"] for row in rows if row["kind"] == kind and row["decision_ms"] is not None]
    return max(timed)


def judge(settings: Settings, rows: list[Row]) -> Verdict:
    """The time of the flat network grows with the number of actions, that of the policy does not."""
    timed = largest_timed(rows, "flat")
    flat = slope(rows, "flat", timed - 1, timed, settings.positions)
    policy = slope(rows, "policy", 1, MOST_JOINTS, settings.positions)
    branching = slope(rows, "branching", 1, MOST_JOINTS, settings.positions)
    growth = memory_of(rows, "flat", MOST_JOINTS) / memory_of(rows, "flat", MOST_JOINTS - 1)
    holds = (
        flat.low > LEAST_FLAT_SLOPE
        and max(abs(policy.low), abs(policy.high)) < LARGEST_POLICY_SLOPE
        and abs(growth / settings.positions - 1.0) < 0.05
    )
    flat_ms = mean_interval(times_ms(rows, "flat", timed))
    policy_ms = mean_interval(times_ms(rows, "policy", timed))
    sentence = (
        f"With {timed} joints the flat network decides in {flat_ms} ms, the policy in {policy_ms} ms; decision time "
        f"grows with the number of actions to the power of {flat} for the flat network (in theory 1), {branching} for "
        f"the branching one and {policy} for the policy (in theory 0); the flat network's memory grows "
        f"{growth:.1f}-fold with the last joint, to {memory_of(rows, 'flat', MOST_JOINTS):,.0f} MB, while the policy's "
        f"is {memory_of(rows, 'policy', MOST_JOINTS):.3f} MB."
    )
    return Verdict(holds, sentence)


def draw(settings: Settings, rows: list[Row], figure: Figure) -> None:
    """Decision time and memory against the number of joints."""
    left, right = figure.subplots(1, 2)
    for place, kind in enumerate(KINDS):
        timed = largest_timed(rows, kind)
        intervals = [mean_interval(times_ms(rows, kind, joints)) for joints in range(1, timed + 1)]
        means_ms = [interval.mean for interval in intervals]
        label = f"{kind}: {output_text(kind, settings.positions)} outputs"
        draw_line(left, place, means_ms, label)
        for at, interval in enumerate(intervals):
            left.vlines(at + 1, interval.low, interval.high, color=COLOURS[place], linewidth=3, alpha=0.5)
        if timed < MOST_JOINTS:
            extrapolated_ms = means_ms[-1] * settings.positions ** (MOST_JOINTS - timed)
            draw_computed(left, place, (timed, MOST_JOINTS), (means_ms[-1], extrapolated_ms))

        memories_mb = [memory_of(rows, kind, joints) for joints in range(1, MOST_JOINTS + 1)]
        draw_line(right, place, memories_mb[:timed], label)
        if timed < MOST_JOINTS:
            draw_computed(right, place, (timed, MOST_JOINTS), (memories_mb[timed - 1], memories_mb[-1]))
    computed = f"computed: {settings.positions}-fold with a joint"
    left.plot([], [], ":", color=COLOURS[0], marker=MARKERS[0], fillstyle="none", label=computed)
    left.axhline(CONTROL_PERIOD_MS, color="black", linestyle="--", linewidth=1, label="control period at 30 Hz")
    right.axhline(LARGEST_MB, color="black", linestyle="--", linewidth=1, label=f"not timed above {LARGEST_MB:,.0f} MB")
    right.legend(handles=right.get_lines()[-1:], frameon=False, fontsize=8, loc="upper left")
    for axes, label in ((left, "time of one decision (ms)"), (right, "memory of the weights (MB)")):
        axes.set_yscale("log")
        axes.set_xticks(range(1, MOST_JOINTS + 1))
        axes.set_xlabel("number of joints n")
        axes.set_ylabel(label)
    left.legend(frameon=False, fontsize=8, loc="upper left")


def output_text(kind: str, positions: int) -> str:
    """The number of outputs for n joints."""
    return {"flat": f"{positions}^n", "branching": f"{positions} n", "policy": "n"}[kind]


def draw_line(axes: Axes, place: int, values: list[float], label: str) -> None:
    """The measured figures by number of joints, starting with one."""
    joints = range(1, len(values) + 1)
    axes.plot(joints, values, color=COLOURS[place], marker=MARKERS[place], label=label)


def draw_computed(axes: Axes, place: int, joints: tuple[int, int], values: tuple[float, float]) -> None:
    """From the last measured value to the computed one, which is hollow."""
    axes.plot(joints, values, color=COLOURS[place], linestyle=":")
    axes.plot(joints[1], values[1], color=COLOURS[place], marker=MARKERS[place], fillstyle="none", linestyle="")


EXPERIMENT = Experiment(
    claim="A value function must search all actions, 91 times as many with each joint; a policy need not.",
    settings=Settings(),
    quick=Settings(decisions=50),
    cases=cases,
    measure=measure,
    judge=judge,
    draw=draw,
    seeds=8,
    quick_seeds=3,
    min_seeds=2,
    alone=True,
)
