"""Who gives a network goes on with it: graphs of autograd stay good, and other threads see nothing of what is done."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur import Plan, apply, check_method, hold, masked, prune, trace, verify
from secateur.core.plan import DropUnits, ZeroWeights
from secateur.core.surgery import migrate_optimizer, run
from secateur.core.surgery.private_copies import apart, stand_in
from secateur.data import from_loaders
from secateur.errors import ModelError
from secateur.export import export_pt2, export_source
from secateur.measure import count, deploy, fastest, fastest_runtime, latency, measure, quality, side_by_side
from secateur.methods import make
from secateur.models import classes_of, head_of
from secateur.reconstruction import blind_curves, error_curves
from secateur.repair import fold, helps, repair
from secateur.search import HeldOut, best_of
from secateur.training import Settings, fit

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1])
PLAN = Plan((DropUnits("one", (1, 4, 6)),))


class Busy(nn.Module):
    """Counts its calls in a buffer, in evaluation mode too, and looks up rows that it shortens in place."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 8, 3)
        self.rows = nn.Embedding(2, 8, max_norm=0.1)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(8, 4)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        rows = self.rows(torch.ones(len(x), dtype=torch.long))
        return self.head(self.drop(self.two(F.relu(self.norm(self.one(x)))).mean((2, 3)) + rows))


def busy() -> Busy:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Busy()


GRAPH = trace(busy(), X)
THIN = apply(busy(), GRAPH, PLAN)


def _masked(net: nn.Module, folder: Path) -> None:
    plan = Plan((*PLAN.edits, ZeroWeights.of("two.weight", torch.rand(8, 16, 3, 3) > 0.5)))
    with masked(net, GRAPH, plan) as silenced:
        assert not bool(silenced.get_submodule("two").weight[:, 1].any())


def _migrate(net: nn.Module, folder: Path) -> None:
    migrate_optimizer(torch.optim.SGD(net.parameters(), 0.1, momentum=0.9), net, THIN, GRAPH, PLAN)


def _saved(net: nn.Module, folder: Path) -> None:
    result = prune(busy(), X, target=0.7, latency=False)
    object.__setattr__(result, "model", net)
    secateur.save(result, folder / "saved")


def _taught(net: nn.Module, folder: Path) -> None:
    data = from_loaders([(X, Y)], [(X, Y)], [(X, Y)], 4)
    quick = Settings(epochs=1, batch_size=2, augment="none", precision="float32", memory_format="contiguous")
    fit(busy(), data, Settings(**{**vars(quick), "distill": 0.5}), teacher=net)


ACTS: dict[str, Callable[[nn.Module, Path], Any]] = {
    "trace": lambda net, folder: trace(net, X),
    "explain": lambda net, folder: trace(net, X).explain(),
    "apply": lambda net, folder: apply(net, GRAPH, PLAN),
    "hold": lambda net, folder: hold(apply(net, GRAPH, PLAN), GRAPH, PLAN),
    "masked": _masked,
    "migrate_optimizer": _migrate,
    "verify": lambda net, folder: verify(net, GRAPH, PLAN, apply(net, GRAPH, PLAN), X),
    "verify another": lambda net, folder: verify(net, GRAPH, PLAN, busy(), X),  # which differs, so all is looked into
    "verify thin": lambda net, folder: verify(busy(), GRAPH, Plan(), net, X),
    "check_method": lambda net, folder: check_method(make("magnitude"), networks={"busy": (net, X)}),
    "prune": lambda net, folder: prune(net, X, target=0.7, latency=False),
    "prune and repair": lambda net, folder: prune(net, target=0.7, calibrate=[X] * 4, latency=False),
    "save": _saved,
    "run": lambda net, folder: run(net, X),
    "count": lambda net, folder: count(net, X),
    "quality": lambda net, folder: quality(net, [(X, Y)]),
    "latency": lambda net, folder: latency(net, X, seconds=0.001),
    "measure": lambda net, folder: measure(net, X, [(X, Y)], seconds=0.001),
    "side_by_side": lambda net, folder: side_by_side({"it": net}, X, seconds=0.001),
    "fastest": lambda net, folder: fastest(net, X, seconds=0.001),
    "fastest_runtime": lambda net, folder: fastest_runtime(net, X, ["eager", "channels_last"], seconds=0.001),
    "deploy": lambda net, folder: deploy(net, X, seconds=0.001),
    "export_pt2": lambda net, folder: export_pt2(net, X, folder / "net.pt2"),
    "export_source": lambda net, folder: export_source(net, X, folder / "net.py"),
    "classes_of": lambda net, folder: classes_of(net, X),
    "head_of": lambda net, folder: head_of(net, X),
    "error_curves": lambda net, folder: error_curves(net, GRAPH, [X] * 4),
    "blind_curves": lambda net, folder: blind_curves(net, GRAPH, X),
    "repair": lambda net, folder: repair(net, apply(net, GRAPH, PLAN), GRAPH, PLAN, [X] * 4, ["reconstruct", "fold"]),
    "fold": lambda net, folder: fold(net, apply(net, GRAPH, PLAN), GRAPH, PLAN, [X]),
    "helps": lambda net, folder: helps(["reconstruct"], net, apply(net, GRAPH, PLAN), GRAPH, PLAN, [X] * 4, 0),
    "best_of": lambda net, folder: best_of(net, GRAPH, [PLAN, Plan()], HeldOut(X, Y)),
    "teach": _taught,
}


