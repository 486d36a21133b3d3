"""A forward that was written anew goes wherever the module goes."""

from __future__ import annotations

import copy
import inspect
import io
import linecache
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import prepare_fx
from torch.nn.utils import parametrize

import forked
from nets import images, lived_in
from secateur.core.plan import DropUnits, Plan
from secateur.core.surgery import apply, relative_difference, run, verify
from secateur.core.surgery.generated import origin_of
from secateur.core.surgery.rewriting import Change, rewrite
from secateur.core.trace import trace
from secateur.errors import ModelError
from written import changes


class Halves(nn.Module):
    """The old slice still fits the thin tensors, and gives other numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        return self.out(self.b(x).relu() * x[:, 4:].mean(1, keepdim=True).sigmoid())


class Modes(Halves):
    """Says the size at another place in training."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        if self.training:
            return self.out(self.b(x).tanh() * x[:, 4:].mean(1, keepdim=True))
        return self.out(self.b(x).relu() * x[:, 4:].mean(1, keepdim=True).sigmoid())


def thinned(net: nn.Module) -> nn.Module:
    net = lived_in(net)
    graph = trace(net, images(1))
    plan = Plan(tuple(DropUnits(g.name, tuple(range(0, g.size - 1, 3))) for g in graph.groups))
    thin = apply(net, graph, plan).eval()
    assert graph.rewrites
    assert verify(net, graph, plan, thin, images(1)).exact
    assert origin_of(type(thin))
    return thin


@pytest.fixture(scope="module")
def thin() -> nn.Module:
    return thinned(Halves())


@pytest.fixture(scope="module")
def of_modes() -> nn.Module:
    return thinned(Modes())


def same(one: Any, other: Any, x: Tensor | None = None) -> bool:
    x = images(2, seed=3) if x is None else x
    return relative_difference(one(x), other(x)) < 1e-6


def test_the_class_reads_like_the_one_before(thin: nn.Module) -> None:
    kind = type(thin)
    assert isinstance(thin, Halves)
    assert kind is not Halves
    assert (kind.__name__, kind.__qualname__, kind.__module__) == ("Halves", "Halves", Halves.__module__)
    assert kind.__doc__ == Halves.__doc__
    assert kind.forward.__qualname__ == "Halves.forward"
    assert "forward" not in vars(thin)


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_pickles_and_copies_compute_the_same(thin: nn.Module, protocol: int) -> None:
    again = pickle.loads(pickle.dumps(thin, protocol))
    assert type(again) is type(thin)
    assert same(thin, again)
    assert same(thin, copy.deepcopy(thin))
    assert same(thin, copy.copy(thin))
    assert again.state_dict().keys() == Halves().state_dict().keys()


def test_both_modes_are_pickled(of_modes: nn.Module) -> None:
    again = pickle.loads(pickle.dumps(of_modes))
    assert same(of_modes, again)
    evaluated = of_modes(images(2))
    try:
        assert same(of_modes.train(), again.train())
        assert relative_difference(evaluated, of_modes(images(2))) > 1e-3
    finally:
        of_modes.eval()


