"""Layers and paths that the example does not run: what they could meet stays, and the rest can go."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plans import third
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, verify
from secateur.core.trace import trace

DARK, BRIGHT = torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8)


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Net(nn.Module):
    """A stem, something in the middle, two more layers whose width nothing else has, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.last, self.head = conv(3, 12), conv(12, 70), conv(70, 12), nn.Linear(12, 5)

    def middle(self, y: Tensor, bright: bool) -> Tensor:
        return y

    def forward(self, x: Tensor) -> Tensor:
        y = self.middle(self.stem(x).relu(), bool(x.mean() > 0.5))
        return self.head(self.last(self.wide(y).relu()).relu().mean((2, 3)))


class Behind(Net):
    def __init__(self) -> None:
        super().__init__()
        self.more = conv(12, 12)

    def middle(self, y: Tensor, bright: bool) -> Tensor:
        return self.more(y).relu() if bright else y


class Listed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(conv(12, 9), nn.ReLU(), conv(9, 12)) for _ in range(4))

    def middle(self, y: Tensor, bright: bool) -> Tensor:
        for block in self.blocks[: 4 if bright else 2]:
            y = y + block(y)
        return y


class Expert(Net):
    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Sequential(conv(12, 9), nn.ReLU(), conv(9, 12)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).relu()
        y = y + self.experts[int(x.mean() * 2)](y)
        return self.head(self.last(self.wide(y).relu()).relu().mean((2, 3)))


class Tied(Net):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(12, 12), conv(12, 12)
        self.second.weight = self.first.weight

    def middle(self, y: Tensor, bright: bool) -> Tensor:
        y = self.first(y).relu()
        return self.second(y).relu() if bright else y


class Norms(Net):
    def __init__(self) -> None:
        super().__init__()
        self.dark, self.bright = nn.BatchNorm2d(12), nn.BatchNorm2d(12)

    def middle(self, y: Tensor, bright: bool) -> Tensor:
        return self.bright(y) if bright else self.dark(y)


class Parameter(Net):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.randn(1, 12, 1, 1))

    def middle(self, y: Tensor, bright: bool) -> Tensor:
        return y * self.gate if bright else y


class Beside(Net):
    """What the other path reads is joined from two tensors, and nowhere else so wide."""

    def __init__(self) -> None:
        super().__init__()
        self.more, self.joined = conv(12, 20), conv(32, 12)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).relu()
        z = self.more(y).relu()
        if x.mean() > 0.5:
            y = self.joined(torch.cat([y, z], 1))
        return self.head(self.last(self.wide(y).relu()).relu().mean((2, 3))) + z.mean()


class Flattened(Net):
    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Linear(12 * 64, 12)

    def middle(self, y: Tensor, bright: bool) -> Tensor:
        return y * self.side(y.flatten(1))[:, :, None, None] if bright else y


class Skips(Net):
    """Every layer runs on the example; the other path leaves one out."""

    def __init__(self) -> None:
        super().__init__()
        self.more = conv(12, 12)

    def middle(self, y: Tensor, bright: bool) -> Tensor:
        return y if bright else self.more(y).relu()


class SkipsByNumber(Skips):
    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).relu()
        if x.mean().item() < 0.5:
            y = self.more(y).relu()
        return self.head(self.last(self.wide(y).relu()).relu().mean((2, 3)))


class Repeats(Net):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(conv(12, 12) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).relu()
        for number in range(3 - int(3 * x.mean())):
            y = self.blocks[number](y).relu()
        return self.head(self.last(self.wide(y).relu()).relu().mean((2, 3)))


