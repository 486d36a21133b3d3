from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nets import Head, images, lived_in
from secateur.core.graph import Graph
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import Inputs, apply, verify
from secateur.core.trace import trace
from secateur.data import Data, load_calibration, load_data
from secateur.errors import SettingError
from secateur.events import Event, ignore
from secateur.repair import Repair, chosen, compensate, reconstruct, repair, taken
from secateur.training import Settings, fit
from toys import toy


def chain(bias: bool = True, repeated: bool = False) -> nn.Module:
    """Two convolutions; ``repeated``: the last three maps of the first are mixtures of the first five."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3, bias=bias), nn.Flatten(), nn.Linear(80, 4))
    if repeated:
        with torch.no_grad():
            mix = torch.randn(3, 5)
            net[0].weight[5:] = torch.einsum("oc,cikl->oikl", mix, net[0].weight[:5])
            net[0].bias[5:] = mix @ net[0].bias[:5]
    return net.eval()


def cut(net: nn.Module, units: tuple[int, ...] = (5, 6, 7)) -> tuple[Graph, Plan, nn.Module]:
    graph = trace(net, images(1))
    plan = Plan((DropUnits("0", units),))
    thin = apply(net, graph, plan)
    assert verify(net, graph, plan, thin, images(2)).exact
    return graph, plan, thin


def batches() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(8, 3, 8, 8) + 0.5 for _ in range(2)]


def test_what_the_kept_inputs_can_say_is_reconstructed_exactly() -> None:
    net = chain(repeated=True)
    graph, plan, thin = cut(net)
    x = torch.randn(4, 3, 8, 8)
    assert float((net(x) - thin(x)).detach().abs().max()) > 0.1
    assert reconstruct(net, thin, graph, plan, batches()) == ("1",)
    torch.testing.assert_close(thin(x), net(x), atol=1e-4, rtol=1e-4)


def test_compensation_restores_the_mean_of_every_output() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1), nn.Flatten(), nn.Linear(180, 4)).eval()
    graph, plan, thin = cut(net)
    assert compensate(net, thin, graph, plan, batches()) == ("1",)
    x = torch.cat(batches())
    torch.testing.assert_close(thin[:2](x).mean((0, 2, 3)), net[:2](x).mean((0, 2, 3)))  # type: ignore[index]


def test_layers_with_neither_bias_nor_batch_norm_are_not_compensated_and_the_dense_network_is_left_alone() -> None:
    net = chain(bias=False).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    graph, plan, thin = cut(net)
    assert compensate(net, thin, graph, plan, batches()) == ()
    assert reconstruct(net, thin, graph, plan, batches()) == ("1",)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())


class Normed(nn.Module):
    """Convolutions without bias, each with a batch norm; ``shared``: somebody else reads the second one too."""

    def __init__(self, shared: bool = False) -> None:
        super().__init__()
        self.shared = shared
        self.first, self.second = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 5, 3, bias=False)
        self.before, self.behind = nn.BatchNorm2d(8), nn.BatchNorm2d(5)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.before(self.first(x)).relu())
        z = self.behind(y)
        return self.head((z.relu() + y if self.shared else z.relu()).mean((2, 3)))


def test_what_dead_filters_emit_is_folded_into_the_batch_norm_behind_the_reader() -> None:
    torch.manual_seed(0)
    net = lived_in(Normed())
    with torch.no_grad():
        net.first.weight[[1, 4]] = 0.0
        net.before.bias[[1, 4]] = 1.0
    graph = trace(net, images(1))
    plan = Plan((DropUnits("first", (1, 4)),))
    thin = apply(net, graph, plan)
    x = torch.cat(batches())
    assert float((thin(x) - net(x)).detach().abs().max()) > 0.01
    assert compensate(net, thin, graph, plan, batches()) == ("second",)
    torch.testing.assert_close(thin(x), net(x), atol=1e-5, rtol=1e-5)


def test_a_batch_norm_is_left_alone_where_somebody_else_reads_the_same_output() -> None:
    torch.manual_seed(0)
    net = lived_in(Normed(shared=True))
    graph = trace(net, images(1))
    plan = Plan((DropUnits("first", (1, 4)),))
    thin = apply(net, graph, plan)
    before = copy.deepcopy(thin.state_dict())
    assert compensate(net, thin, graph, plan, batches()) == ()
    assert all(torch.equal(value, before[name]) for name, value in thin.state_dict().items())


def test_a_linear_layer_behind_maps_is_repaired_too() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 4)).eval()
    graph, plan, thin = cut(net, (0, 3))
    x = torch.cat(batches())
    assert compensate(net, thin, graph, plan, batches()) == ("3",)
    torch.testing.assert_close(thin(x).mean(0), net(x).mean(0), atol=1e-5, rtol=1e-5)


@dataclass(frozen=True)
class Trained:
    """A small network that knows digits, and how it is cut."""

    net: nn.Module
    data: Data
    images: Sequence[Inputs]
    graph: Graph
    plan: Plan

    def repaired(self, steps: Sequence[str], heard: list[Event] | None = None) -> tuple[nn.Module, tuple[Repair, ...]]:
        thin = apply(self.net, self.graph, self.plan)
        tell = ignore if heard is None else heard.append
        return thin, repair(self.net, thin, self.graph, self.plan, self.images, steps, data=self.data, tell=tell)


@pytest.fixture(scope="module")
def trained() -> Trained:
    data = load_data("mnist5k")
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 5, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip
    fit(net, data, Settings(epochs=2, batch_size=64, optimizer="adamw", lr=3e-3, augment="none"))
    plan = Plan((DropUnits("0", (0, 1, 2)), DropUnits("3", tuple(range(8)))))
    return Trained(net.eval(), data, load_calibration(data, count=500).batches, trace(net, data.example()), plan)


def test_repairs_bring_back_accuracy_and_are_measured_one_by_one(trained: Trained) -> None:
    thin, done = trained.repaired(("recalibrate", "compensate"))
    assert [(step.step, step.layers) for step in done] == [("compensate", 2), ("recalibrate", 2)]
    assert done[1].before == done[0].after
    again, same = trained.repaired(("compensate", "recalibrate"))
    assert same == done
    assert all(torch.equal(a, b) for a, b in zip(thin.state_dict().values(), again.state_dict().values(), strict=True))
    _, (fitted,) = trained.repaired(("reconstruct",))
    assert (fitted.step, fitted.layers) == ("reconstruct", 2)
    assert fitted.after.value > fitted.before.value + 0.05
    assert fitted.after.value > done[1].after.value


@pytest.mark.parametrize("more", ["recalibrate", "compensate"])
@pytest.mark.parametrize("first", [True, False])
def test_asking_for_more_than_a_fit_loses_nothing_and_is_answered(trained: Trained, more: str, first: bool) -> None:
    heard: list[Event] = []
    _, alone = trained.repaired(("reconstruct",))
    _, both = trained.repaired((more, "reconstruct") if first else ("reconstruct", more), heard)
    assert both[-1].after.value >= alone[-1].after.value
    assert both[-1].after.loss <= alone[-1].after.loss
    [text] = [event.text for event in heard if event.stage == "warning"]
    assert text == f"without {more}: it would undo part of what reconstruct has won"


def test_a_fit_tells_its_progress_layer_by_layer(trained: Trained) -> None:
    heard: list[Event] = []
    trained.repaired(("reconstruct",), heard)
    told = [(event.text, event.step, event.total) for event in heard if event.stage == "repair" and event.total]
    fitted = [(f"fitting {layer}", number, 3) for number, layer in enumerate(("0", "3", "7"))]
    assert told == [("fitting layers to the dense network", 0, 3), *fitted]


def test_where_a_fit_reaches_no_layer_the_other_repairs_are_carried_out() -> None:
    torch.manual_seed(0)
    net = lived_in(Normed())
    graph, plan = trace(net, images(1)), Plan(())  # no layer has lost an input
    steps = taken(("recalibrate", "reconstruct"), net, copy.deepcopy(net), graph, plan, batches(), 0)
    assert list(steps) == [("reconstruct", 0), ("recalibrate", 2)]


class Unusual(nn.Module):
    """A layer is called with its input by name, another one's weights are used without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.named, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.named(input=self.first(x).relu()).relu().mean((2, 3))
        return torch.nn.functional.linear(x, self.head.weight, self.head.bias)


