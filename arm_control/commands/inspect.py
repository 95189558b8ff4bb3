"""`arm-control inspect POLICY`: print the contract of a policy file."""

from dataclasses import dataclass

import tyro


@dataclass(frozen=True)
class Inspect:
    """Print the contract of an exported policy, after re-running its golden samples."""

    policy: tyro.conf.Positional[str]
    """ONNX file."""


def run(command: Inspect) -> None:
    """Print the contract."""
    from arm_control.runner.description import describe

    print(describe(command.policy))
