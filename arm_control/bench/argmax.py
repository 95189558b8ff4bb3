"""The cost of one decision and one update against the number of joints, with and without an argmax over all actions.

The flat head is compared with its bounds, in turns within one run: reading all its memory once for a decision, and
PyTorch's own layers and optimiser for a batch. All on one thread, as in the runner and in training.
"""

import ctypes
import functools
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from arm_control.evaluation.torch_controller import one_thread
from arm_control.exporter.exporter import EnvironmentFacts, golden_samples, make_contract
from arm_control.exporter.graph import ExportedPolicy, trace
from arm_control.exporter.states import environment_path, random_states
from arm_control.runner import PolicyRunner
from arm_control.runs.checks import (
    MOST_ROUNDS,
    check_count,
    check_grid_step,
    check_png,
)
from arm_control.runs.config import TrainConfig
from arm_control.runs.figures import check_writable, report_figures
from arm_control.viewers.common.figures import COLOURS, finish
from envs.arm import RADIANS, Arm
from envs.degree_grid import DegreeGrid
from policies.agent import Agent, Observation, Spec, Transition
from policies.branching_dqn.settings import BranchingDQNSettings
from policies.common.action_grid import ActionGrid
from policies.ddpg.settings import DDPGSettings
from policies.dqn.flat_head import FlatHead, LazyAdam
from policies.dqn.settings import DQNSettings
from policies.registry import make_agent


@dataclass(frozen=True)
class BenchArgmax:
    """Measure the cost of a decision and an update over 91, 91 x 91 and 91 x 91 x 91 actions, and without a grid."""

    grid_step_deg: float = 1.0
    """Step of the grid in degrees."""
    rounds: int = 9
    """Number of rounds in which each operation is timed, in turns; the figures are medians."""
    save: str | None = None
    """PNG file to plot the figures to."""
    json: str | None = None
    """JSON file to write the figures to."""

    def __post_init__(self) -> None:
        check_count("rounds", self.rounds, MOST_ROUNDS)
        check_grid_step(self.grid_step_deg)
        check_png(self.save)


def run(command: BenchArgmax) -> None:
    """Print and draw the cost of decisions and updates."""
    check_writable(command.save)
    check_writable(command.json)
    figures = bench_argmax(command.grid_step_deg, command.rounds)
    if command.save is not None:
        draw(figures, Path(command.save))
    report_figures(command.json, figures, format_argmax(figures))


HIDDEN = 64
BATCH = 64
MEASURED_JOINTS = (1, 2, 3)
COMPUTED_JOINTS = 4
PLAIN_ROUNDS = 3  # of the update with PyTorch's own layers, which takes seconds
PANELS = {"decision_ms": "One decision (ms)", "update_ms": "One update (ms)", "memory_mb": "Memory to learn (MB)"}
CLEAR_PEAK = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")


@one_thread()
def bench_argmax(step_deg: float, rounds: int) -> dict[str, Any]:
    """Decision and update in ms and memory in MB of each agent, and the flat head's ratios to its bounds."""
    torch.manual_seed(0)
    limits = Arm().limits
    shape = DegreeGrid(limits.lower_deg, limits.upper_deg, step_deg).shape
    # Costs against the number of joints: measured, and for four joints computed from those of three.
    rows: list[dict[str, Any]] = []
    for joints in MEASURED_JOINTS:
        rows += agent_costs((shape * 2)[:joints], rounds)
    three_joints = rows[-3:]
    for row in three_joints:
        rows.append(four_joints(row, shape[0]))
    # The flat head of three joints, and its bounds.
    grid = ActionGrid(spec_of(shape))
    streams = stream_times(grid, step_deg, rounds)
    batch_max = batch_times(grid, rounds)
    update = update_times(grid, min(rounds, PLAIN_ROUNDS))
    stream = min(streams["sum"], streams["max"])
    return {
        "threads": torch.get_num_threads(),
        "hidden_units": HIDDEN,
        "batch": BATCH,
        "actions": grid.size,
        "head_mb": 4e-6 * (HIDDEN + 1) * grid.size,
        "agents": rows,
        "decision_ms": streams,
        "batch_maximum": batch_max,
        "update": update,
        "gpu": gpu_reason(),
        "ratios": {
            "greedy_over_stream": streams["greedy"] / stream,
            "onnx_greedy_over_stream": streams["onnx"] / stream,
            "batch_max_speedup": batch_max["addmm_ms"] / batch_max["fused_ms"],
            "batch_max_speedup_preallocated": batch_max["preallocated_ms"] / batch_max["fused_ms"],
            "update_speedup": update["plain_ms"] / update["sparse_ms"],
        },
    }


