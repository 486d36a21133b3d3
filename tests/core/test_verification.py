"""A wrong thin network does not pass, whatever it returns, and the first layer that differs is named."""

from __future__ import annotations

from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nets import Head, conv, images, lived_in, make
from plans import half
from secateur.core.graph.outputs import named, named_tensors
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import TOLERANCE, Verification, apply, relative_difference, run, tensors_in, verify
from secateur.core.trace import trace
from secateur.errors import CutError, TraceError
from strategies import networks, plans


def checked(net: nn.Module, spoil: Callable[[nn.Module], object], x: Tensor | None = None) -> Verification:
    """Verify a thin network that is right, spoil it, and verify it again."""
    x = images(2) if x is None else x
    graph = trace(net, x[:1])
    plan = half(graph)
    thin = apply(net, graph, plan)
    assert verify(net, graph, plan, thin, x).exact
    with torch.no_grad():
        spoil(thin)
    return verify(net, graph, plan, thin, x)


# -- which layer --------------------------------------------------------------------------------------------


class Rows(nn.Sequential):
    """One-dimensional convolutions: channels are neither last nor followed by two dimensions."""

    def __init__(self) -> None:
        super().__init__(
            nn.Flatten(2), nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 6, 3), nn.Tanh(), nn.Conv1d(6, 4, 1)
        )


