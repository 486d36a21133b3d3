from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from secateur.errors import TrainingError
from secateur.training import checkpoint as disk
from secateur.training.optimizers_and_schedules import optimizer, schedule
from secateur.training.settings import Settings


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "c.safetensors"
    facts = {"fingerprint": "f", "lr": [0.1 + 0.2], "rows": [{"val_loss": None}]}
    tensors = {"a/b": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), "n": torch.tensor(3)}
    disk.write(path, facts, model=tensors, best={})
    found = disk.read(path, "f")
    assert found is not None
    assert found[0] == facts
    assert list(found[1]) == ["model"]
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in found[1]["model"].items())
    assert [file.name for file in path.parent.iterdir()] == ["c.safetensors"]


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert disk.read(tmp_path / "c", "f") is None


def test_a_failed_write_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c"
    disk.write(path, {"fingerprint": "f", "at": 1}, model={})

    def full(*args: object, **kwargs: object) -> None:
        (tmp_path / ".c.part").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "save_file", full)
    with pytest.raises(TrainingError, match=r"cannot write the checkpoint .*No space left"):
        disk.write(path, {"fingerprint": "f", "at": 2}, model={})
    assert disk.read(path, "f") == ({"fingerprint": "f", "at": 1}, {})
    assert [file.name for file in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"x" * 100, None])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "c"
    if content is None:
        disk.write(path, {"fingerprint": "f"}, model={"w": torch.zeros(100)})
        path.write_bytes(path.read_bytes()[:-50])
    else:
        path.write_bytes(content)
    with pytest.raises(TrainingError, match="damaged or no training checkpoint"):
        disk.read(path, "f")


def test_a_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    disk.write(tmp_path / "c", {"fingerprint": "other"}, model={})
    with pytest.raises(TrainingError, match="belongs to another training"):
        disk.read(tmp_path / "c", "f")


def test_the_fingerprint_knows_what_matters(net: Callable[[int], nn.Module]) -> None:
    model, settings = net(0), Settings()

    def of(model: nn.Module = model, settings: Settings = settings, seed: int = 0, data: str = "d") -> str:
        return disk.fingerprint(model, settings, seed, data)

    frozen = net(0)
    frozen[0].weight.requires_grad_(False)
    thinner = nn.Sequential(*list(net(0))[:-1], nn.Linear(16, 2))
    others = [of(frozen), of(thinner), of(settings=Settings(lr=0.02)), of(seed=1), of(data="e")]
    assert len({of(), *others}) == 6
    assert of(net(5), Settings(device="cpu", precision="bf16", compile="off")) == of()


def test_tied_weights_and_unsaved_buffers_are_kept(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model.register_buffer("count", torch.tensor(5), persistent=False)
    disk.write(tmp_path / "c", {"fingerprint": "f"}, model=disk.snapshot(model))
    other = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    other[1].weight = other[0].weight
    other.register_buffer("count", torch.tensor(0), persistent=False)
    found = disk.read(tmp_path / "c", "f")
    assert found is not None
    disk.restore(other, found[1]["model"])
    assert torch.equal(other[1].weight, model[0].weight)
    assert other.count == 5


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize(("kind", "milestones"), [("cosine", ()), ("step", (2,)), ("constant", ())])
@pytest.mark.parametrize("warmup", [0, 1])
def test_optimizer_and_schedule_go_on_exactly(
    tmp_path: Path, net: Callable[[int], nn.Module], name: str, kind: str, milestones: tuple[int, ...], warmup: int
) -> None:
    settings = Settings(epochs=4, optimizer=name, schedule=kind, milestones=milestones, warmup_epochs=warmup, lr=0.1)
    whole = net(0).to(memory_format=torch.channels_last)
    rule = optimizer(list(whole.parameters()), settings)
    rates = schedule(rule, settings, 3)
    for step in range(10):
        if step == 5:
            facts, momenta = disk.optimizer_state(rule)
            every = {"fingerprint": "f", "optimizer": facts, "schedule": disk.schedule_state(rates)}
            disk.write(tmp_path / "c", every, model=disk.snapshot(whole), optimizer=momenta)
        _step(whole, rule, rates, step)

    part = net(1).to(memory_format=torch.channels_last)
    rule = optimizer(list(part.parameters()), settings)
    rates = schedule(rule, settings, 3)
    found = disk.read(tmp_path / "c", "f")
    assert found is not None
    disk.restore(part, found[1]["model"])
    disk.restore_optimizer(rule, found[0]["optimizer"], found[1]["optimizer"])
    rates.load_state_dict(found[0]["schedule"])
    for step in range(5, 10):
        _step(part, rule, rates, step)
    for one, two in zip(whole.parameters(), part.parameters(), strict=True):
        assert torch.equal(one, two)
        assert one.stride() == two.stride()


def _step(model: nn.Module, rule: torch.optim.Optimizer, rates: object, step: int) -> None:
    rng = torch.Generator().manual_seed(step)
    for weight in model.parameters():
        weight.grad = torch.empty_like(weight).copy_(torch.randn(weight.shape, generator=rng))
    rule.step()
    rates.step()


def test_the_file_holds_no_pickle(tmp_path: Path) -> None:
    disk.write(tmp_path / "c", {"fingerprint": "f"}, model={"w": torch.zeros(2)})
    with safe_open(tmp_path / "c", framework="pt") as file:
        assert json.loads(file.metadata()["secateur.training"]) == {"fingerprint": "f"}
        assert list(file.keys()) == ["model/w"]
