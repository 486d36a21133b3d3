"""The steps of Deep Compression by the paper's own numbers, each and its way back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from secateur.encoding import EncodedLayer, Encoding
from secateur.encoding.huffman_coding import bits_of, packed, unpacked
from secateur.encoding.rates import expected_fillers, rate_of_sharing
from secateur.encoding.relative_indices import from_gaps, to_gaps
from secateur.encoding.shared_values import SharedValues, Sharing, clustered, share
from secateur.errors import SettingError
from secateur.reading import Unfit

WEIGHTS = torch.tensor([2.09, -0.98, 1.48, 0.09, 0.05, -0.14, -1.08, 2.12, -0.91, 1.92, 0, -1.03, 1.87, 0, 1.53, 1.49])
MEMBERS = torch.tensor([[3, 0, 2, 1], [1, 1, 0, 3], [0, 3, 1, 0], [3, 1, 2, 2]])
GRADIENT = torch.tensor([-3.0, -1, 3, 2, -1, 1, -2, 12, -1, 2, 4, 1, -7, -2, 1, -2]).reshape(4, 4) / 100


def test_the_example_of_the_paper() -> None:
    """There zeros take part."""
    centres, numbers = clustered(WEIGHTS.flatten().double().numpy(), 2)
    np.testing.assert_allclose(centres, (-1.0, 0.0, 1.5, 2.0), atol=1e-7)
    assert numbers.reshape(4, 4).tolist() == MEMBERS.tolist()
    assert rate_of_sharing(16, 4) == 16 * 32 / (16 * 2 + 4 * 32) == 3.2


def test_values_move_by_the_sum_of_their_gradients() -> None:
    layer = nn.Linear(4, 4, bias=False)
    values = torch.tensor([-1.0, 0.0, 1.5, 2.0])
    first = torch.tensor([MEMBERS.flatten().tolist().index(number) for number in range(4)])
    with torch.no_grad():
        layer.weight.copy_(values[MEMBERS])
    shaper = SharedValues(layer, {"weight": Sharing(MEMBERS + 1, first)})
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    with shaper.attached():
        (layer.weight * GRADIENT).sum().backward()
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, torch.tensor([-0.03, 0.04, 0.02, 0.04])[MEMBERS])
    optimizer.step()
    shaper.after_step(0)
    expected = torch.tensor([-0.97, -0.04, 1.48, 1.96])
    torch.testing.assert_close(layer.weight.detach(), expected[MEMBERS])
    assert len(layer.weight.detach().unique()) == 4
    layer.weight.grad = None
    (layer.weight * GRADIENT).sum().backward()
    assert torch.equal(layer.weight.grad, GRADIENT)  # outside the block as always


def test_zeros_stay_out_and_get_no_gradient() -> None:
    layer = nn.Linear(40, 5)
    with torch.no_grad():
        layer.weight[:, ::3] = 0.0
    gone = layer.weight == 0
    sharing = share(layer.weight, 3)
    assert torch.equal(layer.weight == 0, gone)
    assert len(layer.weight.detach()[~gone].unique()) == 8
    assert torch.equal(sharing.values(layer.weight).sort().values, layer.weight.detach()[~gone].unique())
    with SharedValues(layer, {"weight": sharing}).attached():
        layer(torch.randn(3, 40)).square().sum().backward()
    assert layer.weight.grad is not None
    assert not bool(layer.weight.grad[gone].any())


@pytest.mark.parametrize("weight", [torch.zeros(3, 4), torch.tensor([[1.0, -1.0, 0.0, 1.0]]), torch.tensor([[2.5]])])
def test_few_values_are_kept_as_they_are(weight: torch.Tensor) -> None:
    before = weight.clone()
    sharing = share(weight, 2)
    assert torch.equal(weight, before)
    assert len(sharing.first) == len(before[before != 0].unique())


def test_gaps_by_hand() -> None:
    gaps = to_gaps(np.array([1, 4, 15]), 3)
    assert gaps.tolist() == [1, 2, 8, 2]  # 2, 3, filler of 8, 3: all but fillers one less
    assert from_gaps(gaps, 3, 16).tolist() == [1, 4, 15]
    assert to_gaps(np.array([7]), 3).tolist() == [7]  # 8 is no longer than can be written
    assert to_gaps(np.array([8]), 3).tolist() == [8, 0]


@given(
    places=st.sets(st.integers(0, 3000), max_size=60).map(sorted),
    bits=st.integers(1, 7),
)
@settings(max_examples=40, deadline=None)
def test_gaps_come_back(places: list[int], bits: int) -> None:
    gaps = to_gaps(np.array(places, dtype=np.int64), bits)
    assert from_gaps(gaps, bits, 3001).tolist() == places
    assert len(gaps) - len(places) == sum((b - a - 1) // 2**bits for a, b in zip([-1, *places], places, strict=False))


@pytest.mark.parametrize(
    ("gaps", "words"),
    [([9], "more than 3 bits"), ([8], "behind the end"), ([7, 7, 7], "behind the end"), ([0, 8], "behind the end")],
)
def test_impossible_gaps_are_refused(gaps: list[int], words: str) -> None:
    with pytest.raises(Unfit, match=words):
        from_gaps(np.array(gaps, dtype=np.uint8), 3, 20)


def test_huffman_codes_of_the_paper() -> None:
    """Lengths 1, 2, 3, 4 and 4, with which 16 symbols take 30 bits."""
    counts = (8, 4, 2, 1, 1)
    assert bits_of(counts) == 8 * 1 + 4 * 2 + 2 * 3 + 1 * 4 + 1 * 4 == 30
    symbols = np.repeat(np.arange(5, dtype=np.uint8), [1000 * count for count in counts])
    np.random.default_rng(0).shuffle(symbols)
    code = packed(symbols)
    # of the codes of 4 bits one becomes longer, for the end needs one, too; the table is in front
    assert 30_000 / 8 < len(code) < 31_000 / 8 + 60
    assert np.array_equal(unpacked(code, len(symbols)), symbols)


@given(st.lists(st.integers(0, 255), max_size=200))
@settings(max_examples=30, deadline=None)
def test_codes_come_back(symbols: list[int]) -> None:
    assert unpacked(packed(np.array(symbols, dtype=np.uint8)), len(symbols)).tolist() == symbols


@pytest.mark.parametrize("count", [0, 99, 101])
def test_a_code_of_another_length_is_refused(count: int) -> None:
    with pytest.raises(Unfit, match=f"does not hold the {count} numbers"):
        unpacked(packed(np.zeros(100, dtype=np.uint8)), count)


def test_a_bomb_is_not_expanded() -> None:
    import zlib

    bomb = zlib.compress(bytes(10**8), 9)
    with pytest.raises(Unfit, match="does not hold the 10 numbers"):
        unpacked(bomb, 10)


@pytest.mark.parametrize(
    ("network", "layers", "rate"),
    [
        ("LeNet-300-100", [(235_200, 0.08, 6), (30_000, 0.09, 6), (1000, 0.26, 6)], 32),
        ("LeNet-5", [(500, 0.66, 8), (25_000, 0.12, 8), (400_000, 0.08, 5), (5000, 0.19, 5)], 33),
    ],
)
def test_rates_of_the_papers_table(network: str, layers: list[tuple[int, float, int]], rate: float) -> None:
    """From its shares of weights and bits, before Huffman coding; distances have 5 bits."""
    found = [EncodedLayer.on_paper("", weights, left, bits, 5) for weights, left, bits in layers]
    weights = sum(layer.weights for layer in found)
    assert weights == {"LeNet-300-100": 266_200, "LeNet-5": 430_500}[network]
    assert 32 * weights / sum(layer.shared for layer in found) == pytest.approx(rate, rel=0.02)


def test_fillers_are_as_many_as_chance_makes_them() -> None:
    places = np.flatnonzero(np.random.default_rng(0).random(200_000) < 0.05)
    fillers = len(to_gaps(places, 4)) - len(places)
    assert fillers / len(places) == pytest.approx(expected_fillers(0.05, 4), rel=0.05)
    assert expected_fillers(0.0, 4) == 0.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"conv_bits": 9}, "conv_bits must be 0 to 8, not 9"),
        ({"linear_bits": -1}, "linear_bits must be 0 to 8"),
        ({"bits": (("fc1", 12),)}, "bits of 'fc1' must be 0 to 8, not 12"),
        ({"gap_bits": 8}, "gap_bits must be 1 to 7, not 8"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        Encoding(**options)


def test_layers_may_have_bits_of_their_own() -> None:
    shapes = {"a.weight": (4, 3, 3, 3), "a.bias": (4,), "b.weight": (4, 3), "c.weight": (5, 4)}
    assert Encoding(bits=(("c", 0), ("[bc]", 2))).bits_of(shapes) == {
        "a.weight": 8, "a.bias": 0, "b.weight": 2, "c.weight": 0,
    }  # fmt: skip
    with pytest.raises(SettingError, match=r"no layer with weights matches 'd' of 'bits'"):
        Encoding(bits=(("d", 2),)).bits_of(shapes)
