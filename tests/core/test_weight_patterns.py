"""Zeros by pattern: the right positions, counted right, and at zero through any training."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nets import Head, conv, images, lived_in, make
from secateur.core.graph import Graph
from secateur.core.plan import DropUnits, Plan, ZeroWeights
from secateur.core.problem import Problem
from secateur.core.sizes.size import size
from secateur.core.surgery import apply, hold, masked, run, verify
from secateur.core.trace import trace
from secateur.core.zeros import patterns
from secateur.errors import PlanError, SettingError
from secateur.measure import count
from secateur.methods.weight_magnitude import WeightMagnitude

NET = make("plain")
GRAPH = trace(NET, images(1))
SECOND = "2.0.weight"  # (16, 8, 3, 3)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grouped() -> Graph:
    net = lived_in(nn.Sequential(conv(3, 8), conv(8, 12, groups=2), nn.ConvTranspose2d(12, 6, 2), Head(6)))
    return trace(net, images(1))


def test_the_first_convolution_and_linear_layers_are_left_alone_unless_asked() -> None:
    assert patterns.stem_of(GRAPH) == "0.0.weight"
    assert patterns.maskable(GRAPH) == (SECOND,)
    assert patterns.maskable(GRAPH, stem=True, linear=True) == ("0.0.weight", SECOND, "3.fc.weight")
    assert patterns.maskable(GRAPH.without("2.0")) == ()


def test_depthwise_kernels_are_maps_and_not_offered() -> None:
    net = make("depth multiplier")
    assert patterns.maskable(trace(net, images(1))) == ("point.0.weight",)


def test_convolutions_that_lose_whole_groups_can_be_thinned_out() -> None:
    """Only depthwise ones cannot, but where patterns go by input maps nobody says which rows read which of these."""
    parts = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 12, 3, groups=4), nn.ConvTranspose2d(12, 8, 3, groups=4)
    net = nn.Sequential(*parts, nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1))
    graph = trace(net, torch.zeros(1, 1, 12, 12))
    assert patterns.maskable(graph) == ("1.weight", "2.weight", "4.weight")
    assert patterns.maskable(graph, mapwise=True) == ("4.weight",)
    plan = WeightMagnitude().plan(Problem(net, graph))
    assert {edit.tensor for edit in plan.edits if isinstance(edit, ZeroWeights)} >= {"1.weight", "2.weight"}
    assert verify(net, graph, plan, apply(net, graph, plan), torch.randn(2, 1, 12, 12)).exact


@pytest.mark.parametrize(
    ("stride", "offset", "polarity", "hit"),
    [
        (2, 0, "keep", [1, 0, 1, 0, 1, 0, 1, 0, 1]),
        (2, 1, "keep", [0, 1, 0, 1, 0, 1, 0, 1, 0]),
        (3, 2, "keep", [0, 0, 1, 0, 0, 1, 0, 0, 1]),
        (3, 2, "drop", [1, 1, 0, 1, 1, 0, 1, 1, 0]),
        (9, 4, "keep", [0, 0, 0, 0, 1, 0, 0, 0, 0]),
    ],
)
def test_positions_of_a_strided_kernel(stride: int, offset: int, polarity: patterns.Polarity, hit: list[int]) -> None:
    assert patterns.stride_mask((3, 3), stride, offset, polarity).int().flatten().tolist() == hit


@given(st.integers(1, 7), st.integers(1, 7), st.data())
def test_density_of_a_strided_kernel(height: int, width: int, data: st.DataObject) -> None:
    """An arithmetic progression of positions: ceil((k*k - offset) / stride) of them."""
    if height * width < 2:
        return
    stride = data.draw(st.integers(2, height * width))
    offset = data.draw(st.integers(0, stride - 1))
    kept = patterns.stride_mask((height, width), stride, offset)
    assert int(kept.sum()) == math.ceil((height * width - offset) / stride)
    assert torch.equal(kept, ~patterns.stride_mask((height, width), stride, offset, "drop"))


def test_all_kernels_that_leave_a_map_share_its_pattern() -> None:
    offsets = torch.tensor([0, 1, 0, 1, 1, 0, 0, 1])
    mask = patterns.strided_mask(GRAPH, SECOND, 2, offsets)
    for c, offset in enumerate(offsets.tolist()):
        for j in range(16):
            assert torch.equal(mask[j, c], patterns.stride_mask((3, 3), 2, offset))


def test_strided_patterns_of_grouped_and_transposed_convolutions_follow_the_input_maps() -> None:
    graph = grouped()
    assert patterns.input_maps(graph, "1.0.weight") == 8
    offsets = torch.tensor([0, 1, 0, 1, 1, 0, 0, 1])
    mask = patterns.strided_mask(graph, "1.0.weight", 2, offsets)
    for j in range(12):
        for c in range(4):
            at = offsets[c + 4 * (j // 6)]
            assert torch.equal(mask[j, c], patterns.stride_mask((3, 3), 2, int(at)))
    offsets = torch.arange(12) % 2
    mask = patterns.strided_mask(graph, "2.weight", 2, offsets)
    for c in range(12):
        for j in range(6):
            assert torch.equal(mask[c, j], patterns.stride_mask((2, 2), 2, c % 2))


def test_kernels_go_whole_and_in_the_number_asked_for() -> None:
    weight = torch.ones(16, 8, 3, 3)
    edit = patterns.draw_kernels(GRAPH, SECOND, 51, rng(), weight)
    kernels = edit.mask().flatten(2)
    assert torch.equal(kernels.all(2), kernels.any(2))
    assert int((~kernels.any(2)).sum()) == 51
    assert patterns.draw_kernels(GRAPH, SECOND, 51, rng(), weight) == edit
    assert patterns.draw_kernels(GRAPH, SECOND, 51, rng(1), weight) != edit


def test_what_is_zero_already_stays_zero_and_counts() -> None:
    weight = torch.ones(16, 8, 3, 3)
    weight[2, 3] = 0
    weight[5] = 0
    mask = patterns.draw_kernels(GRAPH, SECOND, 20, rng(), weight).mask()
    assert not bool(mask[2, 3].any() | mask[5].any())
    assert int((~mask).sum()) == 20 * 9
    weight[:] = 1
    weight[0, 0, 0, :2] = 0
    mask = patterns.draw_weights(GRAPH, SECOND, 3, rng(), weight).mask()
    assert not bool(mask[0, 0, 0, :2].any())
    assert int((~mask).sum()) == 3


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2), (3, 8)])
def test_n_of_every_m_inputs_stay_at_each_position(n: int, m: int) -> None:
    edit = patterns.draw_n_of_m(GRAPH, SECOND, n, m, rng())
    assert edit is not None
    runs = edit.mask().movedim(1, -1).unflatten(-1, (8 // m, m)).sum(-1)
    assert bool((runs == n).all())


def test_n_of_m_leaves_layers_alone_that_do_not_divide() -> None:
    assert patterns.draw_n_of_m(GRAPH, "0.0.weight", 2, 4, rng()) is None
    assert patterns.draw_n_of_m(GRAPH, SECOND, 2, 3, rng()) is None


def test_single_weights_have_no_stride_and_are_left_alone() -> None:
    net = make("depth multiplier")
    assert patterns.draw_strided(trace(net, images(1)), "point.0.weight", 2, rng(), "keep") is None


def drawings() -> dict[str, Callable[[Graph, str], ZeroWeights | None]]:
    ones = torch.ones
    return {
        "kernels": lambda g, n: patterns.draw_kernels(g, n, 30, rng(), ones(g.tensors[n][0])),
        "weights": lambda g, n: patterns.draw_weights(g, n, 300, rng(), ones(g.tensors[n][0])),
        "strided": lambda g, n: patterns.draw_strided(g, n, 3, rng(), "drop"),
        "2:4": lambda g, n: patterns.draw_n_of_m(g, n, 2, 4, rng()),
    }


@pytest.mark.parametrize("kind", sorted(drawings()))
def test_masking_surgery_and_sizes_agree_on_patterns_also_beside_removed_maps(kind: str) -> None:
    edit = drawings()[kind](GRAPH, SECOND)
    assert edit is not None
    for drops in ((), (DropUnits("0.0", (1, 6)), DropUnits("2.0", (0, 3, 15)))):
        plan = Plan((*drops, edit))
        before = {name: value.clone() for name, value in NET.state_dict().items()}
        with masked(NET, GRAPH, plan) as silenced:
            expected = run(silenced, images())
        assert all(torch.equal(value, before[name]) for name, value in NET.state_dict().items())
        thin = apply(NET, GRAPH, plan)
        torch.testing.assert_close(run(thin, images()), expected)
        assert verify(NET, GRAPH, plan, thin, images()).exact
        paper, real = size(GRAPH, plan), count(thin, images(1))
        assert (paper.nonzero, paper.params, paper.macs) == (real.nonzero, real.params, real.macs)
        assert paper.nonzero < paper.params


OPTIMIZERS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize("kind", sorted(drawings()))
def test_zeros_are_held_through_training(kind: str, optimizer: str) -> None:
    """Momentum, decay and adaptive steps all move a weight whose gradient is zero."""
    edit = drawings()[kind](GRAPH, SECOND)
    assert edit is not None
    plan = Plan((DropUnits("0.0", (1,)), DropUnits("2.0", (4, 5)), edit))
    thin = apply(NET, GRAPH, plan).train()
    weight = thin.get_parameter(SECOND)
    zeros = weight == 0
    steps, shaper = OPTIMIZERS[optimizer](list(thin.parameters())), hold(thin, GRAPH, plan)
    for step in range(4):
        steps.zero_grad()
        thin(images(4, step)).square().sum().backward()
        steps.step()
        assert bool(weight[zeros].any())  # the optimizer does move them
        shaper.after_step(step)
        assert not bool(weight[zeros].any())
    assert bool((weight[~zeros] != 0).all())


def test_bad_patterns_are_refused_in_one_sentence() -> None:
    with pytest.raises(SettingError, match=r"stride 10 does not fit the 3x3 kernels of '2\.0': it must lie in 2 to 9"):
        patterns.draw_strided(GRAPH, SECOND, 10, rng(), "keep")
    with pytest.raises(SettingError, match="stride 1 does not fit the 3x3 kernels"):
        patterns.stride_mask((3, 3), 1, 0)
    with pytest.raises(SettingError, match="offset 2 does not fit stride 2"):
        patterns.stride_mask((3, 3), 2, 2)
    with pytest.raises(SettingError, match="unknown polarity 'both'"):
        patterns.stride_mask((3, 3), 2, 1, "both")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="4:4 is not a pattern"):
        patterns.draw_n_of_m(GRAPH, SECOND, 4, 4, rng())
    with pytest.raises(PlanError, match="reads 8 maps, but 3 offsets"):
        patterns.strided_mask(GRAPH, SECOND, 2, torch.zeros(3, dtype=torch.long))
    with pytest.raises(PlanError, match="is it of another layer"):
        patterns.kernel_mask((16, 8, 3, 3), torch.ones(8, 16, dtype=torch.bool))
