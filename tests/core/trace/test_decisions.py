"""Decisions on values of tensors, and what they are turned to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

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
