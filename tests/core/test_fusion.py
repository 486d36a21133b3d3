from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from nets import images, lived_in
from secateur.core.fusion import fuse, fusible


class Pair(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.conv, self.norm = way, nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        assert y.dim() == 4
        assert y.shape[1] == 4
        z = self.norm(y)
        if self.way == "read again":
            return z + y
        if self.way == "a view is read":
            return z + y.flatten(2)[:, :, :1, None]
        return self.norm(z) if self.way == "norm called twice" else z.relu()


def test_a_norm_that_alone_reads_a_convolution_is_folded_into_it() -> None:
    net = lived_in(Pair("alone"))
    with torch.no_grad():
        assert fusible(net, images(2)) == [("conv", "norm")]
        twin = copy.deepcopy(net)
        fuse(twin, [("conv", "norm")])
        assert isinstance(twin.norm, nn.Identity)
        torch.testing.assert_close(twin(images(2)), net(images(2)))


@pytest.mark.parametrize("way", ["read again", "a view is read", "norm called twice"])
def test_a_convolution_that_somebody_else_reads_is_left_alone(way: str) -> None:
    with torch.no_grad():
        assert fusible(lived_in(Pair(way)), images(2)) == []
