"""`arm-control inspect POLICY`: print the contract of a policy file."""

from dataclasses import dataclass

import tyro


@dataclass(frozen=True)
class Inspect:
    """Print what an exported policy promises, after re-running its golden samples."""

    policy: tyro.conf.Positional[str]
    """The ONNX file."""


def run(command: Inspect) -> None:
    """Print the contract."""
    from arm_control.runner.description import describe

    print(describe(command.policy))
