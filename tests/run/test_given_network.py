"""The given network, its inputs and the random states of the process are afterwards what they were."""

from __future__ import annotations

import copy
import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import prune, trace
from secateur.core.surgery import run
from secateur.data import from_loaders
from secateur.errors import ModelError, SecateurError
from secateur.events import Event
from secateur.measure import measure, quality
from secateur.training import Settings, fit

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Moving(nn.Module):
    """Its forward counts, draws, remembers, and writes into what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3)
        self.head = nn.Linear(8, 4)
        self.register_buffer("seen", torch.zeros(()))
        self.calls, self.log = 0, list[int]()
        self.own, self.bits, self.dice = torch.Generator(), np.random.default_rng(0), random.Random(0)

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.25)
        self.seen += 1
        self.calls += 1
        self.log.append(self.calls)
        torch.rand(1)
        np.random.rand()
        random.random()
        torch.rand(1, generator=self.own)
        self.bits.random()
        self.dice.random()
        return self.head(self.two(F.relu(self.one(x))).mean((2, 3)))


def plain(width: int = 16) -> nn.Sequential:
    layers = [nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 8, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def facts(net: Moving, x: Tensor) -> dict[str, Any]:
    """Return all that a forward of the network moves."""
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    return {
        **{name: tensor.clone() for name, tensor in net.state_dict().items()},
        "x": x.clone(),
        "modes": [module.training for module in net.modules()],
        "calls": net.calls,
        "torch": torch_state,
        "numpy": torch.tensor(numpy_state[1].astype(np.int64)),
        "position": numpy_state[2],
        "python": random.getstate(),
        "own": net.own.get_state(),
        "bits": copy.deepcopy(net.bits.bit_generator.state),
        "dice": net.dice.getstate(),
    }


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for name, value in one.items():
        same = torch.equal(value, other[name]) if isinstance(value, Tensor) else value == other[name]
        assert same, name


ACTS: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "prune": lambda net, x: prune(net, x, target=0.7, latency=False),
    "prune in time": lambda net, x: prune(net, x, target=0.7, runtime="eager"),
    "calibrate": lambda net, x: prune(net, x, target=0.7, calibrate=[x], latency=False),
    "trace": trace,
    "run": run,
    "measure": lambda net, x: measure(net, x, seconds=0.01),
    "quality": lambda net, x: quality(net, [(x, torch.zeros(2, dtype=torch.int64))]),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("act", ACTS)
def test_what_a_forward_moves_is_put_back(act: str) -> None:
    net, x = Moving(), X.clone()
    before = facts(net, x)
    ACTS[act](net, x)
    assert_same(before, facts(net, x))
    if act.startswith(("prune", "calibrate")):
        assert net.log == []  # what no snapshot of attributes could put back


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_also_when_a_forward_ends_early(error: type[BaseException], call: int) -> None:
    net, x = Moving(), X.clone()
    heard = 0

    def broken(module: nn.Module, given: object, output: object) -> None:
        nonlocal heard
        heard += 1
        if heard == call:
            raise error("no more")

    net.two.register_forward_hook(broken)
    before = facts(net, x)
    with pytest.raises((SecateurError, error)):
        prune(net, x, target=0.7, latency=False)
    assert_same(before, facts(net, x))
    assert heard == call


def test_batches_of_the_caller_are_not_written_into() -> None:
    batches = [(X.clone(), torch.tensor([0, 1]))]
    data = from_loaders(batches, batches, batches, 4)
    settings = Settings(epochs=2, batch_size=2, augment="none", precision="float32", memory_format="contiguous")
    fit(Moving(), data, settings)
    assert torch.equal(batches[0][0], X)


def test_two_threads_may_prune_one_network_at_once() -> None:
    net, expected = plain(), None
    expected = [prune(net, X, target=keep, latency=False).model.state_dict() for keep in (0.5, 0.8)]
    before, found, meet = copy.deepcopy(net.state_dict()), dict[int, Any](), threading.Barrier(2)

    def work(number: int) -> None:
        def together(event: Event) -> None:
            if event.stage in ("trace", "apply") and event.step is None:
                meet.wait(30)

        found[number] = [
            prune(net, X, target=(0.5, 0.8)[number], latency=False, tell=together if turn == 0 else lambda _: None)
            for turn in range(4)
        ]

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, wanted in enumerate(expected):
        for result in found[number]:
            state = result.model.state_dict()
            assert {name: tuple(t.shape) for name, t in state.items()} == {n: tuple(t.shape) for n, t in wanted.items()}
            assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_other_threads_may_run_networks_while_one_is_read() -> None:
    """Hooks of the process and torch.fx, which patches all modules, hear of them and must not care."""

    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x).view(-1, 16, 8, 8))

    wanted = trace(Written(), X).explain()
    stop, broken = threading.Event(), list[str]()

    def bystander() -> None:
        net, inputs = plain(4).eval(), X.clone()
        while not stop.is_set():
            try:
                net(inputs)
            except Exception as error:
                broken.append(repr(error))

    others = [threading.Thread(target=bystander) for _ in range(2)]
    for other in others:
        other.start()
    try:
        found = [trace(Written(), X).explain() for _ in range(15)]
    finally:
        stop.set()
        for other in others:
            other.join()
    assert not broken
    assert all(each == wanted for each in found)


@pytest.mark.parametrize(
    "around",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_modes_of_the_caller_change_nothing(around: Callable[[], Any]) -> None:
    net = plain()
    labels = torch.tensor([0, 1])
    train = Settings(epochs=1, batch_size=2, augment="none", precision="float32", memory_format="contiguous")

    def pruned() -> dict[str, Tensor]:
        data = from_loaders([(X, labels)], [(X, labels)], [(X, labels)], 4)
        return prune(
            net, X.clone(), target=0.5, data=data, train=train, calibrate=[X], latency=False
        ).model.state_dict()

    wanted = pruned()
    with around():
        found = pruned()
        built = plain()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert prune(built, X, target=0.5, latency=False).plans


def wrapped_lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))


def wrapped_meta() -> nn.Module:
    with torch.device("meta"):
        return plain()


def quantised() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(plain().eval(), {nn.Linear}, dtype=torch.qint8)


def held() -> nn.Module:
    class Predictor(nn.Module):
        """Loads, trains and predicts with a network, which it holds."""

        def __init__(self) -> None:
            super().__init__()
            self.network = plain()

        def __call__(self, x: Tensor) -> list[Tensor]:  # pyright: ignore
            return list(self.network(x))

    return Predictor()


FOREIGN: dict[str, tuple[Callable[[], Any], str]] = {
    "traced": (lambda: torch.jit.trace(plain().eval(), X), "the module that it was made from"),
    "scripted": (lambda: torch.jit.script(plain().eval()), "the module that it was made from"),
    "exported": (lambda: torch.export.export(plain().eval(), (X,)).module(), "the network that it was exported from"),
    "program": (lambda: torch.export.export(plain().eval(), (X,)), "the network that it was exported from"),
    "compiled": (lambda: torch.compile(plain()), r"its \._orig_mod"),
    "held": (held, r"Predictor has no forward of its own and only holds a network: give that, its \.network"),
    "lazy": (wrapped_lazy, "run the network on an input once"),
    "meta": (wrapped_meta, "to_empty"),
    "quantised": (quantised, "before it is quantised"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_plain_network_is_refused_with_what_to_give_instead(kind: str) -> None:
    make, instead = FOREIGN[kind]
    with pytest.raises(ModelError, match=instead) as refused:
        prune(make(), X, target=0.5, latency=False)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"])
def test_wrappers_for_several_processes_are_refused(name: str) -> None:
    kind = type(name, (nn.Module,), {"__module__": "torch.distributed.somewhere"})  # the real ones need processes
    with pytest.raises(ModelError, match=r"\.module|the network before"):
        trace(kind(), X)
