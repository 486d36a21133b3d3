"""A plan whose cut fails: what is in its way stays, and it is decided again, in prune as in what is saved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from plans import blind, half
from secateur import Limits, Target, prune
from secateur.budget import Budget
from secateur.compare import scratch
from secateur.core.method import Method
from secateur.core.plan import DropUnits, Plan
from secateur.core.problem import Problem
from secateur.core.sizes.size import size
from secateur.core.surgery import apply, verify
from secateur.core.trace import trace, traced
from secateur.data import Data
from secateur.errors import CutError, SecateurError
from secateur.events import ignore
from secateur.measure import Latency, SideBySide
from secateur.measure.layer_table import LayerTable
from secateur.methods.fine_pruning import FinePruning
from secateur.recipe import Recipe
from secateur.run import Result, headline_speed, latency_search, speed_forecast
from secateur.run.round import Round


class Lent(nn.Module):
    """Takes the shape of one tensor for another of heads, which fits where half of both are kept."""

    def __init__(self, heads: int = 2, dim: int = 8) -> None:
        super().__init__()
        wide = heads * dim
        self.heads, self.dim = heads, dim
        self.first, self.value = nn.Conv2d(3, wide, 1), nn.Conv2d(wide, wide, 1)
        self.mix, self.last = nn.Conv2d(wide, wide, 1), nn.Conv2d(wide, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        n, c, h, w = x.shape
        v = self.value(x).view(n, self.heads, self.dim, h * w)
        return self.last(x + self.mix((v @ torch.softmax(v.transpose(-2, -1) @ v, -1)).view(n, c, h, w)))


class Inner(nn.Module):
    """The same inside of another network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inside, self.head = nn.Conv2d(3, 3, 3, padding=1), Lent(2, 6), nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.inside(torch.relu(self.stem(x)))))


