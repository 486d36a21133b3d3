"""Every method keeps every promise, and ``check_method`` finds out who does not."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import secateur
from nets import Head, conv, lived_in
from secateur import check_method
from secateur.checks import contract
from secateur.checks.networks import SHAPE, networks
from secateur.core.graph import Group
from secateur.core.method import Method, Paper, ScoreMethod
from secateur.core.plan import DropUnits, Plan, ZeroWeights
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.core.surgery import TOLERANCE, apply
from secateur.core.trace import trace
from secateur.core.zeros.shaper import Shaper
from secateur.errors import ContractError, DataError, SecateurError, SettingError, TargetError
from secateur.methods import METHODS, make

PAPER = Paper("On tests", "Ada Author", "Journal of Tests", 2020, "https://example.org")
VARIANTS = [
    (name, {"scope": scope} if scope else {})
    for name, kind in METHODS.items()
    for scope in (("uniform", "global") if "scope" in {f.name for f in dataclasses.fields(kind)} else (None,))
]
QUICK = {
    "candidates": 4,
    "per_step": 8,
    "restarts": 1,
    "trials": 3,
    "particles": 3,
    "generations": 2,
}  # settings of methods that search, which say how long
IMAGES = torch.linspace(-1, 1, 2 * 192).reshape(2, *SHAPE)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=lambda part: part if isinstance(part, str) else str(part))
def test_every_method_keeps_its_promises(name: str, options: dict[str, Any]) -> None:
    fields = {field.name for field in dataclasses.fields(METHODS[name])}
    check_method(make(name, {**options, **{key: value for key, value in QUICK.items() if key in fields}}))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("magnitude", {"norm": "l2"}),
        ("magnitude", {"selection": "greedy"}),
        ("magnitude", {"selection": "greedy", "scope": "global"}),
    ],
)
def test_so_do_the_variants(name: str, options: dict[str, Any]) -> None:
    check_method(make(name, options))


class Beside(nn.Module):
    """Returns maps beside its scores."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last, self.neck, self.head = conv(3, 8), conv(8, 12), nn.Conv2d(12, 6, 1), Head(12)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        stem = self.stem(x)
        last = self.last(stem)
        return self.head(last), [stem, self.neck(last)]


@pytest.mark.parametrize("name", ["magnitude", "reconstruction", "self_grouping", "weak_subnetwork", "random_masks"])
def test_outputs_that_may_lose_channels_break_no_promise(name: str) -> None:
    torch.manual_seed(0)
    options = {"candidates": 4} if name == "random_masks" else {}
    networks = {"beside": (lived_in(Beside()), IMAGES)}
    check_method(make(name, options), networks=networks, free_outputs=("1",))
    with pytest.raises(SettingError, match="no output of the network matches '2'"):
        check_method(make(name, options), networks=networks, free_outputs=("2",))


def test_the_networks_couple_what_they_say() -> None:
    coupled = {
        name: {group.name: group.layers for group in trace(net, IMAGES).groups} for name, net in networks().items()
    }
    assert coupled == {
        "chain": {"0.0": ("0.0",), "2.0": ("2.0",)},
        "residual": {"0.0": ("0.0", "1.inner.1.0"), "1.inner.0.0": ("1.inner.0.0",)},
        "concat": {"0.parts.0.0": ("0.parts.0.0",), "0.parts.1.0": ("0.parts.1.0",), "1.0": ("1.0",)},
        "depthwise": {"0.0": ("0.0",), "2.0": ("2.0",)},  # the depthwise layer makes no channels of its own
        "linear": {"1": ("1",), "3": ("3",)},
    }


def test_the_networks_are_the_same_every_time_and_the_caller_is_not_disturbed() -> None:
    state = torch.get_rng_state()
    one, two = networks(), networks()
    assert torch.equal(torch.get_rng_state(), state)
    for name in one:
        for a, b in zip(one[name].state_dict().values(), two[name].state_dict().values(), strict=True):
            assert torch.equal(a, b)
        assert {module.training for module in one[name].modules()} == {True, False}
        assert {parameter.requires_grad for parameter in one[name].parameters()} == {True, False}