@pytest.mark.parametrize("step", ["reconstruct", "compensate"])
def test_layers_are_repaired_however_they_are_called_and_left_where_they_are_not(step: str) -> None:
    torch.manual_seed(0)
    net = Unusual().eval()
    graph = trace(net, images(1))
    plan = Plan((DropUnits("first", (1, 4)), DropUnits("named", (0,))))
    thin = apply(net, graph, plan)
    before = copy.deepcopy(thin.state_dict())
    assert list(taken((step,), net, thin, graph, plan, batches(), 0)) == [(step, 1)]
    changed = {name for name, value in thin.state_dict().items() if not torch.equal(value, before[name])}
    assert changed <= {"named.weight", "named.bias"}
    assert changed


@pytest.mark.parametrize(
    ("steps", "images_there", "expected"),
    [
        (None, True, ("reconstruct",)),
        (None, False, ("fold",)),
        ("fold", False, ("fold",)),
        ((), True, ()),
        ("recalibrate", True, ("recalibrate",)),
        (["recalibrate", "compensate"], True, ("compensate", "recalibrate")),
    ],
)
def test_what_is_carried_out_follows_from_what_was_asked_and_what_there_is(
    steps: Any, images_there: bool, expected: tuple[str, ...]
) -> None:
    assert chosen(steps, images=images_there) == expected


class Two(nn.Module):
    """Takes images and a number for each of their channels."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor, scale: Tensor) -> dict[str, Tensor]:
        return {"scores": self.net(image * scale)}


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("step", ["reconstruct", "compensate", "recalibrate"])
def test_networks_of_several_inputs_are_repaired_like_those_of_one(step: str, named: bool) -> None:
    net = lived_in(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3), nn.BatchNorm2d(5), Head(5)))
    pairs = [(batch, torch.rand(8, 3, 1, 1) + 0.5) for batch in batches()]
    inputs: list[Any] = [{"scale": scale, "image": image} for image, scale in pairs] if named else pairs
    graph, plan, one = cut(net)
    two = Two(net)
    graph_of_two, plan_of_two = trace(two, inputs[0]), Plan((DropUnits("net.0", (5, 6, 7)),))
    thin = apply(two, graph_of_two, plan_of_two)
    before = copy.deepcopy(thin.state_dict())
    [expected] = repair(net, one, graph, plan, [image * scale for image, scale in pairs], (step,))
    [done] = repair(two, thin, graph_of_two, plan_of_two, inputs, (step,))
    assert done == expected
    assert done.layers == 1
    assert not all(torch.equal(value, before[name]) for name, value in thin.state_dict().items())
    for name, value in one.state_dict().items():
        torch.testing.assert_close(thin.state_dict()[f"net.{name}"], value)


def test_an_unknown_repair_names_the_nearest() -> None:
    with pytest.raises(SettingError, match=r"unknown repair 'recalibrat' \(did you mean 'recalibrate'\?\)"):
        repair(nn.Module(), nn.Module(), toy(2), Plan(()), [], ("recalibrat",))
