"""Networks that run on inputs of other sizes than the example has."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from secateur import Limits, prune
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, check_sizes, image_size_check, verify
from secateur.core.surgery.image_size_check import (
    Size,
    Spot,
    down,
    looks_at_sizes,
    others,
    resized,
    size_of,
    starts,
    up,
)
from secateur.core.trace import trace
from secateur.errors import CutError

Use = Callable[[Tensor], Tensor]


class Net(nn.Module):
    def __init__(self, use: Use = lambda y: y) -> None:
        super().__init__()
        self.use = use
        self.stem, self.body, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 12, 1), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.use(self.stem(x).relu())
        return self.head(self.body(y).relu().mean((2, 3)))


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


EXAMPLE = images(2, 3, 4, 4)
PLAN = Plan((DropUnits("stem", (0, 1, 2, 3, 4, 5, 6)),))


def by_length(y: Tensor) -> Tensor:
    return 2 * y if y.shape[1] > y.shape[2] else y


def by_shortest(y: Tensor) -> Tensor:
    return y[:, :, : min(y.shape[1:]), : min(y.shape[1:])]


def by_count(y: Tensor) -> Tensor:
    return 2 * y if len(y) > y.shape[1] else y


def by_elements(y: Tensor) -> Tensor:
    return 2 * y if y.numel() > 2000 else y


def by_many(y: Tensor) -> Tensor:
    return torch.cat([part * part.shape[1] / 16 for part in y.split(4)]) if len(y) > 4 else y


WAYS = (by_length, by_shortest, by_count, by_elements, by_many)


@pytest.mark.parametrize("use", WAYS)
def test_code_that_compares_a_width_with_another_size_is_found_out(use: Use) -> None:
    net = Net(use).eval()
    graph = trace(Net().eval(), EXAMPLE)
    thin = apply(net, graph, PLAN)
    assert verify(net, graph, PLAN, thin, EXAMPLE).exact
    with pytest.raises(
        CutError, match=r"but not on .*, as the dense one does: it differs by .* first at 'body'"
    ) as told:
        check_sizes(net, graph, PLAN, thin, EXAMPLE)
    assert told.value.place == "body"


@pytest.mark.parametrize("use", [by_length, by_many])
def test_its_channels_stay_when_the_plan_is_decided_again(use: Use) -> None:
    result = prune(Net(use).eval(), EXAMPLE, "magnitude", 0.5, latency=False, repair=(), limits=Limits(multiple=1))
    assert {each.layer for each in result.widths if each.before != each.after} == {"body"}


def fixed(y: Tensor) -> Tensor:
    return y.reshape(len(y), -1, 16).unflatten(2, (4, 4))


def square(y: Tensor) -> Tensor:
    if y.shape[2] != y.shape[3]:
        raise ValueError("not square")
    return y


def infinite(y: Tensor) -> Tensor:
    return y / 0 if y.shape[2] != 4 else y


@pytest.mark.parametrize(
    "use", [lambda y: y, fixed, square, infinite, lambda y: y - y.flatten(1).mean(1)[:, None, None, None]]
)
def test_sound_networks_pass(use: Use) -> None:
    net = Net(use).eval()
    graph = trace(net, EXAMPLE)
    assert graph.units == 28
    check_sizes(net, graph, PLAN, apply(net, graph, PLAN), EXAMPLE)


@pytest.mark.parametrize("use", [lambda y: by_length(square(y)), lambda y: by_many(fixed(y))])
def test_what_the_dense_network_does_not_run_on_hides_nothing(use: Use) -> None:
    net, graph = Net(use).eval(), trace(Net().eval(), EXAMPLE)
    with pytest.raises(CutError, match="as the dense one does"):
        check_sizes(net, graph, PLAN, apply(net, graph, PLAN), EXAMPLE)


def test_outputs_that_may_lose_channels_and_change_with_the_size_are_not_held_against_it() -> None:
    class Features(Net):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.stem(x).relu()
            return self.head(self.body(y).relu().mean((2, 3))), y.flatten(1)

    net = Features().eval()
    graph = trace(net, EXAMPLE, free_outputs=("1",))
    assert graph.units == 28
    check_sizes(net, graph, PLAN, apply(net, graph, PLAN), EXAMPLE)


def test_sizes_change_behind_the_channels_in_all_that_is_as_large_as_the_first_tensor() -> None:
    given = {"x": images(2, 3, 4, 6), "mask": torch.ones(2, 4, 6), "weights": torch.ones(2), "table": torch.ones(5, 6)}
    assert starts(given) == (2,)
    assert size_of(given, 2) == Size(2, (4, 6))
    other = resized(given, Size(3, (6, 5)), 2)
    assert {name: tuple(tensor.shape) for name, tensor in other.items()} == {
        "x": (3, 3, 6, 5),
        "mask": (3, 6, 5),
        "weights": (3,),
        "table": (5, 6),
    }
    assert torch.equal(other["x"][:2, :, :4], given["x"][..., :5])
    assert torch.equal(other["x"][2, :, 4:], given["x"][0, :, :2, :5])


def test_sequences_change_along_the_steps_wherever_these_are() -> None:
    tokens = torch.arange(12).reshape(2, 6)
    assert starts(tokens) == (1,)
    assert resized(tokens, Size(1, (9,)), 1).shape == (1, 9)
    assert starts(images(2, 3, 8)) == (2, 1)
    assert resized(images(2, 3, 8), Size(2, (5,)), 1).shape == (2, 5, 8)
    assert (starts(images(2, 3)), starts({"flag": True})) == ((), ())


def test_sizes_stay_multiples_of_what_networks_halve() -> None:
    assert [up(224, 1.5), down(224, 0.75), up(32, 1.5), down(32, 0.75)] == [352, 160, 64, 16]
    assert [up(4, 1.5), down(4, 0.75), down(1, 0.75), up(7, 1.5)] == [8, 2, 1, 11]


def test_further_sizes_lie_between_widths_and_cost_little() -> None:
    large = Size(1, (224, 224))
    assert others(large, []) == [Size(3, (96, 96))]
    assert others(large, [Spot(64, 32, 112)]) == [Size(3, (96, 96))]  # half of which lies between
    assert others(large, [Spot(70, 54, 112)]) == [Size(3, (128, 128))]
    assert others(large, [Spot(512, 256, 7)]) == [Size(3, (96, 96))]  # images of 12288 would cost too much
    small = others(Size(1, (8, 8)), [Spot(40, 30, 8)])
    assert any(30 < size.lengths[0] <= 40 for size in small)
    assert any(30 < size.count <= 40 for size in small)
    assert all(size.elements <= 2**13 for size in small)


LOOKS: dict[str, Use] = {
    "shape": lambda y: y / y.shape[1],
    "size": lambda y: y / y.size(1),
    "numel": lambda y: y / y.numel(),
    "nbytes": lambda y: y / y.nbytes,
    "stride": lambda y: y / y.stride(0),
    "len": lambda y: y / len(y),
    "loop": lambda y: torch.stack([each * 2 for each in y]),
    "chunk": lambda y: torch.cat([each * 2 for each in y.chunk(2, 1)], 1),
    "split": lambda y: torch.cat([each * 2 for each in torch.split(y, 4, 1)], 1),
    "unbind": lambda y: torch.stack([each * 2 for each in y.unbind(1)], 1),
}


@pytest.mark.parametrize("use", LOOKS.values(), ids=LOOKS)
def test_code_that_looks_at_sizes_is_heard(use: Use) -> None:
    assert looks_at_sizes(Net(use).eval(), EXAMPLE)


def test_layers_of_torch_look_at_sizes_and_go_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = nn.Sequential(
        nn.Conv2d(3, 16, 1),
        nn.BatchNorm2d(16),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    ).eval()
    assert not looks_at_sizes(plain, EXAMPLE)
    graph, plan = trace(plain, EXAMPLE), Plan((DropUnits("0", (0, 1, 2)),))
    thin = apply(plain, graph, plan)

    def never(*args: object) -> None:
        raise AssertionError("it is run on other sizes")

    monkeypatch.setattr(image_size_check, "agrees_on", never)
    check_sizes(plain, graph, plan, thin, EXAMPLE)
