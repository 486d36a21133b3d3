"""What a dense network may be before it is built."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.artifact.expected import check_expected
from secateur.models import build
from secateur.reading import Unfit


def measurement(params: int, activations: int, *shape: int) -> dict[str, Any]:
    counts = {"params": params, "activations": activations}
    return {"before": {"counts": counts}, "example": {"shape": list(shape), "dtype": "float32"}}


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


PARAMS, ACTIVATIONS = 314, 8 * 30 * 30 + 10
STORED = {"weight": ("F32", (300,))}


def test_the_network_that_was_measured_is_accepted_without_memory_or_random_numbers():
    state = torch.get_rng_state()
    devices: list[str] = []

    def built() -> nn.Module:
        model = net()
        devices.extend(parameter.device.type for parameter in model.parameters())
        return model

    check_expected(built, measurement(PARAMS, ACTIVATIONS, 1, 3, 32, 32), STORED, counted=True)
    assert set(devices) == {"meta"}
    assert torch.equal(torch.get_rng_state(), state)


def test_other_weights_than_were_counted_are_refused_unless_the_classifier_was_replaced():
    document = measurement(PARAMS + 1, ACTIVATIONS, 1, 3, 32, 32)
    with pytest.raises(Unfit, match="has 314 weights, where 315 were counted"):
        check_expected(net, document, STORED, counted=True)
    check_expected(net, document, STORED, counted=False)


def test_more_weights_than_the_stored_ones_bear_out_are_refused():
    large = build_large()
    params = sum(parameter.numel() for parameter in large.parameters())
    document = measurement(params, 10**9, 1, 4)
    with pytest.raises(Unfit, match="of which 300 are stored"):
        check_expected(build_large, document, STORED, counted=True)
    check_expected(build_large, document, {"weight": ("F32", (10**4, 10**4))}, counted=True)


def build_large() -> nn.Module:
    return nn.Linear(4, 10**9, device="meta")


def test_inputs_out_of_proportion_to_what_was_counted_are_refused():
    with pytest.raises(Unfit, match="larger than those that the network was measured on"):
        check_expected(net, measurement(PARAMS, ACTIVATIONS, 1, 3, 1600, 1600), STORED, counted=True)
    check_expected(net, measurement(PARAMS, 8 * 1598**2 + 10, 1, 3, 1600, 1600), STORED, counted=True)


def test_a_network_that_looks_at_values_is_not_looked_at():
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((3,), torch.ones(1).item()))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight

    def built() -> nn.Module:
        from secateur.models.sources import _call

        return _call(Looks, "looks", {})

    check_expected(built, measurement(10**12, 1, 1, 3), STORED, counted=True)


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "densenet40"])
def test_our_own_networks_are_looked_at(name: str):
    def built() -> nn.Module:
        return build(name, classes=10)

    with pytest.raises(Unfit, match="where 1 were counted"):
        check_expected(built, measurement(1, 1, 1, 3, 32, 32), STORED, counted=True)
