"""The installed drivers, by name.

Every driver, ours included, is an entry point of the group `arm_control.drivers`. It names either a `DriverType`, or a
function of the arm (`envs.arm.Arm`) and the options (a dict of strings) that returns a `Driver`.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points

from arm_control.drivers.base import Driver, DriverError, DriverType, OpeningContext
from envs.arm import Arm

GROUP = "arm_control.drivers"


def installed_drivers() -> dict[str, EntryPoint]:
    """The entry points of all drivers by name."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def available_drivers() -> list[str]:
    """The names that `--driver` accepts."""
    return sorted(installed_drivers())


def load_driver(name: str) -> DriverType:
    """Import a driver. Raises ModuleNotFoundError for a missing package, DriverError for anything else that fails."""
    entry = installed_drivers()[name]
    try:
        declared = entry.load()
    except ModuleNotFoundError:
        raise
    except Exception as error:
        raise DriverError(f"driver {name} ({entry.value}) cannot be loaded: {error}") from None
    if isinstance(declared, DriverType):
        return declared
    return _without_context(declared)


def _without_context(opener: Callable[[Arm, Mapping[str, str]], Driver]) -> DriverType:
    """A driver whose entry point is a bare function of the arm and the options."""

    def open_without_context(arm: Arm, options: Mapping[str, str], context: OpeningContext) -> Driver:
        return opener(arm, options)

    return DriverType(open_without_context)
