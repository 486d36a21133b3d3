"""The code stays the author's: whatever a recording would lose is still done by the thinner network."""

from __future__ import annotations

import contextlib
import copy
import inspect
import pickle
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import forked
from nets import lived_in
from secateur.core.graph import Graph
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, masked, relative_difference
from secateur.core.surgery.generated import origin_of
from secateur.core.trace import trace

SIZES = [(2, 3, 8, 8), (1, 3, 12, 12), (3, 3, 16, 10)]


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


class Net(nn.Module):
    """Shuffles 16 channels with sizes that are written into its code, and then does something to them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.two, self.head = nn.Conv2d(16, 12, 3, padding=1), nn.Linear(12, 5)

    def shuffled(self, x: Tensor) -> Tensor:
        x = self.norm(self.one(x)).relu()
        n, _, h, w = x.shape
        return x.view(n, 2, 8, h, w).transpose(1, 2).reshape(n, 16, h, w)

    def then(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = self.then(self.shuffled(x))
        return self.head(self.two(x).relu().mean((2, 3)))


class InSet(Net):
    def then(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[2] in {12, 16} else x


class InTable(Net):
    TABLE: ClassVar = {12: 2.0, 16: 3.0}

    def then(self, x: Tensor) -> Tensor:
        return x * self.TABLE.get(x.shape[2], 1.0)


class Matched(Net):
    def then(self, x: Tensor) -> Tensor:
        match x.shape:
            case (_, _, 12, _) | (_, _, 16, _):
                return x * 2
        return x


class IsWhole(Net):
    def then(self, x: Tensor) -> Tensor:
        return x * 2 if isinstance(x.shape[2], int) and x.shape[2] > 10 else x


class Tried(Net):
    def then(self, x: Tensor) -> Tensor:
        with contextlib.suppress(Exception):
            if x.shape[2] > 10:
                x = x * 2
        try:
            return x * 3 if x.shape[3] > 10 else x
        except Exception:
            return x


class Looked(Net):
    times12 = 2.0

    def then(self, x: Tensor) -> Tensor:
        return x * getattr(self, f"times{x.shape[2]}", 1.0)


class ChildTrains(Net):
    def then(self, x: Tensor) -> Tensor:
        return x * 2 if self.norm.training else x


class Random(Net):
    def then(self, x: Tensor) -> Tensor:
        return x * 2 if self.training and random.random() < 0.5 else x


class Noisy(Net):
    def then(self, x: Tensor) -> Tensor:
        return x + torch.randn(1, 1, 1, 1, dtype=x.dtype) if self.training else x


class Ungraded(Net):
    def then(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            gate = x.mean((2, 3), keepdim=True).sigmoid()
        return x * gate


class Decorated(Net):
    @torch.no_grad()
    def gate(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], 16, -1).mean(2)[..., None, None].sigmoid()

    def then(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0]


class Rounded(Net):
    def then(self, x: Tensor) -> Tensor:
        return Straight.apply(x * 3)  # type: ignore[no-any-return]


class AsksForGradients(Net):
    def then(self, x: Tensor) -> Tensor:
        return x * 2 if torch.is_grad_enabled() else x


class Hooked(Net):
    def then(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(lambda gradient: gradient * 2)
        return x


LOST = [
    InSet, InTable, Matched, IsWhole, Tried, Looked, ChildTrains, Random, Noisy, Ungraded, Decorated, Rounded,
    AsksForGradients, Hooked,
]  # fmt: skip


def cut(net: nn.Module) -> tuple[Graph, Plan, Any]:
    graph = trace(net, images(2, 3, 8, 8))
    group = next(each for each in graph.groups if "one" in each.layers)
    plan = Plan((DropUnits(group.name, tuple(range(0, group.size - 1, 3))),))
    thin: Any = apply(net, graph, plan)
    assert thin.one.out_channels < net.one.out_channels  # type: ignore[operator]
    return graph, plan, thin


def thinned(net: nn.Module) -> tuple[nn.Module, Graph, Plan, Any]:
    torch.manual_seed(0)
    net = lived_in(net).double()
    return net, *cut(net)


def results(net: Any, x: Tensor) -> list[Tensor]:
    """What comes out, and the gradients that reach the input."""
    x = x.clone().requires_grad_()
    random.seed(3)
    torch.manual_seed(3)
    out = net(x)
    (out * images(*out.shape)).sum().backward()
    with torch.no_grad():
        random.seed(4)
        torch.manual_seed(4)
        return [out.detach(), x.grad if x.grad is not None else x, net(x)]


def assert_same(net: nn.Module, graph: Graph, plan: Plan, thin: nn.Module, *, training: bool = False) -> None:
    net, thin = copy.deepcopy(net).train(training), copy.deepcopy(thin).train(training)
    for shape in SIZES:
        with masked(net, graph, plan):
            expected = results(net, images(*shape))
        assert relative_difference(expected, results(thin, images(*shape))) < 1e-9, shape


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("make", LOST)
def test_what_a_recording_loses_is_still_done(make: type[Net], training: bool) -> None:
    net, graph, plan, thin = thinned(make())
    assert graph.rewrites
    assert_same(net, graph, plan, thin, training=training)


@pytest.mark.parametrize("make", LOST)
def test_each_of_them_does_something(make: type[Net]) -> None:
    """Or the test above could not fail."""
    torch.manual_seed(0)
    net = lived_in(make()).double()
    plain = lived_in(Net()).double()
    plain.load_state_dict(net.state_dict())
    differences = [
        relative_difference(
            results(plain.train(training), images(*shape)), results(net.train(training), images(*shape))
        )
        for training in (False, True)
        for shape in SIZES
    ]
    assert max(differences) > 1e-3


class Counting(Net):
    def __init__(self) -> None:
        super().__init__()
        self.count, self.kept = 0, None

    def then(self, x: Tensor) -> Tensor:
        self.count += 1
        self.last = x.mean()
        return x


def test_what_the_code_keeps_in_attributes_is_kept() -> None:
    _, _, _, thin = thinned(Counting())
    before = thin.count
    for _ in range(2):
        thin(images(2, 3, 8, 8))
    assert thin.count == before + 2
    assert type(thin.last) is Tensor


class Set(Net):
    """Numbers that somebody may set later."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.mode, self.depth = 1.0, "a", 2
        self.register_buffer("alpha", torch.tensor(1.0))
        self.register_buffer("on", torch.tensor(False))

    def then(self, x: Tensor) -> Tensor:
        x = x * float(self.alpha) / self.scale
        for _ in range(self.depth):
            x = x * 1.5
        if self.mode == "b":
            x = x + 1
        if self.on:
            x = x * 5
        return x


