"""Rock, paper, scissors: a deterministic policy is exploited, a stochastic one is not.

The payoff of action i against action j is A[i, j]: 1 for a win, 0 for a draw, -1 for a loss. A policy p is a
distribution over the three actions. What an opponent wins who knows p and plays the best response is its
exploitability,

    e(p)  =  max_j  -(p A)_j

which is 1 for each deterministic policy, and 0 only for p = (1/3, 1/3, 1/3) (von Neumann 1928).

Two softmax policies, p = softmax(theta) and q alike, play against each other, and each learns by the gradient of its
expected payoff J = p A q:

    dJ / dtheta_i           =  p_i ((A q)_i - p A q)        the policy gradient
    F^-1 dJ / dtheta, in i  =  (A q)_i - p A q              the natural one: F is the Fisher information (Kakade 2001)

The natural gradient is used, for which theory says what comes: the last iterate does not converge, it cycles around the
solution, and outwards (Bailey and Piliouras 2018); the average of the policies over the updates converges, since the
regret of each player grows slower than the number of updates (Freund and Schapire 1999). "Pure" plays, instead of p,
its most probable action.
"""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from arm_control.lab.common.drawing import COLOURS, band, reference
from arm_control.lab.common.experiment import Case, Experiment, Row, Verdict
from arm_control.lab.common.statistics import mean_interval

Vector = NDArray[np.float64]

#                   rock paper scissors
PAYOFF = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
LARGEST_AVERAGE = 0.02
POINTS = 400  # of a drawn curve
PATH_UPDATES = 2_000  # drawn as a path, each tenth


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    updates: int = 50_000
    """Number of policy-gradient updates."""
    learning_rate: float = 0.02
    """Step size of the logits."""


def exploitability(policy: Vector) -> float:
    """The largest payoff (1 is a win) of an opponent who knows the policy (3,)."""
    return float((-policy @ PAYOFF).max())


def softmax(logits: Vector) -> Vector:
    """exp(logits) in proportion, summing to 1."""
    weights = np.exp(logits - logits.max())
    probabilities: Vector = weights / weights.sum()
    return probabilities


def natural_gradient(policy: Vector, opponent: Vector) -> Vector:
    """F^-1 dJ / dtheta (3,) of the expected payoff J = p A q, for logits theta: (A q)_i - p A q."""
    payoff = PAYOFF @ opponent
    return payoff - policy @ payoff


def cases(settings: Settings, seeds: int) -> list[Case]:
    """One learning run a seed, from random logits."""
    return [{"seed": seed} for seed in range(seeds)]


def measure(settings: Settings, case: Case) -> Row:
    """The exploitability of the pure, the last and the average policy along the learning."""
    own_logits, other_logits = np.random.default_rng(case["seed"]).normal(size=(2, 3))
    recorded = np.unique(np.geomspace(1, settings.updates, POINTS).astype(int))
    total = np.zeros(3)
    row: Row = {"update": [], "pure": [], "last": [], "average": [], "path": []}
    for update in range(1, settings.updates + 1):
        policy = softmax(own_logits)
        opponent = softmax(other_logits)
        total += policy
        if update in recorded:
            row["update"].append(update)
            row["pure"].append(exploitability(np.eye(3)[policy.argmax()]))
            row["last"].append(exploitability(policy))
            row["average"].append(exploitability(total / update))
        if update <= PATH_UPDATES and update % 10 == 1:
            row["path"].append(policy)
        # theta <- theta + alpha F^-1 dJ / dtheta, of both players at once
        own_logits = own_logits + settings.learning_rate * natural_gradient(policy, opponent)
        other_logits = other_logits + settings.learning_rate * natural_gradient(opponent, policy)
    return row


def judge(settings: Settings, rows: list[Row]) -> Verdict:
    """A pure policy always loses, the average hardly ever does, and the last iterate does not settle."""
    pure = min(min(row["pure"]) for row in rows)
    averages = [row["average"][-1] for row in rows]
    # The last iterate, over the last tenth of the updates.
    late = []
    for row in rows:
        values = np.array(row["last"])
        late.append(values[np.array(row["update"]) > 0.9 * settings.updates].max())
    holds = pure == 1.0 and max(averages) <= LARGEST_AVERAGE and min(late) > 5 * LARGEST_AVERAGE
    sentence = (
        f"Every pure policy has an exploitability of {pure:g}, the average over learning {max(averages):.2g} at most "
        f"in {len(rows)} seeds (expected: 0.02), while the last policies cycle at up to {mean_interval(late)}."
    )
    return Verdict(holds, sentence)


def draw(settings: Settings, rows: list[Row], figure: Figure) -> None:
    """Exploitability over learning, and the policies of one run in the triangle of all policies."""
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    for place, (name, label) in enumerate(
        [("pure", "pure: most probable action"), ("last", "softmax: last policy"), ("average", "softmax: average")]
    ):
        band(left, rows[0]["update"], [row[name] for row in rows], label, place)
    reference(left, LARGEST_AVERAGE, f"{LARGEST_AVERAGE:g}")
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xlabel("policy-gradient updates")
    left.set_ylabel("exploitability (payoff of the best response)")
    left.legend(frameon=False, fontsize=9)

    # Policies as points of a triangle with the pure ones at its corners.
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])
    path = np.array(rows[0]["path"]) @ corners
    right.plot(*np.vstack([corners, corners[:1]]).T, color="black", linewidth=1)
    right.plot(*path.T, color=COLOURS[1], linewidth=0.8, label="policies of seed 0")
    right.plot(*corners.mean(axis=0), "*", color=COLOURS[0], markersize=12, label="solution (1/3, 1/3, 1/3)")
    for corner, name in zip(corners, ("rock", "paper", "scissors"), strict=True):
        right.annotate(name, corner, ha="center", va="bottom" if corner[1] else "top", fontsize=9)
    right.set_aspect("equal")
    right.set_axis_off()
    right.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(-0.2, 1.2))


EXPERIMENT = Experiment(
    claim="In rock, paper, scissors every deterministic policy is exploited; a stochastic one is not.",
    settings=Settings(),
    quick=Settings(updates=20_000),
    cases=cases,
    measure=measure,
    judge=judge,
    draw=draw,
    seeds=5,
    quick_seeds=3,
    min_seeds=2,
)
