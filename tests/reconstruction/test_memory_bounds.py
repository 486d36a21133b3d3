from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nets
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, tensors_in
from secateur.core.trace import trace
from secateur.events import Event
from secateur.reconstruction import error_curves, refit
from secateur.reconstruction.least_squares import MOST
from secateur.reconstruction.memory_bounds import PLENTY, ROOM, Living, Memory, Room, memory, room
from secateur.reconstruction.passes import Passes
from secateur.reconstruction.sites import PAIR, Site, sites


class Narrowing(nn.Module):
    """Maps of 8 x 8, 4 x 4 and 2 x 2 with a shortcut at the second size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.c = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.d = nn.Conv2d(16, 16, 3, padding=1)
        self.e = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        y = y + self.b(y)
        y = F.relu(self.c(F.relu(y)))
        return self.e(F.relu(self.d(y)).mean((2, 3)))


BATCHES = [torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(n)) for n in range(5)]
STOPS = ["a", "b", "c", "d", "e"]


def found(model: nn.Module) -> list[Site]:
    return sites(model, BATCHES[0][PAIR])


def arrivals(model: nn.Module, many: dict[str, int] | None) -> dict[str, list[tuple[int, Tensor]]]:
    seen: dict[str, list[tuple[int, Tensor]]] = {}
    with Passes(model, found(model), BATCHES, lambda *_: None, room=many).running() as advance:
        while arrived := advance():
            seen[str(arrived[0].where)] = [(it.batch, it.tensor.clone()) for it in arrived]
    return seen


def test_bytes_that_were_freed_count_no_more() -> None:
    with Living() as living:
        first = torch.ones(1000)
        assert living.bytes == 4000
        view = first[:10]
        view.add_(1)
        assert living.bytes == 4000
        second = first.double()
        assert living.bytes == 12000
        del first
        assert living.bytes == 12000  # the view holds it
        del view
        assert living.bytes == 8000
        del second
        assert living.bytes == 0


def test_what_was_there_before_does_not_count() -> None:
    given = torch.ones(1000)
    with Living() as living:
        given.add_(1)
        assert given.view(10, 100).sum() == 2000
    assert living.bytes < 100


def test_room_is_what_the_largest_maps_behind_leave() -> None:
    model = Narrowing().eval()
    image = 4 * 8 * 8 * 8  # bytes of a map of the first layer; at the sum there are that, the map of b, and the sum
    for fit in (1, 2, 3):
        many = room(model, found(model), BATCHES, most=fit * 4 * 3 * image).batches
        assert list(many) == STOPS
        assert list(many.values()) == sorted(many.values())
        assert many["a"] == many["b"] == fit
        assert many["e"] == 5


def test_room_is_for_both_networks() -> None:
    model = Narrowing().eval()
    alone = room(model, found(model), BATCHES, most=2**16).batches
    assert room(model, found(model), BATCHES, networks=2, most=2**17).batches == alone
    assert room(model, found(model), BATCHES, networks=2, most=2**16).batches["a"] < alone["a"]


def test_one_batch_always_finds_room() -> None:
    model = Narrowing().eval()
    assert set(room(model, found(model), BATCHES, most=1).batches.values()) == {1}
    assert set(room(model, found(model), BATCHES).batches.values()) == {5}


def test_nobody_joins_between_a_layer_and_its_sum() -> None:
    class Late(nn.Module):
        """Large maps before b, whose output waits for the sum until after small ones."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
            self.c, self.d = nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, stride=2, padding=1)
            self.e = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.a(x))
            first = self.b(F.avg_pool2d(y, 4))
            y = F.relu(self.c(y))
            return self.e(F.relu(self.d(y) + first).mean((2, 3)))

    model = Late().eval()
    assert [site.add is not None for site in found(model)] == [False, True, False, True, False]
    many = room(model, found(model), BATCHES, most=3 * 4 * 8 * 256 * 4).batches
    assert many["a"] == many["b"] == many["c"] == many["d"] < many["e"]


