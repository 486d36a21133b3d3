"""Finding methods by name, making them from settings, and rates layer by layer."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur import methods
from secateur.checks.networks import networks
from secateur.cli.flags import documentation
from secateur.core.graph import Group
from secateur.core.method import Method, Paper, ScoreMethod, settings_of
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, size
from secateur.core.trace import trace
from secateur.errors import SettingError, TargetError
from secateur.methods.magnitude import Magnitude

IMAGES = torch.ones(1, 3, 8, 8)


@dataclass(frozen=True)
class Foreign(ScoreMethod):
    """A method of another package."""

    strength: float = 1.0

    paper: ClassVar[Paper] = Paper("On others", "Olga Other", "Elsewhere", 2021)

    def score(self, group: Group, problem: Problem) -> Tensor:
        return torch.zeros(group.size)


def installed(monkeypatch: pytest.MonkeyPatch, *entries: tuple[str, object]) -> None:
    """Pretend that packages with these entry points are installed."""
    module = types.ModuleType("another_package")
    points: list[EntryPoint] = []
    for number, (name, value) in enumerate(entries):
        attribute = f"thing{number}"
        if value is not None:
            setattr(module, attribute, value)
        points.append(EntryPoint(name, f"another_package:{attribute}", "secateur.methods"))
    monkeypatch.setitem(__import__("sys").modules, "another_package", module)
    points.append(EntryPoint("unrelated", "another_package:absent", "console_scripts"))
    monkeypatch.setattr(methods, "entry_points", lambda group: EntryPoints(points).select(group=group))
    methods.methods.cache_clear()


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    methods.methods.cache_clear()


def test_the_three_methods_that_need_weights_alone_are_there() -> None:
    assert {"magnitude", "filter_std", "random_units"} <= set(methods.methods())
    assert secateur.METHODS is methods.methods()


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_is_found_made_and_named(name: str) -> None:
    kind = methods.find(name)
    made = methods.make(name)
    assert type(made) is kind
    assert methods.name_of(made) == methods.name_of(kind) == name


@pytest.mark.parametrize(
    ("wrong", "meant"), [("magnitud", "magnitude"), ("filterstd", "filter_std"), ("random", "random_units")]
)
def test_a_slip_of_the_pen_is_answered_with_the_nearest_name(wrong: str, meant: str) -> None:
    with pytest.raises(SettingError, match=rf"unknown method '{wrong}' \(did you mean '{meant}'\?\)"):
        methods.find(wrong)


def test_a_name_like_no_other_is_answered_without_a_guess() -> None:
    with pytest.raises(SettingError, match="unknown method 'zzz'; `secateur methods` lists them"):
        methods.find("zzz")


def test_unknown_settings_are_answered_with_the_nearest_and_all() -> None:
    with pytest.raises(
        SettingError, match=r"magnitude has no setting 'nrom' \(did you mean 'norm'\?\); it has .*keeps"
    ):
        methods.make("magnitude", {"nrom": "l1"})


def test_other_packages_add_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, ("foreign", Foreign))
    assert methods.find("foreign") is Foreign
    assert methods.make("foreign", {"strength": 2.0}) == Foreign(strength=2.0)
    assert methods.name_of(Foreign()) == "foreign"
    assert methods.card(Foreign) == __doc__
    assert "foreign" in secateur.methods.METHODS
    assert "unrelated" not in methods.methods()


def test_without_registration_the_name_is_that_of_the_class() -> None:
    assert methods.name_of(Foreign()) == "Foreign"


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("broken", None, "AttributeError"),
        ("number", 3, "no subclass"),
        ("plain", dict, "no subclass"),
        ("magnitude", Foreign, "taken"),
    ],
)
def test_a_bad_entry_of_another_package_is_left_out(
    name: str, value: object, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, (name, value), ("foreign", Foreign))
    with pytest.warns(UserWarning, match=rf"'{name}' \(another_package:thing0\) is left out: .*{problem}"):
        found = methods.methods()
    assert found["foreign"] is Foreign
    assert found["magnitude"] is Magnitude
    assert name == "magnitude" or name not in found


@pytest.mark.parametrize("name", methods.METHODS)
def test_the_card_has_its_sections(name: str) -> None:
    text = methods.card(methods.METHODS[name])
    places = [text.index(f"\n{section}") for section in ("Idea.", "Rule.", "Needs.", "Cost.", "Differences.")]
    assert places == sorted(places)


@pytest.mark.parametrize("name", methods.METHODS)
def test_settings_are_the_fields_and_every_one_is_explained(name: str) -> None:
    kind = methods.METHODS[name]
    made = kind()
    settings = settings_of(made)
    assert list(settings) == [field.name for field in dataclasses.fields(kind)]
    assert methods.make(name, settings) == made
    assert set(settings) <= set(documentation(kind))
    assert hash(made) == hash(methods.make(name))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, next(iter(settings)), None)


def test_settings_other_than_the_defaults_come_back() -> None:
    made = Magnitude(norm="l2", scope="global", keeps=(("conv1", 0.5), ("layer*", 0.25)))
    assert settings_of(made)["keeps"] == [["conv1", 0.5], ["layer*", 0.25]]
    assert methods.make("magnitude", settings_of(made)) == made


# rates of their own for some layers


def wide() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 10, 1),
        nn.ReLU(),
        nn.Conv2d(10, 16, 1),
        nn.ReLU(),
        nn.Conv2d(16, 64, 1),
        nn.ReLU(),
        nn.Conv2d(64, 2, 1),
    )


def numbers(method: Method, net: nn.Module, **known: Any) -> dict[str, int]:
    """Return how many units stay in each group."""
    graph = trace(net, IMAGES)
    dropped = method.plan(Problem(net, graph, **{"limits": Limits(multiple=1), **known})).dropped()
    return {group.name: group.size - len(dropped.get(group.name, ())) for group in graph.groups}


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (0.9, (9, 14, 57)),  # rounded down, as in the reimplementations of Li et al.
        (0.3, (3, 4, 19)),
        (1 - 0.6, (4, 6, 25)),
        (0.7, (7, 11, 44)),
        (0.01, (1, 1, 1)),  # but never to nothing
        (1.0, (10, 16, 64)),
    ],
)
def test_rates_round_down(keep: float, expected: tuple[int, int, int]) -> None:
    assert tuple(numbers(Magnitude(keeps=(("*", keep),)), wide()).values()) == expected


def test_rates_choose_the_lowest_scores_of_their_layer() -> None:
    net = wide()
    with torch.no_grad():
        for row in range(10):
            net[0].weight[row] = (row * 7) % 10
    plan = Magnitude(keeps=(("0", 0.7),)).plan(Problem(net, trace(net, IMAGES), limits=Limits(multiple=1)))
    assert plan.dropped() == {"0": (0, 3, 6)}  # weights 0, 1 and 2


def test_the_last_pattern_that_matches_decides() -> None:
    rates = (("*", 0.5), ("2", 1.0), ("[04]", 0.25))
    assert numbers(Magnitude(keeps=rates), wide()) == {"0": 2, "2": 16, "4": 16}


def test_layers_without_a_rate_are_left_or_meet_the_target() -> None:
    net = wide()
    rates = Magnitude(keeps=(("2", 0.5),))
    assert numbers(rates, net) == {"0": 10, "2": 8, "4": 64}
    graph = trace(net, IMAGES)
    target = Target(0.4, "params")
    plan = rates.plan(Problem(net, graph, target, limits=Limits(multiple=1)))
    assert len(plan.dropped()["2"]) == 8
    assert size(graph, plan).params <= 0.4 * size(graph).params
    assert set(plan.dropped()) == {"0", "2", "4"}


def test_a_rate_names_any_layer_that_makes_the_group() -> None:
    net = networks()["residual"]
    assert numbers(Magnitude(keeps=(("1.inner.1.0", 0.5),)), net) == {"0.0": 4, "1.inner.0.0": 6}


def test_rates_respect_the_limits() -> None:
    rates = Magnitude(keeps=(("*", 0.3),))
    assert numbers(rates, wide(), limits=Limits(min_units=5, multiple=1)) == {"0": 5, "2": 5, "4": 19}
    assert numbers(rates, wide(), limits=Limits(multiple=8)) == {"0": 8, "2": 8, "4": 24}


def test_rates_may_be_written_as_a_table() -> None:
    assert methods.make("magnitude", {"keeps": {"0": 0.5}}) == Magnitude(keeps=(("0", 0.5),))


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.1])
def test_rates_are_fractions_that_stay(keep: float) -> None:
    with pytest.raises(SettingError, match=r"keep of 'conv' must be in \(0, 1\]"):
        Magnitude(keeps=(("conv", keep),))


def test_a_rate_for_no_layer_is_a_mistake() -> None:
    with pytest.raises(SettingError, match="no prunable layer matches 'conv9'"):
        numbers(Magnitude(keeps=(("conv9", 0.5),)), wide())


def test_neither_target_nor_rates_is_a_mistake() -> None:
    with pytest.raises(TargetError, match="say how much to keep"):
        numbers(Magnitude(), wide())


def test_weights_that_are_not_numbers_cannot_be_ranked() -> None:
    net = wide()
    with torch.no_grad():
        net[2].weight[3, 3] = float("nan")
    with pytest.raises(SettingError, match="group '2' contain NaN"):
        numbers(Magnitude(), net, target=Target(0.5))
