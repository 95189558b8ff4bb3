"""The lead of the deterministic policy gradient, and its reason, on the quadratic bandit and on arms.

Silver et al. 2014, section 5.1: an action a has m dimensions, and the cost -r(a) = (a - a*)' C (a - a*), with
a* = (4, ..., 4) and the eigenvalues of C drawn from {0.1, 1}; C is diagonal here, since the noise has no direction.
Learning starts at the mean action theta = 0, whose cost is 8.8 m on average. Each update takes 2 m samples
a = theta + sigma epsilon, epsilon ~ N(0, 1), and one of four steps:

    stochastic      theta  <-  theta + alpha  mean  grad log pi(a)  r(a),        grad log pi(a) = (a - theta) / sigma^2
    with advantage  theta  <-  theta + alpha  mean  grad log pi(a)  (r(a) - b)
    natural         theta  <-  theta + alpha / sigma^2  w,      critic Q(a) = w' grad log pi(a) + b   (Kakade 2001)
    deterministic   theta  <-  theta + alpha  w,                critic Q(a) = w' (a - theta) + b      (COPDAC)

The critics are linear in the compatible features and a bias b, fitted to the batch by least squares. The residuals of
such a fit are orthogonal to its features, so that a stochastic actor-critic, with the whole Q(a) in place of r(a),
makes the first of these steps. All four have the expectation alpha dJ / dtheta = -2 alpha C (theta - a*). The last two
are the same, sample for sample: the features differ by the factor sigma^2, and so do the weights.

What is reported is the cost of the mean action, with the sigma and alpha that were best in a sweep on other random
numbers. The rewards carry no noise, so that with a critic the smallest sigma of the sweep is best, and a still smaller
one would lower the last cost of all three methods alike. The lead grows with m as far as the samples suffice for the
three methods to converge; 5,000 are too few at m = 40.

The first step multiplies its noise by the level of the reward, which grows with m. The second one subtracts the level,
and uses the deterministic gradient as little: it shows how much of the lead a baseline explains.

The same on a planar arm of m joints and equal links, with a reach of 1, whose tip is to go to a random goal. The action
is the pose, in angles that count from the link before, and the cost is the squared distance of the tip from the goal:

    tip  =  mean over k of (cos phi_k, sin phi_k),  phi_k = a_1 + ... + a_k;      -r(a)  =  |tip - goal|^2

Learning starts at a quarter of a circle, at m angles of 90 / m degrees. What is reported is the number of samples until
the tip is within 1 % of the reach, with the sigma and alpha that were fastest in the sweep.

A stochastic step from 2 m samples has a variance of about r^2 / (2 sigma^2), summed over its components, beside a
squared gradient that is proportional to m on the bandit and on the arm. On the bandit r is proportional to m, too, so
that the relative noise grows with m; on the arm r does not depend on m. So the lead need not grow there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from arm_control.lab.common.drawing import COLOURS, MARKERS, band, reference
from arm_control.lab.common.experiment import Case, Experiment, Row, Verdict
from arm_control.lab.common.statistics import Mean, mean_interval

Array = NDArray[np.float64]

STOCHASTIC = "stochastic"
ADVANTAGE = "with advantage"
NATURAL = "natural"
DETERMINISTIC = "deterministic"
METHODS = (STOCHASTIC, ADVANTAGE, NATURAL, DETERMINISTIC)
ORDER = ((STOCHASTIC, 1), (ADVANTAGE, 2), (DETERMINISTIC, 0), (NATURAL, 3))  # of drawing, with the place of the colour

BANDIT = "bandit"
ARM = "arm"

EIGENVALUES = (0.1, 1.0)
BEST_ACTION = 4.0
START_COST = 8.8  # per dimension: 0.55 * 4^2
ARM_STDS = (0.01, 0.1, 0.5)  # in radians
TIP_ERROR = 0.01  # in units of the reach
GOAL_DISTANCES = (0.3, 0.9)  # from the arm's base
GOAL_DIRECTIONS = (np.pi / 6, 5 * np.pi / 6)
LARGEST_ACTION = 1e6  # where runs that diverge are stopped
SEVERAL_ORDERS = 3.0  # of magnitude: the lead to meet at the largest dimension
SAME_ACTION = 1e-6  # largest difference between methods that are the same but for rounding
SWEEP = 0  # random numbers of the sweep
REPORTED = 1  # random numbers of the reported runs
POINTS = 60  # of a drawn curve


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    dimensions: tuple[int, ...] = (1, 3, 10, 25, 50)
    """Dimensions of the action."""
    samples: int = 10_000
    """Samples of the reward in one run on the bandit; an update takes 2 for each dimension."""
    joints: tuple[int, ...] = (3, 5, 7)
    """Numbers of joints of the arm."""
    arm_samples: int = 3_000
    """Most samples of the reward in one run on the arm."""
    arm_runs: int = 30
    """Runs on the arm, and in the sweep there, whatever the number of seeds."""
    stds: tuple[float, ...] = (0.01, 0.1, 0.5, 1.0, 2.0, 4.0)
    """Standard deviations of the action in the sweep on the bandit."""
    rates_per_decade: int = 4
    """Number of step sizes in the sweep for each factor of ten between 0.001 and 1."""
    sweep_runs: int = 10
    """Runs with which the sweep on the bandit compares its settings."""


def fit_critic(features: Array, reward: Array) -> tuple[Array, Array]:
    """Weights (..., m) and bias (...) of the least-squares fit to features (..., n, m) and rewards (..., n)."""
    # The normal equations of the centred features, in which the bias drops out.
    feature_mean = features.mean(axis=-2)
    reward_mean = reward.mean(axis=-1)
    centred = features - feature_mean[..., None, :]
    transposed = centred.swapaxes(-1, -2)
    right_side = transposed @ (reward - reward_mean[..., None])[..., None]
    weights = np.linalg.solve(transposed @ centred, right_side)[..., 0]
    bias = reward_mean - (feature_mean * weights).sum(axis=-1)
    return weights, bias


def mean_product(score: Array, reward: Array) -> Array:
    """The mean (..., m) of score (..., n, m) times reward (..., n) over the n samples."""
    mean: Array = (score * reward[..., None]).mean(axis=-2)
    return mean


def policy_gradient(method: str, deviation: Array, reward: Array, std: float) -> Array:
    """The direction (..., m) that a method steps in, from a - theta (..., n, m) and r(a) (..., n)."""
    # grad log pi(a) = (a - theta) / sigma^2
    score = deviation / std**2
    if method == STOCHASTIC:
        return mean_product(score, reward)
    features = deviation if method == DETERMINISTIC else score
    weights, bias = fit_critic(features, reward)
    if method == ADVANTAGE:
        return mean_product(score, reward - bias[..., None])
    if method == NATURAL:
        return weights / std**2
    return weights


@dataclass(frozen=True)
class Task:
    """Tasks of several runs side by side."""

    start: float
    """Each component of the first mean action."""
    cost: Callable[[Array], Array]
    """-r (..., runs, n) of actions (..., runs, n, m)."""


def make_task(name: str, dimension: int, runs: int, generator: np.random.Generator) -> Task:
    """A random bandit, or an arm with a random goal, for each run."""
    if name == BANDIT:
        curvature = generator.choice(EIGENVALUES, size=(runs, dimension, 1))
        # (a - a*)' C (a - a*)
        return Task(0.0, lambda action: ((action - BEST_ACTION) ** 2 @ curvature)[..., 0])
    distance = generator.uniform(*GOAL_DISTANCES, size=(runs, 1))
    direction = generator.uniform(*GOAL_DIRECTIONS, size=(runs, 1))
    goal = distance * np.exp(1j * direction)
    # |tip - goal|^2, with points of the plane as complex numbers
    return Task(np.pi / 2 / dimension, lambda action: np.abs(tip(action) - goal) ** 2)


def tip(action: Array) -> NDArray[np.complex128]:
    """The tip x + iy (...) of a planar arm with joint angles (..., m) and a reach of 1."""
    angle = np.cumsum(action, axis=-1)
    position: NDArray[np.complex128] = np.exp(1j * angle).mean(axis=-1)
    return position


def learn(
    task_name: str, method: str, dimension: int, std: float, rates: Array, runs: int, stream: int, samples: int
) -> tuple[Array, Array]:
    """Costs (updates, rates, runs) of the mean action after each update, and the last mean actions (rates, runs, m).

    Runs of different step sizes, standard deviations and methods share their random numbers.
    """
    generator = np.random.default_rng([stream, dimension])
    task = make_task(task_name, dimension, runs, generator)
    batch = 2 * dimension
    mean_action = np.full((len(rates), runs, dimension), task.start)
    costs = []
    for _ in range(samples // batch):
        # a = theta + sigma epsilon,  r(a)
        deviation = std * generator.standard_normal((1, runs, batch, dimension))
        action = mean_action[:, :, None] + deviation
        reward = -task.cost(action)
        # theta <- theta + alpha * gradient
        deviation = np.broadcast_to(deviation, action.shape)
        mean_action = mean_action + rates[:, None, None] * policy_gradient(method, deviation, reward, std)
        mean_action = np.clip(mean_action, -LARGEST_ACTION, LARGEST_ACTION)
        costs.append(task.cost(mean_action[:, :, None])[..., 0])
    return np.array(costs), mean_action


def samples_of(settings: Settings, task: str) -> int:
    """Samples of the reward in one run."""
    return settings.samples if task == BANDIT else settings.arm_samples


def samples_to_goal(costs: Array, dimension: int) -> Array:
    """Samples (rates, runs) until the tip is near its goal, from costs (updates, rates, runs); all of them if never."""
    is_near = costs <= TIP_ERROR**2
    updates = np.where(is_near.any(axis=0), is_near.argmax(axis=0) + 1, len(costs))
    samples: Array = 2.0 * dimension * updates
    return samples


def sweep(settings: Settings, task: str, method: str, dimension: int, runs: int) -> tuple[float, float]:
    """The standard deviation and step size with the lowest mean cost at the end or, on the arm, the fewest samples."""
    if task == BANDIT:
        rates = np.logspace(-3.0, 0.0, 3 * settings.rates_per_decade + 1)
        stds = settings.stds
    else:
        rates = np.logspace(-2.0, 0.0, 9)
        stds = ARM_STDS
    best = (np.inf, 0.0, 0.0)
    for std in stds:
        costs, _ = learn(task, method, dimension, std, rates, runs, SWEEP, samples_of(settings, task))
        score = costs[-1] if task == BANDIT else samples_to_goal(costs, dimension)
        mean_score = score.mean(axis=-1)
        lowest = int(mean_score.argmin())
        best = min(best, (float(mean_score[lowest]), std, float(rates[lowest])))
    return best[1], best[2]


def cases(settings: Settings, seeds: int) -> list[Case]:
    """Each method in each dimension of both tasks. Raises ValueError for settings without a comparison."""
    listed: list[Case] = []
    for task, name in ((BANDIT, "dimensions"), (ARM, "joints")):
        dimensions = getattr(settings, name)
        if len(set(dimensions)) < 2:
            raise ValueError(f"--{name}: expected at least two, to compare them, got {dimensions}")
        if samples_of(settings, task) < 2 * max(dimensions):
            flag = "samples" if task == BANDIT else "arm-samples"
            got = samples_of(settings, task)
            raise ValueError(f"--{flag}: expected at least one batch of 2 for each dimension, got {got}")
        # The natural method takes the steps of the deterministic one, which the bandit shows.
        methods = METHODS if task == BANDIT else (STOCHASTIC, ADVANTAGE, DETERMINISTIC)
        runs = seeds if task == BANDIT else settings.arm_runs
        for m in dimensions:
            listed += [{"task": task, "dimension": m, "method": method, "runs": runs} for method in methods]
    return listed


def measure(settings: Settings, case: Case) -> Row:
    """The swept settings, the last mean actions, and of each run the cost over the samples or those to the goal."""
    task = case["task"]
    method = case["method"]
    dimension = case["dimension"]
    sweep_runs = settings.sweep_runs if task == BANDIT else case["runs"]
    std, rate = sweep(settings, task, method, dimension, sweep_runs)
    samples = samples_of(settings, task)
    costs, action = learn(task, method, dimension, std, np.array([rate]), case["runs"], REPORTED, samples)
    row = {"std": std, "rate": rate, "action": action[0]}
    if task == ARM:
        return row | {"samples_to_goal": samples_to_goal(costs, dimension)[0]}
    updates = np.unique(np.geomspace(1, len(costs), POINTS).astype(int))
    return row | {"samples": 2 * dimension * updates, "cost": costs[updates - 1, 0].T}


def of_task(rows: list[Row], task: str) -> list[Row]:
    """The rows of the bandit or of the arm."""
    return [row for row in rows if row["task"] == task]


def find(rows: list[Row], method: str, dimension: int) -> Row:
    """The row of a method in a dimension."""
    return next(row for row in rows if row["method"] == method and row["dimension"] == dimension)


def lead_in_orders(rows: list[Row], method: str, dimension: int) -> Array:
    """log10 of the stochastic method's last cost divided by this method's, for each run (runs,)."""
    other = np.array(find(rows, STOCHASTIC, dimension)["cost"])[:, -1]
    own = np.array(find(rows, method, dimension)["cost"])[:, -1]
    lead: Array = np.log10(other / own)
    return lead


def sample_ratio(rows: list[Row], method: str, joints: int) -> Array:
    """log10 of the stochastic method's samples to the goal divided by this method's, for each run (runs,)."""
    other = np.array(find(rows, STOCHASTIC, joints)["samples_to_goal"])
    own = np.array(find(rows, method, joints)["samples_to_goal"])
    ratio: Array = np.log10(other / own)
    return ratio


def growth(leads: list[Array], dimensions: tuple[int, ...]) -> Mean:
    """By how many orders of magnitude leads, (runs,) in each dimension, grow while the dimension grows tenfold."""
    # The slope of a straight line through the leads, of each run.
    slopes = np.polyfit(np.log10(dimensions), np.array(leads), 1)[0]
    return mean_interval(slopes)


def largest_difference(rows: list[Row]) -> float:
    """The largest difference between the last mean actions of the natural and the deterministic method."""
    natural = [row["action"] for row in rows if row["method"] == NATURAL]
    deterministic = [row["action"] for row in rows if row["method"] == DETERMINISTIC]
    return max(float(np.abs(np.subtract(*pair)).max()) for pair in zip(natural, deterministic, strict=True))


def judge_arm(settings: Settings, rows: list[Row]) -> tuple[bool, str]:
    """True if the deterministic gradient needs fewer samples with each number of joints; the ratios as a sentence."""
    ratios = [sample_ratio(rows, DETERMINISTIC, m) for m in settings.joints]
    intervals = [mean_interval(ratio) for ratio in ratios]
    leads = [Mean(*(10.0**value for value in interval)) for interval in intervals]
    slope = growth(ratios, settings.joints)
    grows = "grows" if slope.low > 0.0 else "does not grow, as the level of the reward does not"
    listed = ", ".join(f"{lead} with {m} joints" for lead, m in zip(leads, settings.joints, strict=True))
    sentence = (
        f"On the arm the stochastic gradient needs more samples than the deterministic one by a factor of {listed}; "
        f"this lead {grows} (each factor of ten in the joints adds {slope} orders)"
    )
    return all(interval.low > 0.0 for interval in intervals), sentence


def judge(settings: Settings, rows: list[Row]) -> Verdict:
    """On the bandit the lead grows to several orders, and the natural step is the deterministic one; the arm's lead."""
    bandit = of_task(rows, BANDIT)
    largest = max(settings.dimensions)
    lead = mean_interval(lead_in_orders(bandit, DETERMINISTIC, largest))
    slope = growth([lead_in_orders(bandit, DETERMINISTIC, m) for m in settings.dimensions], settings.dimensions)
    difference = largest_difference(bandit)
    leads_on_arm, arm = judge_arm(settings, of_task(rows, ARM))
    holds = lead.low >= SEVERAL_ORDERS and slope.low > 0.0 and difference <= SAME_ACTION and leads_on_arm

    # The part of the lead that a baseline alone has.
    baseline = mean_interval(lead_in_orders(bandit, ADVANTAGE, largest))
    explained = baseline.mean / lead.mean
    reason = "the baseline" if explained > 0.5 else "more than the baseline"
    sentence = (
        f"At m = {largest} the mean action of the deterministic gradient costs {lead} orders of magnitude less than "
        f"that of the stochastic one (published: several), and each factor of ten in m adds {slope} orders. With a "
        f"baseline the stochastic gradient leads by {baseline} orders, {100 * explained:.0f} % of that: {reason} "
        f"explains the lead. The natural gradient takes the same steps as the deterministic one (largest difference "
        f"{difference:.0e}). {arm}."
    )
    return Verdict(holds, sentence)