def test_those_that_join_arrive_with_the_same_inputs() -> None:
    model = Narrowing().eval()
    every = arrivals(model, None)
    some = arrivals(model, {"a": 1, "b": 1, "c": 3, "d": 3, "e": 5})
    assert [len(some[stop]) for stop in STOPS] == [1, 1, 3, 3, 5]
    for stop in STOPS:
        for (batch, tensor), (other, wanted) in zip(some[stop], every[stop], strict=False):
            assert batch == other
            assert torch.equal(tensor, wanted)


def tight(monkeypatch: pytest.MonkeyPatch, most: int) -> list[Room]:
    """Leave so much room only, and return what is found."""
    made: list[Room] = []

    def smaller(*given: object, **named: object) -> Room:
        made.append(room(*given, **(named | {"most": most})))  # type: ignore[arg-type]
        return made[-1]

    for where in ("curves", "refit"):
        monkeypatch.setattr(sys.modules[f"secateur.reconstruction.{where}"], "room", smaller)
    return made


def test_curves_of_groups_that_all_images_reach_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Narrowing().eval()
    graph = trace(model, BATCHES[0])
    every = {curve.group: curve for curve in error_curves(model, graph, BATCHES)}
    made = tight(monkeypatch, 2**15)
    some = {curve.group: curve for curve in error_curves(model, graph, BATCHES)}
    assert made[0].batches["b"] < made[0].batches["d"] == 5
    last, first = graph.free[-1].name, graph.free[0].name
    assert some[last] == every[last]
    assert some[first] != every[first]


@pytest.mark.parametrize("name", nets.SOME_FIRST)
def test_with_little_room_every_network_is_fitted_all_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = nets.make(name), nets.images(96, 3)
    graph = trace(model, images[:2])
    plan = Plan(tuple(DropUnits(it.name, tuple(range(it.size // 2))) for it in graph.free if it.size > 1))

    def left(batches: list[Tensor]) -> float:
        thin = apply(model, graph, plan)
        assert refit(model, thin, graph, plan, batches)
        with torch.no_grad():
            pairs = zip(tensors_in(thin(images)), tensors_in(model(images)), strict=True)
            return sum(float((a - b).square().sum()) for a, b in pairs)

    batches = list(images.split(32))
    whole, first = left(batches), left(batches[:1])
    made = tight(monkeypatch, 2**17)
    some = left(batches)
    if made[0].batches and next(iter(made[0].batches.values())) < 3:
        assert some < 1.2 * max(whole, first)
    else:
        assert some == whole


def little(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(
        "secateur.reconstruction.memory_bounds.psutil.virtual_memory",
        lambda: SimpleNamespace(available=free),
        raising=True,
    )


def test_with_plenty_of_memory_the_machine_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    little(monkeypatch, PLENTY)
    assert memory() == Memory() == Memory(ROOM, MOST)
    little(monkeypatch, PLENTY // 8)
    allowed = memory()
    assert allowed.waiting < ROOM
    assert allowed.columns < MOST
    assert allowed.waiting + 8 * 5 * allowed.columns**2 < PLENTY // 8


@pytest.mark.parametrize(("free", "told"), [(2**24, False), (2**16, True)])
def test_little_memory_is_made_do_with_and_said_where_it_matters(
    free: int, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, heard = Narrowing().eval(), list[Event]()
    graph = trace(model, BATCHES[0])
    plan = Plan(tuple(DropUnits(it.name, tuple(range(it.size // 2))) for it in graph.free))
    thin = apply(model, graph, plan)
    little(monkeypatch, free)
    assert len(error_curves(model, graph, BATCHES, tell=heard.append)) == len(graph.free)
    assert refit(model, thin, graph, plan, BATCHES, tell=heard.append)
    warned = [event.text for event in heard if event.stage == "warning"]
    assert len(warned) == 2 * told
    for text in warned:
        assert text.startswith("of Narrowing ")
        assert "looked at less closely ('" in text
        assert text.endswith("for too little memory is free: free 4 GiB for the result of other machines")


def test_memory_that_is_freed_goes_back_where_much_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr("secateur.reconstruction.memory_bounds._trim", calls.append)
    Room({}, 2**20).tidy()
    assert not calls
    Room({}, 2**30).tidy()
    assert calls == [0]
