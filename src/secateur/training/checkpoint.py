"""The state of a training on disk: one safetensors file, replaced as a whole after each epoch.

Tensors are stored as such, everything else as JSON in the file's own header; there is no pickle. Randomness
needs no place in it, because each epoch draws from its own number (see ``loop``).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from secateur import reading
from secateur.atomic import refuse_special
from secateur.errors import SettingError, TrainingError
from secateur.spelling import said
from secateur.training.settings import Settings

_KEY = "secateur.training"
_SPEED = ("precision", "memory_format", "compile", "device")


def fingerprint(model: nn.Module, settings: Settings, seed: int, data: str) -> str:
    """Return a hash of what a checkpoint belongs to: settings, seed, data and the network's tensors by name
    and shape.

    What only decides how fast a training runs is left out, so that it can go on elsewhere.
    """
    asked = {name: value for name, value in settings.to_dict().items() if name not in _SPEED}
    shapes = [(name, list(tensor.shape), tensor.requires_grad) for name, tensor in tensors_of(model)]
    text = json.dumps([asked, seed, data, shapes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def tensors_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter and buffer once, buffers that a ``state_dict`` leaves out included."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of all tensors of the model, where they are."""
    return {name: tensor.detach().clone() for name, tensor in tensors_of(model)}


@torch.no_grad()
def restore(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Write the tensors of ``snapshot`` back into the model, in place; all of them or, where one is missing, none."""
    for tensor, kept in [(tensor, tensors[name]) for name, tensor in tensors_of(model)]:
        tensor.copy_(kept)


def write(path: Path, facts: Mapping[str, Any], **tensors: Mapping[str, Tensor]) -> None:
    """Replace the checkpoint at ``path``; a kill at any moment leaves the old one or the new one, whole.

    Args:
        path: the file; its folder is made where missing.
        facts: values that JSON has.
        tensors: groups of named tensors, on any device.

    Raises:
        TrainingError: if the file cannot be written.
    """
    flat = {
        f"{group}/{name}": tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for group, named in tensors.items()
        for name, tensor in named.items()
    }
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        refuse_special(path, links=True)
        save_file(flat, part, metadata={_KEY: json.dumps(facts, sort_keys=True)})
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        elsewhere = said("give another path", "choose another --out")
        raise TrainingError(f"cannot write the checkpoint {path}: {error}; free some space or {elsewhere}") from error


def read(path: Path, owner: str) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """Return the facts and the groups of tensors (on the CPU) of a checkpoint; None if there is none.

    Args:
        path: the file.
        owner: the ``fingerprint`` that it must have been written for.

    Raises:
        TrainingError: if the file is damaged, no checkpoint, or belongs to another training.
    """
    if not path.exists():
        return None
    groups: dict[str, dict[str, Tensor]] = {}
    with resuming(path), safe_open(path, framework="pt") as file:
        facts: dict[str, Any] = reading.values(file.metadata()[_KEY])
        if facts["fingerprint"] != owner:
            raise TrainingError(
                f"the checkpoint {path} belongs to another training (other settings, seed, data or network); "
                "delete it to start afresh, or give another path"
            )
        for key in file.keys():  # noqa: SIM118 (the file is no mapping)
            group, name = key.split("/", 1)
            groups.setdefault(group, {})[name] = file.get_tensor(key)
    return facts, groups


@contextmanager
def resuming(path: str | Path | None) -> Generator[None]:
    """Say what is wrong where a checkpoint holds what no training has written.

    Raises:
        TrainingError: instead of whatever such values lead to.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError, SettingError) as error:
        raise TrainingError(
            f"{path} is damaged or no training checkpoint ({reading.wrong(error)}); delete it to start afresh, or give "
            "another path"
        ) from error


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the optimizer's state as values for JSON and tensors by name."""
    state: Mapping[int, Mapping[str, Any]] = optimizer.state_dict()["state"]
    entries = [(f"{index}/{name}", value) for index, values in state.items() for name, value in values.items()]
    tensors = {key: value for key, value in entries if isinstance(value, Tensor)}
    plain = {key: value for key, value in entries if key not in tensors}
    return {"lr": [group["lr"] for group in optimizer.param_groups], "plain": plain}, tensors


def restore_optimizer(
    optimizer: torch.optim.Optimizer, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what ``optimizer_state`` returned, each tensor on its parameter's device and in its layout."""
    current = optimizer.state_dict()
    for group, lr in zip(current["param_groups"], facts["lr"], strict=True):
        group["lr"] = lr
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**facts["plain"], **tensors}.items():
        index, name = key.split("/", 1)
        like = parameters[int(index)]
        if isinstance(value, Tensor) and value.shape == like.shape:
            value = torch.empty_like(like, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": current["param_groups"]})


def schedule_state(schedule: LRScheduler) -> dict[str, Any]:
    """Return where the schedule is, in values for JSON."""
    return _plain(schedule.state_dict())


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    # torch keeps the milestones of MultiStepLR in a Counter, whose keys JSON would turn into text; they come
    # from the settings and are left out
    kept = {name: value for name, value in state.items() if name != "milestones"}
    if "_schedulers" in kept:
        kept["_schedulers"] = [_plain(inner) for inner in kept["_schedulers"]]
    return kept
