"""A task of somebody's own that breaks its contract is refused in one sentence, in measuring and in training alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from measured import sentence
from secateur.core.trace import trace
from secateur.data import from_loaders
from secateur.errors import DataError, ModelError, SettingError
from secateur.measure import quality
from secateur.measure.gradient import loss_with_gradient
from secateur.tasks import Meter, Metric, Task
from secateur.training import Settings
from secateur.training.objective import loss_of

BATCH = (torch.ones(2, 3), torch.zeros(2, 1))


class Seen(Meter):
    def __init__(self, found: Any) -> None:
        self.found = found

    def update(self, output: Any, batch: Any) -> None:
        if isinstance(self.found, KeyError):
            raise self.found

    def compute(self) -> Any:
        if isinstance(self.found, ValueError):
            raise self.found
        return self.found


class Own(Task):
    name = "counting"
    metrics = (Metric("hits"),)

    def __init__(self, found: Any = (0.5,), loss: Any = F.mse_loss, meter: Any = Seen, metrics: Any = None) -> None:
        self.found, self.how, self.kind = found, loss, meter
        if metrics is not None:
            self.metrics = metrics

    def loss(self, output: Any, batch: Any) -> Tensor:
        return self.how(output, batch[1])

    def meter(self, device: torch.device) -> Meter:
        return self.kind(self.found)


def measured(task: Task) -> tuple[float, ...]:
    return quality(nn.Linear(3, 1), [BATCH], task).values


@pytest.mark.parametrize("found", [(0.5,), [torch.tensor(0.5)], np.array([0.5]), torch.tensor([0.5])])
def test_values_of_any_kind(found: Any):
    assert measured(Own(found)) == (0.5,)


@pytest.mark.parametrize("found", [0.5, None, (), (1, 2), ("a",), "a", {"hits": 1}, torch.tensor(0.5), (None,)])
def test_what_is_no_number_for_each_metric(found: Any):
    said = sentence(DataError, lambda: measured(Own(found)))
    assert "compute() of the meter of the task 'counting' (Own) must return a number for each metric (hits)" in said


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (Own(ValueError("mine")), "compute() of the meter of the task 'counting' (Own) fails: ValueError: mine"),
        (Own(KeyError("mine")), "batch 1: update() of the meter of the task 'counting' (Own) fails: KeyError: 'mine'"),
        (Own(meter=lambda found: 1 / 0), "meter() of the task 'counting' (Own) fails: ZeroDivisionError"),
    ],
)
def test_what_fails_is_named(task: Task, said: str):
    assert said in sentence(ModelError, lambda: measured(task))


def test_what_is_no_meter():
    assert "must return something with update and compute, not nothing" in sentence(
        DataError, lambda: measured(Own(meter=lambda found: None))
    )


def failing(output: Any, target: Any) -> Any:
    raise RuntimeError("mine")


@pytest.mark.parametrize(
    ("loss", "kind", "said"),
    [
        (lambda output, target: 3.0, DataError, "must return the mean loss as a scalar tensor, not a float"),
        (lambda output, target: (output - target) ** 2, DataError, "not float32 of shape (2, 1)"),
        (failing, ModelError, "fails: RuntimeError: mine"),
    ],
)
def test_a_loss_that_is_none_is_refused_wherever_it_is_asked_for(loss: Any, kind: type[Exception], said: str):
    task, network = Own(loss=loss), nn.Linear(3, 1)
    for ask in (
        lambda: measured(task),
        lambda: loss_with_gradient(network, BATCH, task),
        lambda: loss_of(task, network(BATCH[0]), BATCH, None, Settings()),
    ):
        found = sentence(kind, ask)
        assert "loss() of the task 'counting' (Own)" in found
        assert found.endswith(said)


def test_a_loss_without_gradient_is_refused_in_training_alone():
    task = Own(loss=lambda output, target: F.mse_loss(output.detach(), target))
    assert measured(task) == (0.5,)
    assert "without gradient" in sentence(DataError, lambda: loss_with_gradient(nn.Linear(3, 1), BATCH, task))


class Nameless(Own):
    name = None  # pyright: ignore[reportAssignmentType]


@pytest.mark.parametrize("task", [Own(metrics=()), Own(metrics=("hits",)), Own(metrics="hits"), Nameless()])
def test_tasks_without_name_or_metrics_are_refused_before_any_work(task: Task):
    for ask in (lambda: measured(task), lambda: from_loaders([BATCH], [BATCH], [BATCH], task=task)):
        said = sentence(SettingError, ask)
        assert "must have metrics, at least one secateur.tasks.Metric" in said or "a task without a name" in said


def test_names_that_a_forward_does_not_know_are_said_with_what_to_do():
    table = {"image": BATCH[0], "depth": BATCH[0], "labels": BATCH[1]}
    inputs = {"image": BATCH[0], "depth": BATCH[0]}
    for ask in (lambda: quality(nn.Linear(3, 1), [table], Own()), lambda: trace(nn.Linear(3, 1), inputs)):
        said = sentence(ModelError, ask)
        assert "here image, depth: name them as it does, or say what it takes and what is wanted of it (network" in said


def test_a_name_of_a_task_is_refused_with_what_makes_one_of_it():
    said = sentence(SettingError, lambda: quality(nn.Linear(3, 1), [BATCH], "regression"))  # type: ignore[arg-type]
    assert "(secateur.tasks.read_task takes a name)" in said
