"""How much each of several arms explores, constant over the training (Horgan et al. 2018, Ape-X, arXiv:1803.00933).

The amounts are DDPG's noise in units of the largest step and DQN's epsilon; `act` of each agent draws with them.
"""

import numpy as np
from numpy.typing import NDArray


def amounts(smallest: float, largest: float, arms: int) -> NDArray[np.float64]:
    """Amounts of noise (arms, 1) from the smallest to the largest, in equal ratios; for one arm, the geometric mean."""
    if arms == 1:
        return np.array([[np.sqrt(smallest * largest)]])
    return np.geomspace(smallest, largest, arms)[:, None]
