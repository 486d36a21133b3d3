from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nets import images, lived_in
from secateur.core.plan import Block, DropUnits, Plan, Regroup, ZeroWeights
from secateur.core.sizes.regrouped import blocks_of
from secateur.core.surgery import apply, verify
from secateur.core.trace import trace
from secateur.core.zeros.blocks import BlockLayer


class Chain(nn.Module):
    """Three convolutions with batch norms and a classifier; ``way`` says who else touches the second's channels."""

    def __init__(self, way: str = "") -> None:
        super().__init__()
        self.way = way
        self.one, self.two, self.three = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 6, 1)
        self.n1, self.n2, self.n3 = nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.BatchNorm2d(6)
        self.act = nn.PReLU(8) if way == "prelu" else nn.ReLU()
        self.head = nn.Linear(6 * 36 if way == "flat" else 6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.n1(self.one(x)).relu()
        y = self.act(self.n2(self.two(x)))
        if self.way == "residual":
            y = y + x
        if self.way == "halves":
            y = torch.cat([y[:, :4], y[:, 4:].tanh()], 1)
        if self.way == "neighbours":
            y = F.local_response_norm(y, 3, alpha=1.0)
        y = self.n3(self.three(y)).relu()
        return self.head(y.flatten(1) if self.way == "flat" else y.mean((2, 3)))


def regrouped(layer: str, outputs: int, inputs: int) -> Regroup:
    """Even outputs read the first half, odd ones the second, so that blocks do not lie in order."""
    half = inputs // 2
    return Regroup(
        layer,
        (
            Block(tuple(range(0, outputs, 2)), tuple(range(half))),
            Block(tuple(range(1, outputs, 2)), tuple(range(half - 1, inputs))),
        ),
    )


def made(way: str, *edits: object) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    net = lived_in(Chain(way))
    graph = trace(net, images(1))
    plan = Plan(tuple(edits))  # type: ignore[arg-type]
    thin = apply(net, graph, plan)
    assert verify(net, graph, plan, thin, images(2)).exact
    return net, thin


def ordered(thin: nn.Module) -> dict[str, bool]:
    return {name: module.ordered for name, module in thin.named_modules() if isinstance(module, BlockLayer)}


def test_batch_norms_and_readers_take_channels_in_the_order_of_the_blocks() -> None:
    net, thin = made("", regrouped("two", 8, 8))
    assert ordered(thin) == {"two": True}
    even_first = [0, 2, 4, 6, 1, 3, 5, 7]
    assert torch.equal(thin.n2.running_mean, net.n2.running_mean[even_first])
    assert torch.equal(thin.three.weight, net.three.weight[:, even_first])


def test_channels_that_are_divided_by_their_neighbours_keep_their_order() -> None:
    _, thin = made("neighbours", regrouped("two", 8, 8))
    assert ordered(thin) == {"two": False}


def test_a_reader_in_blocks_picks_its_inputs_where_they_are_now() -> None:
    _, thin = made("", regrouped("two", 8, 8), regrouped("three", 6, 8), DropUnits("two", (1, 4)))
    assert ordered(thin) == {"two": True, "three": True}  # the classifier follows the last


@pytest.mark.parametrize("way", ["residual", "prelu", "halves"])
def test_channels_that_somebody_needs_in_their_place_keep_it(way: str) -> None:
    _, thin = made(way, regrouped("two", 8, 8))
    assert ordered(thin) == {"two": False}


def test_a_flattened_map_keeps_the_order_of_its_channels() -> None:
    _, thin = made("flat", regrouped("three", 6, 8))
    assert ordered(thin) == {"three": False}


def test_zeros_that_are_held_keep_the_order_of_their_channels() -> None:
    mask = torch.ones(6, 8, 1, 1, dtype=torch.bool)
    mask[0, 3] = False
    _, thin = made("", regrouped("two", 8, 8), ZeroWeights.of("three.weight", mask))
    assert ordered(thin) == {"two": False}


def test_weights_saved_in_the_old_order_are_restored_in_it() -> None:
    net, thin = made("", regrouped("two", 8, 8))
    old = apply(net, trace(net, images(1)), Plan((regrouped("two", 8, 8),)))
    even_first = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
    back = torch.argsort(even_first)
    state = {name: value.clone() for name, value in thin.state_dict().items()}
    state["two.order"] = back
    for name in ("n2.weight", "n2.bias", "n2.running_mean", "n2.running_var"):
        state[name] = state[name][back]
    state["three.weight"] = state["three.weight"][:, back]
    old.load_state_dict(state)
    assert ordered(old) == {"two": False}
    torch.testing.assert_close(old(images(2)), thin(images(2)))


@settings(max_examples=25, deadline=None)
@given(data=st.data(), way=st.sampled_from(["", "residual", "flat", "halves"]))
def test_any_blocks_compute_what_the_silenced_network_computes(data: st.DataObject, way: str) -> None:
    masks = {}
    for layer, outputs in (("two", 8), ("three", 6)):
        rows = data.draw(st.lists(st.integers(1, 255), min_size=outputs, max_size=outputs))
        masks[layer] = torch.tensor([[bool(row >> bit & 1) for bit in range(8)] for row in rows])
    made(way, *(Regroup(layer, blocks_of(mask)) for layer, mask in masks.items()))