@dataclass(frozen=True)
class Good(ScoreMethod):
    """The first units go; what each broken method below departs from."""

    paper: ClassVar[Paper] = PAPER

    def score(self, group: Group, problem: Problem) -> Tensor:
        return torch.arange(group.size).float()


class TouchesWeights(Good):
    def score(self, group: Group, problem: Problem) -> Tensor:
        for parameter in problem.model.parameters():
            parameter.data.mul_(1 + 1e-6)
        return super().score(group, problem)


class TouchesBuffers(Good):
    def score(self, group: Group, problem: Problem) -> Tensor:
        assert problem.batches is not None
        problem.model.train()(next(iter(problem.batches))[0])
        return super().score(group, problem)


class TouchesModes(Good):
    def score(self, group: Group, problem: Problem) -> Tensor:
        problem.model.eval()
        return super().score(group, problem)


class Freezes(Good):
    def score(self, group: Group, problem: Problem) -> Tensor:
        problem.model.requires_grad_(True)
        return super().score(group, problem)


class LeavesGradients(Good):
    def score(self, group: Group, problem: Problem) -> Tensor:
        sum(p.sum() for p in problem.model.parameters() if p.requires_grad).backward()
        return super().score(group, problem)


class LeavesHooks(Good):
    def score(self, group: Group, problem: Problem) -> Tensor:
        problem.model.register_forward_hook(lambda module, args, output: None)
        return super().score(group, problem)


class AddsBuffer(Good):
    def score(self, group: Group, problem: Problem) -> Tensor:
        problem.model.register_buffer("mask", torch.ones(1))
        return super().score(group, problem)


class DrawsElsewhere(Good):
    def score(self, group: Group, problem: Problem) -> Tensor:
        return torch.rand(group.size)


class Remembers(Good):
    calls: ClassVar[list[int]] = []

    def score(self, group: Group, problem: Problem) -> Tensor:
        self.calls.append(1)
        return super().score(group, problem).roll(len(self.calls))


class KeepsLists(Good):
    def plan(self, problem: Problem) -> Plan:
        plan = super().plan(problem)
        return Plan(tuple(DropUnits(e.group, list(e.units)) for e in plan.edits if isinstance(e, DropUnits)))  # type: ignore[arg-type]


class ReturnsList(Good):
    def plan(self, problem: Problem) -> Plan:
        return list(super().plan(problem).edits)  # type: ignore[return-value]


class RemovesTooLittle(Good):
    def plan(self, problem: Problem) -> Plan:
        return Plan((DropUnits(problem.graph.free[0].name, (0,)),))


class Unreachable(Good):
    def plan(self, problem: Problem) -> Plan:
        try:
            return super().plan(problem)
        except TargetError as error:
            raise TargetError(str(error)) from None


class Boasts(Good):
    def plan(self, problem: Problem) -> Plan:
        try:
            return super().plan(problem)
        except TargetError as error:
            raise TargetError(str(error), (error.reachable or 0.0) / 2) from None


class NeverRemoves(Good):
    def plan(self, problem: Problem) -> Plan:
        assert problem.target is not None
        if problem.target.keep < 1.0:
            raise TargetError("no", 1.0)
        return Plan()


class IgnoresLimits(Good):
    def plan(self, problem: Problem) -> Plan:
        return super().plan(dataclasses.replace(problem, limits=Limits(multiple=1)))


class CrashesWithoutData(Good):
    def plan(self, problem: Problem) -> Plan:
        next(iter(problem.batches))  # type: ignore[call-overload]
        return super().plan(problem)


class RemovesAll(Good):
    def plan(self, problem: Problem) -> Plan:
        super().plan(problem)
        return Plan(tuple(DropUnits(group.name, tuple(range(group.size))) for group in problem.graph.free))


class NamesStrangers(Good):
    def plan(self, problem: Problem) -> Plan:
        return Plan((*super().plan(problem).edits, DropUnits("elsewhere", (0,))))


class PenaltyOfNan(Good):
    @contextlib.contextmanager
    def training(self, model: nn.Module) -> Generator[Shaper | None]:
        class Bad(Shaper):
            def penalty(self) -> Tensor:
                return torch.tensor(float("nan"))

        yield Bad()