@pytest.mark.parametrize(
    "change",
    [
        lambda net: setattr(net, "scale", 3.0),
        lambda net: setattr(net, "mode", "b"),
        lambda net: setattr(net, "depth", 3),
        lambda net: net.alpha.fill_(3),
        lambda net: net.on.fill_(True),
    ],
)
def test_what_is_set_afterwards_is_heeded(change: Callable[[Any], object]) -> None:
    net, graph, plan, thin = thinned(Set())
    assert_same(net, graph, plan, thin)
    before = thin(images(2, 3, 8, 8))
    change(net)
    change(thin)
    assert_same(net, graph, plan, thin)
    assert relative_difference(before, thin(images(2, 3, 8, 8))) > 1e-3


class Optional(Net):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.shuffled(x)
        if isinstance(mask, Tensor):
            x = x * mask
        return self.head(self.two(x).relu().mean((2, 3)))


def test_arguments_that_the_example_leaves_out_are_heeded() -> None:
    net, graph, plan, thin = thinned(Optional())
    x, mask = images(2, 3, 8, 8), images(2, 1, 8, 8)
    with masked(net, graph, plan):
        expected = net(x, mask)
    assert relative_difference(expected, thin(x, mask)) < 1e-9
    assert relative_difference(thin(x), thin(x, mask)) > 1e-3


