"""On-policy samples: the score function is biased with the samples of an older policy, unless they are weighted.

A Gaussian bandit: an action a ~ N(mu, sigma^2) has the reward r(a) = 10 - (a - a*)^2. The mean follows the exact
gradient,

    mu  <-  mu + alpha dJ / dmu,        dJ / dmu  =  -2 (mu - a*)

so that the policy of k updates ago had another mean, m = mu + delta. Its actions, from a replay buffer, give for the
score of the policy of today (with e = m - a*)

    g    =  r(a) d log pi(a) / dmu,      d log pi / dmu  =  (a - mu) / sigma^2,      a ~ N(m, sigma^2)
    E[g] =  -2 e + delta ((10 - e^2) / sigma^2 - 1)

which is dJ / dmu where delta = 0. Elsewhere even the mean of the score is not zero but delta / sigma^2: an update pulls
the mean back to the old actions, the more so the larger the rewards are. Importance weights correct it,

    w(a)  =  pi(a) / pi_old(a),          E[w g]  =  dJ / dmu

as long as the old policy has tried all that the new one does, and at the price of variance: Var[w g] grows as
exp(delta^2 / sigma^2).
"""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from arm_control.lab.common.drawing import COLOURS, MARKERS
from arm_control.lab.common.experiment import Case, Experiment, Row, Verdict
from arm_control.lab.common.statistics import Mean, mean_interval

Array = NDArray[np.float64]

BEST_ACTION = 0.0
LARGEST_REWARD = 10.0
MEAN = -1.0  # mu of the policy of today
LARGEST_BIAS = 3.0  # standard errors
METHODS = ("plain", "weighted")
LABELS = {"plain": "old samples as they are", "weighted": "old samples with importance weights"}


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    ages: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Ages of the data in updates; data of the policy itself, of age 0, are always measured."""
    learning_rate: float = 0.015
    """Step size alpha of the mean."""
    std: float = 0.5
    """Standard deviation sigma of the policy."""
    samples: int = 200_000
    """Number of samples of each age and seed."""


def reward(action: Array) -> Array:
    """r(a) = 10 - (a - a*)^2."""
    return LARGEST_REWARD - (action - BEST_ACTION) ** 2


def old_mean(settings: Settings, age: int) -> float:
    """The mean of the policy so many updates ago: an update multiplies mu - a* by 1 - 2 alpha."""
    return BEST_ACTION + (MEAN - BEST_ACTION) / (1.0 - 2.0 * settings.learning_rate) ** age


def score(action: Array, std: float) -> Array:
    """d log pi / dmu = (a - mu) / sigma^2 of the policy of today."""
    return (action - MEAN) / std**2


def importance_weight(action: Array, mean: float, std: float) -> Array:
    """w(a) = pi(a) / pi_old(a), where the old policy has this mean and the same sigma."""
    weight: Array = np.exp((((action - mean) / std) ** 2 - ((action - MEAN) / std) ** 2) / 2.0)
    return weight


def exact_gradient() -> float:
    """dJ / dmu = -2 (mu - a*)."""
    return -2.0 * (MEAN - BEST_ACTION)


def exact_moments(mean: float, std: float, method: str) -> tuple[float, float]:
    """The mean and the variance of an estimate from an action of the policy with this mean.

    Gauss-Hermite quadrature with 20 nodes, which is exact for polynomials. Weights change the distribution by

        pi^2 / pi_old  =  exp(delta^2 / sigma^2) N(mu - delta, sigma^2)
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    weights = weights / weights.sum()

    def moment(power: int, center: float) -> float:
        action = center + std * nodes
        return float(weights @ (reward(action) * score(action, std)) ** power)

    if method == "plain":
        expected = moment(1, mean)
        return expected, moment(2, mean) - expected**2
    delta = mean - MEAN
    expected = moment(1, MEAN)
    return expected, np.exp((delta / std) ** 2) * moment(2, MEAN - delta) - expected**2


def all_ages(settings: Settings) -> list[int]:
    """The ages in ascending order, from 0."""
    return sorted({0, *settings.ages})


def cases(settings: Settings, seeds: int) -> list[Case]:
    """All ages for each seed."""
    return [{"seed": seed} for seed in range(seeds)]


def measure(settings: Settings, case: Case) -> Row:
    """The mean and the variance of both estimates at each age."""
    generator = np.random.default_rng(case["seed"])
    row: Row = {method: {"mean": [], "variance": []} for method in METHODS}
    for age in all_ages(settings):
        mean = old_mean(settings, age)
        action = generator.normal(mean, settings.std, settings.samples)
        gradient = reward(action) * score(action, settings.std)
        weighted = importance_weight(action, mean, settings.std) * gradient
        for method, values in (("plain", gradient), ("weighted", weighted)):
            row[method]["mean"].append(values.mean())
            row[method]["variance"].append(values.var())
    return row


