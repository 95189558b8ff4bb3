"""The flags for the options that tasks declare: `--path` and `--speed-m-s` of ArmTrack-v0, and those of any other."""

from typing import Any

from tyro.constructors import StructConstructorSpec, StructFieldSpec, StructTypeInfo

from arm_control.process.flags import FLAG_TYPES
from envs.tasks import all_options


class TaskOptions(dict[str, Any]):
    """Values of the options that were given, by name; the task has defaults for the others."""


@FLAG_TYPES.struct_rule
def task_option_flags(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Parse a field of type TaskOptions from one flag for each option of any task."""
    if info.type is not TaskOptions:
        return None
    fields: list[StructFieldSpec] = []
    for name, (option, ids) in all_options().items():
        help = f"For {', '.join(ids)}, {option.help} (default: {option.default})."
        fields.append(StructFieldSpec(name, option.kind | None, info.default.get(name), help))
    return StructConstructorSpec(_given, tuple(fields))


def _given(**values: Any) -> TaskOptions:
    """Those that are not None."""
    return TaskOptions({name: value for name, value in values.items() if value is not None})
