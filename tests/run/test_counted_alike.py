from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from secateur import prune
from secateur.measure import Counts, Measurement, count
from secateur.run.counted_alike import counted_alike


class TwoStages(nn.Module):
    """Looks again as often as there are images of large features, as detectors do at boxes."""

    least = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3)
        self.last = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = self.first(x).relu()
        many = max(1, int((features.detach().sum(dim=(1, 2, 3)) > self.least).sum()))
        found = torch.stack([self.second(features).relu() for _ in range(many)]).mean(dim=0)
        return self.last(found.mean(dim=(2, 3)))


def measured(macs: int) -> Measurement:
    return Measurement(Counts(10, 10, macs, 7))


def test_what_differs_from_the_plan_is_counted_as_planned() -> None:
    dense = measured(1000)
    assert counted_alike(measured(46), dense, 0.883).counts == Counts(10, 10, 883, 7)
    for near in (879, 883, 887):
        assert counted_alike(measured(near), dense, 0.883).counts.macs == near


def test_a_network_that_finds_less_has_no_fewer_macs_for_it() -> None:
    torch.manual_seed(0)
    net, images = TwoStages().eval(), torch.rand(4, 3, 12, 12)
    with torch.no_grad():
        net.first.weight.abs_()
        net.least = 0.9 * float(
            net.first(images).relu().sum(dim=(1, 2, 3)).min()
        )  # all images have as much, halves not
    asked: dict[str, Any] = {"method": "magnitude", "target": 0.5, "latency": False, "repair": (), "progress": False}
    result = prune(net, images, **asked)
    share = result.after.counts.macs / result.before.counts.macs
    assert 0.4 < share <= 0.5
    ran = count(result.model, images).macs
    assert ran < 0.9 * result.after.counts.macs
    assert result.plans[-1].notes[-1].endswith(f"on the example the pruned one took {ran:,}")
