"""`arm-control export RUN`: write a run's policy as one ONNX file."""

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Export:
    """Write a run's policy as one ONNX file, and keep it only if onnxruntime agrees with PyTorch.

    The policy is the best validated one. The two are compared on 10,000 states and all corners, or on 1,000 of them for
    a policy that searches a grid of actions.
    """

    run: tyro.conf.Positional[str]
    """The run's folder."""
    output: Annotated[str | None, tyro.conf.arg(aliases=("-o",))] = None
    """The file (policy.onnx in the run's folder, unless given)."""
    last: bool = False
    """Export the last policy of the run, not the best validated one."""


def run(command: Export) -> None:
    """Write the ONNX file and print its path and size."""
    from arm_control.exporter.agreement import agreement
    from arm_control.exporter.exporter import write_policy
    from arm_control.process.printing import printable
    from arm_control.runs.agent import load_policy

    loaded = load_policy(command.run, last=command.last)
    path = write_policy(loaded, command.run, command.output)
    size = path.stat().st_size
    shown = f"{size / 1e6:.0f} MB" if size > 1e7 else f"{size / 1000:.0f} kB"
    print(f"{printable(path)}: {shown}, {loaded.origin}; {agreement(loaded.config)}")
