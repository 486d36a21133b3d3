from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nets
from secateur.core.graph import Graph
from secateur.core.plan import Block, DropUnits, Plan, Regroup, ZeroWeights
from secateur.core.surgery import apply, tensors_in
from secateur.core.trace import trace
from secateur.reconstruction import refit


def half(graph: Graph) -> Plan:
    return Plan(tuple(DropUnits(group.name, tuple(range(group.size // 2))) for group in graph.free if group.size > 1))


def error(thin: nn.Module, dense: nn.Module, images: Tensor) -> float:
    with torch.no_grad():
        pairs = zip(tensors_in(thin(images)), tensors_in(dense(images)), strict=True)
        return sum(float((a - b).square().sum()) for a, b in pairs)


@pytest.mark.parametrize("name", nets.NETS)
def test_half_of_every_network_comes_closer_to_the_whole(name: str) -> None:
    model, images = nets.make(name), nets.images(96, 3)
    graph = trace(model, images[:2])
    thin = apply(model, graph, half(graph))
    before, state = error(thin, model, images), copy.deepcopy(model.state_dict())
    shapes = {name: tensor.shape for name, tensor in thin.state_dict().items()}
    changed = refit(model, thin, graph, half(graph), list(images.split(32)))
    assert changed
    assert error(thin, model, images) < before
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert {name: tensor.shape for name, tensor in thin.state_dict().items()} == shapes


def chain(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *layers, nn.Conv2d(8, 5, 3, padding=1)).eval()


def test_a_combination_of_other_units_is_made_up_for_exactly() -> None:
    model, images = chain(), torch.randn(64, 3, 8, 8)
    with torch.no_grad():
        for tensor in (model[0].weight, model[0].bias):
            tensor[2] = 0.5 * tensor[0] - 2 * tensor[6]
    graph = trace(model, images[:1])
    plan = Plan((DropUnits("0", (2,)),))
    thin = apply(model, graph, plan)
    new = torch.randn(16, 3, 8, 8)
    assert error(thin, model, new) > 1
    refit(model, thin, graph, plan, [images])
    with torch.no_grad():
        # the borders of the second layer see zeros for all units alike
        assert float((thin(new) - model(new)).abs().max() / model(new).abs().max()) < 1e-4


def test_a_constant_unit_goes_into_the_running_mean() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 5, 1, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 2, 1)
    )
    nets.lived_in(model)
    with torch.no_grad():
        model[0].weight[3], model[0].bias[3] = 0, 7.0
    images = torch.randn(64, 3, 4, 4)
    graph = trace(model, images[:1])
    plan = Plan((DropUnits("0", (3,)),))
    thin = apply(model, graph, plan)
    refit(model, thin, graph, plan, [images])
    assert error(thin, model, images) < 1e-4
    assert not torch.allclose(thin[3].running_mean, model[3].running_mean)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a1, self.a2, self.an = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b1, self.b2 = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.an(self.a2(F.relu(self.a1(x)))))
        x = F.relu(self.b2(F.relu(self.b1(x))) + x)
        return self.head(x.mean((2, 3)))


def test_the_second_branch_repairs_what_the_first_has_lost() -> None:
    torch.manual_seed(0)
    model = nets.lived_in(Residual())
    images = torch.randn(256, 3, 8, 8)
    graph = trace(model, images[:1])
    plan = Plan((DropUnits("a1", (0, 1, 2)),))  # nothing goes from the second
    thin = apply(model, graph, plan)
    kept: dict[str, Tensor] = {}

    def stream(network: nn.Module) -> Tensor:
        hook = network.get_submodule("head").register_forward_pre_hook(lambda m, x: kept.update(x=x[0]))
        with torch.no_grad():
            network(images)
        hook.remove()
        return kept["x"]

    changed = refit(model, thin, graph, plan, list(images.split(64)))
    assert {"a2", "b2"} <= set(changed)
    alone = apply(model, graph, plan)
    for name in ("a1", "a2", "an"):  # the same, but for the second branch
        alone.get_submodule(name).load_state_dict(thin.get_submodule(name).state_dict())
    wanted = stream(model)
    assert (stream(thin) - wanted).square().sum() < 0.9 * (stream(alone) - wanted).square().sum()


def test_sums_of_the_running_pass_are_those_of_the_fitted_network() -> None:
    torch.manual_seed(0)
    model = nets.lived_in(Residual())
    images = torch.randn(64, 3, 8, 8)
    graph = trace(model, images[:1])
    plan = Plan((DropUnits("a1", (0, 1, 2)), DropUnits("b1", (1,))))
    thin = apply(model, graph, plan)
    given: list[Tensor] = []
    hook = thin.get_submodule("head").register_forward_pre_hook(lambda module, x: given.append(x[0].detach().clone()))
    cut = apply(model, graph, plan)
    changed = refit(model, thin, graph, plan, [images])
    assert {"a2", "b2"} <= set(changed)
    during = given[-1]
    with torch.no_grad():
        thin(images)
    hook.remove()
    assert torch.allclose(during, given[-1], atol=1e-4)  # head is fitted last: all before it was final by then
    assert error(thin, model, images) < error(cut, model, images)


def test_batches_of_any_size_give_about_the_same() -> None:
    torch.manual_seed(0)
    model = nets.lived_in(Residual())
    images = torch.randn(64, 3, 8, 8)
    graph = trace(model, images[:1])
    plan = Plan((DropUnits("a1", (0, 1, 2)), DropUnits("b1", (1,))))
    once = apply(model, graph, plan)
    refit(model, once, graph, plan, [images])
    parts = apply(model, graph, plan)
    refit(model, parts, graph, plan, [images[:32], images[32:]])
    assert abs(error(once, model, images) / error(parts, model, images) - 1) < 0.3


def test_zeros_stay_zero_and_their_neighbours_make_up_for_them() -> None:
    model, images = chain(nn.ReLU()), torch.randn(64, 3, 8, 8)
    graph = trace(model, images[:1])
    mask = torch.rand(5, 8, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.4
    plan = Plan((ZeroWeights.of("2.weight", mask), DropUnits("0", (1,))))
    thin = apply(model, graph, plan)
    before = error(thin, model, images)
    assert refit(model, thin, graph, plan, [images]) == ("2",)
    left = mask[:, [0, 2, 3, 4, 5, 6, 7]]
    assert not bool(thin[2].weight[~left].any())
    assert bool(thin[2].weight[left].all())
    assert error(thin, model, images) < 0.7 * before


@pytest.mark.parametrize("bias", [True, False])
def test_layers_of_blocks_are_fitted_within_their_blocks(bias: bool) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1, bias=bias)).eval()
    images = torch.randn(64, 3, 8, 8)
    graph = trace(model, images[:1])
    blocks = (Block((0, 3, 4), (0, 1, 5, 7)), Block((1, 2), (2, 3, 6)), Block((5,), (1, 4)))
    plan = Plan((Regroup("2", blocks),))
    thin = apply(model, graph, plan)
    before = error(thin, model, images)
    assert refit(model, thin, graph, plan, [images]) == ("2",)
    weight = thin.get_submodule("2").weight
    for block in blocks:
        outside = [i for i in range(8) if i not in block.inputs]
        assert not bool(weight[list(block.outputs)][:, outside].any())
    assert error(thin, model, images) < 0.8 * before


def test_several_inputs_and_names() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, *, image: Tensor, more: Tensor) -> Tensor:
            return self.c(F.relu(self.a(image) + self.b(more)))

    model = Two().eval()
    batches = [{"image": torch.randn(50, 4), "more": torch.randn(50, 3)} for _ in range(2)]
    graph = trace(model, batches[0])
    thin = apply(model, graph, half(graph))
    with torch.no_grad():
        before = (thin(**batches[0]) - model(**batches[0])).square().sum()
        assert refit(model, thin, graph, half(graph), batches)
        assert (thin(**batches[0]) - model(**batches[0])).square().sum() < before
