"""What is wrapped around a network that trains goes on after the network was cut in place."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from loops import STEPS, network, opened, same, sgd, train
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

import forked
from secateur.errors import ModelError, TargetError, TrainingError
from secateur.run.round import Round


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def bare() -> nn.Module:
    net = network()
    optimizer, session = sgd(net), opened(net)
    for seed in range(STEPS + 1):
        train(net, optimizer, seed)
        session.step(optimizer)
    train(net, optimizer, 9)
    return net


def through(wrapped: Any, net: nn.Module, *, known: bool) -> nn.Module:
    optimizer, session = sgd(net), opened(wrapped if known else net)
    assert session.model is net
    for seed in range(STEPS + 1):
        train(wrapped, optimizer, seed)
        session.step(optimizer, None if known else wrapped)
    train(wrapped, optimizer, 9)
    return net


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("settings", [{}, {"find_unused_parameters": True}, {"gradient_as_bucket_view": True}])
def test_processes_go_on_with_the_same_wrapper(one_process: None, settings: dict[str, Any], known: bool) -> None:
    net = network()
    wrapped = DistributedDataParallel(net, bucket_cap_mb=7, **settings)
    heard: list[int] = []
    handle = wrapped.register_forward_hook(lambda module, given, output: heard.append(len(output)))
    through(wrapped, net, known=known)
    assert wrapped.bucket_bytes_cap == 7 * 1024 * 1024
    assert all(getattr(wrapped, name) == value for name, value in settings.items())
    assert len(heard) == STEPS + 2
    handle.remove()
    assert same(net, bare())


def test_communication_hooks_stay(one_process: None) -> None:
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    net = network()
    wrapped = DistributedDataParallel(net)
    calls: list[int] = []

    def hook(state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        calls.append(bucket.buffer().numel())
        return allreduce_hook(None, bucket)  # type: ignore[arg-type]

    hook.__annotations__ = {"bucket": dist.GradBucket, "return": torch.futures.Future[torch.Tensor]}
    wrapped.register_comm_hook(None, hook)
    optimizer, session = sgd(net), opened(wrapped)
    train(wrapped, optimizer, 0)
    before = sum(calls)
    session.step(optimizer)
    calls.clear()
    train(wrapped, optimizer, 1)
    assert sum(calls) == sum(p.numel() for p in net.parameters()) < before


@pytest.mark.filterwarnings("ignore:Using `torch.compile")
@pytest.mark.parametrize("wrap", [DataParallel, lambda net: torch.compile(net, backend="eager")])
def test_wrappers_that_note_no_sizes_need_nothing(wrap: Any) -> None:
    net = network()
    assert same(through(wrap(net), net, known=True), bare())


def worker(rank: int, world: int, folder: str) -> None:
    """Train on other images than the other process, and decide by other numbers."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", world), rank=rank, world_size=world)
    net = network()
    wrapped = DistributedDataParallel(net)
    optimizer, session = sgd(net), opened(wrapped, "random_units", seed=rank)
    shapes = [p.shape for p in net.parameters()]
    said = "holds no weight of the network"
    with pytest.raises(ModelError, match=said if rank else f"process 1 of those that train together failed: .*{said}"):
        session.step(sgd(network()) if rank else optimizer)
    odd = torch.zeros(7)
    if rank:
        train(wrapped.module, optimizer, 0)
        optimizer.state[net[0][0].weight]["history"] = odd
    said = "'history' of shape"
    with pytest.raises(ModelError, match=said if rank else f"process 1 of those that train together failed: .*{said}"):
        session.step(optimizer)
    optimizer = sgd(net)
    with pytest.raises(TargetError, match=None if rank == 0 else "process 0 of those that train together failed"):
        session.step(optimizer, keep=1e-6)
    full = patch.object(Round, "cut", side_effect=MemoryError("full")) if rank == 0 else nullcontext()
    with full, pytest.raises(TrainingError if rank else MemoryError, match="full"):
        session.step(optimizer)
    assert [p.shape for p in net.parameters()] == shapes
    for seed in range(STEPS):
        train(wrapped, optimizer, 100 * rank + seed)
        session.step(optimizer)
    train(wrapped, optimizer, 100 * rank + 50)
    torch.save(net.state_dict(), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_all_processes_cut_what_the_first_one_decides_or_none_does(tmp_path: Path) -> None:
    code = f"import sys; sys.path[:] = {sys.path!r}; import {__name__} as it; it.worker"
    processes = [forked.start(["-c", f"{code}({rank}, 2, {str(tmp_path)!r})"]) for rank in range(2)]
    for process in processes:
        assert (process.communicate()[1], process.returncode) == ("", 0)
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert {name: value.shape for name, value in one.items()} == {name: value.shape for name, value in other.items()}
    assert one["0.0.weight"].shape[0] < 16
    weights = [name for name, _ in network().named_parameters()]
    assert all(torch.equal(one[name], other[name]) for name in weights)