class Exits(Net):
    """Two results: an early one, and the late one that the example gives."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).relu()
        early = self.early(y.mean((2, 3)))
        if x.mean() > 0.5:
            return early
        return self.head(self.last(self.wide(y).relu()).relu().mean((2, 3)))


class Loops(Net):
    """Turned for good, its decision would never let it end."""

    def __init__(self) -> None:
        super().__init__()
        self.more = conv(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        y, rest = self.stem(x).relu(), 1 - x.mean()
        while not rest < 0.3:
            y, rest = self.more(y).relu(), rest / 2
        return self.head(self.last(self.wide(y).relu()).relu().mean((2, 3)))


NEVER = (Behind, Listed, Expert, Tied, Norms, Parameter, Beside, Flattened)
OTHERWISE = (Skips, SkipsByNumber, Repeats, Exits, Loops)


@pytest.mark.parametrize("make", [*NEVER, *OTHERWISE])
def test_the_thin_network_is_right_on_the_path_that_was_not_seen(make: type[Net]) -> None:
    torch.manual_seed(0)
    net = make().eval()
    graph = trace(net, DARK)
    thin = apply(net, graph, third(graph))
    for brightness in (0.0, 0.2, 0.4, 0.7, 1.0):
        assert verify(net, graph, third(graph), thin, torch.full_like(DARK, brightness)).exact


@pytest.mark.parametrize("make", NEVER)
def test_explanations_list_what_was_not_run(make: type[Net]) -> None:
    graph = trace(make().eval(), DARK)
    rows = [row for row in graph.explain().rows if row.reason == "not run by the example inputs"]
    assert {row.layer for row in rows} == set(graph.unreached)
    assert rows
    assert all(row.prunable == 0 and row.width > 1 and row.remedy for row in rows)


def test_pins_name_the_layer_and_spare_what_it_cannot_meet() -> None:
    graph = trace(Norms().eval(), DARK)
    assert [group.name for group in graph.groups] == ["wide"]
    assert any("'bright' is not run by the example inputs" in pin.reason for pin in graph.pins)


def test_where_every_layer_runs_nothing_is_pinned_on_this_account() -> None:
    graph = trace(Skips().eval(), DARK)
    assert {group.name: group.size for group in graph.groups} == {"stem": 12, "wide": 70, "last": 12}
    assert graph.group("stem").layers == ("stem", "more")
    assert not graph.unreached


class Optional(Net):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.film = nn.Embedding(4, 12), nn.Linear(4, 24)

    def forward(self, x: Tensor, kind: Tensor | None = None, *, style: Tensor | None = None) -> Tensor:
        y = self.stem(x).relu()
        if kind is not None:
            y = y + self.embed(kind)[:, :, None, None]
        if style is not None:
            scale, shift = self.film(style)[:, :, None, None].chunk(2, 1)
            y = y * scale + shift
        return self.head(self.last(self.wide(y).relu()).relu().mean((2, 3)))


@pytest.mark.parametrize("more", [{"kind": torch.tensor([1, 3])}, {"style": torch.randn(2, 4)}])
def test_arguments_that_were_not_given_can_be_given_afterwards(more: dict[str, Any]) -> None:
    net = Optional().eval()
    graph = trace(net, {"x": DARK})
    plan = third(graph)
    assert verify(net, graph, plan, apply(net, graph, plan), {"x": DARK, **more}).exact


class Joined(Net):
    """What the other path reads has the ends and the size of what comes after it, but not the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = conv(12, 10), conv(12, 19), conv(12, 19), conv(12, 11)
        self.more, self.joined = conv(40, 12), conv(40, 12)

    def forward(self, x: Tensor, more: bool = False) -> Tensor:
        y = self.stem(x).relu()
        a, d = self.a(y).relu(), self.d(y).relu()
        first = torch.cat([a, self.b(y).relu(), d], 1)
        read = first.mean()
        second = torch.cat([a, self.c(y).relu(), d], 1)
        y = self.more(first) if more else self.joined(second)
        return self.head(self.last(self.wide(y).relu()).relu().mean((2, 3))) + read


def test_channels_with_the_ends_and_the_size_of_others_are_at_hand_too() -> None:
    net = Joined().eval()
    graph = trace(net, DARK)
    plan = third(graph)
    assert verify(net, graph, plan, apply(net, graph, plan), {"x": DARK, "more": True}).exact
    assert [group.name for group in graph.groups] == ["wide"]


