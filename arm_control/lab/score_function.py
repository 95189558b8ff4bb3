"""The score function: the gradient of an expectation, estimated from samples.

A Gaussian bandit: an action a ~ N(mu, sigma^2) has the reward r(a) = -(a - a*)^2. With d = mu - a*,

    J  =  E[r]  =  -d^2 - sigma^2,          dJ / dmu  =  -2 d,          dJ / dsigma  =  -2 sigma

The derivation of the score function, of which each line is checked here by numerical integration:

    (1)  dJ / dtheta  =  d/dtheta integral of pi(a) r(a) da       the definition
    (2)               =  integral of (dpi / dtheta) r(a) da       derivative and integral exchanged
    (3)  dpi / dtheta =  pi  d log pi / dtheta                    the log-derivative identity
    (4)  dJ / dtheta  =  integral of pi (d log pi / dtheta) r da  =  E[r d log pi / dtheta]
    (5)  E[d log pi / dtheta]  =  d/dtheta integral of pi da  =  0

Line (4) is an expectation, so that samples estimate it without the derivative of r (Williams 1992, REINFORCE):

    g  =  r(a) d log pi / dmu,              d log pi / dmu  =  (a - mu) / sigma^2
    E[g]  =  -2 d,                          Var[g]  =  d^4 / sigma^2 + 14 d^2 + 15 sigma^2

The mean of n samples has a standard error of sqrt(Var[g] / n). Where exploration is narrow (sigma far below d), the
first term of the variance is the largest: it grows as 1 / sigma^2.
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

BEST_ACTION = 2.0
MEAN = 0.0  # mu
LARGEST_BIAS = 3.0  # standard errors
SLOPE_OF_ERROR = -0.5
LARGEST_SLOPE_ERROR = 0.02
SLOPE_OF_VARIANCE = -2.0
LARGEST_VARIANCE_SLOPE_ERROR = 0.05
LARGEST_LINE_ERROR = 1e-6  # of a line of the derivation: the differences are exact to the square of their step
SIGMAS = np.geomspace(0.01, 5.0, 16)  # at which the variance is estimated
NARROW_SIGMAS = SIGMAS[0.05 * abs(MEAN - BEST_ACTION) >= SIGMAS]  # where its slope is fitted: other terms below 4 %
FEWEST_ESTIMATES = 64  # of one sample size, for a root mean square
DIFFERENCE = 1e-4  # step of central differences
SIGMA = "\N{GREEK SMALL LETTER SIGMA}"
DERIVATION = ("(1) d/dθ ∫ π r", "(2) ∫ dπ/dθ r", "(4) E[r d log π/dθ]", "(5) E[d log π/dθ]")


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    std: float = 0.5
    """Standard deviation sigma of the policy where the number of samples varies."""
    samples: int = 2**20
    """Number of samples of each seed."""
    variance_samples: int = 200_000
    """Number of samples of each seed with which the variance at one sigma is estimated."""


def reward(action: Array) -> Array:
    """r(a) = -(a - a*)^2."""
    return -((action - BEST_ACTION) ** 2)


def density(action: Array, mean: float, std: float) -> Array:
    """pi(a) of the Gaussian."""
    z = (action - mean) / std
    values: Array = np.exp(-0.5 * z * z) / (std * np.sqrt(2.0 * np.pi))
    return values


def score_of_mean(action: Array, mean: float, std: float) -> Array:
    """d log pi / dmu = (a - mu) / sigma^2."""
    return (action - mean) / std**2


def score_of_std(action: Array, mean: float, std: float) -> Array:
    """d log pi / dsigma = ((a - mu)^2 / sigma^2 - 1) / sigma."""
    return (((action - mean) / std) ** 2 - 1.0) / std


def sample_gradients(std: float, count: int, generator: np.random.Generator) -> Array:
    """Estimates g (count,) of dJ / dmu from one sample each."""
    action = generator.normal(MEAN, std, count)
    return reward(action) * score_of_mean(action, MEAN, std)


def exact_gradient() -> float:
    """dJ / dmu = -2 d."""
    return -2.0 * (MEAN - BEST_ACTION)


def exact_variance(std: Any) -> Any:
    """Var[g] = d^4 / sigma^2 + 14 d^2 + 15 sigma^2, of a number or an array."""
    d = MEAN - BEST_ACTION
    return d**4 / std**2 + 14.0 * d**2 + 15.0 * std**2


def sample_sizes(settings: Settings) -> list[int]:
    """Sizes 4, 16, 64, ... of which the samples of a seed make enough estimates."""
    sizes = []
    size = 4
    while size * FEWEST_ESTIMATES <= settings.samples:
        sizes.append(size)
        size *= 4
    return sizes


def cases(settings: Settings, seeds: int) -> list[Case]:
    """The derivation, and the sampled estimates of each seed."""
    sampled: list[Case] = [{"part": "samples", "seed": seed} for seed in range(seeds)]
    return [{"part": "derivation"}, *sampled]


def measure(settings: Settings, case: Case) -> Row:
    """Each line of the derivation, or errors and variances of estimates."""
    if case["part"] == "derivation":
        return {
            "mean": check_derivation(MEAN, settings.std, "mean", score_of_mean),
            "std": check_derivation(MEAN, settings.std, "std", score_of_std),
        }
    generator = np.random.default_rng(case["seed"])
    gradients = sample_gradients(settings.std, settings.samples, generator)
    # The root mean square, over all estimates from n samples each, of their error.
    errors = []
    for size in sample_sizes(settings):
        estimates = gradients[: settings.samples // size * size].reshape(-1, size).mean(axis=1)
        errors.append(np.sqrt(np.mean((estimates - exact_gradient()) ** 2)))
    variances = [sample_gradients(std, settings.variance_samples, generator).var() for std in SIGMAS]
    return {"estimate": gradients.mean(), "errors": errors, "variances": variances}


def check_derivation(mean: float, std: float, parameter: str, score: Callable[[Array, float, float], Array]) -> Row:
    """The values of lines (1), (2), (4) and (5), and the largest error of (3), for one parameter of the Gaussian."""
    action = np.linspace(mean - 12.0 * std, mean + 12.0 * std, 20_001)
    r = reward(action)
    h = DIFFERENCE
    more = (mean + h, std) if parameter == "mean" else (mean, std + h)
    less = (mean - h, std) if parameter == "mean" else (mean, std - h)
    pi = density(action, mean, std)
    grad_log_pi = score(action, mean, std)
    # (1) The difference of two integrals.
    line_1 = (integrate(density(action, *more) * r, action) - integrate(density(action, *less) * r, action)) / (2 * h)
    # (2) The integral of a difference.
    grad_pi = (density(action, *more) - density(action, *less)) / (2 * h)
    line_2 = integrate(grad_pi * r, action)
    # (3) The identity, at each action.
    largest_difference = np.abs(grad_pi - pi * grad_log_pi).max()
    # (4) An expectation, and (5) the same of a reward of one.
    line_4 = integrate(pi * grad_log_pi * r, action)
    line_5 = integrate(pi * grad_log_pi, action)
    return {"lines": [line_1, line_2, line_4, line_5], "identity_error": largest_difference}


def integrate(values: Array, action: Array) -> float:
    """The integral of values (n,) over actions (n,)."""
    return float(np.trapezoid(values, action))


def exact_lines(settings: Settings) -> dict[str, list[float]]:
    """The closed forms of the lines of `check_derivation`, for each parameter."""
    for_mean = exact_gradient()
    for_std = -2.0 * settings.std
    return {"mean": [for_mean, for_mean, for_mean, 0.0], "std": [for_std, for_std, for_std, 0.0]}


def line_errors(settings: Settings, derivation: Row) -> list[float]:
    """The errors of all lines of the derivation."""
    errors = []
    for parameter, exact in exact_lines(settings).items():
        checked = derivation[parameter]
        errors.extend(np.abs(np.subtract(checked["lines"], exact)).tolist())
        errors.append(checked["identity_error"])
    return errors


def log_slope(x: Any, curves: list[Any]) -> Mean:
    """The slope of log y over log x, of curves y (n,) of the same x (n,)."""
    return mean_interval([np.polyfit(np.log(x), np.log(y), 1)[0] for y in curves])


def judge(settings: Settings, rows: list[Row]) -> Verdict:
    """The estimate is unbiased, its error and its variance have their slopes, and each line of the derivation holds."""
    [derivation] = [row for row in rows if row["part"] == "derivation"]
    sampled = [row for row in rows if row["part"] == "samples"]
    line_error = max(line_errors(settings, derivation))

    estimate = mean_interval([row["estimate"] for row in sampled])
    standard_error = np.sqrt(exact_variance(settings.std) / (settings.samples * len(sampled)))
    bias = (estimate.mean - exact_gradient()) / standard_error
    error_slope = log_slope(sample_sizes(settings), [row["errors"] for row in sampled])
    variance_slope = log_slope(NARROW_SIGMAS, [row["variances"][: len(NARROW_SIGMAS)] for row in sampled])
    holds = (
        line_error < LARGEST_LINE_ERROR
        and abs(bias) < LARGEST_BIAS
        and abs(error_slope.mean - SLOPE_OF_ERROR) < LARGEST_SLOPE_ERROR
        and abs(variance_slope.mean - SLOPE_OF_VARIANCE) < LARGEST_VARIANCE_SLOPE_ERROR
    )
    sentence = (
        f"The gradient from {settings.samples * len(sampled):,} samples is {estimate} (exact: {exact_gradient():g}; "
        f"{abs(bias):.1f} standard errors apart); its error falls with the number of samples with a slope of "
        f"{error_slope} (exact: -1/2), its variance grows as sigma narrows with a slope of {variance_slope} "
        f"(exact in the limit: -2), and each line of the derivation holds within {line_error:.1g}."
    )
    return Verdict(bool(holds), sentence)


def draw(settings: Settings, rows: list[Row], figure: Figure) -> None:
    """The error over the number of samples, the variance over sigma, and the lines of the derivation."""
    [derivation] = [row for row in rows if row["part"] == "derivation"]
    sampled = [row for row in rows if row["part"] == "samples"]
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.1])

    sizes = np.array(sample_sizes(settings))
    left.plot(
        sizes,
        np.sqrt(exact_variance(settings.std) / sizes),
        "--",
        color="black",
        linewidth=1,
        label="exact: slope -1/2",
    )
    band(left, sizes, [row["errors"] for row in sampled], "sampled: median and range", 0, linestyle="", markevery=1)
    left.set_xlabel("number of samples n")
    left.set_ylabel("error of the gradient (root mean square)")
    std = np.geomspace(SIGMAS[0], SIGMAS[-1], 200)
    middle.plot(std, exact_variance(std), "--", color="black", linewidth=1, label="exact")
    limit = (MEAN - BEST_ACTION) ** 4 / std**2
    middle.plot(std, limit, ":", color=COLOURS[1], linewidth=1.5, label=f"d⁴ / {SIGMA}²: slope -2")
    sampled_variances = [row["variances"] for row in sampled]
    band(middle, SIGMAS, sampled_variances, "sampled: median and range", 0, linestyle="", markevery=1)
    middle.set_ylim(bottom=10.0)
    middle.set_xlabel(f"standard deviation of the policy, {SIGMA}")
    middle.set_ylabel("variance of the gradient of one sample")
    for axes in (left, middle):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.legend(frameon=False, fontsize=9)
    draw_derivation(settings, derivation, right)


def draw_derivation(settings: Settings, derivation: Row, axes: Axes) -> None:
    """The value of each line of the derivation, beside the closed forms."""
    for place, (parameter, exact) in enumerate(exact_lines(settings).items()):
        symbol = {"mean": "μ", "std": SIGMA}[parameter]
        reference(axes, exact[0], f"exact dJ/d{symbol} = {exact[0]:g}")
        values = derivation[parameter]["lines"]
        axes.plot(values, MARKERS[place], color=COLOURS[place], markersize=7, label=f"θ = {symbol}")
    reference(axes, 0.0, "")
    axes.set_xticks(range(len(DERIVATION)), DERIVATION, rotation=30, ha="right", fontsize=8)
    axes.set_xlim(-0.5, len(DERIVATION) - 0.5)
    axes.set_xlabel("line of the derivation")
    axes.set_ylabel("value by numerical integration")
    axes.legend(frameon=False, fontsize=9, loc="center right")


EXPERIMENT = Experiment(
    claim="Samples of the reward times the score estimate the gradient of an expectation without bias, with an error "
    "that falls as 1 / sqrt(n) and a variance that grows as 1 / sigma^2 as exploration narrows.",
    settings=Settings(),
    quick=Settings(samples=2**18, variance_samples=50_000),
    cases=cases,
    measure=measure,
    judge=judge,
    draw=draw,
    seeds=10,
    quick_seeds=5,
    min_seeds=2,
    size=(12.0, 4.2),
)