class Sliced(nn.Module):
    """Takes as many channels of one tensor as another has, in code that cannot be recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.other, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 12, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x), self.other(x)
        if float(a.sum()) > 1e9:
            a = a * 2
        return self.last(a + b[:, : a.shape[1]])


LARGER = [(2, 12), (3, 6), (3, 8), (3, 12)]
NETS = [Lent(2, 8), Lent(3, 4), Inner(), Sliced()]
X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


# torch says this of the code of Sliced, once, wherever it trains
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar")
@pytest.mark.parametrize("net", NETS, ids=lambda net: type(net).__name__)
@pytest.mark.parametrize("target", [0.8, 0.6, 0.4])
def test_what_no_trial_has_shown_is_shown_by_the_plan(
    net: nn.Module, target: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr("secateur.core.trace.trial.uneven", blind)
    result = prune(net.eval(), X, "magnitude", Target(target), latency=False, limits=Limits(multiple=1), repair=())
    assert result.after.counts.macs <= target * result.before.counts.macs
    assert result.verification < 1e-4
    (plan,) = result.plans
    assert Plan.from_json(plan.to_json()) == plan
    result.save(tmp_path / "out")
    again = secateur.load(tmp_path / "out", dense=net).model
    assert torch.allclose(again(X), result.model(X), atol=1e-5)


def test_some_of_them_need_another_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur.core.trace.trial.uneven", blind)
    torch.manual_seed(0)
    result = prune(Lent(), X, "magnitude", 0.8, latency=False, limits=Limits(multiple=1), repair=())
    (plan,) = result.plans
    assert plan.tried
    for count in range(len(plan.tried)):  # each was tried on what those before it had led to, and failed
        graph = trace(Lent(), X, tried=plan.tried[:count])
        assert graph.tried == plan.tried[:count]
        with pytest.raises(SecateurError):
            verify(net := Lent(), graph, plan.tried[count], apply(net, graph, plan.tried[count]), X)


@pytest.mark.parametrize(
    ("heads", "dim"),
    [(2, 4), (2, 6), (2, 8), (3, 4), *(pytest.param(*size, marks=pytest.mark.slow) for size in LARGER)],
)
def test_no_chance_makes_a_trial_fit(heads: int, dim: int) -> None:
    """However many units all groups lose, the graph of one reading can be cut."""
    net = Lent(heads, dim).eval()
    graph = trace(net, X)
    for gone in range(1, heads * dim):
        plan = Plan(tuple(DropUnits(g.name, tuple(range(min(g.size - 1, gone)))) for g in graph.groups))
        assert verify(net, graph, plan, apply(net, graph, plan), X).exact


def test_a_cut_that_fails_is_not_blamed_on_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur.core.trace.trial.uneven", blind)
    torch.manual_seed(0)
    net = Inner().eval()
    graph = trace(net, X)
    group = next(group for group in graph.groups if group.size == 12)
    plan = Plan((DropUnits(group.name, (0, 1, 2)),))
    with pytest.raises(CutError, match=r"the cut failed.*in 'inside'.*shape") as caught:
        verify(net, graph, plan, apply(net, graph, plan), X)
    assert caught.value.place == "inside"
    assert "Inner does not run" not in str(caught.value)


def test_a_round_gives_up_with_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur.core.trace.trial.uneven", blind)
    asked: list[int] = []

    def fails(self: Round, plan: Plan) -> Any:
        asked.append(len(plan.tried))
        raise CutError("the cut failed here")

    monkeypatch.setattr(Round, "act", fails)
    with pytest.raises(CutError, match="failed here"):
        prune(Lent(), X, "magnitude", 0.8, latency=False)
    assert asked == list(range(len(asked)))
    assert len(asked) > 1


def test_rounds_read_again_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur.core.trace.trial.uneven", blind)
    torch.manual_seed(0)
    made: list[Sequence[Plan]] = []
    result = prune(Lent(3, 8), X, "magnitude", 0.5, rounds=3, latency=False, limits=Limits(multiple=1), repair=())
    made += [plan.tried for plan in result.plans]
    assert any(made)
    assert result.after.counts.macs <= 0.5 * result.before.counts.macs


# what cuts before a round does, by itself


class Scores(nn.Sequential):
    """Class scores of such a network, for data with labels."""

    def __init__(self) -> None:
        super().__init__(Lent(2, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))


@pytest.fixture
def misread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Read networks without trials, and let times follow the parameters of networks that run."""

    def timed(networks: dict[str, nn.Module], inputs: Any, runtime: Any, **options: Any) -> SideBySide:
        times = {}
        for name, net in networks.items():
            net(inputs)
            times[name] = float(sum(parameter.numel() for parameter in net.parameters()))
        latencies = {name: Latency(time, 0.0, 1, 1, 1, "cpu", runtime) for name, time in times.items()}
        return SideBySide(runtime, latencies, {n: (t,) * 11 for n, t in times.items()}, dict.fromkeys(times, 0.0))

    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("secateur.core.trace.trial.uneven", blind)
    monkeypatch.setattr(LayerTable, "_measure", lambda self, shape: float(math.prod(shape.weight)))
    for module in (latency_search, speed_forecast, headline_speed):
        monkeypatch.setattr(module, "side_by_side", timed)
    torch.manual_seed(0)


def cut_by(budget: Budget, net: nn.Module, **more: Any) -> Result:
    asked = {"method": "magnitude", "limits": Limits(multiple=1), "repair": (), "runtime": "eager", "latency": False}
    return prune(net.eval(), more.pop("inputs", X), budget=budget, **{**asked, **more})


@pytest.mark.usefixtures("misread")
def test_a_budget_of_latency_is_settled_again(tmp_path: Path) -> None:
    net = Lent()
    result = cut_by(Budget(max_latency=0.7), net, work=tmp_path)
    (plan,) = result.plans
    assert plan.tried
    assert result.budget["latency"]["measured"] <= 0.7 * 1.05
    assert result.verification < 1e-4
    for known in ({"work": tmp_path}, {"chosen": result.chosen}):  # as after a kill, and as by its recipe
        again = cut_by(Budget(max_latency=0.7), net, **known)
        assert again.plans == result.plans
        assert again.plans[0].tried == plan.tried
        assert again.budget == result.budget


