from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.reconstruction.sites import Site, sites


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 4, 1)
        self.last, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.short = nn.Conv2d(4, 4, 1)
        self.twice, self.both = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(self.stem(x)), inplace=True)
        out = self.norm(self.last(F.relu(self.inner(x))))
        out += self.short(x)
        out = self.twice(self.twice(out)) + 1
        read = self.both(out)
        out = self.drop(read) + out * torch.sigmoid(read)
        return self.fc(out.mean((2, 3)))


def test_norms_and_sums_are_found() -> None:
    found = {site.layer: site for site in sites(Branches(), torch.randn(1, 3, 4, 4))}
    assert found["stem"] == Site("stem", "first")
    assert found["inner"] == Site("inner")
    assert found["last"].norm == "norm"
    assert found["last"].add is not None
    assert found["short"] == Site("short", "", found["last"].add)  # both meet there
    assert "twice" not in found  # called twice
    assert found["both"] == Site("both")  # read by two
    assert found["fc"] == Site("fc")


def test_a_sum_with_a_number_or_of_another_shape_is_none() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x) + 1) + torch.ones(4)

    assert sites(Shifted(), torch.randn(2, 3)) == [Site("a"), Site("b")]


def test_the_network_is_left_as_it_was() -> None:
    model = Branches().train()
    model.norm.eval()
    modes = [module.training for module in model.modules()]
    sites(model, torch.randn(1, 3, 4, 4))
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
