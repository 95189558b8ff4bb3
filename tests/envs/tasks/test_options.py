"""Options that tasks declare, and what the program looks up of a task by an environment's id."""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pytest

from envs.arm import Arm
from envs.tasks import check_task_options, continuous_id, environment_of, id_with_actions, task_named
from envs.tasks.base import Option, options_of
from envs.tasks.reach import Reach
from envs.tasks.track import Track


@dataclass(frozen=True)
class Sample:
    """Options of each kind."""

    plain: float = 1.0
    size: Annotated[int, Option("the size", limits=(1, 3), unit="m")] = 2
    name: Annotated[str, Option("the name")] = "any"
    quick: Annotated[bool, Option("whether it is quick")] = False


class TestOptions:
    """Declaration and validation of task options."""

    def test_only_marked_fields_are_options(self) -> None:
        """Fields annotated with `Option` become options with the field's name, type and default."""
        found = options_of(Sample)
        assert list(found) == ["size", "name", "quick"]
        assert (found["size"].kind, found["size"].default, found["size"].limits) == (int, 2, (1, 3))
        assert options_of(Reach) == {}
        assert list(options_of(Track)) == ["path", "speed_m_s"]

    @pytest.mark.parametrize(
        ("name", "value"), [("size", 0), ("size", 4), ("size", 2.0), ("size", True), ("name", 1), ("quick", 1)]
    )
    def test_rejects_values_of_another_type_or_outside_the_limits(self, name: str, value: Any) -> None:
        """A value of another type or outside the limits raises an error that begins with the option's name."""
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            options_of(Sample)[name].check(value)

    @pytest.mark.parametrize(("name", "value"), [("size", 1), ("size", 3), ("name", "x"), ("quick", True)])
    def test_accepts_values_within_the_limits(self, name: str, value: Any) -> None:
        """Values of the declared type pass, those equal to a limit included."""
        options_of(Sample)[name].check(value)

    def test_a_task_takes_its_own_options_only(self) -> None:
        """An option of another task raises an error that lists the ids that accept it."""
        check_task_options("ArmTrack-v0", {"path": "circle", "speed_m_s": 0.1})
        with pytest.raises(ValueError, match="path: an option of ArmTrack-v0, not of ArmReach-v0"):
            check_task_options("ArmReach-v0", {"path": "circle"})
        with pytest.raises(ValueError, match="size: an option of no environment"):
            check_task_options("ArmReach-v0", {"size": 1})


class TestLookups:
    """Lookups of environments and tasks by name."""

    def test_an_id_leads_to_its_task_and_actions(self) -> None:
        """The lookups return what the task's file declares: its class, its action kinds and its ids."""
        environment = environment_of("ArmReachDiscrete-v0")
        assert (environment.task, environment.actions) == (Reach, "index")
        assert task_named("track") is Track
        assert id_with_actions("reach", "positions") == "ArmReachMultiDiscrete-v0"
        assert id_with_actions("track", "index") is None

    @pytest.mark.parametrize("id", ["ArmReach-v0", "ArmReachDiscrete-v0", "ArmReachMultiDiscrete-v0"])
    def test_continuous_id_of_each_reach_environment(self, id: str) -> None:
        """Discrete ids map to the continuous environment of the same task, in which reference controllers run."""
        assert continuous_id(id) == "ArmReach-v0"

    def test_unknown_names_are_refused(self) -> None:
        """An unknown id or task raises ValueError and lists the available names."""
        with pytest.raises(ValueError, match="unknown environment 'ArmTrek-v0'; available: ArmReach-v0"):
            environment_of("ArmTrek-v0")
        with pytest.raises(ValueError, match="unknown task 'trek'; available: reach, track"):
            task_named("trek")


class TestErrors:
    """The running tracking error and the error of a complete episode."""

    @pytest.mark.parametrize("name", ["reach", "track"])
    def test_running_error_ends_at_the_episode_error(self, name: str) -> None:
        """Accumulated step by step, the error after the last step equals the one computed from the whole episode."""
        task = task_named(name).for_arm(Arm(), 1 / 30)
        distances_m = np.random.default_rng(0).uniform(0.0, 0.1, 61)
        total = 0.0
        error_m = 0.0
        for step, distance_m in enumerate(distances_m.tolist()):
            error_m, total = task.error_so_far(step, distance_m, total)
        assert error_m == pytest.approx(float(task.errors_m(distances_m)))
