from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nets import NETS, images, make
from plans import half
from secateur.core.graph import Graph
from secateur.core.plan import Block, DropUnits, Plan, Regroup, ZeroWeights
from secateur.core.sizes.size import size
from secateur.core.surgery import apply, hold, masked, relative_difference, run, verify
from secateur.core.trace import trace
from secateur.errors import ModelError, PlanError
from strategies import networks, plans


def counted_macs(model: nn.Module, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        run(model, x)
    return counter.get_total_flops() // 2


def counted_params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def everything(model: nn.Module) -> dict[str, Any]:
    """All that surgery on a copy must not change, tensors by value and by identity."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {
        "values": {name: tensor.detach().clone() for name, tensor in tensors},
        "objects": {name: id(tensor) for name, tensor in tensors},
        "gradients": {name: tensor.requires_grad for name, tensor in tensors},
        "modes": [module.training for module in model.modules()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "sizes": [repr(module) for module in model.modules()],
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for key in before:
        if key == "values":
            assert all(torch.equal(value, after[key][name]) for name, value in before[key].items())
        else:
            assert before[key] == after[key], key


# -- the property of properties -----------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@given(net=networks(), data=st.data())
def test_removal_equals_silence(dtype: torch.dtype, tolerance: float, net: nn.Module, data: st.DataObject) -> None:
    net = net.to(dtype)
    graph = trace(net, images(1, dtype=dtype))
    plan = data.draw(plans(graph, zeros=True))
    thin = apply(net, graph, plan)
    others = images(2, seed=1, dtype=dtype)  # not those that were traced
    with masked(net, graph, plan):
        expected = run(net, others)
    found = run(thin, others)
    assert found.dtype == dtype
    assert relative_difference(expected, found) < tolerance


@given(net=networks(), data=st.data())
def test_size_on_paper_is_the_size_counted(net: nn.Module, data: st.DataObject) -> None:
    x = images(1)
    graph = trace(net, x)
    plan = data.draw(plans(graph))
    thin = apply(net, graph, plan)
    paper = size(graph, plan)
    assert paper.params == counted_params(thin)
    assert paper.macs == counted_macs(thin, x)
    assert size(graph).macs == counted_macs(net, x)


@given(net=networks(), data=st.data())
def test_the_argument_is_untouched_and_masking_restores_every_bit(net: nn.Module, data: st.DataObject) -> None:
    for module in net.modules():
        module.training = data.draw(st.booleans())
    for parameter in net.parameters():
        parameter.requires_grad_(data.draw(st.booleans()))
    before = everything(net)
    graph = trace(net, images(1))
    assert_same(before, everything(net))
    plan = data.draw(plans(graph, zeros=True))
    thin = apply(net, graph, plan)
    assert_same(before, everything(net))
    with masked(net, graph, plan):
        run(net, images(2))
    assert_same(before, everything(net))
    own = {tensor.data_ptr() for tensor in net.state_dict().values()}
    assert not own & {tensor.data_ptr() for tensor in thin.state_dict().values()}
    assert [module.training for module in thin.modules()] == before["modes"]
    assert {name: p.requires_grad for name, p in thin.named_parameters()} == {
        name: p.requires_grad for name, p in net.named_parameters()
    }


@given(net=networks(), data=st.data())
def test_the_thin_network_trains(net: nn.Module, data: st.DataObject) -> None:
    graph = trace(net, images(1))
    thin = apply(net, graph, data.draw(plans(graph))).train()
    thin(images(2)).square().mean().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in thin.parameters())
    torch.optim.SGD(thin.parameters(), 0.01).step()
    assert bool(torch.isfinite(run(thin, images(2))).all())


@given(net=networks(), data=st.data())
def test_two_plans_in_turn_equal_both_at_once(net: nn.Module, data: st.DataObject) -> None:
    graph = trace(net.double(), images(1, dtype=torch.float64))
    plan = data.draw(plans(graph))
    first, second = Plan(plan.edits[::2]), Plan(plan.edits[1::2])
    between = apply(net, graph, first)
    again = trace(between, images(1, dtype=torch.float64))
    sizes = {g.name: g.size for g in graph.groups}
    # groups of which a single unit is left are none any more, and then names may move: those cases say nothing
    if all(
        again_size == sizes.get(name)
        for name, again_size in ((g.name, g.size) for g in again.groups)
        if name in second.dropped()
    ) and second.dropped().keys() <= {g.name for g in again.groups}:
        y = images(2, dtype=torch.float64)
        expected = run(apply(net, graph, plan), y)
        assert relative_difference(expected, run(apply(between, again, second), y)) < 1e-9


# -- what carries over --------------------------------------------------------------------------------------


def test_channels_last_and_dtype_carry_over() -> None:
    net = make("plain").to(torch.bfloat16).to(memory_format=torch.channels_last)
    graph = trace(net, images(1, dtype=torch.bfloat16))
    thin = apply(net, graph, half(graph))
    weight = thin.get_parameter("2.0.weight")
    assert weight.shape == (8, 4, 3, 3)
    assert weight.dtype == torch.bfloat16
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


def test_tied_weights_stay_tied() -> None:
    net = make("tied")
    graph = trace(net, images(1))
    thin = apply(net, graph, half(graph))
    assert thin.a.weight is thin.b.weight
    assert thin.a.bias is not thin.b.bias
    assert thin.a.weight.shape == (4, 4, 3, 3)
    assert size(graph, half(graph)).params == counted_params(thin)


def test_hooks_carry_over_and_see_the_thin_channels() -> None:
    net = make("plain")
    seen: list[tuple[int, ...]] = []
    net[0].register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    graph = trace(net, images(1))
    seen.clear()
    run(apply(net, graph, half(graph)), images(2))
    assert seen == [(2, 4, 8, 8)]


def test_a_thin_network_can_be_thinned_and_copied_again() -> None:
    net = make("option A")
    graph = trace(net, images(1))
    thin = apply(net, graph, half(graph))
    twin = copy.deepcopy(thin)
    assert torch.equal(run(twin, images(2)), run(thin, images(2)))
    again = trace(thin, images(1))
    assert {g.name: g.size for g in again.groups} == {"stem.0": 4, "conv1": 8, "conv2": 4}
    thinner = apply(thin, again, half(again))
    assert verify(thin, again, half(again), thinner, images(2, seed=3)).exact


def test_sizes_of_standard_modules_follow() -> None:
    net = make("depth multiplier")
    graph = trace(net, images(1))
    thin = apply(net, graph, half(graph))
    depthwise, norm = thin.depthwise[0], thin.depthwise[1]
    assert (depthwise.in_channels, depthwise.out_channels, depthwise.groups) == (4, 8, 4)
    assert (norm.num_features, len(norm.running_var), thin.head.fc.in_features) == (8, 8, 3)


def test_kept_values_are_those_of_the_kept_channels() -> None:
    net = make("plain")
    graph = trace(net, images(1))
    thin = apply(net, graph, Plan((DropUnits("0.0", (0, 3)), DropUnits("2.0", (15,)))))
    stay = [1, 2, 4, 5, 6, 7]
    assert torch.equal(thin[0][0].weight, net[0][0].weight[stay])
    assert torch.equal(thin[0][1].running_var, net[0][1].running_var[stay])
    assert torch.equal(thin[2][0].weight, net[2][0].weight[:15][:, stay])
    assert torch.equal(thin[3].fc.weight, net[3].fc.weight[:, :15])


# -- silence ------------------------------------------------------------------------------------------------


def test_masking_restores_after_an_error_inside() -> None:
    net = make("plain")
    graph, before = trace(net, images(1)), everything(net)
    with pytest.raises(KeyError), masked(net, graph, half(graph)):
        raise KeyError
    assert_same(before, everything(net))


def test_masking_zeroes_readers_and_leaves_makers() -> None:
    net = make("sigmoid")
    graph = trace(net, images(1))
    makers = net.one.weight.clone()
    with masked(net, graph, Plan((DropUnits("one", (2, 5)),))):
        assert torch.equal(net.one.weight, makers)
        assert not net.two.weight[:, [2, 5]].any()
        assert net.two.weight[:, [0, 1, 3, 4, 6, 7]].all()


# -- single weights -----------------------------------------------------------------------------------------


def test_zeroed_weights_are_zero_in_the_thin_network_and_held_there() -> None:
    net = make("plain")
    graph = trace(net, images(1))
    keep = torch.arange(16 * 8 * 9).reshape(16, 8, 3, 3) % 3 != 0
    plan = Plan((DropUnits("0.0", (1,)), ZeroWeights.of("2.0.weight", keep)))
    thin = apply(net, graph, plan)
    left = keep[:, [0, 2, 3, 4, 5, 6, 7]]
    assert torch.equal(thin[2][0].weight != 0, left)
    assert size(graph, plan).nonzero == counted_params(thin) - int((~left).sum())
    shaper = hold(thin, graph, plan)
    with torch.no_grad():
        thin[2][0].weight.add_(1.0)
    shaper.after_step(0)
    assert torch.equal(thin[2][0].weight != 0, left)
    assert shaper.penalty() is None


def test_regrouping_lets_outputs_read_their_blocks_only() -> None:
    net = make("plain")
    graph = trace(net, images(1))
    blocks = (Block(tuple(range(10)), (0, 1, 2)), Block(tuple(range(10, 16)), (2, 5)))
    plan = Plan((Regroup("2.0", blocks),))
    weight = apply(net, graph, plan)[2][0].weight
    assert not weight[:10, 3:].any()
    assert not weight[10:, [0, 1, 3, 4, 6, 7]].any()
    assert torch.equal(weight[10:, [2, 5]], net[2][0].weight[10:, [2, 5]])
    assert size(graph, plan).nonzero == counted_params(net) - 9 * (16 * 8 - 10 * 3 - 6 * 2)


# -- verify -------------------------------------------------------------------------------------------------


def test_verify_names_the_first_layer_that_is_wrong() -> None:
    net = make("cat then add")
    graph = trace(net, images(1))
    plan = half(graph)
    thin = apply(net, graph, plan)
    assert verify(net, graph, plan, thin, images(2)).exact
    with torch.no_grad():
        thin.right[0].weight[1] += 0.1
        thin.mix[0].weight += 0.1
    found = verify(net, graph, plan, thin, images(2))
    assert not found.exact
    assert found.layer == "right.0"
    assert found.difference > 1e-3


def test_verify_finds_a_thin_network_with_the_wrong_channels() -> None:
    net = make("plain")
    graph = trace(net, images(1))
    wrong = apply(net, graph, Plan((DropUnits("2.0", (0,)),)))
    found = verify(net, graph, Plan((DropUnits("2.0", (1,)),)), wrong, images(2))
    assert (found.exact, found.layer) == (False, "2.0")


def test_verify_finds_a_wrong_norm_that_no_layer_shows() -> None:
    net = make("sigmoid")
    graph = trace(net, images(1))
    plan = half(graph)
    thin = apply(net, graph, plan)
    with torch.no_grad():
        thin.norm.running_var.mul_(3)
    assert verify(net, graph, plan, thin, images(2)).layer == "head.fc"


def test_verify_calls_not_a_number_different() -> None:
    net = make("plain")
    graph = trace(net, images(1))
    thin = apply(net, graph, half(graph))
    with torch.no_grad():
        thin[3].fc.bias[0] = float("nan")
    assert not verify(net, graph, half(graph), thin, images(2)).exact


# -- errors -------------------------------------------------------------------------------------------------


@pytest.fixture
def traced() -> Iterator[tuple[nn.Module, Graph]]:
    net = make("plain")
    return net, trace(net, images(1))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan((DropUnits("nowhere", (0,)),)), "'nowhere'.*another network"),
        (Plan((DropUnits("0.0", (8,)),)), "unit 8 of group '0.0', which has 8 units"),
        (Plan((DropUnits("0.0", tuple(range(8))),)), "all 8 units of group '0.0'; at least one must stay"),
        (Plan((ZeroWeights.of("2.0.weight", torch.ones(2, 2)),)), r"'2.0.weight' with shape \(2, 2\)"),
        (Plan((ZeroWeights.of("nowhere", torch.ones(2, 2)),)), "'nowhere'"),
        (Plan((Regroup("2.0", (Block((0, 1), (0,)),)),)), "each of its 16 outputs exactly once"),
        (Plan((Regroup("nowhere", ()),)), "'nowhere'"),
    ],
)
def test_foreign_plans_are_refused(traced: tuple[nn.Module, Graph], plan: Plan, message: str) -> None:
    net, graph = traced
    before = everything(net)
    for act in (lambda: apply(net, graph, plan), lambda: masked(net, graph, plan).__enter__()):
        with pytest.raises(PlanError, match=message):
            act()
    assert_same(before, everything(net))


def test_a_graph_of_another_model_is_refused(traced: tuple[nn.Module, Graph]) -> None:
    _, graph = traced
    with pytest.raises(PlanError, match=r"no tensor|trace this model first"):
        apply(make("option A"), graph, Plan())
    other = make("plain")
    other[0][0] = nn.Conv2d(3, 9, 3, bias=False)
    with pytest.raises(PlanError, match=r"'0.0.weight' has shape \(9, 3, 3, 3\)"):
        apply(other, graph, Plan())


def test_a_model_that_does_not_run_is_a_sentence(traced: tuple[nn.Module, Graph]) -> None:
    net, _ = traced
    with pytest.raises(ModelError, match=r"does not run on the example inputs \(shape \(1, 4, 8, 8\)\)") as caught:
        run(net.train(), torch.zeros(1, 4, 8, 8))
    assert "\n" not in str(caught.value)
    assert net.training


@pytest.mark.parametrize("name", NETS)
def test_an_empty_plan_gives_an_equal_copy(name: str) -> None:
    net = make(name)
    graph = trace(net, images(1))
    twin = apply(net, graph, Plan())
    assert relative_difference(run(net, images(2)), run(twin, images(2))) == 0
    assert {n: v.shape for n, v in twin.state_dict().items()} == {n: v.shape for n, v in net.state_dict().items()}
