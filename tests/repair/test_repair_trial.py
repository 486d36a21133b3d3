"""A repair from a few images is judged by images that it has not seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nets import images, make
from secateur.core.graph import Graph
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply
from secateur.core.trace import trace
from secateur.repair import helps, trial


def cut() -> tuple[nn.Module, nn.Module, Graph, Plan]:
    torch.manual_seed(0)
    net = make("plain").eval()
    graph = trace(net, images(1))
    plan = Plan((DropUnits(graph.free[0].name, (0, 1, 2)),))
    return net, apply(net, graph, plan), graph, plan


def test_what_brings_unseen_images_closer_helps() -> None:
    net, thin, graph, plan = cut()
    assert helps(("reconstruct",), net, thin, graph, plan, [images(40)], seed=0)


@pytest.mark.parametrize("count", [3, 40])
@pytest.mark.parametrize(("factor", "better"), [(0.5, True), (2.0, False), (float("nan"), False)])
def test_only_what_lowers_the_error_on_unseen_images_helps(
    count: int, factor: float, better: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error itself is scaled: outputs of the tried network lie that many times as far from the dense one's."""
    dense, thin = (nn.Linear(4, 2, bias=False) for _ in range(2))
    start = thin.weight.detach().clone()

    def taken(steps: Sequence[str], dense: nn.Linear, tried: nn.Linear, *_: Any) -> Iterator[tuple[str, int]]:
        with torch.no_grad():
            tried.weight.copy_(dense.weight + factor * (tried.weight - dense.weight))
        yield "reconstruct", 1

    monkeypatch.setattr(trial, "taken", taken)
    _, _, graph, plan = cut()
    assert helps(("reconstruct",), dense, thin, graph, plan, [torch.randn(count, 4)], 0) == better
    assert torch.equal(thin.weight, start)


@pytest.mark.parametrize(("count", "turns", "held"), [(3, 3, 1), (7, 7, 1), (8, 1, 2), (40, 1, 10)])
def test_no_image_judges_what_it_was_repaired_by(
    count: int, turns: int, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, thin, graph, plan = cut()
    known, judged = list[Tensor](), list[Tensor]()

    def taken(*given: Any) -> Iterator[tuple[str, int]]:
        known.extend(given[5])
        yield from ()

    def squared_errors(dense: nn.Module, thins: object, batches: Sequence[Tensor], left: object) -> list[float]:
        judged.extend(batches)
        return [1.0, 0.0]

    monkeypatch.setattr(trial, "taken", taken)
    monkeypatch.setattr(trial, "squared_errors", squared_errors)
    whole = images(count)
    helps(("reconstruct",), net, thin, graph, plan, [whole[:2], whole[2:]], 0)
    assert [len(some) for some in judged] == [held] * turns
    for some, others in zip(known, judged, strict=True):
        assert len(some) + len(others) == count
        assert not any(torch.equal(one, other) for one in some for other in others)


def test_a_single_image_judges_nothing() -> None:
    net, thin, graph, plan = cut()
    assert not helps(("reconstruct",), net, thin, graph, plan, [images(1)], seed=0)
