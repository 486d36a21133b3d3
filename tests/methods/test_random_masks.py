"""The method of Anwar and Sung: its worked example, its published widths, its settings, its refusals."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from nets import Head, conv, images, lived_in, make
from secateur import check_method
from secateur.core.graph import Graph
from secateur.core.plan import Plan, ZeroWeights
from secateur.core.problem import Problem
from secateur.core.selection.search_results import Search
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, size
from secateur.core.surgery import apply, masked, run
from secateur.core.trace import trace
from secateur.data import from_arrays
from secateur.errors import DataError, PlanError, SettingError, TargetError
from secateur.measure import count
from secateur.methods.random_masks import RandomMasks
from secateur.models import build
from secateur.run import prune

NET = make("plain")
GRAPH = trace(NET, images(1))


def problem(net: nn.Module = NET, graph: Graph | None = None, target: Target | None = None, seed: int = 0) -> Problem:
    graph = graph or (GRAPH if net is NET else trace(net, images(1)))
    x = images(150, 1)
    with torch.no_grad():
        labels = net(x).argmax(1)
    batches = [(x[:100], labels[:100]), (x[100:], labels[100:])]
    rng, any_width = torch.Generator().manual_seed(seed), Limits(multiple=1)  # papers know no multiples
    return Problem(net, graph, target, validation=batches, limits=any_width, rng=rng)


def drawn(method: RandomMasks, given: Problem) -> list[Plan]:
    return method.draw(given)


def test_the_worked_example_of_the_paper() -> None:
    """Two layers of three maps, a ratio of one third, four masks: one map of each layer in every mask."""
    net = lived_in(nn.Sequential(conv(3, 3), conv(3, 3), conv(3, 3), Head(3))).eval()
    given = problem(net)
    masks = [plan.dropped() for plan in drawn(RandomMasks(ratio=1 / 3, candidates=4), given)]
    assert len(masks) == 4
    assert all(set(mask) == {"1.0", "2.0"} for mask in masks)
    assert all(len(units) == 1 for mask in masks for units in mask.values())


def test_maps_of_both_layers_are_drawn_jointly_and_evenly() -> None:
    net = lived_in(nn.Sequential(conv(3, 3), conv(3, 3), conv(3, 3), Head(3))).eval()
    masks = [plan.dropped() for plan in drawn(RandomMasks(ratio=1 / 3, candidates=1800), problem(net))]
    pairs = [(mask["1.0"][0], mask["2.0"][0]) for mask in masks]
    counts = [pairs.count((a, b)) for a in range(3) for b in range(3)]
    # 200 of each pair are expected, with a deviation of 13
    assert min(counts) > 140
    assert max(counts) < 260


def test_the_first_masks_do_not_depend_on_their_number() -> None:
    few, many = RandomMasks(ratio=0.4, candidates=5), RandomMasks(ratio=0.4, candidates=9)
    assert drawn(many, problem())[:5] == drawn(few, problem())


def test_the_widths_of_the_papers_network_at_half_of_the_weights() -> None:
    """128-89-89-89-179-179, which hold 676 854 of the 1 327 104 weights of the second to sixth convolution."""
    with torch.device("meta"):
        shapes = build("anwar_cifar10_small")
    net = shapes.to_empty(device="cpu").eval()
    for tensor in (*net.parameters(), *net.buffers()):
        nn.init.zeros_(tensor)
    graph = trace(net, torch.randn(1, 3, 32, 32))
    (plan,) = drawn(
        RandomMasks(ratio=0.49, ratio_of="weights", candidates=1), Problem(net, graph, limits=Limits(multiple=1))
    )
    thin = apply(net, graph, plan)
    weights = [m.weight for m in thin.modules() if isinstance(m, nn.Conv2d)]
    assert [len(weight) for weight in weights] == [128, 89, 89, 89, 179, 179]
    assert sum(weight.numel() for weight in weights[1:]) == 676_854
    areas = [1024, 1024, 256, 256, 64, 64]
    macs = sum(weight.numel() * area for weight, area in zip(weights, areas, strict=True))
    macs += 179 * 64 * 256 + 256 * 10
    assert size(graph, plan).macs == count(thin, torch.randn(1, 3, 32, 32)).macs == macs


def test_the_winner_is_the_mask_with_the_fewest_errors_and_all_scores_are_kept() -> None:
    given, found = problem(), list[Search]()
    given = dataclasses.replace(given, found=found.append)
    method = RandomMasks(ratio=0.4, candidates=12, complete=True)
    plan = method.plan(given)
    again = problem()
    x = torch.cat([images for images, _ in again.validation or ()])
    y = torch.cat([labels for _, labels in again.validation or ()])
    errors: list[int] = []
    plans = drawn(method, again)
    for candidate in plans:
        with masked(NET, GRAPH, candidate):
            errors.append(int((run(NET, x).argmax(1) != y).sum()))
    assert plan == plans[errors.index(min(errors))]
    (search,) = found
    assert [trial.errors for trial in search.trials] == errors
    assert dataclasses.replace(method, complete=False).plan(problem()) == plan


@pytest.mark.parametrize("granularity", ["kernels", "weights"])
def test_the_share_of_each_layer_that_is_zeroed(granularity: str) -> None:
    net = lived_in(nn.Sequential(conv(3, 8), conv(8, 10), conv(10, 6, 1), Head(6))).eval()
    given = problem(net)
    plan = RandomMasks(granularity=granularity, ratio=0.4, candidates=2).plan(given)  # type: ignore[arg-type]
    edits = {edit.tensor: edit.mask() for edit in plan.edits if isinstance(edit, ZeroWeights)}
    assert set(edits) == {"1.0.weight", "2.0.weight"}
    window = 9 if granularity == "kernels" else 1
    assert int((~edits["1.0.weight"]).sum()) == round(0.4 * 720 / window) * window
    assert int((~edits["2.0.weight"]).sum()) == 24
    if granularity == "kernels":
        assert bool((edits["1.0.weight"].flatten(2).all(2) == edits["1.0.weight"].flatten(2).any(2)).all())


def test_strided_and_n_of_m_say_by_themselves_how_much_goes() -> None:
    (edit,) = RandomMasks(granularity="strided", stride=3, candidates=2).plan(problem()).edits
    assert isinstance(edit, ZeroWeights)
    assert int(edit.mask().sum()) == 16 * 8 * 3
    (edit,) = RandomMasks(granularity="n:m", n=1, m=4, candidates=2).plan(problem()).edits
    assert isinstance(edit, ZeroWeights)
    assert int(edit.mask().sum()) == 16 * 2 * 9


def test_strided_offsets_are_drawn_for_every_input_map_and_every_mask() -> None:
    drawn_offsets: list[list[int]] = []
    for plan in drawn(RandomMasks(granularity="strided", stride=3, candidates=60), problem()):
        (edit,) = plan.edits
        assert isinstance(edit, ZeroWeights)
        kept = edit.mask().flatten(2)  # (16, 8, 9)
        assert bool((kept == kept[:1]).all())  # all kernels that leave a map share its pattern
        assert torch.equal(
            kept[0].nonzero()[:, 1].reshape(8, 3) % 3, kept[0].int().argmax(1, keepdim=True).expand(8, 3)
        )
        drawn_offsets.append(kept[0].int().argmax(1).tolist())
    assert len(set(map(tuple, drawn_offsets))) == 60
    counts = [sum(offsets.count(o) for offsets in drawn_offsets) for o in range(3)]
    assert min(counts) > 120  # 160 are expected of each, with a deviation of 10


def test_the_stem_and_linear_layers_on_request() -> None:
    masks = RandomMasks(ratio=0.5, candidates=2, stem=True).plan(problem()).dropped()
    assert {name: len(units) for name, units in masks.items()} == {"0.0": 4, "2.0": 8}
    net = make("flatten a map")
    assert list(RandomMasks(ratio=0.5, candidates=2, stem=True).plan(problem(net)).dropped()) == ["stem.0"]
    masks = RandomMasks(ratio=0.5, candidates=2, linear=True).plan(problem(net)).dropped()
    assert {name: len(units) for name, units in masks.items()} == {"fc1": 5}


def test_a_residual_stream_of_the_stem_stays_and_others_go_together() -> None:
    net = build("resnet20_projection").eval()
    graph = trace(net, torch.randn(1, 3, 32, 32))
    (plan,) = drawn(RandomMasks(ratio=0.5, candidates=1), Problem(net, graph, limits=Limits(multiple=1)))
    dropped = plan.dropped()
    assert "conv1" not in dropped
    assert len(dropped["layer2.0.conv2"]) == 16
    assert len(dropped) == len(graph.groups) - 1


def test_limits_are_respected() -> None:
    given = dataclasses.replace(problem(), limits=Limits(min_units=12, multiple=4))
    assert len(RandomMasks(ratio=0.9, candidates=2).plan(given).dropped()["2.0"]) == 4


def test_zeroed_kernels_of_an_earlier_round_stay_zero() -> None:
    first = RandomMasks(granularity="kernels", ratio=0.3, candidates=3).plan(problem())
    thin = apply(NET, GRAPH, first)
    second = RandomMasks(granularity="kernels", ratio=0.6, candidates=3).plan(problem(thin))
    (one,), (two,) = first.edits, second.edits
    assert isinstance(one, ZeroWeights)
    assert isinstance(two, ZeroWeights)
    assert not bool((two.mask() & ~one.mask()).any())
    assert int((~two.mask()).sum()) == round(0.6 * 128) * 9


@pytest.mark.parametrize(
    "options",
    [
        {"granularity": "kernels", "linear": True},
        {"granularity": "weights", "linear": True},
        {"granularity": "strided", "stride": 3, "stem": True},
        {"granularity": "n:m", "linear": True},
        {"stem": True, "linear": True},
        {"racing": True},
    ],
    ids=str,
)
def test_promises(options: dict[str, object]) -> None:
    check_method(RandomMasks(candidates=3, **options))  # type: ignore[arg-type]


def test_the_pipeline_keeps_the_search_and_goes_on_from_it(tmp_path: Path) -> None:
    x = torch.rand(120, 3, 8, 8)
    y = torch.randint(5, (120,))
    data = from_arrays((x, y), (x[:20], y[:20]), (x[20:], y[20:]), classes=5, layout="NCHW")
    method = RandomMasks(candidates=4, complete=True)
    given = {"target": Target(0.7), "data": data, "latency": False, "work": tmp_path}
    result = prune(NET, None, method, **given)  # type: ignore[arg-type]
    (search,) = result.searches
    assert [trial.images for trial in search.trials] == [100] * 4
    assert prune(NET, None, method, **given).searches == result.searches  # type: ignore[arg-type]
    assert result.after.counts.macs <= 0.7 * result.before.counts.macs


def test_bad_input_is_refused_in_one_sentence() -> None:
    with pytest.raises(SettingError, match="candidates must be at least 1, not 0"):
        RandomMasks(candidates=0)
    with pytest.raises(SettingError, match=r"ratio must be in \[0, 1\), not 1"):
        RandomMasks(ratio=1.0)
    with pytest.raises(SettingError, match=r"'granularity' must be one of .*, not 'layers'"):
        RandomMasks(granularity="layers")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="says by itself how much goes"):
        RandomMasks(granularity="strided", ratio=0.5)
    with pytest.raises(SettingError, match="4:4 is not a pattern"):
        RandomMasks(granularity="n:m", n=4)
    with pytest.raises(SettingError, match="choose one"):
        RandomMasks(complete=True, racing=True)
    with pytest.raises(TargetError, match=r"a ratio of 0\.98 removes all 16 maps of '2\.0'; ask for less"):
        RandomMasks(ratio=0.98).plan(problem())
    with pytest.raises(TargetError, match=r"removes all 128 kernels of '2\.0'"):
        RandomMasks(ratio=0.999, granularity="kernels").plan(problem())
    with pytest.raises(TargetError, match="of the weights cannot go"):
        RandomMasks(ratio=0.99, ratio_of="weights").plan(problem())
    with pytest.raises(TargetError, match="say how much goes"):
        RandomMasks().plan(problem())
    with pytest.raises(SettingError, match="give one of them"):
        RandomMasks(ratio=0.4).plan(problem(target=Target(0.5)))
    with pytest.raises(TargetError, match="leave the macs as they are; set the target in nonzero"):
        RandomMasks(granularity="kernels").plan(problem(target=Target(0.5)))
    with pytest.raises(DataError, match="there are none; give data"):
        RandomMasks(ratio=0.4).plan(dataclasses.replace(problem(), validation=None))
    with pytest.raises(SettingError, match=r"stride 10 does not fit the 3x3 kernels of '2\.0'"):
        RandomMasks(granularity="strided", stride=10).plan(problem())
    with pytest.raises(PlanError, match="is it of another network"):
        apply(make("cat([x, x])"), trace(make("cat([x, x])"), images(1)), RandomMasks(ratio=0.4).plan(problem()))


def test_a_ratio_is_rounded_to_whole_maps() -> None:
    for ratio, gone in ((0.0, 0), (0.03, 0), (0.04, 1), (0.4, 6), (0.5, 8)):
        dropped = RandomMasks(ratio=ratio, candidates=2).plan(problem()).dropped()
        assert len(dropped.get("2.0", ())) == gone == math.floor(ratio * 16 + 0.5)
