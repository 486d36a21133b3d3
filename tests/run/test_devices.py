"""A network on an accelerator is pruned there, whatever the images and inputs are on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from accelerator import accelerator
from nets import images, make
from secateur import Settings, Target, prune
from secateur.budget import Budget
from secateur.core.graph import Graph, Group
from secateur.core.method import Paper, ScoreMethod
from secateur.core.plan import Plan
from secateur.core.problem import Problem
from secateur.core.surgery import apply, masked, verify
from secateur.core.trace import trace
from secateur.data import Data, from_arrays
from secateur.errors import ModelError
from secateur.events import Event
from secateur.measure import count
from secateur.methods import make as method
from secateur.repair import Repair, repair
from secateur.run import budget_target
from secateur.run.budget_terms import Bargain
from secateur.run.device_placement import place_for
from secateur.search.racing.held_out_images import HeldOut
from secateur.search.racing.race import best_of
from secateur.training.history import History

NETS = ["plain", "option A", "squeeze and excite", "channel shuffle", "grouped conv", "channel statistics (CBAM)"]
METHODS: list[tuple[str, Mapping[str, Any]]] = [
    ("magnitude", {}),
    ("weak_subnetwork", {}),
    ("self_grouping", {"conv": 30.0}),
    ("random_masks", {"ratio": 0.3, "candidates": 3}),
    ("random_masks", {"ratio": 0.3, "candidates": 3, "granularity": "kernels"}),
]


@pytest.fixture
def data() -> Data:
    pixels = torch.randint(0, 256, (120, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(120) % 5
    return from_arrays((pixels[:90], labels[:90]), (pixels[90:], labels[90:]), name="moths")


@pytest.mark.parametrize("name", NETS)
def test_networks_are_read_decided_on_cut_and_verified_there(name: str) -> None:
    net = make(name).eval().requires_grad_(False)
    expected = net(images(2))
    with accelerator() as device:
        net.to(device)
        batch = images(2).to(device)
        graph = trace(net, batch)
        assert count(net, batch).macs
        labels = torch.zeros(2, dtype=torch.long)
        for kind, options in METHODS:
            problem = Problem(net, graph, None, batches=[(images(2), labels)], validation=[(images(2), labels)])
            if kind in ("magnitude", "weak_subnetwork"):
                problem = Problem(net, graph, Target(0.7))
            plan = method(kind, options).plan(problem)
            thin = apply(net, graph, plan)
            assert {tensor.device for tensor in (*thin.parameters(), *thin.buffers())} == {device}
            assert verify(net, graph, plan, thin, batch).exact
        with masked(net, graph, Plan()) as silenced:
            assert torch.allclose(silenced(batch).cpu(), expected, atol=1e-4)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"data": None, "example_inputs": images(1)},
        {"repair": ("reconstruct", "compensate", "recalibrate")},
        {"method": method("magnitude", {"allocate": "sensitivity"})},
        {"method": method("random_masks", {"candidates": 3}), "rounds": 2},
        pytest.param({"target": None, "budget": Budget(max_drop=0.5)}, marks=pytest.mark.slow),
        pytest.param({"target": None, "budget": Budget(max_latency="60000ms", max_macs=0.8)}, marks=pytest.mark.slow),
    ],
    ids=lambda asked: ",".join(f"{name}={type(value).__name__}" for name, value in asked.items()) or "plain",
)
def test_prune_brings_images_and_inputs_to_the_network(
    asked: Mapping[str, Any], data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget_target, "Bargain", partial(Bargain, seconds=0.1))
    net = make("plain").eval().requires_grad_(False)
    with accelerator() as device:
        net.to(device)
        result = prune(net, **{"target": 0.5, "data": data, "latency": False, **asked})
        assert {tensor.device for tensor in (*result.model.parameters(), *result.model.buffers())} == {device}
        assert result.after.counts.macs < result.before.counts.macs
        result.save(tmp_path / "art")
    assert (tmp_path / "art" / "weights.safetensors").is_file()


@dataclass(frozen=True)
class Looks(ScoreMethod):
    """Notes where it is asked to decide; one device can be too small for it."""

    paper: ClassVar[Paper] = Paper("On devices", "Ada Author", "Journal of Tests", 2020)
    seen: ClassVar[list[str]] = []
    small: ClassVar[str] = ""

    def score(self, group: Group, problem: Problem) -> Tensor:
        device = next(problem.model.parameters()).device
        self.seen.append(device.type)
        if device.type == self.small:
            raise torch.OutOfMemoryError("too small")
        assert problem.loss is not None
        assert problem.loss(problem.model) > 0
        return torch.rand(group.size, generator=problem.rng)


@pytest.mark.parametrize(
    ("device", "small", "seen"), [("auto", "", "cuda"), ("cpu", "", "cpu"), ("auto", "cuda", "cuda, then cpu")]
)
def test_a_network_of_the_cpu_meets_its_images_on_the_accelerator(
    device: Any, small: str, seen: str, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Looks, "small", small)
    monkeypatch.setattr(Looks, "seen", [])
    monkeypatch.setattr("secateur.run.round.fit", lambda *args, **kwargs: History())
    net = make("plain").eval().requires_grad_(False)
    storage = [tensor.data_ptr() for tensor in net.parameters()]
    heard: list[Event] = []
    expected = prune(net, None, Looks(), 0.5, data, latency=False).plans
    Looks.seen.clear()
    with accelerator():
        train = Settings(epochs=1, device=device)
        result = prune(net, None, Looks(), 0.5, data, train=train, latency=False, tell=heard.append)
    assert result.plans == expected
    assert ", then ".join(dict.fromkeys(Looks.seen)) == seen
    assert ("too little memory" in " ".join(event.text for event in heard if event.stage == "warning")) == bool(small)
    assert {tensor.device.type for network in (net, result.model) for tensor in network.parameters()} == {"cpu"}
    assert [tensor.data_ptr() for tensor in net.parameters()] == storage


def test_a_budget_is_settled_on_the_accelerator(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Looks, "seen", [])
    net = make("plain").eval().requires_grad_(False)
    with accelerator():
        prune(net, None, Looks(), None, data, budget=Budget(max_drop=0.5), latency=False)
    assert len(Looks.seen) > 1
    assert set(Looks.seen) == {"cuda"}


def test_several_processes_decide_each_on_its_own_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    net = make("plain")
    with accelerator() as device:
        assert place_for(net) == place_for(net, Settings()) == device
        assert place_for(net, Settings(device="cpu")) == torch.device("cpu")
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert place_for(net, Settings()) == torch.device("cpu")


def test_workers_of_a_cluster_get_everything_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    class Stop(Exception):
        pass

    def cluster(model: nn.Module, graph: Graph, plans: object, held: HeldOut, address: str) -> None:
        sent.extend([held.images, held.labels, *model.parameters(), *model.buffers()])
        raise Stop

    monkeypatch.setattr("secateur.search.racing.ray_cluster.Cluster", cluster)
    net = make("plain").eval().requires_grad_(False)
    with accelerator() as device:
        graph = trace(net.to(device), images(1).to(device))
        held = HeldOut.of([(images(4), torch.arange(4))], net)
        assert held.images.device == device
        with pytest.raises(Stop):
            best_of(net, graph, [Plan()], held, ray="local")
        assert next(net.parameters()).device == device
    assert {tensor.device.type for tensor in sent} == {"cpu"}


def test_inputs_elsewhere_are_said_so() -> None:
    net = make("plain").eval().requires_grad_(False)
    with accelerator() as device, pytest.raises(ModelError, match=r"does not run on the example inputs.*same device"):
        trace(net.to(device), images(1))


@pytest.mark.parametrize("small", [False, True])
def test_a_network_of_the_cpu_is_repaired_on_the_accelerator(
    small: bool, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def mended(dense: nn.Module, thin: nn.Module, *given: Any, **named: Any) -> tuple[Repair, ...]:
        devices = {tensor.device.type for network in (dense, thin) for tensor in network.state_dict().values()}
        seen.append(" and ".join(sorted(devices)))
        done = repair(dense, thin, *given, **named)
        if small and "cuda" in devices:
            raise torch.OutOfMemoryError("too small")
        return done

    net = make("plain").eval().requires_grad_(False)
    expected = prune(net, None, "magnitude", 0.5, data, latency=False, repair=("reconstruct",))
    monkeypatch.setattr("secateur.run.round.repair", mended)
    with accelerator():
        result = prune(net, None, "magnitude", 0.5, data, latency=False, repair=("reconstruct",))
    assert seen == (["cuda", "cpu"] if small else ["cuda"])
    assert {tensor.device.type for tensor in result.model.state_dict().values()} == {"cpu"}
    for name, tensor in expected.model.state_dict().items():
        assert torch.allclose(result.model.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
