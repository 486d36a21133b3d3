"""Rates of dropout that follow the weights that are left."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur.core.zeros.dropout_rates import DropoutRates, rescaled


def test_the_published_example() -> None:
    assert rescaled(0.5, 9, 100) == pytest.approx(0.15)
    assert rescaled(0.5, 100, 100) == 0.5
    assert rescaled(0.5, 0, 0) == 0.5


def test_a_rate_goes_by_the_next_layer_and_by_what_was_there_when_it_began() -> None:
    model = nn.Sequential(
        nn.Linear(2, 4),
        nn.Dropout(0.4),
        nn.ReLU(),
        nn.Dropout2d(0.2),
        nn.Linear(4, 4),
        nn.Linear(4, 1),
        nn.Dropout(0.1),
    )
    with torch.no_grad():
        model[4].weight.fill_(1.0)
        model[4].weight[0].zero_()  # 12 are left
    rates = DropoutRates(model, ["0.weight", "4.weight", "5.weight"])
    rates.rescale({"0.weight": 0, "4.weight": 12, "5.weight": 0}.__getitem__)
    assert [model[n].p for n in (1, 3, 6)] == [0.4, 0.2, 0.1]
    for _ in range(2):
        rates.rescale({"0.weight": 8, "4.weight": 3, "5.weight": 4}.__getitem__)
    assert [model[n].p for n in (1, 3, 6)] == pytest.approx([0.2, 0.1, 0.1])
