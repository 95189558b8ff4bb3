"""Changed copies of policy files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from arm_control.policy_file.contract import METADATA_KEY


def tampered(policy: Path, folder: Path, edit: Callable[[onnx.ModelProto], None]) -> Path:
    """A copy of a policy file after an edit of its model."""
    model = onnx.load_model(policy)
    assert [entry.key for entry in model.metadata_props] == [METADATA_KEY]
    edit(model)
    path = folder / "tampered.onnx"
    onnx.save_model(model, path)
    return path


def with_contract(policy: Path, folder: Path, change: Callable[[Any], None]) -> Path:
    """A copy of a policy file after a change of its contract's JSON."""

    def edit(model: onnx.ModelProto) -> None:
        contract = json.loads(model.metadata_props[0].value)
        change(contract)
        model.metadata_props[0].value = json.dumps(contract)

    return tampered(policy, folder, edit)
