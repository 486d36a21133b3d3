from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur.reconstruction.rows import Places, changed

LAYERS = {
    "3x3": nn.Conv2d(4, 6, 3, padding=1),
    "stride": nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
    "oblong, dilated": nn.Conv2d(4, 6, (3, 5), padding=(2, 1), dilation=(2, 1)),
    "same": nn.Conv2d(4, 6, 4, padding="same"),
    "reflect": nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    "circular": nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
    "valid": nn.Conv2d(4, 6, 2, padding="valid"),
    "groups": nn.Conv2d(4, 6, 3, groups=2, padding=1),
    "depthwise": nn.Conv2d(4, 8, 3, groups=4, stride=2, padding=1),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("rows", [7, 10_000])
def test_rows_times_weights_are_the_outputs(name: str, rows: int) -> None:
    layer = LAYERS[name]
    given = torch.randn(3, 4, 9, 10)
    places = Places(layer, given, rows, seed=1)
    with torch.no_grad():
        made = layer(given)
        inputs = places.inputs(layer, given)
        weight = layer.weight.flatten(1).view(layer.groups, -1, inputs.shape[2])
        found = (inputs @ weight.transpose(1, 2)).transpose(0, 1).flatten(1)
        if layer.bias is not None:
            found = found + layer.bias
        assert torch.allclose(found, places.outputs(layer, made), atol=1e-5)
        assert torch.allclose(changed(layer, given, layer.weight, layer.bias), made, atol=1e-5)
    each = made[0, 0].numel()
    assert places.count == 3 * min(each, max(1, round(rows / 3)))
    assert len(set(zip(places.image.tolist(), places.place.tolist(), strict=True))) == places.count


@pytest.mark.parametrize("shape", [(5, 4), (5, 7, 4), (5, 2, 3, 4)])
def test_linear_layers_of_any_rank(shape: tuple[int, ...]) -> None:
    layer, given = nn.Linear(4, 3), torch.randn(shape)
    places = Places(layer, given, 10, seed=1)
    with torch.no_grad():
        found = places.inputs(layer, given)[0] @ layer.weight.T + layer.bias
        assert torch.allclose(found, places.outputs(layer, layer(given)), atol=1e-5)
