"""Exploration of a different scale in each environment (Horgan et al. 2018, Ape-X, arXiv:1803.00933).

The scale is the standard deviation of DDPG's noise and the epsilon of Q-learning. It is constant over the training.
"""

import numpy as np
from numpy.typing import NDArray


def exploration_scales(minimum: float, maximum: float, num_envs: int) -> NDArray[np.float64]:
    """Scales (num_envs, 1) from minimum to maximum, spaced geometrically; of one environment, their geometric mean."""
    if num_envs == 1:
        return np.array([[np.sqrt(minimum * maximum)]])
    return np.geomspace(minimum, maximum, num_envs)[:, None]
