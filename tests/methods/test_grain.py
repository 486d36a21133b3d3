"""The method of Mao et al.: the smallest pieces of each layer, at uniform rates and by sensitivity."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nets import Head, conv, images, lived_in, make
from secateur import check_method
from secateur.core.graph import Graph
from secateur.core.plan import Plan, ZeroWeights
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, size
from secateur.core.surgery import masked
from secateur.core.trace import trace
from secateur.core.zeros.grains import storage
from secateur.data import from_arrays
from secateur.errors import DataError, SettingError, TargetError
from secateur.methods.grain import Grain
from secateur.run import prune
from secateur.tasks import Regression
from secateur.training import Settings

NET = lived_in(nn.Sequential(conv(3, 8), conv(8, 12), conv(12, 10, 1), Head(10))).eval()
GRAPH = trace(NET, images(1))
PIECES: dict[str, tuple[int, int]] = {
    "weight": (864, 120),
    "row": (288, 120),
    "column": (288, 120),
    "kernel": (96, 120),
}


def problem(net: nn.Module = NET, graph: Graph = GRAPH, **known: Any) -> Problem:
    x = images(60, 1)
    with torch.no_grad():
        labels = net(x).argmax(1)
    return Problem(net, graph, **{"validation": [(x, labels)], "limits": Limits(multiple=1), **known})


def masks(plan: Plan) -> dict[str, torch.Tensor]:
    return {edit.tensor: edit.mask() for edit in plan.edits if isinstance(edit, ZeroWeights)}


@pytest.mark.parametrize("grain", PIECES)
def test_the_smallest_pieces_of_every_layer_go(grain: Any) -> None:
    plan = Grain(grain, density=0.3).plan(problem())
    found = masks(plan)
    assert list(found) == ["1.0.weight", "2.0.weight"]
    dims = {"weight": (), "row": (3,), "column": (2,), "kernel": (2, 3)}[grain]
    for keep, pieces, net in zip(found.values(), PIECES[grain], (NET[1][0], NET[2][0]), strict=True):
        sums = net.weight.detach().abs()
        sums = sums.sum(dims, keepdim=True) if dims else sums
        assert bool((keep == keep.amax(dims, keepdim=True)).all()) if dims else True  # pieces stay or go as a whole
        stays = keep.amax(dims, keepdim=True) if dims else keep
        assert int(stays.sum()) == round(0.3 * pieces)
        assert float(sums[~stays].max()) <= float(sums[stays].min())


def test_the_notes_say_what_is_stored() -> None:
    (note,) = Grain("kernel", density=0.5).plan(problem()).notes
    taken = (storage(0.5, 9) * 864 + storage(0.5, 1) * 120) / 984
    assert note == (
        "0.5 of the weights of 2 layers stay; with 8 bits a weight and 4 bits for the index of each kernel they take "
        f"{taken:.3g} of what these layers take dense"
    )
    (note,) = Grain("filter", density=0.5).plan(problem()).notes
    assert note.startswith("whole filters go, and nothing has to say which")


@pytest.mark.parametrize("rates", ["uniform", "sensitivity"])
@pytest.mark.parametrize("grain", [*PIECES, "filter"])
def test_targets_are_met_by_little_more_than_is_asked_for(grain: Any, rates: Any) -> None:
    given = problem(target=Target(0.6, "nonzero"), loss=lambda net: net(images(20, 1)).square().mean().item())
    left = size(GRAPH, Grain(grain, rates).plan(given)).nonzero / size(GRAPH).nonzero
    assert 0.6 - (0.1 if grain == "filter" else 0.02) <= left <= 0.6


class Branches(nn.Module):
    """Two layers side by side, one of which hardly counts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.more, self.less, self.head = conv(3, 8), conv(8, 8), conv(8, 8), Head(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(self.more(x) + 1e-4 * self.less(x))


def test_by_sensitivity_the_layer_that_matters_keeps_more() -> None:
    net = lived_in(Branches()).eval()
    graph, x = trace(net, images(1)), images(40, 1)
    with torch.no_grad():
        exact = [(x, net(x))]  # all that is lost does damage
    given = problem(net, graph, validation=exact, task=Regression())
    found = masks(Grain("row", "sensitivity", density=0.5).plan(given))
    assert float(found["less.0.weight"].double().mean()) < 0.1
    assert sum(int(mask.sum()) for mask in found.values()) == 576  # half of 2 x 8 x 8 x 9
    assert found.keys() == masks(Grain("row", "sensitivity", density=0.5).plan(problem(net, graph))).keys()


def test_what_was_measured_before_a_kill_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = Grain("kernel", "sensitivity", density=0.5)
    plan = method.plan(problem(work=tmp_path))
    monkeypatch.setattr("secateur.search.sensitivity.Bench", None)
    assert method.plan(problem(work=tmp_path)) == plan
    with pytest.raises(TypeError):
        method.plan(problem())


def test_filters_are_those_of_magnitude_without_the_stem() -> None:
    dropped = Grain("filter", density=0.5).plan(problem()).dropped()
    sums = NET[1][0].weight.detach().abs().sum((1, 2, 3))
    assert set(dropped["1.0"]) == set(sums.argsort()[:6].tolist())
    assert set(dropped) == {"1.0", "2.0"}
    assert "0.0" in Grain("filter", density=0.5, stem=True).plan(problem()).dropped()
    # of a residual stream they go together
    net = make("chunk and cat (YOLO C2f)")
    given = Problem(net, trace(net, images(1)), Target(0.7, "macs"))
    assert Grain("filter").plan(given).dropped()


def test_rounds_keep_what_has_gone_at_zero(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, y = torch.rand(40, 3, 8, 8), torch.randint(5, (40,))
    data = from_arrays((x, y), (x[:10], y[:10]), (x[10:], y[10:]), classes=5, layout="NCHW")
    brief = Settings(epochs=1, batch_size=20)
    result = prune(
        NET, None, Grain("row"), Target(0.5, "nonzero"), data=data, rounds=2, train=brief, latency=False, repair=()
    )
    first, second = (masks(plan)["1.0.weight"] for plan in result.plans)
    assert not bool((second & ~first).any())
    assert result.after.counts.nonzero <= 0.5 * result.before.counts.nonzero
    assert not bool(result.model[1][0].weight[~second].any())


@pytest.mark.parametrize(
    "options",
    [{"grain": "weight", "linear": True}, {"grain": "row", "rates": "sensitivity"}, {"grain": "filter"}],
    ids=str,
)
def test_promises(options: dict[str, Any]) -> None:
    check_method(Grain(**options), networks={"chain": (NET, images(4))})


def test_bad_input_is_refused_in_one_sentence() -> None:
    with pytest.raises(SettingError, match=r"density must be in \(0, 1\], not 0"):
        Grain(density=0.0)
    with pytest.raises(SettingError, match="both a target and a density say how much goes"):
        Grain(density=0.5).plan(problem(target=Target(0.5, "nonzero")))
    with pytest.raises(TargetError, match="say how much goes: a target"):
        Grain().plan(problem())
    with pytest.raises(TargetError, match="zeroed kernels leave the macs as they are; set the target in nonzero"):
        Grain().plan(problem(target=Target(0.5)))
    with pytest.raises(TargetError, match=r"removes all 96 kernels of '1\.0'"):
        Grain(density=0.001).plan(problem())
    with pytest.raises(TargetError, match=r"a density of 0\.001 empties a layer"):
        Grain(density=0.001, rates="sensitivity").plan(problem())
    with pytest.raises(DataError, match="rates by sensitivity are measured on validation images"):
        Grain("row", "sensitivity", density=0.5).plan(dataclasses.replace(problem(), validation=None))
    with pytest.raises(TargetError, match=r"cannot keep only 0\.01 of the nonzero"):
        Grain("row").plan(problem(target=Target(0.01, "nonzero")))
    broken = lived_in(nn.Sequential(conv(3, 8), conv(8, 8), Head(8))).eval()
    with torch.no_grad():
        broken[1][0].weight[0, 0, 0, 0] = float("nan")
    for grain in ("row", "filter"):
        with pytest.raises(SettingError, match=r"the weights of '1\.0' contain NaN"):
            Grain(grain, density=0.5).plan(Problem(broken, trace(broken, images(1))))  # type: ignore[arg-type]


def test_equal_and_smaller_pieces_leave_fewer_errors() -> None:
    """At the same density, what stays of all |w| falls with the size of the pieces."""
    kept = list[float]()
    for grain in PIECES:
        with masked(NET, GRAPH, Grain(grain, density=0.4).plan(problem())):  # type: ignore[arg-type]
            kept.append(float(NET[1][0].weight.detach().abs().sum()))
    weight, row, column, kernel = kept
    assert weight > max(row, column) > min(row, column) > kernel
