"""What kernels add, against layers that run with one kernel alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.errors import DataError, SettingError
from secateur.measure.edge_contributions import edge_contributions

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "plain": (nn.Conv2d(3, 4, 3, stride=2, padding=1, padding_mode="reflect"), (3, 6, 6)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), (4, 6, 6)),
    "transposed": (nn.ConvTranspose2d(3, 4, 3, stride=2), (3, 4, 4)),
    "grouped transposed": (nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False), (4, 4, 4)),
    "linear": (nn.Linear(5, 3), (5,)),
    "one dimension": (nn.Conv1d(2, 3, 3), (2, 9)),
}


def by_single_kernels(layer: Any, inputs: Tensor) -> Tensor:
    """Let the layer run with all weights zero but those of one kernel."""
    whole = layer.weight.detach().clone()
    found = torch.zeros(whole.shape[:2], dtype=torch.float64)
    bias, layer.bias = layer.bias, None
    for place in torch.cartesian_prod(torch.arange(whole.shape[0]), torch.arange(whole.shape[1])):
        layer.weight.data.zero_()
        layer.weight.data[tuple(place)] = whole[tuple(place)]
        out = layer(inputs).detach().double().abs()
        found[tuple(place)] = out.flatten(2).mean(2).sum() / len(inputs) if out.dim() > 2 else out.sum() / len(inputs)
    layer.weight.data.copy_(whole)
    layer.bias = bias
    return found


@pytest.mark.parametrize("name", LAYERS)
def test_the_parts_of_a_layer(name: str) -> None:
    layer, shape = LAYERS[name]
    inputs = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    state = {key: value.clone() for key, value in layer.state_dict().items()}
    found = edge_contributions(nn.Sequential(layer), ["0.weight"], inputs.split(2))["0.weight"]
    assert all(torch.equal(value, state[key]) for key, value in layer.state_dict().items())
    torch.testing.assert_close(found, by_single_kernels(layer, inputs), rtol=1e-5, atol=1e-6)


def test_a_layer_that_is_never_called_is_said() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.conv2d(x, self.conv.weight)

    with pytest.raises(SettingError, match="what the kernels of 'conv' add is never seen"):
        edge_contributions(Unused(), ["conv.weight"], [torch.ones(1, 1, 2, 2)])
    with pytest.raises(DataError, match="no batch of images"):
        edge_contributions(Unused(), ["conv.weight"], [])
