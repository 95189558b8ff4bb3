"""Trainings that take seconds."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from arm_control.evaluation import validation
from arm_control.training import loop


@contextmanager
def short_validations(reports: int = 4, goals: int = 2) -> Iterator[None]:
    """Within this context, trainings have this many reports and validate on this many goals.

    Validations are most of the time of so short a training.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "REPORTS", reports)
        patch.setattr(validation, "VALIDATION_GOALS", goals)
        yield
