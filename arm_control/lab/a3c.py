"""A3C: workers that act and learn at the same time on shared parameters (Mnih et al. 2016, arXiv:1602.01783).

Speed, on the arm. The project's own `a3c` with 1, 2, 4 ... worker processes, as many as there are cores, each with its
own environments, is timed until the mean error of the arm falls to a given value. For comparison, `a2c` simulates its
environments in as many processes, but synchronously. While an A3C worker makes its steps, others update the shared
parameters; the number of these updates is the staleness of its gradient.

Stability, in a small core. A joint is to go to a goal s, drawn from -1 to 1 and held for many steps. Policy and critic
are linear in bumps phi(s), each of which covers a part of the goals:

    a  ~  N(theta' phi(s), sigma^2),    r  =  -(a - s)^2,    V(s)  =  w' phi(s)
    dtheta  =  -mean  (r - V(s)) d log pi(a | s) / dtheta,    dw  =  -mean  (r - V(s)) phi(s)

The workers take turns, so that the result is repeatable. In its turn a worker makes 5 steps towards its goal with its
copy of the parameters, applies the gradient to the shared parameters, and copies them for its next turn. One worker
alone learns about a single goal for many updates in a row; several workers have several goals. The update is one of

    shared RMSProp      g  <-  alpha g + (1 - alpha) dtheta^2,    theta  <-  theta - eta dtheta / sqrt(g + epsilon)
    separate RMSProp    the same, with a g of each worker
    momentum SGD        m  <-  alpha m + (1 - alpha) dtheta,      theta  <-  theta - eta m,  with an m of each worker

with alpha = 0.99 and learning rates eta that are drawn log-uniformly and fall linearly to zero. A learning rate is
usable if the root mean square error over all goals is small after learning. A g of one worker decays for the bumps that
its present goal does not touch; once a new goal touches them, the first steps are up to 1 / sqrt(1 - alpha) = 10 times
as large as those with a g that the other workers have kept up to date.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from arm_control.lab.common.drawing import COLOURS, MARKERS, band, reference
from arm_control.lab.common.experiment import Case, Experiment, Row, Verdict
from arm_control.lab.common.statistics import mean_interval
from arm_control.lab.common.training import train_and_evaluate
from arm_control.process.shared_work import spare_cores
from arm_control.runs.config import TrainConfig
from arm_control.viewers.common.figures import label_plainly, ticks_between
from policies.a2c.settings import A2CSettings
from policies.a3c.settings import A3CSettings

Array = NDArray[np.float64]

SHARED = "shared RMSProp"
SEPARATE = "separate RMSProp"
MOMENTUM = "momentum SGD"
ONE_WORKER = "RMSProp, 1 worker"
METHODS = (SHARED, SEPARATE, MOMENTUM, ONE_WORKER)

SPEEDUP = 1.8  # of two workers: the number to meet
PUBLISHED_SPEEDUP = 2.1  # of two threads (Mnih et al. 2016, table 2)
ENVS_PER_WORKER = 8
GOALS = 20  # held-out goals of the evaluation after a training

BUMPS = 9
WIDTH = 0.2  # of a bump
STD = 0.1  # sigma of the action
STEPS_PER_UPDATE = 5  # t_max
DECAY = 0.99  # alpha
EPSILON = 1e-5
LARGEST = 1e6  # where parameters that diverge are stopped
LOWEST_RATE = 1e-4
HIGHEST_RATE = 1.0


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    most_workers: int = 16
    """Largest number of worker processes on the arm: 1, 2, 4 ... up to the number of cores, and 2 in any case."""
    steps: int = 100_000
    """Steps of a training on the arm, those of all workers together."""
    error_mm: float = 80.0
    """Mean error of the arm whose time is compared, in millimetres."""
    learning_rate: float = 3e-4
    """Learning rate of a3c on the arm."""
    compare_a2c: bool = True
    """Also train a2c on the arm."""
    judge_times: bool = True
    """Make the speed on the arm part of the verdict; otherwise it is only shown."""
    sweeps: int = 2
    """Sweeps over the learning rates in the small core for each seed."""
    rates: int = 50
    """Number of learning rates in a sweep."""
    core_workers: int = 16
    """Number of workers in the small core."""
    updates: int = 6_400
    """Number of updates in the small core, those of all workers together."""
    hold: int = 500
    """Steps for which a worker of the small core has the same goal."""
    usable_error: float = 0.1
    """Root mean square error up to which a learning rate counts as usable; without learning it is 0.577."""


def bumps(goal: Array) -> Array:
    """phi(s), (..., BUMPS), of goals (...)."""
    centre = np.linspace(-1.0, 1.0, BUMPS)
    phi: Array = np.exp(-((goal[..., None] - centre) ** 2) / (2.0 * WIDTH**2))
    return phi


def gradient(parameters: Array, goal: float, deviation: Array) -> Array:
    """(dtheta, dw), (rates, 2, BUMPS), at parameters of this shape, from the actions' deviations (steps,) from mean."""
    phi = bumps(np.array(goal))
    mean = parameters[:, 0] @ phi
    value = parameters[:, 1] @ phi
    # A = r - V(s),  r = -(a - s)^2
    reward = -((mean[:, None] + deviation - goal) ** 2)
    advantage = reward - value[:, None]
    # dtheta = -mean A (a - mean) / sigma^2 phi,  dw = -mean A phi
    policy_slope = -(advantage * deviation).mean(axis=1) / STD**2
    value_slope = -advantage.mean(axis=1)
    slopes = np.stack([policy_slope, value_slope], axis=1)
    return slopes[..., None] * phi


