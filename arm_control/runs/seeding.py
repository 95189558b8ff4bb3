"""Seeds of environments: those of different purposes never meet, whatever number a person gives to each."""

import numpy as np

# Seeds of different purposes never meet, whatever number a person gives to each.
TRAINING, VALIDATION, EVALUATION, LEARNING = range(4)


def derived_seeds(seed: int, purpose: int, count: int) -> list[int]:
    """`count` environment seeds for one purpose; those of other purposes and seeds are others."""
    return [
        int(word) for word in np.random.SeedSequence((purpose, seed)).generate_state(count, np.uint64) >> np.uint64(1)
    ]