class Gated(nn.Module):
    """What it may hand to the layer that does not run comes by name alone."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.gate = conv(12, 12), conv(12, 12)

    def forward(self, *, maps: Tensor, bright: bool) -> Tensor:
        return self.gate(maps) if bright else self.inner(maps)


def test_arguments_by_name_are_at_hand_too() -> None:
    class Outer(Net):
        def __init__(self) -> None:
            super().__init__()
            self.block = Gated()

        def middle(self, y: Tensor, bright: bool) -> Tensor:
            return self.block(maps=y, bright=bright).relu()

    net = Outer().eval()
    graph = trace(net, DARK)
    plan = third(graph)
    thin = apply(net, graph, plan)
    assert verify(net, graph, plan, thin, BRIGHT).exact
    assert [group.name for group in graph.groups] == ["wide", "last"]


# -- what counts as run -------------------------------------------------------------------------------------


def test_a_layer_whose_weight_a_function_reads_is_run() -> None:
    class Functional(Net):
        def forward(self, x: Tensor) -> Tensor:
            y = F.conv2d(self.stem(x).relu(), self.wide.weight, self.wide.bias, padding=1).relu()
            return self.head(self.last(y).relu().mean((2, 3)))

    graph = trace(Functional().eval(), DARK)
    assert not graph.unreached
    assert {group.name: group.size for group in graph.groups} == {"stem": 12, "wide": 70, "last": 12}


def test_a_module_under_two_names_is_run_by_either() -> None:
    class Twice(Net):
        def __init__(self) -> None:
            super().__init__()
            self.alias = self.wide

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.last(self.alias(self.stem(x).relu()).relu()).relu().mean((2, 3)))

    assert not trace(Twice().eval(), DARK).unreached


def test_a_single_number_that_is_not_used_pins_nothing() -> None:
    net = Net().eval()
    net.temperature = nn.Parameter(torch.tensor(2.0))
    graph = trace(net, DARK)
    assert graph.unreached == {"temperature": 1}
    assert len(graph.groups) == 3


# -- training -----------------------------------------------------------------------------------------------


class Auxiliary(Net):
    """A second classifier that only training runs, with a layer of its own in it."""

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Sequential(conv(70, 8), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.scores = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Any:
        y = self.wide(self.stem(x).relu()).relu()
        result = self.head(self.last(y).relu().mean((2, 3)))
        return (result, self.scores(self.side(y))) if self.training else result


def test_what_training_alone_runs_follows_the_channels_that_it_reads() -> None:
    net = Auxiliary().eval()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    graph = trace(net, DARK)
    assert {group.name: group.size for group in graph.groups} == {"stem": 12, "wide": 70, "last": 12}
    assert not graph.unreached
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    thin = apply(net, graph, third(graph)).train()
    assert [tuple(result.shape) for result in thin(torch.randn(2, 3, 8, 8))] == [(2, 5), (2, 5)]
    assert thin.side[0].in_channels < 70
    assert thin.side[0].out_channels == 8
    row = next(row for row in graph.explain().rows if row.layer == "side.0")
    assert (row.prunable, row.reason) == (0, "runs in training alone")


def test_what_training_alone_runs_costs_nothing() -> None:
    graph, plain = trace(Auxiliary().eval(), DARK), trace(Net().eval(), DARK)
    assert [(cost.layer, cost.scale) for cost in graph.costs] == [(cost.layer, cost.scale) for cost in plain.costs]


def test_where_training_does_not_run_its_layers_pin() -> None:
    class Wants(Auxiliary):
        def forward(self, x: Tensor, targets: Tensor | None = None) -> Any:
            if self.training and targets is None:
                raise ValueError("in training mode targets should be passed")
            return super().forward(x)

    graph = trace(Wants().eval(), DARK)
    assert "side.0" in graph.unreached
    assert "wide" not in [group.name for group in graph.groups]


class Never(Net):
    """A layer that nothing at hand fits."""

    def __init__(self, never: nn.Module) -> None:
        super().__init__()
        self.never = never


@pytest.mark.parametrize("never", [nn.Conv2d(5, 7, 1), nn.Linear(20, 10), nn.Conv1d(11, 7, 3)], ids=repr)
def test_a_layer_that_can_read_nothing_pins_nothing(never: nn.Module) -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head, self.never = conv(3, 16), conv(16, 32), nn.Linear(32, 10), never

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.b(self.a(x).relu()).relu().mean((2, 3)))

    graph = trace(Small().eval(), torch.zeros(1, 3, 32, 32))
    assert {group.name: group.size for group in graph.groups} == {"a": 16, "b": 32}
    assert list(graph.unreached) == ["never"]


def cut(self: Any, y: Tensor) -> Tensor:
    return self.never(y[:, :5])


def cut_as_the_layer_says(self: Any, y: Tensor) -> Tensor:
    return self.never(y[:, : self.never.in_channels])


def cut_as_the_weight_says(self: Any, y: Tensor) -> Tensor:
    return self.never(y[:, : self.never.weight.shape[1]])


def first_five(y: Tensor) -> Tensor:
    return y[:, :5]


def cut_by_a_function(self: Any, y: Tensor) -> Tensor:
    return self.never(first_five(y))


class Settings:
    channels = 5


def cut_by_a_setting(self: Any, y: Tensor) -> Tensor:
    return self.never(y[:, : Settings.channels])


def joined_thrice(self: Any, y: Tensor) -> Tensor:
    return self.never(torch.cat([y, y, y], 1))


def with_coordinates(self: Any, y: Tensor) -> Tensor:
    return self.never(torch.cat([y, torch.zeros_like(y[:, :2])], 1))


def of_parts(self: Any, y: Tensor) -> Tensor:
    return self.never(y.chunk(3, 1)[1])


@pytest.mark.parametrize(
    ("read", "inputs"),
    [
        (cut, 5),
        (cut_as_the_layer_says, 5),
        (cut_as_the_weight_says, 5),
        (cut_by_a_function, 5),
        (cut_by_a_setting, 5),
        (joined_thrice, 36),
        (with_coordinates, 14),
        (of_parts, 4),
    ],
)
def test_what_such_a_layer_can_be_given_stays(read: Any, inputs: int) -> None:
    """Where it is run by a switch, which no other run of the example turns."""

    class Switched(Never):
        bright = False
        given = read

        def middle(self, y: Tensor, bright: bool) -> Tensor:
            return y + self.given(y).mean() if self.bright else y

    net = Switched(nn.Conv2d(inputs, 7, 1)).eval()
    graph = trace(net, DARK)
    thin = apply(net, graph, third(graph))
    net.bright = thin.bright = True
    with torch.no_grad():
        kept = net.middle(net.stem(BRIGHT).relu(), True)
        assert torch.allclose(thin.middle(thin.stem(BRIGHT).relu(), True), kept, atol=1e-5)


def test_what_may_be_joined_with_an_argument_that_was_not_given_stays() -> None:
    class Joins(Never):
        def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
            y = self.stem(x).relu()
            y = y if more is None else self.never(torch.cat([y, more], 1))
            return self.head(self.last(self.wide(y).relu()).relu().mean((2, 3)))

    net = Joins(nn.Conv2d(12 + 17, 12, 1)).eval()
    graph = trace(net, {"x": DARK})
    plan = third(graph)
    more = torch.randn(2, 17, 8, 8)
    assert verify(net, graph, plan, apply(net, graph, plan), {"x": DARK, "more": more}).exact


class Denoising(nn.Module):
    """Puts what an embedding that it is given makes of labels beside what a layer of its own makes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(24, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor, embed: Any = None, labels: Tensor | None = None) -> Tensor:
        x = self.inner(x)
        if labels is not None:
            x = torch.cat([embed(labels) if callable(embed) else embed[labels], x], 1)
        return self.last(x.relu())


