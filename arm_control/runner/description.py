"""The description of an exported policy, printed by `arm-control inspect`."""

import dataclasses
from pathlib import Path

from arm_control.process.printing import counted, printable_lines
from arm_control.runner import PolicyRunner
from envs.imperfections import OFF, imperfections_from_json


def describe(path: str | Path) -> str:
    """The contract as text. Raises PolicyFileError for a file that does not match it."""
    contract = PolicyRunner.load(path).contract
    golden = contract.golden
    imperfections = imperfections_from_json(contract.imperfections)
    steps = contract.episode_steps
    # The agent, the arm and its joints.
    lines = [
        f"{path}: {Path(path).stat().st_size / 1000:.0f} kB, contract version {contract.schema_version}",
        f"  agent          {contract.agent}, trained on {contract.environment} ({imperfections.name} arm), "
        f"configuration {contract.config_sha256[:12]}",
        f"  arm            {contract.arm}, {counted(len(contract.joints), 'joint')}",
    ]
    for joint in contract.joints:
        lines.append(
            f"    {joint.name:<12} {joint.lower_deg:g} to {joint.upper_deg:g} degrees, up to "
            f"{joint.max_speed_deg_s:.1f} degrees/s and {joint.max_acceleration_deg_s2:.0f} degrees/s^2"
        )
    # The ranges of imperfections that no preset has.
    if imperfections.name == "custom":
        ranges = []
        for field in dataclasses.fields(imperfections):
            low, high = getattr(imperfections, field.name)
            if (low, high) != OFF:
                ranges.append(f"{field.name} {low:g} to {high:g}")
        lines.append(f"  imperfections  {', '.join(ranges)}")
    # The task.
    lines.append(f"  control rate   {contract.control_rate_hz:g} Hz")
    if steps is not None:
        lines.append(f"  episode        {steps} steps, {steps / contract.control_rate_hz:.2f} s")
    lines.append(f"  goal reached   within {1000 * contract.goal_tolerance_m:g} mm")
    # The tensors of the graph.
    for kind, tensors in (("input", contract.inputs), ("output", contract.outputs)):
        for tensor in tensors:
            lines.append(f"  {kind:<14} {tensor.name} (batch, {tensor.size}), {tensor.unit}: {tensor.meaning}")
    lines += [
        f"  golden         {counted(len(golden.target_deg), 'sample')} re-run, "
        f"all within {golden.tolerance_deg:g} degrees",
        f"  made with      {', '.join(f'{name} {version}' for name, version in contract.versions.items())}",
    ]
    return printable_lines(lines)