class Explodes(Good):
    @contextlib.contextmanager
    def training(self, model: nn.Module) -> Generator[Shaper | None]:
        class Bad(Shaper):
            def after_step(self, step: int) -> None:
                next(model.parameters()).data.fill_(float("inf"))

        yield Bad()


class StopsTraining(Good):
    @contextlib.contextmanager
    def training(self, model: nn.Module) -> Generator[Shaper | None]:
        before = [p.detach().clone() for p in model.parameters()]

        class Bad(Shaper):
            def after_step(self, step: int) -> None:
                for parameter, old in zip(model.parameters(), before, strict=True):
                    parameter.data.copy_(old)

        yield Bad()


class LeavesParametrization(Good):
    @contextlib.contextmanager
    def training(self, model: nn.Module) -> Generator[Shaper | None]:
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.utils.parametrizations.weight_norm(module)
        yield None


class YieldsNoShaper(Good):
    @contextlib.contextmanager
    def training(self, model: nn.Module) -> Generator[Shaper | None]:
        yield "mask"  # type: ignore[misc]


class Undecorated(Good):
    strength: float = 0.5


@dataclass(frozen=True)
class UnwritableSetting(Good):
    weights: Any = dataclasses.field(default_factory=lambda: {1, 2})


@dataclass(frozen=True)
class Drifts(Good):
    strength: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "strength", self.strength * 2)


@dataclass(frozen=True)
class NoPaper(Method):
    def plan(self, problem: Problem) -> Plan:
        return Plan()


@dataclass(frozen=True)
class LooksAtAll(Good):
    """Ranks the units of all groups, those that were to be left alone included."""

    def plan(self, problem: Problem) -> Plan:
        return super().plan(dataclasses.replace(problem, graph=dataclasses.replace(problem.graph, left=frozenset())))


BROKEN: list[tuple[type[Method], str, str]] = [
    (TouchesWeights, "plan leaves the model alone", "the values of '0.0.weight'"),
    (TouchesBuffers, "plan leaves the model alone", "mode"),
    (TouchesModes, "plan leaves the model alone", "mode"),
    (Freezes, "plan leaves the model alone", "requires_grad of '0.1.weight'"),
    (LeavesGradients, "plan leaves the model alone", "the gradient of '0.0.weight'"),
    (LeavesHooks, "plan leaves the model alone", "hooks"),
    (AddsBuffer, "plan leaves the model alone", "'mask'"),
    (DrawsElsewhere, "same seed, same plan", "problem.rng"),
    (Remembers, "same seed, same plan", "remember nothing"),
    (KeepsLists, "the plan survives JSON", "tuples"),
    (ReturnsList, "plan returns a Plan", "list"),
    (RemovesTooLittle, "meets the target", "where 0.6 was asked for"),
    (Unreachable, "TargetError names the reachable minimum", "reachable=None"),
    (Boasts, "TargetError names the reachable minimum", "and then refused it"),
    (NeverRemoves, "removes something", "chain"),
    (IgnoresLimits, "respects the limits", "multiple of 2"),
    (CrashesWithoutData, "says that it needs data", "TypeError"),
    (RemovesAll, "respects the limits", "leaves 0 of 8"),
    (LooksAtAll, "spares what is left alone", "units of '0.0'"),
    (NamesStrangers, "the plan can be carried out", "'elsewhere'"),
    (PenaltyOfNan, "the shaped network trains", "nan"),
    (Explodes, "the shaped network trains", "finite"),
    (StopsTraining, "the shaped network trains", "changed no weight"),
    (LeavesParametrization, "the shaped network trains", "names or shapes"),
    (YieldsNoShaper, "the shaped network trains", "str"),
    (Undecorated, "settings are a frozen dataclass and survive a recipe", "strength"),
    (UnwritableSetting, "settings are a frozen dataclass and survive a recipe", "cannot be written"),
    (Drifts, "settings are a frozen dataclass and survive a recipe", "becomes"),
    (NoPaper, "settings are a frozen dataclass and survive a recipe", "paper"),
]


def chain() -> dict[str, tuple[nn.Module, Tensor]]:
    return {"chain": (networks()["chain"], IMAGES)}


def test_the_method_that_the_broken_ones_depart_from_is_sound() -> None:
    check_method(Good(), networks=chain())