class ChannelsLast(nn.Module):
    """Linear layers on maps, as in ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.down, self.head = (
            nn.Conv2d(3, 8, 3),
            nn.Linear(8, 12),
            nn.Linear(12, 8),
            nn.Linear(8, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        return self.head(x + self.down(torch.relu(self.up(x))))


def shifted(name: str, by: float = 0.5) -> Callable[[nn.Module], object]:
    return lambda thin: thin.get_parameter(name).add_(by)


@pytest.mark.parametrize(
    ("network", "spoil", "layer"),
    [
        (Rows, shifted("1.weight"), "1"),
        (Rows, shifted("3.weight"), "3"),
        (Rows, shifted("3.bias"), "3"),
        (Rows, shifted("5.bias"), "5"),
        (ChannelsLast, shifted("stem.bias"), "stem"),
        (ChannelsLast, shifted("up.weight"), "up"),
        (ChannelsLast, shifted("down.bias"), "down"),
        (ChannelsLast, shifted("head.weight"), "head"),
    ],
)
def test_the_first_wrong_layer_is_named(
    network: type[nn.Module], spoil: Callable[[nn.Module], object], layer: str
) -> None:
    found = checked(network().eval(), spoil)
    assert (found.exact, found.layer) == (False, layer)


@pytest.mark.parametrize(
    ("name", "spoil", "layer"),
    [
        ("plain", lambda thin: thin[0][0].weight.copy_(thin[0][0].weight.flip(0)), "0.0"),  # kept, in another order
        ("plain", lambda thin: thin[0][1].bias.mul_(-1), "2.0"),  # a norm shows in the next layer
        ("plain", lambda thin: thin[2][0].weight.copy_(thin[2][0].weight.flip(1)), "2.0"),
        ("grouped conv", lambda thin: thin.grouped[0].weight.copy_(thin.grouped[0].weight.roll(3, 0)), "grouped.0"),
        ("uneven split", lambda thin: thin.right[0].weight.mul_(1.01), "right.0"),
        ("squeeze and excite", lambda thin: thin.squeeze.bias.add_(1), "squeeze"),
        ("depth multiplier", lambda thin: thin.depthwise[0].weight.neg_(), "point.0"),
        ("parameter scale", lambda thin: thin.scale.copy_(thin.scale.flip(1)), "mix.0"),
        ("linear, written view, transposed conv", lambda thin: thin.up.weight.mul_(2), "up"),
        ("dict of two heads", lambda thin: thin.box.bias.add_(1), "box"),
    ],
)
def test_the_first_wrong_layer_of_a_pattern_is_named(
    name: str, spoil: Callable[[nn.Module], object], layer: str
) -> None:
    found = checked(make(name), spoil)
    assert (found.exact, found.layer) == (False, layer)


def test_what_no_layer_shows_is_the_output() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head, self.factor = conv(3, 8), Head(8), nn.Parameter(torch.ones(5))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.stem(x)) * self.factor

    assert checked(lived_in(Scaled()), lambda thin: thin.factor[2].add_(1)).layer == "the output"


def test_a_thin_network_with_other_layers_is_wrong_at_the_first_that_is_missing() -> None:
    def without_mid(thin: nn.Module) -> None:
        thin.mix = nn.Identity()
        thin.head.fc = nn.Linear(thin.stem[0].out_channels, 5)

    assert checked(make("parameter scale"), without_mid).layer == "mix.0"


def test_a_thin_network_that_does_not_run_is_a_sentence() -> None:
    with pytest.raises(CutError, match=r"the cut failed: the dense network runs .* does not in '2.0' \(Given groups=1"):
        checked(make("plain"), lambda thin: thin[2].__setitem__(0, nn.Conv2d(9, 8, 3)))


# -- how fine -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("by", "exact"), [(1e-1, False), (1e-3, False), (3e-4, False), (3e-5, True), (0.0, True)])
def test_differences_are_relative_to_the_output(by: float, exact: bool) -> None:
    for scale in (1e-3, 1.0, 1e4):
        expected = torch.tensor([0.25, -1.0, 0.5]) * scale
        found = expected + torch.tensor([0.0, 0.0, by]) * scale
        assert relative_difference(expected, found) == pytest.approx(by, rel=1e-2, abs=2e-7)
        assert (relative_difference(expected, found) <= TOLERANCE) == exact


def test_a_small_output_beside_a_large_one_is_held_against_itself() -> None:
    """Boxes in pixels beside probabilities: a wrong probability is not made right by large boxes."""
    boxes, scores = torch.tensor([600.0, 400.0]), torch.tensor([0.01, 0.03])
    assert relative_difference((boxes, scores), (boxes, scores.flip(0))) == pytest.approx(2 / 3)
    assert relative_difference((boxes, scores), (boxes + 6e-4, scores)) < 2e-6


def test_an_output_that_is_rounding_only_is_no_difference() -> None:
    large, rest = torch.ones(3), torch.full((3,), 1e-12)
    assert relative_difference((large, rest), (large, -rest)) < 1e-5
    assert relative_difference((large, torch.zeros(3)), (large, torch.full((3,), 0.5))) > 1
    assert relative_difference(torch.zeros(3), torch.full((3,), 0.5)) == 0.5
    assert relative_difference(torch.zeros(0, 4), torch.zeros(0, 4)) == 0.0


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 1])
def test_numbers_that_are_none_are_a_difference_in_any_output(wrong: float, place: int) -> None:
    expected = [torch.ones(2), torch.ones(3)]
    found = [t.clone() for t in expected]
    found[place][0] = wrong
    assert relative_difference(expected, found) == float("inf")


def test_other_shapes_or_numbers_of_outputs_are_a_difference() -> None:
    one = torch.ones(2, 3)
    assert relative_difference(one, torch.ones(3, 2)) == float("inf")
    assert relative_difference((one, one), (one,)) == float("inf")
    assert relative_difference((one,), (one, one)) == float("inf")


def test_what_only_float32_shows_is_rounding() -> None:
    """A choice between nearly equal values may fall otherwise after an error in the last digit."""

    def noisy(thin: nn.Module) -> None:
        thin.register_forward_hook(lambda module, x, y: y + 0.1 if y.dtype == torch.float32 else y)

    assert checked(make("plain"), noisy).exact
    found = checked(make("plain"), lambda thin: thin[3].fc.bias.add_(1e-3))
    assert (found.exact, found.layer) == (False, "3.fc")


@settings(max_examples=25)
@given(net=networks(), data=st.data())
def test_any_changed_weight_that_matters_is_found(net: nn.Module, data: st.DataObject) -> None:
    """The head always matters: doubling the largest of its weights must not pass."""
    graph = trace(net, images(1))
    plan = data.draw(plans(graph))
    thin = apply(net, graph, plan)
    assert verify(net, graph, plan, thin, images(2)).exact
    bias = [p for n, p in thin.named_parameters() if n.endswith("bias")][-1]
    with torch.no_grad():
        bias[data.draw(st.integers(0, len(bias) - 1))] += 0.3
    found = verify(net, graph, plan, thin, images(2))
    assert not found.exact
    last = [row.layer for row in graph.explain().rows][-1]
    assert found.layer == last


# -- whatever it returns ------------------------------------------------------------------------------------


@dataclass
class Detections:
    boxes: Tensor
    classes: Tensor
    note: str = "found"


@dataclass(slots=True)
class Slotted:
    boxes: Tensor
    classes: Tensor


@dataclass
class Nested:
    parts: list[Any] = field(default_factory=list)


class Pair(NamedTuple):
    boxes: Tensor
    classes: Tensor


class NamedPair(namedtuple("NamedPair", ["boxes", "classes"])):
    """A tuple that also has a ``__dict__``, as ``PackedSequence`` is."""


def with_a_loop(boxes: Tensor, classes: Tensor) -> SimpleNamespace:
    found = SimpleNamespace(boxes=boxes, classes=classes)
    found.itself = found
    return found


WRAPS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda a, b: (a, b),
    "list of lists": lambda a, b: [[a], [b]],
    "deque": lambda a, b: deque([a, b]),
    "dict": lambda a, b: {"boxes": a, "classes": b},
    "ordered dict in a tuple": lambda a, b: (OrderedDict(boxes=a), OrderedDict(classes=b)),
    "dataclass": Detections,
    "dataclass with slots": Slotted,
    "dataclass of a list": lambda a, b: Nested([a, b]),
    "list of dataclasses": lambda a, b: [Detections(a, b)],
    "dict of dataclasses of dataclasses": lambda a, b: {"found": Nested([Nested([a]), Slotted(b, b)])},
    "named tuple": Pair,
    "named tuple with attributes": NamedPair,
    "namespace": with_a_loop,
    "with numbers, text and None": lambda a, b: (None, "text", 7, 0.5, a, {"flag": True, "b": b}),
}


class Wrapped(nn.Module):
    def __init__(self, wrap: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.stem, self.boxes, self.classes, self.wrap = conv(3, 8), nn.Conv2d(8, 4, 1), Head(8), wrap

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        return self.wrap(self.boxes(x), self.classes(x))


@pytest.mark.parametrize("name", WRAPS)
def test_outputs_of_any_form_are_pinned_and_compared(name: str) -> None:
    net = lived_in(Wrapped(WRAPS[name]))
    graph = trace(net, images(1))
    assert {g.name: g.size for g in graph.groups} == {"stem.0": 8}
    found = named_tensors(run(net, images(1)))
    assert {r.layer: r.reason for r in graph.explain().rows if r.reason} == {
        "boxes": named([path for path, tensor in found if tensor.dim() == 4]),
        "classes.fc": named([path for path, tensor in found if tensor.dim() == 2]),
    }
    assert checked(net, lambda thin: thin.boxes.bias[1].add_(1)).layer == "boxes"
    assert checked(net, lambda thin: thin.classes.fc.bias[1].add_(1)).layer == "classes.fc"


@pytest.mark.parametrize("name", WRAPS)
def test_outputs_of_any_form_can_lose_channels_and_what_is_left_of_them_is_compared(name: str) -> None:
    net, x = lived_in(Wrapped(WRAPS[name])), images(2)
    boxes = next(path for path, tensor in named_tensors(run(net, x)) if tensor.dim() == 4)
    graph = trace(net, x[:1], free_outputs=(boxes,))
    plan = Plan((DropUnits("stem.0", (2, 5)), DropUnits("boxes", (1,))))
    thin = apply(net, graph, plan)
    assert next(tensor for tensor in tensors_in(run(thin, x)) if tensor.dim() == 4).shape[1] == 3
    assert verify(net, graph, plan, thin, x).exact
    with torch.no_grad():
        thin.boxes.bias[1] += 1
    assert verify(net, graph, plan, thin, x).layer == "boxes"


def test_what_a_channel_is_compared_with_is_that_channel() -> None:
    net, x = lived_in(Wrapped(WRAPS["tuple"])), images(2)
    graph = trace(net, x[:1], free_outputs=("0",))
    first, second = (Plan((DropUnits("boxes", (gone,)),)) for gone in (0, 1))
    assert verify(net, graph, first, apply(net, graph, first), x).exact
    assert not verify(net, graph, first, apply(net, graph, second), x).exact


def test_tensors_come_in_order() -> None:
    a, b, c = torch.zeros(1), torch.zeros(2), torch.zeros(3)
    found = tensors_in({"z": [a, (b,)], "a": Detections(c, a)})
    assert [len(t) for t in found] == [1, 2, 3, 1]
    assert tensors_in(["text", 3, None, nn.Linear(2, 2), Tensor]) == []


def test_a_network_without_tensors_in_its_output_is_refused() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 1)

        def forward(self, x: Tensor) -> float:
            return float(self.stem(x).sum())

    with pytest.raises(TraceError, match="Counting returns no tensors"):
        trace(Counting(), images(1))