def gpu_reason() -> str:
    """The reason why GPU figures are missing."""
    if not torch.cuda.is_available():
        return f"skipped: PyTorch {torch.__version__} sees no GPU"
    return "skipped: agents learn and decide on the CPU"


def spec_of(shape: tuple[int, ...]) -> Spec:
    """The spec of an arm with a joint from 0 to 90 degrees for each number of grid positions."""
    joints = len(shape)
    return Spec(
        observation_size=4 * joints,
        goal_size=3,
        action_low=(0.0,) * joints,
        action_high=(90.0,) * joints,
        measured_columns=tuple(range(joints)),
        measured_unit=1.0 / RADIANS,
        max_step=(11.4,) * joints,
        grid_shape=shape,
    )


def agent_costs(shape: tuple[int, ...], rounds: int) -> list[dict[str, Any]]:
    """The costs of flat, branching and deterministic agents on these joints."""
    spec = spec_of(shape)
    joints = len(shape)
    # The same network and batch for all agents.
    common: dict[str, Any] = {
        "updates_per_step": 1,
        "hidden_units": HIDDEN,
        "batch_size": BATCH,
        "learning_starts": BATCH,
        "buffer_size": 1000,
    }
    agents: dict[str, tuple[Agent, int]] = {
        "flat": (make_agent("dqn", spec, DQNSettings(**common, action_repeat=1), minus_distance, 0), 1),
        "branching": (make_agent("branching-dqn", spec, BranchingDQNSettings(**common), minus_distance, 0), joints),
        "deterministic": (make_agent("ddpg", spec, DDPGSettings(**common), minus_distance, 0), joints),
    }
    # Time a decision and an update of each agent, in turns.
    generator = np.random.default_rng(0)
    work: dict[str, Callable[[], Any]] = {}
    for name, (agent, columns) in agents.items():
        agent.observe(random_transitions(spec, name, columns, generator))
        one = observations(spec, 1, generator)
        work[f"{name} decision"] = functools.partial(agent.act, one, explore=False)
        work[f"{name} update"] = functools.partial(agent.update, 0.5)
    times = in_turns(work, rounds)
    rows = []
    for name, (agent, _) in agents.items():
        row = {
            "agent": name,
            "joints": joints,
            "actions": math.prod(shape),
            "decision_ms": times[f"{name} decision"],
            "update_ms": times[f"{name} update"],
            "memory_mb": learning_mb(agent),
            "computed": False,
        }
        rows.append(row)
    return rows