def state_of(net: nn.Module) -> dict[str, Any]:
    tensors = net.state_dict(keep_vars=True)
    return {
        **{name: (id(tensor), tensor.data_ptr(), tensor._version) for name, tensor in tensors.items()},
        **{f"mode of '{name}'": module.training for name, module in net.named_modules()},
        **{f"hooks of '{name}'": len(module._forward_hooks) for name, module in net.named_modules()},
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("act", ACTS)
def test_a_graph_that_waits_for_backward_is_still_good(act: str, tmp_path: Path) -> None:
    net = busy()
    loss = net(X).sum()
    before, values = state_of(net), copy.deepcopy(net.state_dict())
    ACTS[act](net, tmp_path)
    after = state_of(net)
    for name, value in before.items():
        assert value == after[name], name
    assert all(torch.equal(tensor, values[name]) for name, tensor in net.state_dict().items())
    loss.backward()
    assert net.one.weight.grad is not None


def test_masking_in_place_hides_no_writes_of_others() -> None:
    net = busy()
    loss = net(X).sum()
    with masked(net, GRAPH, PLAN), torch.no_grad():
        net.two.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    "act", ["trace", "verify", "verify another", "check_method", "measure", "deploy", "repair", "prune"]
)
def test_other_threads_see_the_network_as_it_is(act: str, tmp_path: Path) -> None:
    net = busy().eval()
    net.seen.requires_grad_(False)
    expected, stop, seen = net(X), threading.Event(), list[str]()
    again = threading.Event()

    def look() -> None:
        with torch.no_grad():
            while not stop.is_set():
                if net.training or not torch.equal(net(X), expected):
                    seen.append("another network")
                again.set()

    other = threading.Thread(target=look)
    other.start()
    try:
        for _ in range(3):
            again.clear()
            ACTS[act](net, tmp_path)
            again.wait()
    finally:
        stop.set()
        other.join()
    assert not seen


def test_modes_of_a_network_in_training_do_not_change_meanwhile() -> None:
    net, modes = busy(), set[bool]()
    net.one.register_forward_hook(lambda module, given, output: modes.add(net.training))
    for act in ("trace", "count", "quality", "latency", "verify"):
        ACTS[act](net, Path())
    assert modes == {True}


class Locked(nn.Module):
    """Holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.lock = busy(), threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_what_cannot_be_copied_is_used_as_it_is_and_put_back() -> None:
    net = Locked()
    loss, before = net(X).sum(), state_of(net)
    assert stand_in(net) is net
    for act in ("trace", "count", "quality", "latency", "run"):
        ACTS[act](net, Path())
    assert state_of(net) == before
    loss.backward()
    with pytest.raises(ModelError, match="cannot be copied"):
        prune(net, X, target=0.7, latency=False)


def test_code_from_outside_that_goes_on_with_the_original_keeps_it() -> None:
    kept, closed, bound = busy(), busy(), busy()
    kept.forward = lambda x, own=kept.forward: own(x)
    closed.forward = lambda x: Busy.forward(closed, x)
    bound.forward = bound.forward  # a method goes with the copy
    assert stand_in(kept) is kept
    assert stand_in(closed) is closed
    assert stand_in(bound) is not bound
    before = state_of(closed)
    for act in ("count", "quality"):
        ACTS[act](closed, Path())
    assert state_of(closed) == before


def test_what_a_public_call_calls_is_not_copied_again() -> None:
    seen: list[nn.Module] = []

    @apart("model")
    def inner(model: nn.Module) -> None:
        seen.append(model)

    @apart("model", "others")
    def outer(model: nn.Module, others: dict[str, nn.Module]) -> None:
        seen.extend([model, others["it"]])
        inner(model)
        raise ValueError("ends early")

    net = busy()
    with pytest.raises(ValueError, match="ends early"):
        outer(net, {"it": net})
    assert len({id(each) for each in [*seen, net]}) == 3
    assert seen[0] is seen[2]
    inner(net)  # the call before is over
    assert seen[3] is not net
