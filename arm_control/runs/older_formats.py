"""Older run folders, converted to the present names and fields."""

from typing import Any

# Fields that did not exist, with the value that they had in effect.
ADDED = {"episode_steps": None, "control_rate_hz": None}
# Options of ArmTrack-v0 that were fields of their own.
TASK_OPTIONS = ("path", "speed_m_s")
# Former names, up to format version 5.
FIELDS = {"arms": "num_envs"}
SETTINGS = {
    "random_steps": "learning_starts",
    "replay_capacity": "buffer_size",
    "target_rate": "tau",
    "largest_step": "max_step",
    "smallest_noise": "min_noise",
    "largest_noise": "max_noise",
    "smallest_epsilon": "min_epsilon",
    "largest_epsilon": "max_epsilon",
    "largest_gradient": "max_grad_norm",
    "entropy_bonus": "entropy_coef",
    "trace_decay": "gae_lambda",
    "deviation": "std",
    "initial_deviation": "initial_std",
}
# Settings that did not exist, with the setting whose value they had in effect.
ADDED_SETTINGS = {"final_noise": "noise"}
PARAMETERS = {"log_deviation": "log_std"}


def present_config(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration of any readable version with the present fields; one of this version is returned as it is."""
    values = renamed({**ADDED, **config}, FIELDS)
    if isinstance(values.get("settings"), dict):
        values["settings"] = with_added_settings(renamed(values["settings"], SETTINGS))
    if "task_options" not in values:
        values["task_options"] = {}
        for name in TASK_OPTIONS:
            value = values.pop(name, None)
            if value is not None:
                values["task_options"][name] = value
    return values


def present_state(state: Any) -> Any:
    """A checkpoint's state with the present names of parameters."""
    if isinstance(state, dict):
        return {name: present_state(value) for name, value in renamed(state, PARAMETERS).items()}
    return state


def with_added_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, with those that older versions lack."""
    added = {name: settings[source] for name, source in ADDED_SETTINGS.items() if source in settings}
    return {**added, **settings}


def renamed(values: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The same values, in the same order, under other names."""
    return {names.get(name, name): value for name, value in values.items()}
