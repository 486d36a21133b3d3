"""Sizes that papers print or that follow from their rules, computed anew by our methods on our networks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import size
from secateur.core.surgery import apply, verify
from secateur.core.trace import trace
from secateur.measure import count
from secateur.methods.magnitude import Magnitude
from secateur.models import build

IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
ANY = Limits(multiple=1)  # papers leave widths as their rates make them
Rates = tuple[tuple[str, float], ...]


def stages(depth: int, removed: tuple[float, float, float], skipped: set[int]) -> Rates:
    """Return what Li et al. (2017) keep of the first convolution of each block of a CIFAR ResNet.

    Layers are counted from 1, the first convolution of the network; that of a block has an even number. Whole
    percentages are taken off, so that 1 - 0.6 does not fall below 0.4.

    Args:
        depth: of the network.
        removed: share of the filters that goes, per stage.
        skipped: numbers of layers that keep all.
    """
    blocks = (depth - 2) // 6
    rates: list[tuple[str, float]] = []
    for block in range(3 * blocks):
        stage, number = block // blocks, 2 + 2 * block
        keep = 1.0 if number in skipped else round(1 - removed[stage], 2)
        rates.append((f"layer{stage + 1}.{block % blocks}.conv1", keep))
    return tuple(rates)


CONVOLUTIONS = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)  # places of VGG-16's 13 among its features


def vgg_a() -> Rates:
    """Return the rates of VGG-16-A: half of the first convolution and of the eighth to the thirteenth goes."""
    return tuple((f"features.{CONVOLUTIONS[number - 1]}", 0.5) for number in (1, 8, 9, 10, 11, 12, 13))


PRUNED = {  # network, rates, percentage of MACs and of weights that goes, MACs of the pruned network
    "VGG-16-A": ("vgg16_bn_fc", vgg_a(), 34.2, 64.0, 2.0628e8),
    "ResNet-56-A": ("resnet56", stages(56, (0.1, 0.1, 0.1), {16, 20, 38, 54}), 10.4, 9.4, 1.1244e8),
    "ResNet-56-B": ("resnet56", stages(56, (0.6, 0.3, 0.1), {16, 18, 20, 34, 38, 54}), 27.6, 13.8, 9.0907e7),
    "ResNet-110-A": ("resnet110", stages(110, (0.5, 0.0, 0.0), {36}), 15.9, 2.3, 2.1278e8),
    "ResNet-110-B": ("resnet110", stages(110, (0.5, 0.4, 0.3), {36, 38, 74}), 38.7, 32.5, 1.5512e8),
}
DENSE = {"vgg16_bn_fc": (3.1346e8, 1.4978e7), "resnet56": (1.2549e8, 8.489e5), "resnet110": (2.5289e8, 1.7199e6)}


@cache
def read(name: str) -> tuple[nn.Module, Graph]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build(name)
    return net, trace(net, IMAGE)


def layers(net: nn.Module) -> Iterator[nn.Conv2d | nn.Linear]:
    return (module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear))


def weights(net: nn.Module) -> int:
    """Return the number of weights as the papers count them: without norms."""
    return sum(p.numel() for layer in layers(net) for p in layer.parameters())


@pytest.mark.parametrize("name", DENSE)
def test_the_dense_networks_are_those_of_the_papers(name: str) -> None:
    net, graph = read(name)
    macs, params = DENSE[name]
    assert size(graph).macs == pytest.approx(macs, rel=1e-4)
    assert weights(net) == pytest.approx(params, rel=1e-4)


@pytest.mark.parametrize("name", PRUNED)
def test_li_et_al_2017(name: str) -> None:
    network, rates, macs_gone, weights_gone, macs_left = PRUNED[name]
    net, graph = read(network)
    plan = Magnitude(keeps=rates).plan(Problem(net, graph, limits=ANY))
    thin = apply(net, graph, plan)
    before, after = size(graph), size(graph, plan)
    assert round(100 * (1 - after.macs / before.macs), 1) == macs_gone
    assert round(100 * (1 - weights(thin) / weights(net)), 1) == weights_gone
    assert after.macs == pytest.approx(macs_left, rel=1e-4)
    counted = count(thin, IMAGE)
    assert (counted.macs, counted.params) == (after.macs, after.params)
    assert verify(net, graph, plan, thin, IMAGE).exact


def test_the_rates_name_the_layers_that_the_paper_means() -> None:
    rates = dict(PRUNED["ResNet-56-B"][1])
    assert len(rates) == 27
    assert [rates[f"layer1.{block}.conv1"] for block in (0, 6, 7, 8)] == [0.4, 0.4, 1.0, 1.0]  # 16 and 18
    assert [rates[f"layer2.{block}.conv1"] for block in (0, 1, 7, 8)] == [1.0, 0.7, 1.0, 0.7]  # 20 and 34
    assert [rates[f"layer3.{block}.conv1"] for block in (0, 1, 8)] == [1.0, 0.9, 1.0]  # 38 and 54
    net, graph = read("resnet56")
    thin = apply(net, graph, Magnitude(keeps=PRUNED["ResNet-56-B"][1]).plan(Problem(net, graph, limits=ANY)))
    widths = {name: module.out_channels for name, module in thin.named_modules() if isinstance(module, nn.Conv2d)}
    assert (widths["layer1.0.conv1"], widths["layer2.1.conv1"], widths["layer3.1.conv1"]) == (6, 22, 57)
    assert {widths[f"layer{stage}.{block}.conv2"] for stage in (1, 2, 3) for block in range(9)} == {16, 32, 64}


@pytest.mark.parametrize("name", ["resnet56", "resnet110"])
def test_shortcuts_without_parameters_are_pruned_everywhere(name: str) -> None:
    """Half of every group goes, the residual stream with its zero-padded shortcuts included, exactly."""
    net, graph = read(name)
    plan = Magnitude(keeps=(("*", 0.5),)).plan(Problem(net, graph, limits=ANY))
    assert set(plan.dropped()) == {group.name for group in graph.groups}
    thin = apply(net, graph, plan)
    for dense, pruned in zip(layers(net), layers(thin), strict=True):
        if isinstance(dense, nn.Conv2d):
            assert pruned.weight.shape[0] < dense.weight.shape[0]
    check = verify(net, graph, plan, thin, torch.cat([IMAGE, IMAGE.flip(3)]))
    assert check.exact, check
    assert (count(thin, IMAGE).macs, count(thin, IMAGE).params) == (size(graph, plan).macs, size(graph, plan).params)
    assert size(graph, plan).macs < 0.3 * size(graph).macs