@pytest.mark.usefixtures("misread")
def test_a_budget_of_accuracy_is_settled_again(data: Data) -> None:
    result = cut_by(Budget(max_drop=0.99), Scores(), inputs=data.example(), data=data)
    assert result.plans[0].tried
    assert result.budget["drop"]["asked"] == 0.99


@pytest.mark.usefixtures("misread")
def test_a_speed_is_foretold_of_a_plan_that_can_be_carried_out() -> None:
    net = Lent()
    result = prune(net.eval(), X, "magnitude", 0.8, runtime="eager", repair=(), limits=Limits(multiple=2))
    assert result.plans[0].tried
    assert result.foretold["speed"] is not None, result.foretold["reasons"]


@pytest.mark.usefixtures("misread")
def test_what_is_never_foretold_is_no_end_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise CutError("the cut failed here")

    monkeypatch.setattr(speed_forecast, "foretell", fails)
    result = prune(Lent().eval(), X, "magnitude", 0.8, runtime="eager", repair=(), limits=Limits(multiple=2))
    assert result.foretold["reasons"] == ("the cut failed here",)


@pytest.mark.usefixtures("misread")
@pytest.mark.slow
def test_a_search_that_times_its_candidates_is_begun_again(data: Data, tmp_path: Path) -> None:
    method = FinePruning(trials=4, milliseconds=1e6)
    result = prune(Scores().eval(), None, method, None, data, latency=True, repair=(), work=tmp_path)
    assert result.plans[0].tried
    assert len(result.searches) == 1


@pytest.mark.usefixtures("misread")
def test_the_thin_network_of_a_comparison_is_cut_again(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "model_of", lambda recipe, data: Scores())
    recipe = Recipe(model="any", data="colours", method="magnitude", keep=0.8, multiple=1)
    thin = scratch.uniform(recipe, 0.8, data, ignore)
    assert thin(data.example()).shape == (1, 5)
    assert size(trace(thin, data.example())).macs <= 0.8 * size(trace(Scores(), data.example())).macs


class Scripted(nn.Module):
    """Has a part whose layers no surgery can change, which nothing but a cut shows."""

    def __init__(self) -> None:
        super().__init__()
        self.fixed, self.free = torch.jit.script(nn.Sequential(nn.Conv2d(3, 16, 1))), nn.Conv2d(16, 8, 1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.free(self.fixed(x))))


@pytest.mark.filterwarnings("ignore")  # torch wants scripts gone
def test_trials_that_were_left_out_are_made_where_a_cut_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = Scripted().eval()
    readings: list[str] = []

    def heard(*given: Any, trials: str, **more: Any) -> Any:
        readings.append(trials)
        return traced(*given, **more, trials=trials)

    monkeypatch.setattr("secateur.run.preflight.traced", heard)
    how: dict[str, Any] = {"latency": False, "limits": Limits(multiple=1), "repair": (), "work": tmp_path / "work"}
    result = [prune(net, X, "magnitude", 0.7, **how) for _ in range(2)][-1]  # as in a run that was killed and goes on
    assert readings == 2 * ["where needed", "always", "always"]
    assert [edit.group for edit in result.plans[0].edits if isinstance(edit, DropUnits)] == ["free"]
    result.save(tmp_path / "out")
    again = secateur.load(tmp_path / "out", dense=net).model
    assert torch.allclose(again(X), result.model(X), atol=1e-5)


def test_a_method_that_may_try_networks_by_itself_leaves_no_trial_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(Method):
        def plan(self, problem: Problem) -> Plan:
            return half(problem.graph)

    readings: list[str] = []

    def heard(*given: Any, trials: str, **more: Any) -> Any:
        readings.append(trials)
        return traced(*given, **more)

    monkeypatch.setattr("secateur.run.preflight.traced", heard)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)).eval()
    prune(net, X, Own(), latency=False, repair=())
    assert readings == ["always"]
