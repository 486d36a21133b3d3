"""Plans of a problem compete by errors, or by the metric of its task."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from nets import Head, conv, images, lived_in
from secateur.core.plan import DropUnits, Plan
from secateur.core.problem import Problem
from secateur.core.surgery import masked
from secateur.core.trace import trace
from secateur.errors import DataError, SettingError
from secateur.search.competition import compete
from secateur.tasks import Regression

torch.manual_seed(0)
NET = lived_in(nn.Sequential(conv(3, 4), conv(4, 6), Head(6))).eval()
GRAPH = trace(NET, images(1))
PLANS = [Plan((DropUnits("1.0", tuple(range(gone))),)) for gone in (4, 1, 2)]
X = images(40, 1)
with torch.no_grad(), masked(NET, GRAPH, PLANS[1]):  # which is right about everything
    NET[2].fc.bias.sub_(NET(X).mean(0))  # so that it knows several classes
    OUT = NET(X)
BY_ERRORS = Problem(NET, GRAPH, validation=[(X, OUT.argmax(1))])
BY_METRIC = Problem(NET, GRAPH, validation=[(X, OUT)], task=Regression())


@pytest.mark.parametrize("problem", [BY_ERRORS, BY_METRIC], ids=["errors", "metric"])
def test_the_best_wins_whatever_the_task(problem: Problem) -> None:
    found = compete(problem, PLANS, "me", complete=True)
    errors = [trial.error for trial in found.trials]
    assert found.best == 1
    assert errors[1] < errors[0]
    assert errors[1] <= errors[2]  # of equally good ones the first
    assert (found.metric is None) == (problem is BY_ERRORS)


def test_what_cannot_be_tried_is_refused() -> None:
    with pytest.raises(DataError, match="me tries its masks on validation images, and there are none"):
        compete(dataclasses.replace(BY_ERRORS, validation=None), PLANS, "me")
    for options in ({"racing": True}, {"ray": "local"}):
        given: Any = options
        with pytest.raises(SettingError, match="racing and ray count wrong answers, and regression has none"):
            compete(BY_METRIC, PLANS, "me", **given)


def test_notes_of_several_calls_do_not_overwrite_each_other(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = dataclasses.replace(BY_METRIC, work=tmp_path)
    first, second = compete(problem, PLANS[:2], "me"), compete(problem, PLANS[2:], "me")
    monkeypatch.setattr("secateur.search.task_examples.masked", None)  # nothing is tried any more
    assert compete(problem, PLANS[:2], "me") == first
    assert compete(problem, PLANS[2:], "me") == second
