"""Labelled examples of any task on which candidates are compared by its metric, each on all of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from secateur.core.graph import Graph
from secateur.core.graph.outputs import named_tensors
from secateur.core.plan import Plan
from secateur.core.selection.search_results import Search, Trial, key_of
from secateur.core.surgery import masked
from secateur.data.dataset import example_of
from secateur.errors import DataError, ModelError, SettingError
from secateur.events import Event, Tell, ignore
from secateur.measure import quality
from secateur.measure.forward import device_of, moved
from secateur.search.content_digest import digest
from secateur.search.trial_journal import Journal
from secateur.spelling import setting
from secateur.tasks import Task


@dataclass(frozen=True, eq=False)
class Examples:
    """Some batches of a task.

    Attributes:
        batches: as the task takes them, on the network's device.
        task: what the network is for.
        count: how many examples there are.
    """

    batches: Sequence[Any]
    task: Task
    count: int

    @staticmethod
    def of(batches: Iterable[Any] | None, model: nn.Module, task: Task, most: int | None = None) -> Examples:
        """Gather the first examples, whole batches of them.

        Args:
            batches: of the data.
            model: where they shall be.
            task: what it is for.
            most: examples from which on no further batch is taken; None for all.

        Raises:
            DataError: if there are none.
        """
        found = [moved(batch, device_of(model)) for batch in first(batches or (), task, most)]
        count = sum(task.count(batch) for batch in found)
        if not count:
            raise DataError(
                f"candidates are compared on labelled {task.example}s, and there are none; give {setting('data')}"
            )
        return Examples(found, task, count)

    def __len__(self) -> int:
        """How many examples there are."""
        return self.count

    @property
    def example(self) -> Any:
        """What the network takes for the first of them."""
        return example_of(self.task, self.batches[0])

    def loss_and_error(self, model: nn.Module) -> tuple[float, float]:
        """Return two numbers that are smaller the better a network does: loss, and error by the metric.

        The loss is the error where the task has a loss in training alone.
        """
        found = quality(model, self.batches, self.task)
        return found.loss_or_error, self.task.metric.error(found.value)

    def fingerprint(self) -> str:
        """Return a name for the content and for how it is judged."""
        named = {f"{at}.{name}": each for at, batch in enumerate(self.batches) for name, each in named_tensors(batch)}
        return digest(named, json.dumps(self.task.to_dict(), sort_keys=True, default=str))


def first(batches: Iterable[Any], task: Task, most: int | None) -> Iterator[Any]:
    """Yield the first batches until they hold so many examples; None for all of them."""
    seen = 0
    for batch in batches:
        if task.count(batch):
            yield batch
        seen += task.count(batch)
        if most is not None and seen >= most:
            return


def sound(model: nn.Module, held: Examples) -> tuple[float, float]:
    """Return loss and error of the dense network.

    Raises:
        ModelError: if the loss is not finite, for then nothing could be compared.
        DataError: if the metric is not, although the loss is.
    """
    loss, error = held.loss_and_error(model)
    if held.task.judges_loss and not math.isfinite(loss):
        raise ModelError(
            "the loss of the network is NaN or infinite before anything is pruned; load sound weights, train with a "
            "lower learning rate, or mend the loss of the task"
        )
    if not math.isfinite(error):
        raise _nothing_to_compare(held, "the network before anything is pruned")
    return loss, error


def _nothing_to_compare(held: Examples, whose: str) -> DataError:
    return DataError(
        f"the {held.task.metric.name} of {whose} is NaN or infinite on {len(held)} {held.task.example}s, so that "
        "nothing can be chosen by it: look at how the task computes it, and at its targets"
    )


def best_of(
    model: nn.Module,
    graph: Graph,
    plans: Sequence[Plan],
    held: Examples,
    *,
    places: int = 0,
    work: Path | None = None,
    tell: Tell = ignore,
) -> Search:
    """Try every candidate on all examples, and return which has the best metric.

    Of equally good ones the first wins, or with ``places`` the one with the smaller loss.

    Counts of errors let candidates be given up early (``secateur.search.racing``); metrics of other tasks, such as mean
    IoU or mAP, are known of all examples alone.

    Args:
        model: the dense network; left as it is.
        graph: its graph.
        plans: the candidates, in the order of drawing.
        held: the examples on which they compete.
        places: how many of the best are to be found, as ``winners``; 0 for one, whose ties no loss decides.
        work: folder in which every trial is noted, so that a killed search goes on; None for none.
        tell: hears the progress, under the stage ``"search"``.

    Raises:
        SettingError: if there is no candidate.
        DataError: if the metric of none of them is a finite number.
        PlanError: if a plan belongs to another network.
    """
    if not plans:
        raise SettingError("there is no candidate to choose from; draw at least 1")
    keys = [key_of(plan) for plan in plans]
    journal = Journal(None if work is None else work / f"candidates-{_name(model, held)}.jsonl", _judged)
    known = {str(entry["key"]): _judged(entry) for entry in journal.entries.values()}
    try:
        for number, (key, plan) in enumerate(zip(keys, plans, strict=True)):
            if key not in known:
                with masked(model, graph, plan) as network:
                    loss, error = held.loss_and_error(network)
                known[key] = error, finite_or_worst(loss)
                journal.note(len(journal.entries), {"key": key, "error": error, "loss": known[key][1]})
            tell(Event("search", step=number + 1, total=len(plans), values={"error": known[key][0]}))
    finally:
        journal.close()
    if not any(math.isfinite(known[key][0]) for key in keys):
        raise _nothing_to_compare(held, f"every one of {len(plans)} candidates")
    best = min(range(len(plans)), key=lambda number: (known[keys[number]][0], number))
    trials = tuple(Trial(key, 0, len(held), known[key][0]) for key in keys)
    own = sorted({key: number for number, key in reversed(list(enumerate(keys)))}.values())  # the first of equal plans
    winners = tuple(sorted(own, key=lambda number: (*known[keys[number]], number))[:places])
    return Search(trials, winners[0] if winners else best, len(held), metric=held.task.metric, winners=winners)


def finite_or_worst(loss: float) -> float:
    """Return a loss that can be compared: one of NaN is worse than any."""
    return math.inf if math.isnan(loss) else loss


def _judged(entry: Mapping[str, Any]) -> tuple[float, float]:
    """Return error and loss."""
    return float(entry["error"]), float(entry["loss"])


def _name(model: nn.Module, held: Examples) -> str:
    return digest({**model.state_dict()})[:12] + held.fingerprint()[:12]
