"""Let plans compete on the validation examples of a problem, whatever its task."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.core.plan import Plan
from secateur.core.problem import Problem
from secateur.core.selection.search_results import Search
from secateur.errors import DataError, SettingError
from secateur.search import task_examples
from secateur.search.racing.evaluation import counts_errors
from secateur.search.racing.held_out_images import HeldOut
from secateur.search.racing.race import best_of
from secateur.search.task_examples import Examples
from secateur.spelling import setting


def compete(
    problem: Problem,
    plans: Sequence[Plan],
    who: str,
    *,
    complete: bool = False,
    racing: bool = False,
    ray: str = "",
) -> Search:
    """Return what is known of each plan, and which has the fewest errors, or the best metric of another task.

    What was found is noted in the problem's folder, so that a killed search goes on, also one of several calls.

    Args:
        problem: the network, its validation examples and its task.
        plans: the candidates, in the order of drawing.
        who: name of the method, for its messages.
        complete: see ``best_of``; where the metric counts no errors every plan is tried on all examples anyway.
        racing: see ``best_of``.
        ray: see ``best_of``.

    Raises:
        DataError: if there are no validation examples.
        SettingError: if the task counts no wrong answers and settings need them.
    """
    if problem.validation is None:
        raise DataError(f"{who} tries its masks on validation images, and there are none; give {setting('data')}")
    if counts_errors(problem.task):
        held = HeldOut.of(problem.validation, problem.model)
        return best_of(
            problem.model,
            problem.graph,
            plans,
            held,
            complete=complete,
            racing=racing,
            work=problem.work,
            ray=ray,
            tell=problem.tell,
        )
    assert problem.task is not None
    if racing or ray:
        raise SettingError(
            f"racing and ray count wrong answers, and {problem.task.name} has none; leave them out, and every mask is "
            f"tried on all {problem.task.example}s"
        )
    examples = Examples.of(problem.validation, problem.model, problem.task)
    return task_examples.best_of(problem.model, problem.graph, plans, examples, work=problem.work, tell=problem.tell)
