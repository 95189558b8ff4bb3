"""A small chain whose values are known exactly: states in a row, the goal behind the last one, and each step costs 1.

The action right goes one state to the right with probability 0.9, and one to the left otherwise; left alike. To the
left of the first state there is a wall. The policy is a table: the probability of going right in each state.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

STATES = 5
GOAL = STATES  # terminal
LEFT = 0
RIGHT = 1
SLIP = 0.1  # probability of moving against the action
REWARD = -1.0  # of each step
LONGEST_EPISODE = 2_000  # steps; so long one is rarer than 1e-9 for a policy that goes right half the time


def transition_probabilities() -> Array:
    """P(s' | s, a), (states, actions, states and the goal)."""
    probability = np.zeros((STATES, 2, STATES + 1))
    for state in range(STATES):
        left = max(state - 1, 0)
        right = state + 1
        probability[state, RIGHT, right] += 1.0 - SLIP
        probability[state, RIGHT, left] += SLIP
        probability[state, LEFT, left] += 1.0 - SLIP
        probability[state, LEFT, right] += SLIP
    return probability


def action_probabilities(right: Array) -> Array:
    """pi(a | s), (states, actions), from the probabilities of going right."""
    return np.stack([1.0 - right, right], axis=1)


def exact_values(right: Array, discount: float) -> tuple[Array, Array]:
    """V (states and the goal) and Q (states, actions) of a policy, by solving Bellman's linear equations."""
    probability = transition_probabilities()
    policy = action_probabilities(right)
    # V = r + gamma P_pi V,  P_pi(s' | s) = sum_a pi(a | s) P(s' | s, a)
    policy_transitions = np.einsum("sa,sat->st", policy, probability)[:, :STATES]
    value = np.zeros(STATES + 1)
    value[:STATES] = np.linalg.solve(np.eye(STATES) - discount * policy_transitions, np.full(STATES, REWARD))
    # Q = r + gamma P V
    return value, REWARD + discount * probability @ value


@dataclass(frozen=True)
class Episodes:
    """Episodes side by side, (steps, episodes); after its end an episode has steps that do not count."""

    state: NDArray[np.int64]
    action: NDArray[np.int64]
    next_state: NDArray[np.int64]
    running: NDArray[np.bool_]


def next_states(
    state: NDArray[np.int64], action: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Draw s' for states and actions (n,)."""
    goes_along = generator.random(len(state)) >= SLIP
    goes_right = (action == RIGHT) == goes_along
    moved: NDArray[np.int64] = np.where(goes_right, state + 1, np.maximum(state - 1, 0))
    return moved


def run_episodes(right: Array, start: NDArray[np.int64], generator: np.random.Generator) -> Episodes:
    """Run an episode from each start state (episodes,) until all have reached the goal."""
    probability = np.append(right, 0.0)
    state = start
    rows: list[tuple[NDArray[Any], ...]] = []
    while (state != GOAL).any() and len(rows) < LONGEST_EPISODE:
        running = state != GOAL
        action = (generator.random(len(state)) < probability[state]).astype(np.int64)
        following = np.where(running, next_states(state, action, generator), GOAL)
        rows.append((state, action, following, running))
        state = following
    states, actions, following_states, were_running = (np.array(column) for column in zip(*rows, strict=True))
    return Episodes(states, actions, following_states, were_running)