def estimates(settings: Settings, rows: list[Row], method: str) -> list[Mean]:
    """The mean estimate at each age, with its interval over the seeds."""
    return [mean_interval([row[method]["mean"][at] for row in rows]) for at in range(len(all_ages(settings)))]


def errors_from(exact: list[float], settings: Settings, rows: list[Row], method: str) -> Array:
    """The distance of the estimate at each age from an exact value, in (exact) standard errors."""
    errors = []
    for age, expected, estimate in zip(all_ages(settings), exact, estimates(settings, rows, method), strict=True):
        variance = exact_moments(old_mean(settings, age), settings.std, method)[1]
        standard_error = (variance / (settings.samples * len(rows))) ** 0.5
        errors.append(abs(estimate.mean - expected) / standard_error)
    return np.array(errors)


def judge(settings: Settings, rows: list[Row]) -> Verdict:
    """Without weights only samples of the policy itself are unbiased, with them all are; their variance grows."""
    ages = all_ages(settings)
    gradient = exact_gradient()
    expected = [exact_moments(old_mean(settings, age), settings.std, "plain")[0] for age in ages]
    bias = errors_from([gradient] * len(ages), settings, rows, "plain")
    bias_of_weighted = errors_from([gradient] * len(ages), settings, rows, "weighted")
    difference_from_theory = errors_from(expected, settings, rows, "plain")
    variances = np.mean([row["weighted"]["variance"] for row in rows], axis=0)
    holds = (
        bias[0] < LARGEST_BIAS
        and (bias[1:] > LARGEST_BIAS).all()
        and (difference_from_theory < LARGEST_BIAS).all()
        and (bias_of_weighted < LARGEST_BIAS).all()
        and variances[-1] > variances[0]
    )
    plain = estimates(settings, rows, "plain")
    weighted = estimates(settings, rows, "weighted")
    sentence = (
        f"The gradient, {gradient:g}, is estimated as {plain[0]} from samples of the policy itself, as {plain[1]} from "
        f"samples {ages[1]} update old (closed form: {expected[1]:.4g}) and {plain[-1]} from those {ages[-1]} updates "
        f"old (closed form: {expected[-1]:.4g}); with importance weights it is {weighted[-1]} there, and within "
        f"{bias_of_weighted.max():.1f} standard errors of the gradient at each age, while the variance becomes "
        f"{variances[-1] / variances[0]:.1f} times as large."
    )
    return Verdict(bool(holds), sentence)


def draw(settings: Settings, rows: list[Row], figure: Figure) -> None:
    """The estimate and its variance over the age of the data, beside the closed forms."""
    left, right = figure.subplots(1, 2)
    ages = all_ages(settings)
    fine_ages = range(ages[-1] + 1)
    for place, method in enumerate(METHODS):
        exact = np.array([exact_moments(old_mean(settings, age), settings.std, method) for age in fine_ages])
        style = {"color": COLOURS[place], "linewidth": 1, "linestyle": "--"}
        left.plot(fine_ages, exact[:, 0], **style)
        right.plot(fine_ages, exact[:, 1], **style)
        marker = {
            "color": COLOURS[place],
            "marker": MARKERS[place],
            "linestyle": "",
            "markersize": 5,
            "label": LABELS[method],
        }
        low_to_high = [[m.mean - m.low, m.high - m.mean] for m in estimates(settings, rows, method)]
        means = [m.mean for m in estimates(settings, rows, method)]
        left.errorbar(ages, means, np.transpose(low_to_high), capsize=3, **marker)
        variances = [mean_interval([row[method]["variance"][at] for row in rows]) for at in range(len(ages))]
        low_to_high = [[m.mean - m.low, m.high - m.mean] for m in variances]
        right.errorbar(ages, [m.mean for m in variances], np.transpose(low_to_high), capsize=3, **marker)
    left.axhline(exact_gradient(), color="black", linewidth=1, zorder=0, label=f"gradient dJ/dμ = {exact_gradient():g}")
    right.set_yscale("log")
    left.set_ylabel("estimated gradient, and 95 % interval")
    right.set_ylabel("variance of the gradient of one sample")
    for axes in (left, right):
        finish_axes(axes)


def finish_axes(axes: Axes) -> None:
    """Label the axis of ages, and what dashed lines are."""
    axes.plot([], [], "--", color="gray", linewidth=1, label="closed form")
    axes.set_xlabel("age of the data (updates of the policy)")
    axes.legend(frameon=False, fontsize=9)


EXPERIMENT = Experiment(
    claim="The score function needs samples of the policy itself: those of an older one bias the gradient, and "
    "importance weights remove the bias at the price of variance.",
    settings=Settings(),
    quick=Settings(samples=50_000),
    cases=cases,
    measure=measure,
    judge=judge,
    draw=draw,
    seeds=20,
    quick_seeds=5,
    min_seeds=2,
    size=(10.0, 4.2),
)
