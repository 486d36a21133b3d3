"""Sizes in the code: as little force as possible, class by class, and the rest of the network stays prunable."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nets import Head, conv, lived_in
from pictures import images
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, verify
from secateur.core.trace import trace
from secateur.errors import SettingError, TraceError
from secateur.events import Event


class Borrowed(nn.Module):
    """Takes the width of one tensor for another that only happens to be as wide."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return self.inner(x).permute(0, 2, 3, 1).reshape(n, h, w, c).permute(0, 3, 1, 2) * 2


class Hidden(nn.Module):
    """The same in code that cannot be recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        if float(x.sum()) > 1e9:
            x = x * 2
        n, c, h, w = x.shape
        return self.inner(x).permute(0, 2, 3, 1).reshape(n, h, w, c).permute(0, 3, 1, 2)


class Net(nn.Module):
    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.stem, self.middle, self.last, self.head = conv(3, 8), middle, conv(8, 6), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.middle(self.stem(x))))


def uneven(sizes: dict[str, int]) -> Plan:
    return Plan(
        tuple(DropUnits(name, tuple(range(i % 2, size - 1, 2 + i))) for i, (name, size) in enumerate(sizes.items()))
    )


def test_a_borrowed_width_is_written_out() -> None:
    net = lived_in(Net(Borrowed()))
    graph = trace(net, images(1))
    sizes = {group.name: group.size for group in graph.groups}
    assert sizes == {"stem.0": 8, "middle.inner": 8, "last.0": 6}
    assert {entry.module for entry in graph.rewrites} == {"middle"}
    plan = uneven(sizes)
    assert verify(net, graph, plan, apply(net, graph, plan), images(3)).exact


def test_what_cannot_be_recorded_is_pinned_alone() -> None:
    net = lived_in(Net(Hidden()))
    graph = trace(net, images(1))
    sizes = {group.name: group.size for group in graph.groups}
    assert "last.0" in sizes
    assert "middle.inner" not in sizes
    plan = uneven(sizes)
    assert verify(net, graph, plan, apply(net, graph, plan), images(3)).exact


def test_both_in_one_network() -> None:
    net = lived_in(Net(nn.Sequential(Borrowed(), conv(8, 8), Hidden())))
    graph = trace(net, images(1))
    sizes = {group.name: group.size for group in graph.groups}
    assert {"stem.0", "middle.0.inner", "last.0"} <= sizes.keys()
    plan = uneven(sizes)
    assert verify(net, graph, plan, apply(net, graph, plan), images(3)).exact


def test_time_is_limited_and_the_model_is_left_alone() -> None:
    net = Net(conv(8, 8)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(TraceError, match=r"more than 1e-09 s and stopped in 'stem.0'.*more patience"):
        trace(net, images(1), seconds=1e-9)
    with pytest.raises(SettingError, match="must be above 0 seconds, not 0"):
        trace(net, images(1), seconds=0)
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert trace(net, images(1), seconds=1000).groups


def test_progress_names_every_layer_and_an_interrupt_leaves_the_model_alone() -> None:
    net = Net(conv(8, 8)).train()
    heard: list[Event] = []
    trace(net, images(1), tell=heard.append)
    assert {event.stage for event in heard} == {"trace"}
    assert [event.text for event in heard][:2] == ["reading the network", "stem.0"]
    assert {"middle.1", "head.fc"} <= {event.text for event in heard}
    assert all(event.total and event.step <= event.total for event in heard[1:])

    def interrupt(event: Event) -> None:
        if event.text == "middle.0":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trace(net, images(1), tell=interrupt)
    assert all(module.training for module in net.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert trace(net, images(1)).groups


class Apart(nn.Module):
    """Takes so many channels of one layer as another one makes, by a number that goes with that other one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(3, 8, 3)
        self.c, self.d = nn.Conv2d(8, 5, 1), nn.Conv2d(8, 5, 1)

    @property
    def width(self) -> int:
        return self.b.out_channels

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x)[:, : self.width]) + self.d(self.b(x))


class Child(Apart):
    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x)[:, : self.b.out_channels]) + self.d(self.b(x))


class Held(Apart):
    def __init__(self) -> None:
        super().__init__()
        self.sizes = [8]

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x)[:, : self.sizes[0]]) + self.d(self.b(x))


@pytest.mark.parametrize(("kind", "stays"), [(Apart, False), (Child, False), (Held, True)])
def test_a_number_that_goes_with_other_channels_is_written_out_where_its_own_stay(
    kind: type[nn.Module], stays: bool
) -> None:
    torch.manual_seed(0)
    net, image = kind().eval(), torch.randn(1, 3, 5, 5)
    graph = trace(net, image)
    plan = Plan((DropUnits("b", (0, 1)),))
    thin = apply(net, graph, plan)
    assert verify(net, graph, plan, thin, image).exact
    assert (type(thin) is kind) == stays