class Autocast(Net):
    def then(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            self.seen = self.two(x.to(self.two.weight.dtype)).dtype
        return x


def test_contexts_are_entered() -> None:
    _, _, _, thin = thinned(Autocast())
    with torch.autocast("cpu", torch.bfloat16):
        thin.float()(images(2, 3, 8, 8).float())
    assert thin.seen == torch.float32


# -- where the number stands ----------------------------------------------------------------------------------


def shuffle(x: Tensor, groups: int, width: int) -> Tensor:
    n, _, h, w = x.shape
    return x.view(n, groups, width // groups, h, w).transpose(1, 2).reshape(n, width, h, w)


def halves(x: Tensor) -> Tensor:
    return torch.cat([x[:, 8:], x[:, :8]], 1)


class Helped(Net):
    def then(self, x: Tensor) -> Tensor:
        return halves(x)


class HelpedTwice(Net):
    """The same function for two widths."""

    def then(self, x: Tensor) -> Tensor:
        return shuffle(x, 4, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.then(self.shuffled(x)))
        return self.head(shuffle(x, 3, 12).relu().mean((2, 3)))


class Qualified(Net):
    def then(self, x: Tensor) -> Tensor:
        return sys.modules[__name__].halves(x) if x.shape[2] == 7 else tools.halves(x)


class tools:
    halves = staticmethod(halves)


class Static(Net):
    @staticmethod
    def swap(x: Tensor) -> Tensor:
        return torch.cat([x[:, 8:], x[:, :8]], 1)

    def then(self, x: Tensor) -> Tensor:
        return self.swap(x)


class Above(Net):
    """The size is in the method of the class above, called by ``super()``, and one of the names is private."""

    def __then(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, 8:], x[:, :8]], 1)

    def then(self, x: Tensor) -> Tensor:
        return super().then(self.__then(x))


class Inside(Net):
    """Functions within the method."""

    def then(self, x: Tensor) -> Tensor:
        def swap(y: Tensor) -> Tensor:
            return torch.cat([y[:, 8:], y[:, :8]], 1)

        return (lambda y: y.view(-1, 16, *y.shape[2:]))(next(swap(each) for each in [x]))


class Spread(Net):
    """Over several lines, behind letters that take more than one byte, in one piece."""

    def then(self, x: Tensor) -> Tensor:
        größe = x.shape
        x = x.flatten(2).view(-1, 16, größe[2], größe[3])
        sizes = [8, 8]
        one, other = x.add(0).split(
            sizes,
            dim=1,
        )
        shape = (-1, 16, größe[2], größe[3])
        return torch.cat([other, one], 1).view(*shape)


class Held(Net):
    def __init__(self) -> None:
        super().__init__()
        self.then = halves  # type: ignore[assignment]


def closing(width: int) -> Callable[[Any, Tensor], Tensor]:
    return lambda self, x: torch.cat([x[:, width:], x[:, :width]], 1)


class Closed(Net):
    then = closing(8)