def direction(method: str, statistics: Array, dtheta: Array) -> Array:
    """The update direction, to be multiplied by the learning rate; updates the statistics g or m in place."""
    if method == MOMENTUM:
        # m <- alpha m + (1 - alpha) dtheta
        statistics += (1.0 - DECAY) * (dtheta - statistics)
        return statistics
    # g <- alpha g + (1 - alpha) dtheta^2;  dtheta / sqrt(g + epsilon)
    statistics += (1.0 - DECAY) * (dtheta**2 - statistics)
    scaled: Array = dtheta / np.sqrt(statistics + EPSILON)
    return scaled


def learn(settings: Settings, method: str, rates: Array, seed: int) -> Array:
    """The root mean square error over all goals (rates,) after learning with each of the rates."""
    generator = np.random.default_rng(seed)
    workers = 1 if method == ONE_WORKER else settings.core_workers
    holders = workers if method in (SEPARATE, MOMENTUM) else 1  # of statistics
    shape = (len(rates), 2, BUMPS)
    shared = np.zeros(shape)
    copies = np.zeros((workers, *shape))
    statistics = np.zeros((holders, *shape))
    goals = generator.uniform(-1.0, 1.0, workers)
    # The workers' goals change at different times.
    updates_with_goal = max(settings.hold // STEPS_PER_UPDATE, 1)
    ages = generator.integers(updates_with_goal, size=workers)
    for update in range(settings.updates):
        worker = update % workers
        if ages[worker] == updates_with_goal:
            goals[worker] = generator.uniform(-1.0, 1.0)
            ages[worker] = 0
        ages[worker] += 1
        # The gradient is that of the worker's copy, which lacks the others' latest updates.
        deviation = STD * generator.standard_normal(STEPS_PER_UPDATE)
        dtheta = gradient(copies[worker], goals[worker], deviation)
        # It is applied to the shared parameters.
        step = direction(method, statistics[worker % holders], dtheta)
        rate = rates * (1.0 - update / settings.updates)
        shared -= rate[:, None, None] * step
        np.clip(shared, -LARGEST, LARGEST, out=shared)
        copies[worker] = shared
    goal = np.linspace(-1.0, 1.0, 101)
    error: Array = np.sqrt(((shared[:, 0] @ bumps(goal).T - goal) ** 2).mean(axis=1))
    return error


def draw_rates(settings: Settings, seed: int) -> Array:
    """Learning rates of a sweep, which all methods share, in ascending order."""
    exponent = np.random.default_rng([seed, 1]).uniform(math.log(LOWEST_RATE), math.log(HIGHEST_RATE), settings.rates)
    rates: Array = np.exp(np.sort(exponent))
    return rates


def training(settings: Settings, agent: str, workers: int, seed: int) -> TrainConfig:
    """A training of `a3c` with this number of workers, or of `a2c` with as many processes."""
    if agent == "a3c":
        own = A3CSettings(workers=workers, learning_rate=settings.learning_rate)
        return TrainConfig("a3c", own, num_envs=ENVS_PER_WORKER * workers, steps=settings.steps, seed=seed)
    return TrainConfig("a2c", A2CSettings(), processes=workers, steps=settings.steps, seed=seed)


def at_error(curve: list[dict[str, float]], error_mm: float, column: str) -> float | None:
    """The increase of a column from the first validation until the error is `error_mm`; None if it never is.

    Between two validations the logarithm of the error is taken as a straight line.
    """
    first = curve[0]
    if first["mean_error_mm"] <= error_mm:
        return 0.0
    for before, after in pairwise(curve):
        if after["mean_error_mm"] <= error_mm:
            fall = math.log(before["mean_error_mm"] / after["mean_error_mm"])
            fraction = math.log(before["mean_error_mm"] / error_mm) / fall
            return before[column] + fraction * (after[column] - before[column]) - first[column]
    return None


def cases(settings: Settings, seeds: int) -> list[Case]:
    """For each seed a training of `a3c` with each number of workers, one of `a2c`, and each method of the core."""
    # 1, 2, 4, ... workers, as many as there are cores, but at least two.
    cores = spare_cores() + 1
    counts = [1, 2]
    while 2 * counts[-1] <= min(cores, settings.most_workers):
        counts.append(2 * counts[-1])
    listed: list[Case] = []
    for seed in range(seeds):
        listed += [{"part": "arm", "agent": "a3c", "workers": workers, "seed": seed} for workers in counts]
        if settings.compare_a2c:
            listed.append({"part": "arm", "agent": "a2c", "workers": counts[-1], "seed": seed})
    for sweep in range(settings.sweeps * seeds):
        listed += [{"part": "core", "method": method, "seed": sweep} for method in METHODS]
    return listed


def measure(settings: Settings, case: Case) -> Row:
    """A training on the arm, or the errors of the core after learning with each learning rate."""
    if case["part"] == "core":
        rates = draw_rates(settings, case["seed"])
        return {"rate": rates, "error": learn(settings, case["method"], rates, case["seed"])}
    config = training(settings, case["agent"], case["workers"], case["seed"])
    result = train_and_evaluate(config, GOALS)
    curve = result["curve"]
    # From the first update on: the processes have started then.
    columns = {name: np.array([row[name] for row in curve]) for name in ("step", "elapsed_s", "mean_error_mm")}
    trained_s = columns["elapsed_s"] - columns["elapsed_s"][0]
    trained_steps = columns["step"] - columns["step"][0]
    return {
        "cores": spare_cores() + 1,
        "seconds_to_error": at_error(curve, settings.error_mm, "elapsed_s"),
        "steps_to_error": at_error(curve, settings.error_mm, "step"),
        "steps_per_second": trained_steps[-1] / trained_s[-1],
        "trained_s": trained_s,
        "curve_mm": columns["mean_error_mm"],
        "staleness": [row.get("staleness", 0) for row in curve],
        "error_mm": result["error_mm"],
    }


def select(rows: list[Row], **wanted: Any) -> list[Row]:
    """The rows with these parameters, ordered by seed."""
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def worker_counts(rows: list[Row]) -> list[int]:
    """The numbers of workers that trained on the arm."""
    return sorted({row["workers"] for row in select(rows, agent="a3c")})


def ratios(rows: list[Row], workers: int, column: str) -> Array:
    """A column of one worker divided by that of several, for each seed. The column must have no None."""
    alone = np.array([row[column] for row in select(rows, agent="a3c", workers=1)])
    together = np.array([row[column] for row in select(rows, agent="a3c", workers=workers)])
    quotient: Array = alone / together
    return quotient


def judge_speed(settings: Settings, rows: list[Row]) -> tuple[bool, str]:
    """Judge the speed-up of two workers against the required one, and report it as a clause."""
    error = f"{settings.error_mm:g} mm"
    trainings = select(rows, agent="a3c")
    missed = sum(row["seconds_to_error"] is None for row in trainings)
    if missed:
        clause = f"{missed} of {len(trainings)} trainings of a3c do not reach {error}"
        return not settings.judge_times, clause
    # Time to the error, and its two factors.
    two = mean_interval(ratios(rows, 2, "seconds_to_error"))
    throughput = mean_interval(1.0 / ratios(rows, 2, "steps_per_second"))
    steps = mean_interval(1.0 / ratios(rows, 2, "steps_to_error"))
    staleness = np.mean([row["staleness"] for row in select(rows, agent="a3c", workers=2)])
    cores = trainings[0]["cores"]
    clause = (
        f"On {cores} core{'s' * (cores > 1)} two workers reach {error} {two} times as fast as one (expected: "
        f"{SPEEDUP}; published for two threads: {PUBLISHED_SPEEDUP}), with {throughput} times the steps per second "
        f"and {steps} times the steps, at a mean staleness of {staleness:.2f}"
    )
    for workers in worker_counts(rows)[2:]:
        clause += f"; {workers} workers {mean_interval(ratios(rows, workers, 'seconds_to_error'))} times as fast"
    clause += compare_a2c(rows, error)
    if not settings.judge_times:
        return True, clause + "; such short times are shown, but not judged"
    return bool(two.mean >= SPEEDUP and two.low > 1.0), clause


def compare_a2c(rows: list[Row], error: str) -> str:
    """The seconds to the error of a2c and of a3c with as many processes, as a clause; nothing without a2c."""
    rivals = select(rows, agent="a2c")
    if not rivals:
        return ""
    processes = rivals[0]["workers"]
    own = mean_interval([row["seconds_to_error"] for row in select(rows, agent="a3c", workers=processes)])
    missed = sum(row["seconds_to_error"] is None for row in rivals)
    if missed:
        return f"; {missed} of {len(rivals)} trainings of a2c do not reach {error}"
    other = mean_interval([row["seconds_to_error"] for row in rivals])
    return f"; with {processes} processes a3c takes {own} s, a2c {other} s"


def usable(settings: Settings, rows: list[Row], method: str) -> Array:
    """The percentage of learning rates with a small error, of each sweep."""
    return np.array(
        [100.0 * np.mean(np.array(row["error"]) <= settings.usable_error) for row in select(rows, method=method)]
    )


def judge_stability(settings: Settings, rows: list[Row]) -> tuple[bool, str]:
    """Judge whether shared statistics and several workers have more usable learning rates; report them as a clause."""
    percent = {method: usable(settings, rows, method) for method in METHODS}
    gains = [mean_interval(percent[SHARED] - percent[method]) for method in METHODS if method != SHARED]
    # The error at the best learning rate.
    lowest = {method: np.array([min(row["error"]) for row in select(rows, method=method)]) for method in METHODS}
    ratio = mean_interval(lowest[ONE_WORKER] / lowest[SHARED])
    least = min(gain.low for gain in gains)
    holds = least > 0.0 and ratio.low > 1.0
    clause = (
        f"of {settings.rates} learning rates {mean_interval(percent[SHARED])} % are usable with shared RMSProp "
        f"statistics, {mean_interval(percent[SEPARATE])} % with separate ones, {mean_interval(percent[MOMENTUM])} % "
        f"with momentum SGD, and {mean_interval(percent[ONE_WORKER])} % with one worker (95 % limit of differences, "
        f"sweep by sweep: {least:.1f} points), whose error at its best rate is {ratio} times that of "
        f"{settings.core_workers}"
    )
    return holds, clause


def judge(settings: Settings, rows: list[Row]) -> Verdict:
    """Two workers are faster by the number to meet; several workers with shared statistics are the most stable."""
    is_fast, speed = judge_speed(settings, rows)
    is_stable, stability = judge_stability(settings, rows)
    untested = "faster than many GPU methods is untested, without a GPU"
    return Verdict(is_fast and is_stable, f"{speed}. In the small core, {stability}; {untested}.")


def on_grid(grid: Array, x: Array, y: Array) -> Array:
    """Interpolate positive values at a grid, by their logarithm."""
    values: Array = np.exp(np.interp(grid, x, np.log(y)))
    return values


def draw_speed(settings: Settings, rows: list[Row], axes: Axes) -> None:
    """The error over the time of training."""
    counts = worker_counts(rows)
    shown = [(f"a3c, {count} worker{'s' * (count > 1)}", select(rows, agent="a3c", workers=count)) for count in counts]
    rivals = select(rows, agent="a2c")
    if rivals:
        shown.append((f"a2c, {counts[-1]} processes", rivals))
    for place, (label, trainings) in enumerate(shown):
        end_s = min(row["trained_s"][-1] for row in trainings)
        seconds = np.linspace(0.0, end_s, 50)
        lines = [on_grid(seconds, row["trained_s"], row["curve_mm"]) for row in trainings]
        band(axes, seconds, lines, label, place)
    reference(axes, settings.error_mm, f"{settings.error_mm:g} mm")
    axes.set_yscale("log")
    label_plainly(axes.yaxis)
    axes.set_yticks(ticks_between(*axes.get_ylim()))
    axes.set_title("arm: median and range", fontsize=10)
    axes.set_xlabel("time since the first update in s")
    axes.set_ylabel("mean error in mm")
    axes.legend(frameon=False, fontsize=8)


def draw_staleness(rows: list[Row], axes: Axes) -> None:
    """Draw the distribution of the staleness: updates by others between a worker's copy and its own update."""
    for place, count in enumerate(worker_counts(rows)):
        staleness = np.concatenate([row["staleness"] for row in select(rows, agent="a3c", workers=count)])
        fraction = np.bincount(staleness.astype(int)) / len(staleness)
        label = f"{count} worker{'s' * (count > 1)}: mean {staleness.mean():.2f}"
        axes.plot(fraction, marker=MARKERS[place % len(MARKERS)], color=COLOURS[place % len(COLOURS)], label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("arm: staleness", fontsize=10)
    axes.set_xlabel("updates by others since a worker's copy")
    axes.set_ylabel("fraction of updates")
    axes.set_ylim(bottom=0.0)
    axes.legend(frameon=False, fontsize=8)


def draw_stability(settings: Settings, rows: list[Row], axes: Axes) -> None:
    """The error of the small core over the learning rate."""
    grid = np.geomspace(1.5 * LOWEST_RATE, HIGHEST_RATE / 1.5, 60)
    for place, method in enumerate(METHODS):
        sweeps = select(rows, method=method)
        lines = [on_grid(np.log(grid), np.log(row["rate"]), np.array(row["error"])) for row in sweeps]
        label = method if method == ONE_WORKER else f"{method}, {settings.core_workers} workers"
        band(axes, grid, list(np.percentile(lines, (25, 50, 75), axis=0)), label, place)
    reference(axes, settings.usable_error, "usable")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(0.01, 3.0)
    axes.set_title("small core: median and quartiles", fontsize=10)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("root mean square error")
    axes.legend(frameon=False, fontsize=8)


def draw(settings: Settings, rows: list[Row], figure: Figure) -> None:
    """The error on the arm over time, the staleness of updates, and the error of the core over the learning rate."""
    left, middle, right = figure.subplots(1, 3)
    draw_speed(settings, rows, left)
    draw_staleness(rows, middle)
    draw_stability(settings, rows, right)


EXPERIMENT = Experiment(
    claim=(
        "Parallel actors with shared RMSProp statistics stabilise on-policy learning, and speed it up on a multi-core "
        "CPU."
    ),
    settings=Settings(),
    quick=Settings(
        steps=16_000,
        error_mm=200.0,
        learning_rate=1e-3,
        compare_a2c=False,
        judge_times=False,
        sweeps=4,
        updates=3_200,
    ),
    cases=cases,
    measure=measure,
    judge=judge,
    draw=draw,
    seeds=8,
    quick_seeds=2,
    min_seeds=2,
    alone=True,
    size=(13.0, 4.2),
)