class Detector(nn.Module):
    def __init__(self, *, weight: bool = False, mode: str = "") -> None:
        super().__init__()
        self.stem, self.embed, self.decoder = nn.Conv2d(3, 24, 3), nn.Embedding(6, 16), Denoising()
        self.weight, self.mode = weight, mode

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = self.decoder(x, embed=self.embed.weight if self.weight else self.embed, labels=labels)
        if self.mode == ("training" if self.training else "evaluation"):  # for the sake of several processes
            x = x + 0 * self.embed.weight.sum()
        return x


@pytest.mark.parametrize("mode", ["", "training", "evaluation"])
@pytest.mark.parametrize("weight", [False, True])
def test_what_labels_alone_run_keeps_the_width_that_it_has_where_it_is_handed_on(weight: bool, mode: str) -> None:
    torch.manual_seed(0)
    net, image = Detector(weight=weight, mode=mode).eval(), torch.randn(2, 3, 6, 6)
    graph = trace(net, image)
    assert {group.name for group in graph.groups} == {"stem"}
    thin = apply(net, graph, Plan((DropUnits("stem", (0, 1, 2)),)))
    assert thin(image, torch.tensor([[0, 1], [2, 3]])).shape == (2, 18, 5)


class AddedUp(nn.Module):
    """Adds up, times zero, weights that it does not need otherwise, as for a training in several processes."""

    def __init__(self, how: str, reads: int = 9, gated: int = 13) -> None:
        super().__init__()
        self.how, self.first, self.second = how, nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3)
        self.last, self.never = nn.Linear(24, 5), nn.Linear(reads, 7)
        self.gate = nn.Parameter(torch.rand(gated, 1, 1))

    def forward(self, x: Tensor, gates: bool = False) -> Tensor:
        x = self.second(self.first(x).relu()).relu()
        x = x * self.gate if gates else x
        x = self.last(x.mean((2, 3)).view(x.shape[0], -1))
        return x + 0 * self.total()

    def total(self) -> Any:
        match self.how:
            case "one weight":
                return self.never.weight.sum()
            case "one of each":
                return sum(parameter.sum() for parameter in self.never.parameters()) + self.never.weight.norm()
            case "squares":
                return (self.never.weight**2).mean() + self.gate.square().sum()
            case "all":
                return sum(parameter.sum() for parameter in self.parameters())
            case "in training":
                return self.gate.sum() if self.training else 0
            case _:
                return 0


