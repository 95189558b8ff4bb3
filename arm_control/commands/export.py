"""`arm-control export RUN`: write a run's policy as one ONNX file."""

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Export:
    """Export a run's best validated policy as one ONNX file, verified against PyTorch.

    onnxruntime and PyTorch are compared on 10,000 random states and all corners of the state space, or on 1,000 of them
    for a policy that searches a grid of actions; if they differ, no file is written.
    """

    run: tyro.conf.Positional[str]
    """Run folder."""
    output: Annotated[str | None, tyro.conf.arg(aliases=("-o",))] = None
    """File to write (default: policy.onnx in the run folder)."""
    last: bool = False
    """Export the last policy of the run instead of the best validated one."""


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