def minus_distance(achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
    """A reward: minus the distance to the goal."""
    return -np.linalg.norm(achieved_goal - desired_goal, axis=-1)


def observations(spec: Spec, count: int, generator: np.random.Generator) -> Observation:
    """Random observations."""
    sizes = {"observation": spec.observation_size, "achieved_goal": spec.goal_size, "desired_goal": spec.goal_size}
    return {name: generator.random((count, size), np.float32) for name, size in sizes.items()}


def random_transitions(spec: Spec, name: str, columns: int, generator: np.random.Generator) -> Transition:
    """Random transitions, enough for an update."""
    assert spec.grid_shape is not None
    count = 4 * BATCH
    actions: Any = generator.uniform(0.0, 90.0, (count, columns)).astype(np.float32)
    if name == "flat":
        actions = generator.integers(math.prod(spec.grid_shape), size=count)
    elif name == "branching":
        actions = generator.integers(spec.grid_shape, size=(count, columns))
    first = observations(spec, count, generator)
    second = observations(spec, count, generator)
    never = np.zeros(count, np.bool_)
    return Transition(first, actions, np.zeros(count, np.float32), second, never, never)


def learning_mb(agent: Agent) -> float:
    """Memory for learning in MB."""
    policy = agent.policy()
    weights: int = sum(parameter.numel() for parameter in policy.parameters())
    weights += sum(tensor.numel() for tensor in agent.state_dict().get("critic", {}).values())
    for module in policy.modules():
        if isinstance(module, FlatHead):  # its table is a buffer, not a parameter
            weights += module.table.numel()
    # Four float32 numbers for each weight: itself, that of the target network, and two moments of Adam.
    return 4 * 4e-6 * weights


def four_joints(three: dict[str, Any], positions: int) -> dict[str, Any]:
    """The computed row of four joints: costs of the flat agent grow by a factor of `positions`, others stay equal."""
    factor = positions if three["agent"] == "flat" else 1
    row = {**three, "joints": COMPUTED_JOINTS, "actions": three["actions"] * positions, "computed": True}
    for name in ("decision_ms", "update_ms", "memory_mb"):
        row[name] = three[name] * factor
    return row


def stream_times(grid: ActionGrid, step_deg: float, rounds: int) -> dict[str, float]:
    """Median ms of one decision over the grid, in PyTorch and with the exported file, and of reading the head."""
    config = TrainConfig("dqn", DQNSettings(hidden_units=HIDDEN, head="random"), grid_step_deg=step_deg)
    arm = Arm()
    agent = make_agent("dqn", spec_of(grid.shape), config.settings, minus_distance, 0)
    policy = agent.policy()
    head = policy.head
    assert isinstance(head, FlatHead)
    read = head.table.contiguous()
    x = torch.rand(1, HIDDEN)
    # Export the untrained policy, with 16 states as golden samples.
    states = random_states(arm, 16, np.random.default_rng(0))
    states = {name: values[:16] for name, values in states.items()}
    golden = golden_samples(states, *environment_path(arm, policy, config.control, states))
    contract = make_contract(config, EnvironmentFacts(arm, 30.0), golden)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "policy.onnx"
        onnx.save_model(trace(ExportedPolicy(arm, policy, config.control), contract), file)
        runner = PolicyRunner.load(file)
    # Time a decision in both, and reading all memory of the head, which bounds it.
    one = {name: values[:1] for name, values in states.items()}
    return in_turns(
        {
            "sum": read.sum,
            "max": read.max,
            "greedy": lambda: head.greedy(x),
            "onnx": lambda: runner.infer(one),
        },
        rounds,
    )


@torch.no_grad()
def batch_times(grid: ActionGrid, rounds: int) -> dict[str, Any]:
    """Median ms of the exact maxima of a batch: with a plain layer, with preallocated output, and in blocks."""
    head = FlatHead(grid, HIDDEN, random=True, seed=0)
    x = torch.rand(BATCH, HIDDEN)
    peak_mb = peak_memory_mb(lambda: head.maximum(x))
    layer = plain_layer(head)
    weight = layer.weight.T
    bias = layer.bias
    out = torch.empty(BATCH, grid.size)
    times = in_turns(
        {
            "addmm_ms": lambda: torch.addmm(bias, x, weight).max(dim=1),
            "preallocated_ms": lambda: torch.addmm(bias, x, weight, out=out).max(dim=1),
            "fused_ms": lambda: head.maximum(x),
        },
        rounds,
    )
    difference = (head.maximum(x) - torch.addmm(bias, x, weight).amax(dim=1)).abs().max()
    return times | {"fused_peak_mb": peak_mb, "largest_difference": float(difference)}


def update_times(grid: ActionGrid, rounds: int) -> dict[str, float]:
    """Median ms of one update with `nn.Linear` and Adam, and with the flat head; the largest gradient difference."""
    # The flat head and a plain layer, with equal weights and target weights.
    head = FlatHead(grid, HIDDEN, random=True, seed=0)
    target = FlatHead(grid, HIDDEN, random=True, seed=0)
    plain = plain_layer(head)
    plain_target = plain_layer(head)
    lazy = LazyAdam(head)
    adam = torch.optim.Adam(plain.parameters(), 1e-3)
    # A batch of hidden activations, next ones, and actions.
    x = torch.rand(BATCH, HIDDEN)
    next_x = torch.rand(BATCH, HIDDEN)
    actions = torch.randint(grid.size, (BATCH,))
    positions = grid.positions(actions)
    touched = actions.unique()  # type: ignore[no-untyped-call]

    def plain_update() -> Tensor:
        """Update all rows, and return the gradient of the touched ones."""
        with torch.no_grad():
            y = plain_target(next_x).amax(dim=1)
        adam.zero_grad()
        mse_loss(plain(x).gather(1, actions[:, None])[:, 0], y).backward()  # type: ignore[no-untyped-call]
        assert plain.weight.grad is not None
        assert plain.bias.grad is not None
        gradient = torch.cat([plain.weight.grad[touched].T, plain.bias.grad[None, touched]])
        adam.step()
        return gradient

    def sparse_update() -> Tensor:
        """Update only the touched columns, and return their gradient."""
        y = target.maximum(next_x)
        gathered = head.gather(positions)
        mse_loss(head.q(x, positions, gathered), y).backward()  # type: ignore[no-untyped-call]
        gradient = gathered.columns.grad
        lazy.step(gathered, 1e-3)
        assert gradient is not None
        return gradient

    # Both give the same gradient; then time them.
    difference = float((plain_update() - sparse_update()).abs().max())
    times = in_turns({"plain_ms": plain_update, "sparse_ms": sparse_update}, rounds)
    return times | {"largest_gradient_difference": difference}


def plain_layer(head: FlatHead) -> nn.Linear:
    """The flat head as `nn.Linear`."""
    layer = nn.Linear(HIDDEN, head.grid.size, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        layer.weight.copy_(head.table[:-1].T)
        layer.bias.copy_(head.table[-1])
    return layer


def in_turns(work: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median ms of each operation, one after the other in each round, after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in work}
    # Warm up caches and lazily created buffers.
    for operation in work.values():
        operation()
    for _ in range(rounds):
        for name, operation in work.items():
            begin = time.perf_counter()
            operation()
            times[name].append(1000.0 * (time.perf_counter() - begin))
    return {name: median(values) for name, values in times.items()}


def peak_memory_mb(work: Callable[[], Any]) -> float | None:
    """The peak in MB by which an operation raises this process's memory; None where the system does not report it."""

    def kilobytes(name: str) -> int:
        """A line of the process's status, such as `VmRSS: 1234 kB`."""
        lines = STATUS.read_text(encoding="utf-8", errors="replace").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

    try:
        # Return freed memory to the system: its reuse would not be measured.
        ctypes.CDLL(None).malloc_trim(0)
        # Reset the peak, see proc(5).
        CLEAR_PEAK.write_text("5", encoding="ascii")
        before = kilobytes("VmRSS:")
        work()
        return (kilobytes("VmHWM:") - before) / 1000.0
    except (OSError, AttributeError):
        return None


def format_argmax(figures: dict[str, Any]) -> str:
    """Format the figures as Markdown tables."""
    lines = [
        f"{figures['hidden_units']} hidden units, float32, batch {figures['batch']}, one thread",
        "",
        "| joints | actions | agent | decision | update | memory |",
        "|---|---|---|---|---|---|",
    ]
    for row in figures["agents"]:
        joints = f"{row['joints']} (computed)" if row["computed"] else f"{row['joints']}"
        memory = f"{row['memory_mb']:.2f}" if row["memory_mb"] < 10 else f"{row['memory_mb']:,.0f}"
        lines.append(
            f"| {joints} | {row['actions']:,} | {row['agent']} | {row['decision_ms']:,.2f} ms | "
            f"{row['update_ms']:,.1f} ms | {memory} MB |"
        )
    decision = figures["decision_ms"]
    batch = figures["batch_maximum"]
    update = figures["update"]
    peak = "unknown" if batch["fused_peak_mb"] is None else f"{batch['fused_peak_mb']:.1f} MB"
    lines += [
        "",
        f"One decision over {figures['actions']:,} actions, a head of {figures['head_mb']:.0f} MB: "
        f"{decision['greedy']:.2f} ms, exported {decision['onnx']:.2f} ms; "
        f"reading the head: sum {decision['sum']:.2f} ms, max {decision['max']:.2f} ms.",
        f"Exact maxima of a batch: {batch['fused_ms']:.1f} ms in blocks, with {peak} more memory at most; "
        f"addmm and max {batch['addmm_ms']:.1f} ms, with preallocated output {batch['preallocated_ms']:.1f} ms.",
        f"One update of the head: {update['sparse_ms']:.1f} ms; nn.Linear and Adam {update['plain_ms']:,.0f} ms. "
        f"Gradients differ by {update['largest_gradient_difference']:.1g} at most.",
        f"GPU: {figures['gpu']}.",
        "",
    ]
    lines += [f"{name:<32} {value:6.2f}" for name, value in figures["ratios"].items()]
    return "\n".join(lines)


def draw(figures: dict[str, Any], path: Path) -> None:
    """Plot decision, update and memory against the number of joints; computed values are hollow."""
    rows = figures["agents"]
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    panels = figure.subplots(1, len(PANELS))
    for axes, (column, title) in zip(panels, PANELS.items(), strict=True):
        names = dict.fromkeys(row["agent"] for row in rows)
        for name, colour, marker in zip(names, COLOURS, "os^", strict=False):
            of_agent = [row for row in rows if row["agent"] == name]
            draw_agent(axes, of_agent, column, color=colour, marker=marker)
        axes.set_yscale("log")
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xticks(sorted({row["joints"] for row in rows}))
        axes.set_xlabel("joints (hollow: computed)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=3, frameon=False)
    finish(figure, panels, path)


def draw_agent(axes: Axes, rows: list[dict[str, Any]], column: str, *, color: str, marker: str) -> None:
    """Plot one agent: solid and filled where measured, dotted and hollow where computed."""
    measured: list[tuple[int, float]] = []
    computed: list[tuple[int, float]] = []
    for row in rows:
        points = computed if row["computed"] else measured
        points.append((row["joints"], row[column]))
    axes.plot(*zip(*measured, strict=True), color=color, marker=marker, label=rows[0]["agent"])
    axes.plot(*zip(measured[-1], *computed, strict=True), color=color, linestyle=":")
    axes.plot(*zip(*computed, strict=True), color=color, marker=marker, fillstyle="none", linestyle="")