@pytest.mark.parametrize(("kind", "promise", "words"), BROKEN, ids=lambda part: getattr(part, "__name__", None))
def test_broken_promises_are_found(kind: type[Method], promise: str, words: str) -> None:
    with pytest.raises(ContractError) as caught:
        check_method(kind(), networks=chain())
    assert caught.value.promise == promise
    assert words in str(caught.value)
    assert kind.__name__ in str(caught.value)
    assert isinstance(caught.value, AssertionError)
    assert isinstance(caught.value, SecateurError)


def test_a_class_is_not_a_method() -> None:
    with pytest.raises(SettingError, match="must be a method such as"):
        check_method(Good)  # type: ignore[arg-type]


class Buffers(Good):
    """Leaves modes as they are, yet the norms have seen a batch."""

    def score(self, group: Group, problem: Problem) -> Tensor:
        modes = [(module, module.training) for module in problem.model.modules()]
        problem.model.train()(IMAGES)
        for module, mode in modes:
            module.training = mode
        return super().score(group, problem)


def test_statistics_of_norms_count_as_the_model() -> None:
    with pytest.raises(ContractError, match="running_mean"):
        check_method(Buffers(), networks=chain())


def _shifted(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        module.bias.data += 1


def test_a_difference_between_pruned_and_silenced_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "apply", lambda *given: apply(*given).apply(_shifted))
    with pytest.raises(ContractError, match="they differ by") as caught:
        check_method(Good(), networks=chain())
    assert caught.value.promise == "the pruned network computes what the silenced one computes"
    assert TOLERANCE <= 1e-4


def test_a_wrong_size_on_paper_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = contract.count
    monkeypatch.setattr(contract, "count", lambda m, i: dataclasses.replace(real(m, i), macs=real(m, i).macs + 1))
    with pytest.raises(ContractError, match="on paper and") as caught:
        check_method(Good(), networks=chain())
    assert caught.value.promise == "size on paper is the size counted"


@dataclass(frozen=True)
class Zeroes(Method):
    """Sets the smallest weights of each convolution to zero; on paper they are gone, in time nothing is."""

    paper: ClassVar[Paper] = PAPER

    def plan(self, problem: Problem) -> Plan:
        assert problem.target is not None
        if problem.target.of != "nonzero":
            if problem.target.keep < 1.0:
                raise TargetError("single weights do not thin a network", 1.0)
            return Plan()
        if problem.target.keep < 0.2:
            raise TargetError("keep at least 0.5", 0.5)
        names = [name for name, p in problem.model.named_parameters() if p.dim() > 1]
        return Plan(
            tuple(
                ZeroWeights.of(name, weight.abs() > weight.abs().median())
                for name in names
                for weight in [problem.model.get_parameter(name).detach()]
            )
        )


def test_methods_of_single_weights_pass_too() -> None:
    check_method(Zeroes(), networks=chain())


class Forgets(Shaper):
    """Does not hold what was set to zero."""


def test_zeros_that_do_not_last_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "hold", lambda *args: Forgets())
    with pytest.raises(ContractError, match="did not stay there"):
        check_method(Zeroes(), networks=chain())


@dataclass(frozen=True)
class OnData(ScoreMethod):
    """Needs data, and says so."""

    paper: ClassVar[Paper] = PAPER

    def score(self, group: Group, problem: Problem) -> Tensor:
        losses = [problem.loss_after(Plan((DropUnits(group.name, (unit,)),))) for unit in range(0, group.size, 4)]
        return torch.tensor(losses).repeat_interleave(4)[: group.size]


def test_methods_that_measure_can_be_checked() -> None:
    check_method(OnData(), networks=chain())
    net = networks()["chain"]
    problem = Problem(net, trace(net, IMAGES), Target(0.5))
    with pytest.raises(DataError, match="give data="):
        OnData().plan(problem)


def test_own_networks_are_checked_and_left_alone() -> None:
    net = networks()["residual"]
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    check_method(Good(), networks={"mine": (net, IMAGES)})
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    with pytest.raises(ContractError, match="'mine'"):
        check_method(TouchesModes(), networks={"mine": (net, IMAGES)})
    assert net.training


def test_it_is_public() -> None:
    assert secateur.check_method is check_method
    assert "check_method" in secateur.__all__
