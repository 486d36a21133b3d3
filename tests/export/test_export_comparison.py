"""How far the outputs of a file are from those of a network: small parts do not hide beside large ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from secateur.export.comparison import TOLERANCE, call_of, difference


class Detections(nn.Module):
    """Boxes in pixels and scores up to 0.1 in one output, of shape (batch, 6, places) or (batch, places, 6)."""

    def __init__(self, wrong: float, last: bool) -> None:
        super().__init__()
        self.wrong, self.last = wrong, last

    def forward(self, x: Tensor) -> Tensor:
        boxes, scores = x[:, :4] * 640, x[:, 4:] * 0.1 * (1 + self.wrong)
        found = torch.cat([boxes, scores], 1)
        return found.mT if self.last else found


@pytest.mark.parametrize("last", [False, True])
def test_wrong_scores_do_not_hide_beside_boxes(last: bool) -> None:
    x = torch.rand(2, 6, 50, generator=torch.Generator().manual_seed(0))

    def found(wrong: float) -> float:
        return difference(Detections(0.0, last), lambda call: [Detections(wrong, last)(*call.args)], call_of(x))

    assert found(0.5) > 5 * TOLERANCE
    assert found(1e-6) < 1e-8  # rounding, relative to the whole


def test_rounding_of_large_sums_is_no_difference_of_a_small_channel() -> None:
    x = torch.tensor([[1000.0, 1e-3], [500.0, 0.0]])
    assert difference(nn.Identity(), lambda call: [x + 1e-3], call_of(x)) < 2e-6
    assert difference(nn.Identity(), lambda call: [x + 0.02], call_of(x)) > TOLERANCE


class Cancelling(nn.Module):
    """Sums whose terms are far larger than what is left of them, as in a deep network."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + 300.0) - 300.0


def test_what_the_network_itself_rounds_is_no_difference() -> None:
    x = torch.rand(1, 100, generator=torch.Generator().manual_seed(0))
    x[:, :50] *= 1e-3
    assert difference(Cancelling(), lambda call: [call.args[0]], call_of(x)) < TOLERANCE
    x[:, 3] = 1e-3
    assert difference(Cancelling(), lambda call: [call.args[0].where(x != x[0, 3], x + 1e-3)], call_of(x)) > TOLERANCE


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (torch.tensor([[1.0 + 1.0j, 2.0]]), torch.tensor([[1.0 + 0.0j, 2.0]])),
        (torch.tensor([[20000, 36000]]), torch.tensor([[20001, 36001]])),
    ],
    ids=["imaginary parts", "indices of many places"],
)
def test_what_real_numbers_do_not_show_is_compared(right: Tensor, wrong: Tensor) -> None:
    assert difference(nn.Identity(), lambda call: [right.clone()], call_of(right)) == 0.0
    assert difference(nn.Identity(), lambda call: [wrong], call_of(right)) > TOLERANCE
