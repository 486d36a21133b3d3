"""Tensors that are no plain ones: a sparse buffer is carried along, all others are refused by their names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

import secateur
from secateur import Plan, apply, check_method, prune, trace, verify
from secateur.core.plan import DropUnits
from secateur.core.surgery import run
from secateur.core.surgery.untouched import equal
from secateur.errors import ArtifactError, ModelError
from secateur.export import export_source
from secateur.measure import count, deploy, latency, measure, quality
from secateur.methods import make

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1])


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mixed(F.relu(self.one(x))).mean((2, 3)))

    def mixed(self, x: Tensor) -> Tensor:
        return self.two(x)


class Mixing(Plain):
    """Adds up neighbours in a graph over positions, which is a sparse buffer."""

    def __init__(self, *, persistent: bool) -> None:
        super().__init__()
        near = (torch.rand(36, 36, generator=torch.Generator().manual_seed(1)) > 0.8).float().to_sparse()
        self.register_buffer("near", near, persistent=persistent)

    def mixed(self, x: Tensor) -> Tensor:
        y = self.two(x).flatten(2)
        near = self.near.to_dense()[: y.shape[2], : y.shape[2]]
        return (y @ near).reshape(len(y), -1, 4, 4)


def buffer(value: Callable[[], Tensor]) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        net = Plain()
        net.register_buffer("odd", value())
        return net

    return made


def parameter(value: Callable[[], Tensor]) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        net = Plain()
        net.odd = nn.Parameter(value(), requires_grad=False)
        return net

    return made


def fake() -> Tensor:
    with FakeTensorMode():
        return torch.zeros(4)


ODD: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "csr buffer": (buffer(lambda: torch.eye(4).to_sparse_csr()), r"to_dense\(\), or keep it .*to_sparse_coo"),
    "coo parameter": (parameter(lambda: torch.eye(4).to_sparse()), r"as a parameter .*to_dense\(\), or keep it"),
    "csr parameter": (parameter(lambda: torch.eye(4).to_sparse_csr()), "layout sparse_csr"),
    "oneDNN buffer": (buffer(lambda: torch.randn(4).to_mkldnn()), r"layout _mkldnn.*to_dense\(\)$"),
    "nested buffer": (buffer(lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])), "its parts"),
    "jagged buffer": (
        buffer(lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)),
        "its parts",
    ),
    "masked buffer": (buffer(lambda: torch.masked.masked_tensor(torch.ones(2), torch.tensor([True, False]))), "mask"),
    "meta buffer": (buffer(lambda: torch.zeros(4, device="meta")), "to_empty"),
    "meta parameter": (parameter(lambda: torch.zeros(4, device="meta")), "to_empty"),
    "fake parameter": (parameter(fake), "a fake tensor"),
    "lazy buffer": (buffer(nn.UninitializedBuffer), "before the first forward"),
    "bits": (buffer(lambda: torch.empty(4, dtype=torch.bits8)), "neither copy nor compare"),
}
ACTS: dict[str, Callable[[nn.Module, Path], Any]] = {
    "trace": lambda net, folder: trace(net, X),
    "prune": lambda net, folder: prune(net, X, target=0.7, latency=False),
    "count": lambda net, folder: count(net, X),
    "measure": lambda net, folder: measure(net, X, seconds=0.001),
    "quality": lambda net, folder: quality(net, [(X, Y)]),
    "latency": lambda net, folder: latency(net, X, seconds=0.001),
    "deploy": lambda net, folder: deploy(net, X, seconds=0.001),
    "apply": lambda net, folder: apply(net, trace(Plain(), X), Plan((DropUnits("one", (1,)),))),
    "check_method": lambda net, folder: check_method(make("magnitude"), networks={"it": (net, X)}),
    "export_source": lambda net, folder: export_source(net, X, folder / "net.py"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("kind", ODD)
def test_what_cannot_be_copied_and_compared_is_refused_by_name(kind: str, act: str, tmp_path: Path) -> None:
    build, remedy = ODD[kind]
    with pytest.raises(ModelError, match=remedy) as refused:
        ACTS[act](build(), tmp_path)
    assert str(refused.value).startswith("'odd' ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("act", sorted(ACTS.keys() - {"export_source"}))  # programs hold no sparse constants
def test_a_sparse_buffer_is_carried_along(act: str, tmp_path: Path) -> None:
    net = Mixing(persistent=False)
    before = net.near
    ACTS[act](net, tmp_path)
    assert net.near is before
    assert equal(before, Mixing(persistent=False).near)


def test_a_network_with_a_sparse_buffer_is_cut_and_saved(tmp_path: Path) -> None:
    net = Mixing(persistent=False)
    result = prune(net, X, target=0.7, latency=False, repair=())
    assert equal(result.model.near, net.near)
    assert result.plans[0].dropped()["one"]
    assert verify(net, trace(net, X), result.plans[0], result.model, X).exact
    secateur.save(result, tmp_path / "saved")


def test_a_sparse_buffer_that_a_forward_moves_is_put_back() -> None:
    class Growing(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("odd", torch.eye(4).to_sparse())

        def mixed(self, x: Tensor) -> Tensor:
            self.odd.mul_(2)
            return self.two(x)

    net = Growing()
    run(net, X)
    assert torch.equal(net.odd.to_dense(), torch.eye(4))


def test_a_sparse_buffer_cannot_be_saved_and_that_is_said(tmp_path: Path) -> None:
    result = prune(Mixing(persistent=True), X, target=0.7, latency=False)
    with pytest.raises(ArtifactError, match=r"'near': its layout is sparse_coo, .* persistent=False"):
        secateur.save(result, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


class Marked(Tensor):
    """A class of one's own, which loses itself when it is copied."""


def test_tensors_of_other_classes_that_cannot_be_copied_are_named_where_copies_are_needed() -> None:
    net = buffer(lambda: torch.ones(4).as_subclass(Marked))()
    with pytest.raises(ModelError, match=r"because of 'odd', a Marked: make it a plain tensor"):
        prune(net, X, target=0.7, latency=False)
    assert count(net, X).params == count(Plain(), X).params


def test_weights_in_eight_bits_are_counted_and_not_pruned() -> None:
    net = parameter(lambda: torch.tensor([0.0, 1, 2]).to(torch.float8_e4m3fn))()
    assert count(net, X).nonzero == count(Plain(), X).params + 2
    with pytest.raises(ModelError, match=r"'odd' holds float8_e4m3fn, .*torch.bfloat16"):
        prune(net, X, target=0.7, latency=False)


def test_sparse_numbers_are_compared_where_they_lie() -> None:
    eye = torch.eye(4).to_sparse()
    assert equal(eye, eye.clone())
    assert not equal(eye, (2 * torch.eye(4)).to_sparse())
    assert not equal(eye, torch.eye(4).flip(0).to_sparse())
    assert not equal(eye, torch.eye(4))