def draw_over_dimension(rows: list[Row], dimensions: tuple[int, ...], axes: Axes) -> None:
    """The last cost or the samples to the goal over the dimension, for each method."""
    for method, place in ORDER:
        of_method = [row for row in rows if row["method"] == method]
        if not of_method:
            continue
        values = [row["samples_to_goal"] if row["task"] == ARM else np.array(row["cost"])[:, -1] for row in of_method]
        interval = np.array([mean_interval(np.log10(of_runs)) for of_runs in values])
        middle = 10.0 ** interval[:, 0]
        errors = np.abs(10.0 ** interval[:, 1:].T - middle)
        shape: dict[str, Any] = {"marker": MARKERS[place], "markersize": 4, "capsize": 3, **style_of(method)}
        axes.errorbar(dimensions, middle, errors, color=COLOURS[place], **shape)
    axes.set_xticks(dimensions, [str(m) for m in dimensions])


def style_of(method: str) -> dict[str, Any]:
    """The natural method lies on the deterministic one: dotted, with open markers."""
    return {"linestyle": ":", "markerfacecolor": "none", "markersize": 8} if method == NATURAL else {}


def draw(settings: Settings, rows: list[Row], figure: Figure) -> None:
    """The cost over the samples and over the dimension on the bandit, and the samples to the goal on the arm."""
    left, middle, right = figure.subplots(1, 3)
    bandit = of_task(rows, BANDIT)
    largest = max(settings.dimensions)
    for method, place in ORDER:
        row = find(bandit, method, largest)
        band(left, row["samples"], row["cost"], method, place, **style_of(method))
    reference(left, START_COST * largest, f"start: 8.8 m = {START_COST * largest:g}")
    left.set_title(f"bandit, m = {largest}: median and range", fontsize=10)
    left.set_xlabel("samples of the reward")
    left.set_ylabel("cost of the mean action")
    left.legend(frameon=False, fontsize=9, loc="lower left")

    draw_over_dimension(bandit, settings.dimensions, middle)
    start_cost = START_COST * np.array(settings.dimensions)
    middle.plot(settings.dimensions, start_cost, "k--", linewidth=1, label="start: 8.8 m")
    middle.set_title("bandit: geometric mean, 95 % interval", fontsize=10)
    middle.set_xlabel("dimension m of the action")
    middle.set_ylabel(f"cost after {settings.samples:,} samples")
    middle.legend(frameon=False, fontsize=9, loc="lower right")

    draw_over_dimension(of_task(rows, ARM), settings.joints, right)
    right.set_title("arm: geometric mean, 95 % interval", fontsize=10)
    right.set_xlabel("number of joints")
    right.set_ylabel("samples until the tip is within 1 % of the reach")
    for axes in (left, middle):
        axes.set_xscale("log")
    for axes in (left, middle, right):
        axes.set_yscale("log")
    middle.set_xticks(settings.dimensions, [str(m) for m in settings.dimensions])
    middle.minorticks_off()


EXPERIMENT = Experiment(
    claim=(
        "The deterministic policy gradient needs no integral over actions, and on the quadratic bandit its lead over "
        "the stochastic one grows with the dimension of the action."
    ),
    settings=Settings(),
    quick=Settings(dimensions=(3, 10, 50), joints=(3, 7), stds=(0.01, 1.0, 4.0), rates_per_decade=2, sweep_runs=5),
    cases=cases,
    measure=measure,
    judge=judge,
    draw=draw,
    seeds=30,
    quick_seeds=10,
    min_seeds=2,
    size=(13.0, 4.2),
)
