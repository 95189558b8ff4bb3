"""The quadratic bandit: the lead of the deterministic policy gradient, and its reason.

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
one would lower the last cost of all three arms alike. The lead grows with m as far as the samples suffice for the three
arms to converge; 5,000 are too few at m = 40.

The first step multiplies its noise by the level of the reward, which grows with m. The second one subtracts the level,
and uses the deterministic gradient as little: it shows how much of the lead a baseline explains.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
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
ARMS = (STOCHASTIC, ADVANTAGE, NATURAL, DETERMINISTIC)

EIGENVALUES = (0.1, 1.0)
BEST_ACTION = 4.0
START_COST = 8.8  # per dimension: 0.55 * 4^2
LARGEST_ACTION = 1e6  # where runs that diverge are stopped
SEVERAL_ORDERS = 3.0  # of magnitude: the lead to meet at the largest dimension
SAME_ACTION = 1e-6  # largest difference between arms that are the same but for rounding
SWEEP = 0  # random numbers of the sweep
REPORTED = 1  # random numbers of the reported runs
POINTS = 60  # of a drawn curve


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    dimensions: tuple[int, ...] = (1, 3, 10, 25, 50)
    """Dimensions of the action."""
    samples: int = 10_000
    """Samples of the reward in one run; an update takes 2 for each dimension."""
    stds: tuple[float, ...] = (0.01, 0.1, 0.5, 1.0, 2.0, 4.0)
    """Standard deviations of the action in the sweep."""
    rates_per_decade: int = 4
    """Number of step sizes in the sweep for each factor of ten between 0.001 and 1."""
    sweep_runs: int = 10
    """Runs with which the sweep compares its settings."""


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


def policy_gradient(arm: str, deviation: Array, reward: Array, std: float) -> Array:
    """The direction (..., m) that an arm steps in, from a - theta (..., n, m) and r(a) (..., n)."""
    # grad log pi(a) = (a - theta) / sigma^2
    score = deviation / std**2
    if arm == STOCHASTIC:
        return mean_product(score, reward)
    features = deviation if arm == DETERMINISTIC else score
    weights, bias = fit_critic(features, reward)
    if arm == ADVANTAGE:
        return mean_product(score, reward - bias[..., None])
    if arm == NATURAL:
        return weights / std**2
    return weights


def learn(
    arm: str, dimension: int, std: float, rates: Array, runs: int, stream: int, samples: int
) -> tuple[Array, Array]:
    """Costs (updates, rates, runs) of the mean action after each update, and the last mean actions (rates, runs, m).

    Runs of different step sizes, standard deviations and arms share their random numbers.
    """
    generator = np.random.default_rng([stream, dimension])
    curvature = generator.choice(EIGENVALUES, size=(runs, dimension))
    batch = 2 * dimension
    mean_action = np.zeros((len(rates), runs, dimension))
    costs = []
    for _ in range(samples // batch):
        # a = theta + sigma epsilon,  r(a) = -(a - a*)' C (a - a*)
        deviation = std * generator.standard_normal((1, runs, batch, dimension))
        action = mean_action[:, :, None] + deviation
        reward = -((action - BEST_ACTION) ** 2 @ curvature[:, :, None])[..., 0]
        # theta <- theta + alpha * gradient
        deviation = np.broadcast_to(deviation, action.shape)
        mean_action = mean_action + rates[:, None, None] * policy_gradient(arm, deviation, reward, std)
        mean_action = np.clip(mean_action, -LARGEST_ACTION, LARGEST_ACTION)
        costs.append(((mean_action - BEST_ACTION) ** 2 * curvature).sum(axis=-1))
    return np.array(costs), mean_action


def sweep(settings: Settings, arm: str, dimension: int) -> tuple[float, float]:
    """The standard deviation and the step size with the lowest mean cost at the end."""
    rates = np.logspace(-3.0, 0.0, 3 * settings.rates_per_decade + 1)
    best = (np.inf, 0.0, 0.0)
    for std in settings.stds:
        costs, _ = learn(arm, dimension, std, rates, settings.sweep_runs, SWEEP, settings.samples)
        mean_cost = costs[-1].mean(axis=-1)
        lowest = int(mean_cost.argmin())
        best = min(best, (float(mean_cost[lowest]), std, float(rates[lowest])))
    return best[1], best[2]


def cases(settings: Settings, seeds: int) -> list[Case]:
    """Each arm in each dimension, with as many runs as seeds. Raises ValueError for settings without a comparison."""
    if len(set(settings.dimensions)) < 2:
        raise ValueError(f"--dimensions: expected at least two, to compare them, got {settings.dimensions}")
    if settings.samples < 2 * max(settings.dimensions):
        raise ValueError(f"--samples: expected at least one batch of 2 for each dimension, got {settings.samples}")
    return [{"dimension": m, "arm": arm, "runs": seeds} for m in settings.dimensions for arm in ARMS]


def measure(settings: Settings, case: Case) -> Row:
    """The swept settings, the cost over the samples of each run, and the last mean actions."""
    arm = case["arm"]
    dimension = case["dimension"]
    std, rate = sweep(settings, arm, dimension)
    costs, action = learn(arm, dimension, std, np.array([rate]), case["runs"], REPORTED, settings.samples)
    updates = np.unique(np.geomspace(1, len(costs), POINTS).astype(int))
    return {
        "std": std,
        "rate": rate,
        "samples": 2 * dimension * updates,
        "cost": costs[updates - 1, 0].T,
        "action": action[0],
    }


def find(rows: list[Row], arm: str, dimension: int) -> Row:
    """The row of an arm in a dimension."""
    return next(row for row in rows if row["arm"] == arm and row["dimension"] == dimension)


def lead_in_orders(rows: list[Row], arm: str, dimension: int) -> Array:
    """log10 of the stochastic arm's last cost divided by this arm's, for each run (runs,)."""
    other = np.array(find(rows, STOCHASTIC, dimension)["cost"])[:, -1]
    own = np.array(find(rows, arm, dimension)["cost"])[:, -1]
    lead: Array = np.log10(other / own)
    return lead


def growth(settings: Settings, rows: list[Row]) -> Mean:
    """By how many orders of magnitude the deterministic lead grows while the dimension grows tenfold."""
    leads = [lead_in_orders(rows, DETERMINISTIC, m) for m in settings.dimensions]
    # The slope of a straight line through the leads, of each run.
    slopes = np.polyfit(np.log10(settings.dimensions), np.array(leads), 1)[0]
    return mean_interval(slopes)


def judge(settings: Settings, rows: list[Row]) -> Verdict:
    """The lead grows and is of several orders of magnitude; the natural step is the deterministic one."""
    largest = max(settings.dimensions)
    lead = mean_interval(lead_in_orders(rows, DETERMINISTIC, largest))
    slope = growth(settings, rows)
    difference = 0.0
    for m in settings.dimensions:
        natural = np.array(find(rows, NATURAL, m)["action"])
        deterministic = np.array(find(rows, DETERMINISTIC, m)["action"])
        difference = max(difference, float(np.abs(natural - deterministic).max()))
    holds = lead.low >= SEVERAL_ORDERS and slope.low > 0.0 and difference <= SAME_ACTION

    # The part of the lead that a baseline alone has.
    baseline = mean_interval(lead_in_orders(rows, ADVANTAGE, largest))
    explained = baseline.mean / lead.mean
    reason = "the baseline" if explained > 0.5 else "more than the baseline"
    sentence = (
        f"At m = {largest} the mean action of the deterministic gradient costs {lead} orders of magnitude less than "
        f"that of the stochastic one (published: several), and each factor of ten in m adds {slope} orders. With a "
        f"baseline the stochastic gradient leads by {baseline} orders, {100 * explained:.0f} % of that: {reason} "
        f"explains the lead. The natural gradient takes the same steps as the deterministic one (largest difference "
        f"{difference:.0e})."
    )
    return Verdict(holds, sentence)


def draw(settings: Settings, rows: list[Row], figure: Figure) -> None:
    """The cost over the samples in the largest dimension, and the last cost over the dimension."""
    left, right = figure.subplots(1, 2)
    largest = max(settings.dimensions)
    for arm, place in [(STOCHASTIC, 1), (ADVANTAGE, 2), (DETERMINISTIC, 0), (NATURAL, 3)]:
        # The natural arm lies on the deterministic one: dotted, with open markers.
        style: dict[str, Any] = {"linestyle": ":", "markerfacecolor": "none", "markersize": 8} if arm == NATURAL else {}
        row = find(rows, arm, largest)
        band(left, row["samples"], row["cost"], arm, place, **style)

        last = [np.log10(np.array(find(rows, arm, m)["cost"])[:, -1]) for m in settings.dimensions]
        interval = np.array([mean_interval(values) for values in last])
        middle = 10.0 ** interval[:, 0]
        errors = np.abs(10.0 ** interval[:, 1:].T - middle)
        shape: dict[str, Any] = {"marker": MARKERS[place], "markersize": 4, "capsize": 3, **style}
        right.errorbar(settings.dimensions, middle, errors, color=COLOURS[place], **shape)
    reference(left, START_COST * largest, f"start: 8.8 m = {START_COST * largest:g}")
    left.set_title(f"m = {largest}: median and range of the runs", fontsize=10)
    left.set_xlabel("samples of the reward")
    left.set_ylabel("cost of the mean action")
    left.legend(frameon=False, fontsize=9, loc="lower left")
    right.plot(
        settings.dimensions, START_COST * np.array(settings.dimensions), "k--", linewidth=1, label="start: 8.8 m"
    )
    right.set_title("geometric mean of the runs with 95 % interval", fontsize=10)
    right.set_xlabel("dimension m of the action")
    right.set_ylabel(f"cost after {settings.samples:,} samples")
    right.legend(frameon=False, fontsize=9, loc="lower right")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_yscale("log")
    right.set_xticks(settings.dimensions, [str(m) for m in settings.dimensions])
    right.minorticks_off()


EXPERIMENT = Experiment(
    claim=(
        "The deterministic policy gradient needs no integral over actions, and its lead over the stochastic one grows "
        "with the dimension of the action."
    ),
    settings=Settings(),
    quick=Settings(dimensions=(3, 10, 50), stds=(0.01, 1.0, 4.0), rates_per_decade=2, sweep_runs=5),
    cases=cases,
    measure=measure,
    judge=judge,
    draw=draw,
    seeds=30,
    quick_seeds=10,
    min_seeds=2,
)
