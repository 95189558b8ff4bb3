"""The heads of DQN, each with its target: one column of weights for each action, or columns computed from angles."""

import copy

from policies.common.action_grid import ActionGrid
from policies.common.heads import Head
from policies.common.memory import check_memory
from policies.dqn.feature_head import FeatureHead
from policies.dqn.flat_head import FlatHead
from policies.dqn.settings import DQNSettings

LARGEST_EXPORT = 2**31 - 2**22  # bytes: protobuf's limit, less room for the rest of the file


def make_heads(settings: DQNSettings, grid: ActionGrid, seed: int) -> tuple[Head, Head]:
    """A head and its target, alike.

    Raises ValueError for a head that no ONNX file can hold, MemoryError for one that the memory cannot.
    """
    hidden = settings.hidden_units
    exported = 4 * (hidden + 1) * grid.size
    if exported > LARGEST_EXPORT:
        widest = max(0, LARGEST_EXPORT // (4 * grid.size) - 1)
        raise ValueError(
            f"hidden-units: {hidden} on {grid.size:,} actions make a head of {exported / 2**30:.2f} GiB, and an ONNX "
            f"file holds at most 2 (protobuf's limit): expected at most {widest}"
        )
    if settings.head == "features":
        features = FeatureHead(grid, hidden)
        return features, copy.deepcopy(features).requires_grad_(False)
    # PyTorch itself would be killed, not refused.
    check_memory(FlatHead.bytes_needed(grid, hidden), f"a head of {hidden} units for each of {grid.size:,} actions")
    random = settings.head == "random"
    head = FlatHead(grid, hidden, random=random, seed=seed)
    target = FlatHead(grid, hidden, random=random, seed=seed)
    return head, target