class Shared(Net):
    """A layer that is called by a method of its own, of another class than the one that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Static()
        for name in ("one", "norm", "two", "head"):
            delattr(self.inner, name)

    def then(self, x: Tensor) -> Tensor:
        return self.inner.then(x)


PLACES = [Helped, HelpedTwice, Qualified, Static, Above, Inside, Spread, Held, Closed, Shared]
TYPICAL = (HelpedTwice, Inside, Held, Shared)  # of functions, of classes, of attributes and of other layers


@pytest.mark.parametrize("make", PLACES)
def test_only_the_number_changes_wherever_it_stands(make: type[Net]) -> None:
    net, graph, plan, thin = thinned(make())
    assert graph.rewrites
    for training in (False, True):
        assert_same(net, graph, plan, thin, training=training)
    assert_same(net, graph, plan, pickle.loads(pickle.dumps(thin)))
    assert halves(images(1, 16, 2, 2)).shape[1] == 16
    assert shuffle(images(1, 16, 2, 2), 4, 16).shape[1] == 16


@pytest.mark.parametrize(
    "make", [make if make in TYPICAL else pytest.param(make, marks=pytest.mark.slow) for make in PLACES]
)
def test_a_changed_network_can_be_pruned_again(make: type[Net]) -> None:
    _, _, _, thin = thinned(make())
    graph, plan, thinner = cut(thin)
    assert_same(thin, graph, plan, thinner)
    assert_same(thin, graph, plan, copy.deepcopy(thinner))


def test_the_source_differs_in_the_numbers_alone() -> None:
    _, _, _, thin = thinned(Static())
    before = inspect.getsource(Static.swap)
    half = thin.one.out_channels // 2
    assert half != 8
    assert inspect.getsource(thin.swap) == before.replace("8:", f"{half}:").replace(":8", f":{half}")
    assert thin.swap.__code__.co_firstlineno == Static.swap.__code__.co_firstlineno
    assert inspect.getsource(type(thin).forward) == inspect.getsource(Net.forward)


def test_methods_that_the_forward_calls_are_right_by_themselves() -> None:
    net, _, _, thin = thinned(Static())
    x = images(2, 3, 8, 8)
    whole, left = net.swap(net.shuffled(x)), thin.swap(thin.shuffled(x))  # type: ignore[operator]
    assert left.shape[1] == thin.one.out_channels
    places = [next(i for i in range(16) if torch.allclose(whole[:, i], left[:, j])) for j in range(left.shape[1])]
    assert places == sorted(set(places))


class Loop(Net):
    """One expression is the size of two layers."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        for layer, width in ((self.norm, 16), (self.two, 12)):
            x = layer(x).relu()
            x = torch.cat([x[:, width // 2 :], x[:, : width // 2]], 1)
        return self.head(x.mean((2, 3)))


class Given(Net):
    """Whoever calls it may give another size."""

    def forward(self, x: Tensor, width: int = 16) -> Tensor:
        x = self.norm(self.one(x)).relu()
        x = x.view(x.shape[0], width, x.shape[2], x.shape[3])
        return self.head(self.two(x).mean((2, 3)))


class Chosen(Net):
    """Another size of images is grouped otherwise."""

    def then(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        groups = {12: 2}.get(h, 4)
        return x.view(n, groups, 16 // groups, -1).transpose(1, 2).reshape(n, -1, h, w)


class Passed(Net):
    """What callers may give reaches a function that they do not see."""

    def then(self, x: Tensor, width: int = 16) -> Tensor:
        return shuffle(x, 4, width)


class Unwritten(Net):
    exec("def then(self, x):\n    return x.view(x.shape[0], 16, -1, x.shape[3])")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Given, "by an argument that calls may give otherwise"),
        (Passed, "by an argument that calls may give otherwise"),
        (Chosen, "by code that may decide otherwise elsewhere"),
        (Unwritten, "whose source is not at hand"),
    ],
)
def test_what_cannot_be_changed_alone_is_pinned_with_the_reason(make: type[Net], why: str) -> None:
    net = lived_in(make()).double()
    graph = trace(net, images(2, 3, 8, 8))
    row = next(row for row in graph.explain().rows if row.layer == "one")
    assert row.prunable == 0
    assert row.reason.endswith(why)


def test_one_expression_for_two_widths_is_never_two_numbers() -> None:
    torch.manual_seed(0)
    net = lived_in(Loop()).double()
    graph = trace(net, images(2, 3, 8, 8))
    for group in graph.groups:
        plan = Plan((DropUnits(group.name, (0,)),))
        assert_same(net, graph, plan, apply(net, graph, plan))


# -- where it goes --------------------------------------------------------------------------------------------


class Scripted(Net):
    """What TorchScript takes."""

    def forward(self, x: Tensor) -> Tensor:
        x = halves(self.shuffled(x))
        if x.shape[2] == 12:
            x = x * 2
        return self.head(self.two(x).relu().mean((2, 3)))


def test_programs_are_made_of_the_changed_source() -> None:
    _, _, _, thin = thinned(Scripted())
    script = torch.jit.script(thin)
    for shape in SIZES:
        assert relative_difference(thin(images(*shape)), script(images(*shape))) < 1e-9
    _, _, _, plain = thinned(Helped())
    traced = fx.symbolic_trace(plain)
    assert relative_difference(plain(images(2, 3, 8, 8)), traced(images(2, 3, 8, 8))) < 1e-9


def test_another_process_makes_the_same_of_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "others.py").write_text(
        textwrap.dedent(
            """
            import functools, torch
            from torch import nn

            def swap(x):
                return torch.cat([x[:, 8:], x[:, :8]], 1)

            def doubled(function):
                @functools.wraps(function)
                def inner(*args):
                    return 2 * function(*args)
                return inner

            class Base(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.one, self.two = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1)

            class Theirs(Base):
                def __init__(self):
                    super().__init__()
                    self.held = swap

                @doubled
                def forward(self, x):
                    x = self.one(x)
                    if x.shape[2] in {10}:
                        x = x * 2
                    return self.two(self.held(swap(x).view(-1, 16, *x.shape[2:])))
            """
        )
    )
    write = """
        import torch, others
        from secateur import Plan, apply, trace, verify
        from secateur.core.plan import DropUnits
        x = torch.randn(2, 3, 8, 8)
        net = others.Theirs().eval()
        graph = trace(net, x)
        plan = Plan((DropUnits("one", (0, 3)),))
        thin = apply(net, graph, plan)
        assert verify(net, graph, plan, thin, x).exact
        y = torch.randn(2, 3, 12, 12)
        torch.save((thin, y, thin(y).detach()), "thin.pt")
    """
    read = """
        import torch
        thin, y, out = torch.load("thin.pt", weights_only=False)
        assert torch.equal(thin(y), out) and thin.one.out_channels < 16
        import copy, others
        assert torch.equal(copy.deepcopy(thin)(y), out) and thin.held is not others.swap
    """
    written = forked.run(["-c", textwrap.dedent(write)], cwd=tmp_path)
    assert written.returncode == 0, written.stderr
    done = subprocess.run(  # in one that has imported nothing before
        [sys.executable, "-c", f"import sys; sys.path.insert(0, '.')\n{textwrap.dedent(read)}"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def thrice(x: Tensor) -> Tensor:
    return x * 3


def test_another_function_that_is_put_into_an_attribute_stays_there() -> None:
    _, _, _, thin = thinned(Held())
    assert thin.then is not halves
    thin.then = thrice
    for again in (copy.deepcopy(thin), pickle.loads(pickle.dumps(thin))):
        assert again.then is thrice
        assert relative_difference(again(images(2, 3, 8, 8)), thin(images(2, 3, 8, 8))) < 1e-12


def test_recordings_in_older_pickles_can_still_be_read() -> None:
    from secateur.core.surgery.generated import restored

    source = "def forward(self, x : torch.Tensor):\n    return self.head(x) * 2\n"
    made = restored(Net, source, {"torch": "torch"}, {}, nn.Module.__new__, (Net,))
    made.__setstate__(Net().state_dict() and vars(Net()))
    assert origin_of(type(made)).source == source  # type: ignore[union-attr]
    assert torch.equal(made(torch.ones(1, 12)), 2 * made.head(torch.ones(1, 12)))
    assert type(pickle.loads(pickle.dumps(made))) is type(made)


def test_functional_calls_have_their_arguments_behind_the_tensor() -> None:
    class Padded(Net):
        def then(self, x: Tensor) -> Tensor:
            x = F.pad(torch.narrow(x, 1, 0, 8), (0, 0, 0, 0, 8, 0)) + F.pad(
                torch.Tensor.narrow(x, 1, 8, 8), pad=(0, 0, 0, 0, 0, 8), mode="constant"
            )
            return x if x.shape[2] not in {16} else x * 2

    net, graph, plan, thin = thinned(Padded())
    assert_same(net, graph, plan, thin)
