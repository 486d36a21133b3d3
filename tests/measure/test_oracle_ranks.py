"""Rank correlations by hand, and the oracle of a network that can be worked out."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from secateur.core.problem import Problem
from secateur.core.trace import trace
from secateur.errors import DataError, SettingError
from secateur.measure.oracle_ranks import loss_changes, rank_correlation, spearman


def test_the_rank_correlation_by_hand() -> None:
    """1 - 6 * (1 + 1 + 1 + 1) / (5 * 24) = 0.8."""
    ranks, others = torch.arange(1.0, 6.0), torch.tensor([2.0, 1.0, 3.0, 5.0, 4.0])
    assert spearman(ranks, others) == pytest.approx(0.8)
    assert spearman(ranks.exp(), others**3) == pytest.approx(0.8)
    assert spearman(ranks, -ranks) == pytest.approx(-1.0)
    assert math.isnan(spearman(ranks, torch.ones(5)))
    tied = torch.tensor([1.0, 1.0, 2.0, 0.0, 2.0])
    assert spearman(ranks, tied) == pytest.approx(spearmanr(ranks, tied).statistic)


def summed() -> Problem:
    """Units of 1, -3 and 2 whose sum is the loss."""
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 1, bias=False)).eval()
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.copy_(torch.tensor([1.0, -3.0, 2.0]))
        net[1].weight.fill_(0.5)
    image = torch.ones(1, 1, 1, 1)
    return Problem(net, trace(net, image), loss=lambda network: float(network(image).sum().detach()))


def test_the_oracle_is_what_the_loss_changes_by() -> None:
    changes = loss_changes(summed())
    assert changes["0"].tolist() == [-1.0, 3.0, -2.0]
    scores = {"0": torch.tensor([1.0, 3.0, 2.0]), "elsewhere": torch.ones(4)}
    assert rank_correlation(scores, changes).groups == {"0": pytest.approx(1.0)}
    assert rank_correlation(scores, changes).overall == pytest.approx(1.0)
    assert rank_correlation(scores, changes, absolute=False).overall == pytest.approx(0.5)


def test_some_units_are_drawn_and_the_others_left_out() -> None:
    changes = loss_changes(summed(), most=2)
    assert int(changes["0"].isnan().sum()) == 1
    assert rank_correlation({"0": torch.tensor([1.0, 3.0, 2.0])}, changes).overall == pytest.approx(1.0)
    assert math.isnan(rank_correlation({}, changes).overall)
    with pytest.raises(SettingError, match="two units of each group at least, not 1"):
        loss_changes(summed(), most=1)
    problem = summed()
    with pytest.raises(DataError, match="the loss on held-out images"):
        loss_changes(Problem(problem.model, problem.graph))
