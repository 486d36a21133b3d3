from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.errors import ModelError
from secateur.measure import Counts, count
from secateur.models import build


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),  # 8x8 -> 4x4
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False),
        nn.ConvTranspose2d(8, 5, 2, stride=2),  # 4x4 -> 8x8
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 10),
    )


PARAMS = (8 * 3 * 9 + 8) + 2 * 8 + 8 * 2 * 9 + (8 * 5 * 4 + 5) + (5 * 10 + 10)
MACS = 16 * 8 * 27 + 16 * 8 * 18 + 16 * 8 * 5 * 4 + 50
ACTIVATIONS = 16 * 8 + 16 * 8 + 64 * 5 + 10


def test_counts_by_hand() -> None:
    model = net()
    for param in model.parameters():
        nn.init.ones_(param)
    assert count(model, torch.randn(1, 3, 8, 8)) == Counts(PARAMS, PARAMS, MACS, ACTIVATIONS)


def test_operations_grow_with_the_batch_and_parameters_do_not() -> None:
    counts = count(net(), torch.randn(3, 3, 8, 8))
    assert (counts.params, counts.macs, counts.activations) == (PARAMS, 3 * MACS, 3 * ACTIVATIONS)


def test_functions_that_come_whole_are_counted_by_their_parts() -> None:
    model = net()
    with torch.inference_mode():
        counts = count(model, torch.randn(1, 3, 8, 8))
    assert (counts.macs, counts.activations, counts.uncounted) == (MACS, ACTIVATIONS, "")


def test_nonzero_ignores_zeroed_weights() -> None:
    model = net()
    for param in model.parameters():
        nn.init.ones_(param)
    with torch.no_grad():
        model[0].weight[:3] = 0
    assert count(model, torch.randn(1, 3, 8, 8)).nonzero == PARAMS - 3 * 27


def test_shared_weights_count_once_as_parameters_and_twice_as_work() -> None:
    layer = nn.Linear(6, 6, bias=False)
    counts = count(nn.Sequential(layer, nn.ReLU(), layer), torch.randn(1, 6))
    assert (counts.params, counts.macs, counts.activations) == (36, 72, 12)


class Queries(nn.Module):
    """Learned queries, as of a detector: a view of a parameter goes into a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.mix = nn.Parameter(torch.randn(5, 16)), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.queries.expand(len(x), -1, -1)) + x.mean()


def test_a_view_of_a_parameter_may_enter_a_layer() -> None:
    assert count(Queries(), torch.zeros(2, 3)).macs == 2 * 5 * 16 * 4


def test_functional_calls_and_sequences_count_too() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.ones(4, 3, 1, 1))
            self.linear = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.conv2d(x, self.kernel)
            return self.linear(x.flatten(2).transpose(1, 2))

    counts = count(Model(), torch.randn(1, 3, 5, 5))
    assert (counts.macs, counts.activations) == (25 * 12 + 25 * 8, 25 * 4 + 25 * 2)


def test_attention_is_not_hidden_by_fused_kernels() -> None:
    layer = nn.MultiheadAttention(8, 2, batch_first=True, bias=False)
    x = torch.randn(1, 5, 8)
    counts = count(layer, (x, x, x))
    # three projections and the output, then scores and their product with the values
    assert counts.macs == 4 * 5 * 8 * 8 + 2 * (5 * 5 * 8)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("resnet20", 40_551_040),
        ("resnet56", 125_485_696),
        ("vgg16_bn_fc", 313_463_808),
        ("lenet5", 2_293_000),
    ],
)
def test_macs_of_the_literature(name: str, macs: int) -> None:
    shape = (1, 1, 28, 28) if name == "lenet5" else (1, 3, 32, 32)
    with torch.device("meta"):
        model = build(name, channels=shape[1]).to_empty(device="cpu")
    assert count(model, torch.zeros(shape)).macs == macs


@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_was(training: bool) -> None:
    model = net().train(training)
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count(model, torch.randn(4, 3, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training is training
    assert model[2].training is training
    assert model[1].training is False


@pytest.mark.parametrize("kind", [tuple, dict])
def test_several_inputs(kind: type) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2, bias=False)

        def forward(self, a: Tensor, b: Tensor) -> Any:
            return {"out": self.linear(a + b)}

    a, b = torch.randn(1, 3), torch.randn(1, 3)
    assert count(Model(), (a, b) if kind is tuple else {"b": b, "a": a}).macs == 6


def test_wrong_inputs_are_named_and_the_mode_comes_back() -> None:
    model = net().train()
    with pytest.raises(ModelError, match=r"cannot run on inputs of shape \(1, 4, 8, 8\): RuntimeError: ") as caught:
        count(model, torch.randn(1, 4, 8, 8))
    assert "\n" not in str(caught.value)
    assert model.training
    assert torch.backends.mha.get_fastpath_enabled()