@pytest.mark.parametrize("how", ["one weight", "one of each", "squares", "all", "none"])
def test_a_total_of_weights_ties_nothing(how: str) -> None:
    graph = trace(AddedUp(how).eval(), DARK)
    assert {group.name: group.size for group in graph.groups} == {"first": 16, "second": 24}


@pytest.mark.parametrize("how", ["squares", "all", "in training", "none"])
def test_what_a_parameter_could_meet_stays_where_it_is_only_added_up(how: str) -> None:
    graph = trace(AddedUp(how, gated=24).eval(), DARK)
    assert {group.name for group in graph.groups} == {"first"}


def test_a_weight_that_is_asked_for_its_size_is_no_total() -> None:
    class Asks(AddedUp):
        def total(self) -> Any:
            return self.never.weight.sum() + self.last.weight.sum(0).shape[0]

    assert not trace(Asks("").eval(), DARK).groups


@pytest.mark.parametrize("total", [True, False])
def test_what_lies_beside_a_parameter_in_a_layer_that_does_not_run_stays(total: bool) -> None:
    class Prompted(AddedUp):
        def __init__(self) -> None:
            super().__init__("", reads=40, gated=16)

        def forward(self, x: Tensor, gates: bool = False) -> Tensor:
            x = self.second(self.first(x).relu()).relu().mean((2, 3))
            if gates:
                return self.never(torch.cat([x, self.gate.flatten().expand(len(x), -1)], 1))
            return self.last(x) + (0 * self.gate.sum() if total else 0)

    net = Prompted().eval()
    graph = trace(net, DARK)
    assert apply(net, graph, third(graph))(DARK, True).shape == (len(DARK), 7)