def test_a_saved_network_is_loaded_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text(
        "import torch\n"
        "class Ramp(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.o = torch.nn.Conv2d(3, 16, 1), torch.nn.Conv2d(16, 3, 1)\n"
        "    def forward(self, x):\n"
        "        ramp = torch.linspace(0.0, 1.0, 8)\n"
        "        return self.o(self.a(x) * ramp * self.a(x)[:, 4:].mean(1, keepdim=True))\n"
    )
    write = (
        "import torch, theirs\nfrom secateur.core.plan import DropUnits, Plan\n"
        "from secateur import apply, trace, verify\n"
        "x = torch.randn(2, 3, 8, 8)\nnet = theirs.Ramp().eval()\ngraph = trace(net, x)\n"
        "plan = Plan((DropUnits(graph.groups[0].name, (0, 1, 9)),))\nthin = apply(net, graph, plan)\n"
        "assert graph.rewrites and verify(net, graph, plan, thin, x).exact\n"
        "torch.save((thin, x, thin(x).detach()), 'thin.pt')\n"
    )
    read = (
        "import torch\nthin, x, y = torch.load('thin.pt', weights_only=False)\n"
        "assert torch.equal(thin(x), y)\nassert 'a.weight' in thin.state_dict() and len(thin.state_dict()) == 4\n"
    )
    written = forked.run(["-c", write], cwd=tmp_path)
    assert written.returncode == 0, written.stderr
    done = subprocess.run(  # in one that has imported nothing before
        [sys.executable, "-c", f"import sys; sys.path.insert(0, '.')\n{read}"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_replicas_use_their_own_weights(thin: nn.Module) -> None:
    replica: Any = thin._replicate_for_data_parallel()
    assert same(thin, replica)
    replica._modules = {name: copy.deepcopy(child) for name, child in replica._modules.items()}
    nn.init.zeros_(replica._modules["out"].weight)
    nn.init.zeros_(replica._modules["out"].bias)
    assert not bool(replica(images(1)).any())


def test_programs_made_of_it_compute_the_same(thin: nn.Module) -> None:
    x = images(2, seed=3)
    assert same(thin, fx.symbolic_trace(thin))
    assert same(thin, prepare_fx(copy.deepcopy(thin), get_default_qconfig_mapping(), (x,)))
    assert same(thin, torch.jit.trace(thin, x))
    assert same(thin, torch.export.export(thin, (x,)).module())
    assert same(thin, nn.DataParallel(thin))
    inside = nn.Sequential(nn.Identity(), thin).eval()
    assert same(inside, fx.symbolic_trace(inside))


def test_both_modes_can_be_scripted(thin: nn.Module, of_modes: nn.Module) -> None:
    assert same(thin, torch.jit.script(thin))
    scripted = torch.jit.script(copy.deepcopy(of_modes))
    assert same(of_modes, scripted)
    try:
        assert same(of_modes.train(), scripted.train())
    finally:
        of_modes.eval()


def test_the_source_can_be_looked_up(thin: nn.Module) -> None:
    code = type(thin).forward.__code__
    file, line = code.co_filename, Halves.forward.__code__.co_firstlineno
    assert code.co_firstlineno == line
    before, after = inspect.getsource(Halves.forward), inspect.getsource(type(thin).forward)
    assert after == before.replace("x[:, 4:]", "x[:, 2:]")
    assert linecache.getline(file, line).strip() == "def forward(self, x: Tensor) -> Tensor:"
    linecache.checkcache()
    assert linecache.getlines(file)


def test_half_precision_and_hooks_come_along(thin: nn.Module) -> None:
    twin = copy.deepcopy(thin)
    calls: list[int] = []
    twin.register_forward_hook(lambda *_: calls.append(1))
    half = pickle.loads(pickle.dumps(copy.deepcopy(thin).bfloat16()))
    assert half(images(1).bfloat16()).dtype == torch.bfloat16
    assert same(twin.double(), copy.deepcopy(thin).double(), images(2).double())
    assert len(calls) == 1


def test_it_can_be_pruned_again(thin: nn.Module) -> None:
    graph = trace(thin, images(1))
    assert graph.rewrites
    plan = Plan(tuple(DropUnits(g.name, (0, 3)) for g in graph.groups))
    thinner = apply(thin, graph, plan)
    assert verify(thin, graph, plan, thinner, images(2)).exact
    assert type(thinner).__bases__ == (Halves,)
    assert same(thinner, pickle.loads(pickle.dumps(thinner)))


class Scale(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


class Weighed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x.view(-1, 6) * self.weight


def test_parametrisations_stay_and_can_go() -> None:
    module = parametrize.register_parametrization(Weighed(), "weight", Scale())
    bystander = copy.deepcopy(module)
    rewrite(module, changes(module, torch.ones(12), [(0, "view", ("args", 2), 4)]))
    x = torch.arange(8.0)
    assert parametrize.is_parametrized(module, "weight")
    assert torch.equal(module(x), 2 * x.view(-1, 4))
    assert torch.equal(copy.deepcopy(module)(x), 2 * x.view(-1, 4))
    parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
    assert torch.equal(module(x), x.view(-1, 4))
    assert torch.equal(bystander(torch.ones(12)), 2 * torch.ones(2, 6))


class Picky(Weighed):
    """Says by itself how it is pickled."""

    def __reduce__(self) -> Any:
        return Picky, (), self.__dict__


def test_a_class_that_pickles_itself_keeps_the_new_forward() -> None:
    module = Picky()
    rewrite(module, changes(module, torch.ones(12), [(0, "view", ("args", 2), 4)]))
    again = pickle.loads(pickle.dumps(module))
    assert again(torch.ones(8)).shape == (2, 4)


def test_a_graph_module_gets_another_graph() -> None:
    module = fx.symbolic_trace(Weighed())
    rewrite(module, changes(module, torch.ones(12), [(0, "view", ("args", 2), 4)]))
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    for each in (module, copy.deepcopy(module), torch.load(buffer, weights_only=False)):
        assert each(torch.ones(8)).shape == (2, 4)


def test_a_forward_that_the_module_was_given_is_the_one_that_is_written_anew() -> None:
    class Two(Weighed):
        def other(self, x: Tensor) -> Tensor:
            return x.view(-1, 6) + self.weight

    module: Any = Two()
    module.forward = module.other
    rewrite(module, changes(module, torch.ones(12), [(0, "view", ("args", 2), 4)]))
    assert torch.equal(module(torch.ones(8)), torch.full((2, 4), 2.0))
    module.forward = lambda x: x
    with pytest.raises(ModelError, match=r"Two\.forward cannot be adapted"):
        rewrite(module, [Change(0, "view", ("args", 2), 2)])


def test_a_class_from_which_none_can_be_derived_is_refused() -> None:
    class Last(Weighed):
        def __init_subclass__(cls) -> None:
            raise TypeError("no more")

    module = Last()
    with pytest.raises(ModelError, match="no class can be derived from Last: no more"):
        rewrite(module, changes(module, torch.ones(12), [(0, "view", ("args", 2), 4)]))
    assert run(module, torch.ones(12)).shape == (2, 6)


class TwoWays(nn.Module):
    """Half of what the first layer makes goes past the inner ones, as in blocks of Ultralytics."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 8
        self.first = nn.Conv2d(8, 16, 1)
        self.inner = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())
        self.last = nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x).split((self.width, self.width), dim=1)
        return self.last(torch.cat((a, self.inner(b)), 1))


def test_code_whose_sizes_stay_as_they_are_keeps_its_class():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), TwoWays(), nn.Conv2d(8, 4, 1)).eval()
    image = torch.randn(1, 3, 8, 8)
    graph = trace(net, image)
    elsewhere, inside = Plan((DropUnits("0", (0, 2, 6)),)), Plan((DropUnits("2.first", (1, 2)),))
    thin, cut = apply(net, graph, elsewhere), apply(net, graph, inside)
    assert verify(net, graph, elsewhere, thin, image).exact
    assert verify(net, graph, inside, cut, image).exact
    assert type(thin[2]) is TwoWays
    assert cut[2].width == 6
