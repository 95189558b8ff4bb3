"""Which drivers there are, and opening one.

Other packages add theirs as an entry point of the group `arm_control.drivers`: a name, and a callable that takes the
arm (`envs.arm.Arm`) and a dict of options as strings, and returns a `Driver`.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points

from arm_control.drivers.base import Driver, DriverError
from envs.arm import Arm

GROUP = "arm_control.drivers"
Opener = Callable[[Arm, Mapping[str, str]], Driver]


def installed_drivers() -> dict[str, EntryPoint]:
    """The drivers of real arms by name: ours, and those of other packages."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def available_drivers() -> list[str]:
    """Every name that `--driver` takes."""
    return ["sim", *sorted(installed_drivers())]


def open_driver(name: str, arm: Arm, options: Mapping[str, str]) -> Driver:
    """Connect to an arm. Raises ValueError for options that the driver does not take, DriverError for no arm."""
    entry = installed_drivers()[name]
    try:
        opener: Opener = entry.load()
    except ModuleNotFoundError:
        raise
    except Exception as error:
        raise DriverError(f"driver {name} ({entry.value}) cannot be loaded: {error}") from None
    return opener(arm, options)
