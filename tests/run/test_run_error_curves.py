"""Error curves are measured once for each network and order, and never taken for those of another network."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nets
from secateur.core.graph import Graph
from secateur.core.selection.error_curves import ErrorCurve
from secateur.core.trace import trace
from secateur.run import error_curves
from secateur.run.stopwatch import Clock


class Job:
    """What ``measuring`` looks at of a run."""

    def __init__(self) -> None:
        self.error_curves: dict[Any, Any] = {}
        self.clock, self.seed, self.tell = Clock(), 0, lambda event: None

    def image_batches(self) -> Sequence[Tensor]:
        return [nets.images()]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    models: list[nn.Module] = []

    def measure(model: nn.Module, graph: Graph, *args: Any, **options: Any) -> list[ErrorCurve]:
        models.append(model)
        return [ErrorCurve(f"{len(models)}", (), (0.0,))]

    monkeypatch.setattr(error_curves, "error_curves", measure)
    return models


def ask(job: Any, model: nn.Module, graph: Graph, owner: nn.Module, scores: Mapping[str, Tensor] | None = None) -> str:
    found = error_curves.measuring(job, model, graph, owner)
    assert found is not None
    return found(scores)[0].group


def test_once_for_a_network_and_an_order(measured: list[nn.Module]) -> None:
    job, model = Job(), nets.Plain().eval()
    graph = trace(model, nets.images())
    assert ask(job, model, graph, model) == ask(job, nets.Plain(), graph, model) == "1"  # a copy elsewhere
    scores = {"0.0": torch.arange(8.0)}
    assert ask(job, model, graph, model, scores) == ask(job, model, graph, model, {"0.0": torch.arange(8.0)}) == "2"
    assert ask(job, model, graph, model, {"0.0": torch.arange(8.0).flip(0)}) == "3"
    assert len(measured) == 3


def test_anew_for_other_weights_and_for_the_next_round(measured: list[nn.Module]) -> None:
    job, model, trained = Job(), nets.Plain().eval(), nets.Plain().eval()
    graph = trace(model, nets.images())
    assert ask(job, model, graph, model) == "1"
    assert ask(job, trained, graph, trained) == "2"  # trained before it decides: the same graph, other weights
    alive = weakref.ref(graph)
    del graph
    gc.collect()
    assert alive() is not None  # or the graph of a later round could be taken for this one
    assert ask(job, model, trace(model, nets.images()), model) == "3"
