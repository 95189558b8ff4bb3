"""Seeds of environments, derived from a user's seed and a purpose: different purposes have different seeds."""

import numpy as np

TRAINING, VALIDATION, EVALUATION, LEARNING, SAMPLING = range(5)


def derived_seeds(seed: int, purpose: int, count: int) -> list[int]:
    """`count` environment seeds of 63 bits for a purpose, different for other purposes and other seeds."""
    numbers = np.random.SeedSequence((purpose, seed)).generate_state(count, np.uint64) >> np.uint64(1)
    return [int(number) for number in numbers]
