from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nets
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, run
from secateur.core.trace import trace
from secateur.reconstruction import curves as module
from secateur.reconstruction import error_curves, refit
from secateur.reconstruction.memory_bounds import Memory
from secateur.reconstruction.reading import Columns, evened


@pytest.mark.parametrize("name", nets.SOME_FIRST)
def test_every_group_has_a_curve_that_never_falls(name: str) -> None:
    model = nets.make(name)
    graph = trace(model, nets.images())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = error_curves(model, graph, [nets.images(16, 1), nets.images(8, 2)])
    assert [curve.group for curve in found] == [group.name for group in graph.free]
    for curve, group in zip(found, graph.free, strict=True):
        assert curve.error[0] == 0
        assert list(curve.error) == sorted(curve.error)
        assert len(curve.order) == group.size - 1
        assert len(set(curve.order)) == len(curve.order)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("scored", [False, True])
def test_a_grouped_convolution_is_weighed_group_by_group(scored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    wide = nn.Conv2d(24, 24, 3, padding=1, groups=12)
    model = nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU(), wide, nn.ReLU(), nn.Conv2d(24, 4, 1)).eval()
    images = torch.randn(16, 3, 8, 8)
    graph = trace(model, images[:2])
    scores = {group.name: torch.rand(group.size) for group in graph.free} if scored else None
    sizes: list[int] = []

    def seen(inverse: Tensor, weight: Tensor, own: Columns) -> tuple[Tensor, Tensor, Tensor]:
        found = evened(inverse, weight, own)
        sizes.append(len(found[0]))
        return found

    def dense(inverse: Tensor, weight: Tensor, own: Columns) -> tuple[Tensor, Tensor, Tensor]:
        size = graph.group(own.group).size
        block, outputs, read = evened(inverse, weight, own)
        places = (read[:, None] * own.each + torch.arange(own.each)).flatten()
        whole = torch.eye(size * own.each, dtype=block.dtype)
        whole[places[:, None], places] = block
        padded = outputs.new_zeros(len(whole), outputs.shape[1])
        padded[places] = outputs
        return whole, padded, torch.arange(size)

    monkeypatch.setattr(module, "evened", seen)
    found = error_curves(model, graph, [images], scores=scores)
    assert max(sizes[:12]) == 2 * 9
    monkeypatch.setattr(module, "evened", dense)
    for curve, expected in zip(found, error_curves(model, graph, [images], scores=scores), strict=True):
        assert (curve.group, curve.order, curve.choices) == (expected.group, expected.order, expected.choices)
        assert curve.error == pytest.approx(expected.error)


def chain(width: int = 12) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 5)).eval()


def test_a_copy_goes_first_whatever_its_norm() -> None:
    model = chain()
    with torch.no_grad():
        model[0].weight[4] = model[0].weight[9] * 50  # and relu lets the factor through
        model[0].bias[4] = model[0].bias[9] * 50
        model[2].weight[:, 4] *= 10
    (curve,) = error_curves(model, trace(model, torch.randn(1, 6)), [torch.randn(400, 6)])
    assert curve.order[0] in (4, 9)
    assert curve.error[1] < 0.02 * curve.error[2]


def test_the_curve_foretells_what_is_left_after_the_refit() -> None:
    model, images = chain(), torch.randn(4000, 6)
    graph = trace(model, images[:1])
    (curve,) = error_curves(model, graph, [images])
    with torch.no_grad():
        wanted = model(images)
    for gone in (2, 5, 8):
        plan = Plan((DropUnits("0", curve.chosen(gone)),))
        thin = apply(model, graph, plan)
        refit(model, thin, graph, plan, [images])
        with torch.no_grad():
            left = (thin(images) - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()
        assert float(left) == pytest.approx(curve.error[gone], rel=0.05)


def test_scores_set_the_order() -> None:
    model = chain()
    scores = torch.arange(12.0).flip(0)
    scores[3] = float("inf")
    graph = trace(model, torch.randn(1, 6))
    (curve,) = error_curves(model, graph, [torch.randn(100, 6)], scores={"0": scores})
    assert curve.order == (11, 10, 9, 8, 7, 6, 5, 4, 2, 1, 0)
    (best,) = error_curves(model, graph, [torch.randn(100, 6)])
    assert sum(best.error) < sum(curve.error)


class Deep(nn.Module):
    """A stream that two branches read and write, and whose units a transposed convolution reads last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.b = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 2, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.up(F.relu(x + self.b(F.relu(self.a(x)))))


def test_readers_of_other_kinds_and_wide_ones_are_judged_by_contributions(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Deep().eval()
    with torch.no_grad():
        model.up.weight[5] = 0
        model.a.weight[:, 5] = 0
    graph = trace(model, torch.randn(1, 3, 6, 6))
    images = [torch.randn(32, 3, 6, 6)]
    exact = {curve.group: curve for curve in error_curves(model, graph, images)}
    assert exact["stem"].chosen(1) == (5,)
    assert exact["stem"].error[1] < 1e-6
    monkeypatch.setattr(module, "memory", lambda: Memory(columns=20))
    rough = {curve.group: curve for curve in error_curves(model, graph, images)}
    assert rough["stem"].chosen(1) == (5,)
    # a single scale for each unit can do no better than all of its weights
    assert all(r >= e - 0.02 for r, e in zip(rough["a"].error, exact["a"].error, strict=True))


def test_streams_weigh_more_and_their_errors_stay_errors() -> None:
    torch.manual_seed(0)
    model = Deep().eval()
    images = torch.randn(32, 3, 6, 6)
    curves = {it.group: it for it in error_curves(model, trace(model, images[:1]), [images])}
    assert curves["stem"].weight == module.STREAM > 1
    assert curves["a"].weight == 1
    # what is read by two layers can be lost twice at most, each time as far as that layer varies
    assert max(curves["stem"].error) < 2.5


def test_dead_and_broken_channels() -> None:
    model = chain()
    with torch.no_grad():
        model[0].weight[7], model[0].bias[7] = 0, 3.0  # always the same number, which a bias can stand in for
    graph = trace(model, torch.randn(1, 6))
    (curve,) = error_curves(model, graph, [torch.randn(300, 6)])
    assert curve.order[0] == 7
    assert curve.error[1] < 1e-9
    (flat,) = error_curves(model, graph, [torch.ones(64, 6)])  # nothing varies: nothing is lost
    assert all(error == error for error in flat.error)
    run(model, torch.ones(1, 6))
