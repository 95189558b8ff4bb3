"""Simulation of an evaluation: the controller's episodes in this process, the references also in helper processes."""

import contextlib
from dataclasses import dataclass

from arm_control.evaluation.controllers import Controller, IKController
from arm_control.evaluation.episodes import ARMS_AT_ONCE, Arms, Rollouts, joined
from arm_control.evaluation.references import Batch, Reference, ReferenceEpisodes
from arm_control.process.console import ProgressLine
from arm_control.process.shared_work import SharedWork, spare_cores
from arm_control.runs.config import TrainConfig
from arm_control.runs.environment import environment_maker
from arm_control.runs.seeding import EVALUATION, derived_seeds

HELPER_STEPS = 20_000  # steps of the references for which starting another helper pays off
MOST_HELPERS = 4


@dataclass(frozen=True)
class Simulated:
    """Episodes of the controller, of random targets and of inverse kinematics, and the arm's reach in metres."""

    own: Rollouts
    random: Rollouts
    planned: Rollouts
    reach_m: float


def simulate(controller: Controller, config: TrainConfig, goals: int, seed: int) -> Simulated:
    """Run the controller and the references on the same starts and goals."""
    # Divide the episodes of the references into batches.
    seeds = derived_seeds(seed, EVALUATION, goals)
    references = ReferenceEpisodes(config, seed)
    # Inverse kinematics is itself a reference: its episodes are simulated only once.
    is_reference = isinstance(controller, IKController) and references.fits(config)
    random_batches = batches_of("random", seeds, measure_rest=False)
    planned_batches = batches_of("ik", seeds, measure_rest=is_reference)
    batches = random_batches + planned_batches
    own_goals = 0 if is_reference else goals
    all_goals = own_goals + 2 * goals
    progress = ProgressLine("evaluating")
    with contextlib.ExitStack() as stack:
        stack.callback(progress.clear)
        arms = stack.enter_context(contextlib.closing(Arms(environment_maker(config), max(1, own_goals))))
        stack.callback(references.close)
        # Helpers start on the references while this process runs the controller; then it joins them.
        helpers = min(spare_cores(), 2 * goals * arms.first.episode_steps // HELPER_STEPS, MOST_HELPERS)
        work = stack.enter_context(SharedWork(references, batches, helpers))
        if references.fits(config) and not is_reference:
            references.share(arms)

        def show(episodes: int) -> None:
            """Show the progress after so many of the controller's episodes."""
            reference_goals = 2 * goals * work.done / len(batches)
            progress.show((episodes + reference_goals) / all_goals)

        own = None if is_reference else arms.roll_out(controller, seeds, show)
        parts = work.finish(lambda: show(own_goals))
    random = joined(parts[: len(random_batches)])
    planned = joined(parts[len(random_batches) :])
    return Simulated(planned if own is None else own, random, planned, arms.first.arm.reach_m)


def batches_of(reference: Reference, seeds: list[int], *, measure_rest: bool) -> list[Batch]:
    """A reference's episodes in batches."""
    batches = []
    for first in range(0, len(seeds), ARMS_AT_ONCE):
        batch_seeds = tuple(seeds[first : first + ARMS_AT_ONCE])
        batches.append(Batch(reference, first, batch_seeds, measure_rest))
    return batches
