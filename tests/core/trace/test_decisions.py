"""Decisions on values of tensors, and what they are turned to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from secateur.core.trace import trace
from secateur.core.trace.decisions import Decisions
from secateur.errors import ModelError

YES, HALF, THREE = torch.tensor(True), torch.tensor(0.5), torch.tensor(3)


def ask(decisions: Decisions) -> list[object]:
    decisions.begin()
    return [
        decisions.take(Tensor.__bool__, YES),
        decisions.take(Tensor.item, HALF),
        decisions.take(Tensor.__int__, THREE),
    ]


def test_a_run_that_is_not_turned_decides_as_it_is() -> None:
    assert ask(Decisions()) == [True, 0.5, 3]


def test_all_are_turned_together_and_then_one_by_one() -> None:
    decisions, found = Decisions(), list[list[object]]()
    ask(decisions)
    for turned in decisions.turns(100):
        with turned:
            found.append(ask(decisions))
    assert found[:3] == [[False, -1e9, 0], [False, 1e9, 1], [False, -1e9, 2]]
    alone = found[8:]
    assert alone[:3] == [[False, 0.5, 3], [True, -1e9, 3], [True, 1e9, 3]]
    assert alone[3:] == [[True, 0.5, other] for other in range(8)]
    assert ask(decisions) == [True, 0.5, 3]


def test_no_more_runs_than_allowed() -> None:
    decisions = Decisions()
    ask(decisions)
    assert len(list(decisions.turns(4))) == 4


def test_a_loop_that_turned_decisions_keep_going_is_broken_off() -> None:
    decisions = Decisions()
    decisions.begin()
    decisions.take(Tensor.__bool__, YES)
    (turned,) = decisions.turns(5)
    decisions.begin()

    def endless() -> None:
        while True:
            decisions.take(Tensor.__bool__, YES)

    with turned, pytest.raises(ModelError, match="takes no end"):
        endless()


def test_one_line_in_a_loop_is_turned_on_its_own_twice_at_most() -> None:
    decisions = Decisions()
    decisions.begin()
    for _ in range(100):
        decisions.take(Tensor.__bool__, YES)
    assert decisions.take(Tensor.__bool__, YES)
    # all together, two of the loop, and the one after it
    assert len(list(decisions.turns(1000))) == 1 + 2 + 1


def scripted(x: Tensor, y: Tensor) -> Tensor:
    return y + y if float(x.sum()) > 0.0 else y + y.flip(1)


def quietly_scripted(x: Tensor, y: Tensor) -> Tensor:
    return y + y * float(x.size(0))


WAYS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "compared": (lambda x, y: y + y if x.sum() > 0 else y + y.flip(1), 4),
    "equal": (lambda x, y: y + y if torch.equal(x, x.abs()) else y + y.flip(1), 4),
    "allclose": (lambda x, y: y + y if torch.allclose(x, x.abs(), atol=1e-3) else y + y.flip(1), 4),
    "is_nonzero": (lambda x, y: y + y if torch.is_nonzero(x[0, 0, 0, 0] > 0) else y + y.flip(1), 4),
    "in": (lambda x, y: y + y if 3.0 in x else y + y.flip(1), 4),
    "scripted": (scripted, 0),  # nobody can turn what is no Python
    "quietly scripted": (quietly_scripted, 8),
    "none": (lambda x, y: y + y, 8),
}


class Branching(nn.Module):
    """Adds channels to others where its image is such and such, and to themselves where it is not."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.a, self.b, self.way = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), way

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(WAYS[self.way][0](x, self.a(x)))).mean((2, 3))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize("way", WAYS)
def test_both_ways_of_a_decision_are_heard_or_what_it_is_of_stays(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    add, units = WAYS[way]
    monkeypatch.setitem(WAYS, way, (torch.jit.script(add) if "scripted" in way else add, units))
    graph = trace(Branching(way), torch.rand(1, 3, 4, 4) + 0.1)
    assert sum(group.size for group in graph.groups) == units
    assert any("scripted code of the network decides" in pin.reason for pin in graph.pins) == (not units)
