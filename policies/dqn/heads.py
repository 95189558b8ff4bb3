"""The heads of DQN: one column of weights for each action (flat), or columns computed from angles (features)."""

import copy

from policies.common.action_grid import ActionGrid
from policies.common.heads import Head
from policies.common.memory import check_memory
from policies.dqn.feature_head import FeatureHead
from policies.dqn.flat_head import FlatHead
from policies.dqn.settings import DQNSettings

MAX_EXPORT_BYTES = 2**31 - 2**22  # protobuf's limit, minus 4 MiB for the rest of the file


def make_heads(settings: DQNSettings, grid: ActionGrid, seed: int) -> tuple[Head, Head]:
    """Create a head and its target, with the same weights.

    Raises ValueError if the head exceeds the size of an ONNX file, MemoryError if it exceeds the available memory.
    """
    hidden = settings.hidden_units
    exported = 4 * (hidden + 1) * grid.size
    if exported > MAX_EXPORT_BYTES:
        max_units = max(0, MAX_EXPORT_BYTES // (4 * grid.size) - 1)
        raise ValueError(
            f"hidden-units: {hidden} on {grid.size:,} actions make a head of {exported / 2**30:.2f} GiB, and an ONNX "
            f"file holds at most 2 (protobuf's limit): expected at most {max_units}"
        )
    if settings.head == "features":
        features = FeatureHead(grid, hidden)
        return features, copy.deepcopy(features).requires_grad_(False)
    # Allocating more would not raise an error: the process would be killed.
    check_memory(FlatHead.bytes_needed(grid, hidden), f"a head of {hidden} units for each of {grid.size:,} actions")
    random = settings.head == "random"
    head = FlatHead(grid, hidden, random=random, seed=seed)
    target = FlatHead(grid, hidden, random=random, seed=seed)
    return head, target
