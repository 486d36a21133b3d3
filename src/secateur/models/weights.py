"""Reading trained weights into a network, strictly and without ever running pickled code."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor, nn

from secateur import reading
from secateur.arguments import checked
from secateur.errors import ModelError, nearest
from secateur.spelling import said

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.")
_PICKLED = (b"PK", b"\x80")  # how torch.save starts a file, now and before version 1.6
_COUNTER = "num_batches_tracked"
_CLASSIFIER = 2  # tensors: its weight and its bias


@checked
def load_weights(model: nn.Module, path: str | Path) -> None:
    """Read the weights in ``path`` into ``model``, in place.

    The file is a safetensors file, or one written by ``torch.save`` that holds tensors only: a state dict,
    alone or under ``state_dict``, ``model_state_dict``, ``model`` or ``net``. Prefixes that
    ``nn.DataParallel`` and ``torch.compile`` put before every name are ignored on both sides. All names and
    shapes must fit; only the batch counters of batch norms, which old files lack, may be missing. Numbers
    are converted to the types and devices of the model.

    Args:
        model: gets the weights; unchanged when an error is raised.
        path: of the file.

    Raises:
        ModelError: if the file is missing, damaged, holds pickled objects or NaN, or does not fit.
    """
    put_weights(model, read_weights(path), str(path))


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the state dict in a file, as ``load_weights`` reads it, by name.

    Raises:
        ModelError: if the file is missing, damaged or holds pickled objects.
    """
    path = Path(path)
    return _unwrapped(_read(path), path)


def put_weights(model: nn.Module, found: Mapping[str, Tensor], source: str, *, without: Iterable[str] = ()) -> None:
    """Give a network weights, as ``load_weights`` does.

    Args:
        model: gets the weights; unchanged when an error is raised.
        found: the weights by name.
        source: what errors call them.
        without: names of tensors of the model that stay as they are.

    Raises:
        ModelError: if they do not fit.
    """
    own: dict[str, Any] = model.state_dict()
    names = shorten(own)
    stay = {short for short, name in names.items() if name in set(without)}
    theirs = {short: found[name] for short, name in shorten(found).items() if short not in stay}
    names = {short: name for short, name in names.items() if short not in stay}
    _check_names(theirs, names, source)
    _check_tensors(theirs, {short: own[name] for short, name in names.items()}, source)
    model.load_state_dict({**own, **{names[short]: tensor for short, tensor in theirs.items()}})


def _read(path: Path) -> object:
    """Return what the file holds, on the CPU."""
    if not path.is_file():
        problem = "is no file" if path.exists() else "does not exist"
        problem = "is a folder, not a file" if path.is_dir() else problem
        raise ModelError(f"the weights file {path} {problem}{_beside(path)}; check the path")
    start = b""
    try:
        with path.open("rb") as file:
            start = file.read(max(map(len, _PICKLED)))
        if reading.is_safetensors(path):
            return safetensors.torch.load_file(str(path))  # pyright: ignore[reportUnknownMemberType]
        if start.startswith(b"PK"):
            _refuse_compressed(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"the weights file {path} cannot be read: {error.strerror or error}") from error
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # damaged files make the readers raise almost anything
        if isinstance(error, pickle.UnpicklingError) and start.startswith(_PICKLED):
            raise ModelError(
                f"{path} contains more than tensors, and pickled code is never run: re-save it where it comes"
                " from with torch.save(model.state_dict(), path)"
            ) from error
        raise ModelError(
            f"{path} is damaged or not a weights file: give a safetensors file or a state dict of torch.save"
        ) from error


def _refuse_compressed(path: Path) -> None:
    """Refuse a file of ``torch.save`` that was compressed afterwards: it may expand to a thousand times its size."""
    found = reading.entries(path)
    expanded = sum(entry.file_size for entry in found)
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in found) or expanded > reading.regular(path):
        raise ModelError(
            f"{path} is compressed and would take {expanded:,} bytes, but torch.save never compresses: save it again "
            "with torch.save(model.state_dict(), path)"
        )


def _beside(path: Path) -> str:
    """Return a hint at the file in the same folder whose name comes closest."""
    return nearest(path.name, [it.name for it in path.parent.iterdir() if it.is_file()]) if path.parent.is_dir() else ""


def _unwrapped(content: object, path: Path, depth: int = 0) -> dict[str, Tensor]:
    """Return the state dict inside of ``content``, which may be a whole checkpoint."""
    if depth > len(_WRAPPERS):  # which a pickle may put into itself
        raise ModelError(f"{path} holds checkpoints in checkpoints: save model.state_dict() alone")
    if isinstance(content, Mapping):
        entries = cast("Mapping[object, object]", content)
        for key in _WRAPPERS:
            if isinstance(entries.get(key), Mapping):
                return _unwrapped(entries[key], path, depth + 1)
        if not entries:
            raise ModelError(f"{path} holds no tensors: save model.state_dict() into it")
        for key, value in entries.items():
            if not isinstance(key, str) or not isinstance(value, Tensor):
                kind = type(value).__name__
                raise ModelError(
                    f"{path} is not a state dict, since its entry '{reading.shown(key)}' is {kind} and not a"
                    " tensor: save model.state_dict() alone"
                )
        return cast("dict[str, Tensor]", dict(entries))
    raise ModelError(f"{path} holds {type(content).__name__} and not a state dict: save model.state_dict()")


def shorten(names: Iterable[str]) -> dict[str, str]:
    """Return name without wrappers -> name; a wrapper is a prefix that all names share (``nn.DataParallel``)."""
    short = {name: name for name in names}
    while prefix := next((p for p in _PREFIXES if short and all(key.startswith(p) for key in short)), ""):
        short = {key.removeprefix(prefix): name for key, name in short.items()}
    return short


def _check_names(theirs: Mapping[str, Tensor], own: Mapping[str, str], source: str) -> None:
    missing = [name for name in own if name not in theirs and name.rpartition(".")[2] != _COUNTER]
    unexpected = [name for name in theirs if name not in own]
    problems: list[str] = []
    if missing:
        problems.append(f"{_entries(missing)} of the model {'is' if len(missing) == 1 else 'are'} missing")
    if unexpected:
        problems.append(f"{_entries(unexpected)} {'is' if len(unexpected) == 1 else 'are'} unknown to the model")
    if problems:
        raise ModelError(f"{source} does not fit the model: {', and '.join(problems)}")


def _entries(names: list[str]) -> str:
    """Return ``3 entries (a, b, c)`` with at most three names."""
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {'entry' if len(names) == 1 else 'entries'} ({shown})"


def _hint(theirs: Mapping[str, Tensor], own: Mapping[str, Any]) -> str:
    """Say what weights of other shapes may be: a classifier has a weight and a bias, a pruned network many such."""
    pairs = [(tuple(tensor.shape), tuple(own[name].shape)) for name, tensor in theirs.items()]
    others = [(there, here) for there, here in pairs if there != here]
    if len(others) > _CLASSIFIER:
        return (
            "; weights of other widths, as a pruned network has them, are loaded with its folder: secateur.load(folder)"
        )
    if all(there[1:] == here[1:] and len(there) in (1, 2) for there, here in others):
        return f"; weights of other classes need a transfer ({said('transfer=True', '--transfer', 'transfer = true')})"
    return ""


def _check_tensors(theirs: Mapping[str, Tensor], own: Mapping[str, Any], source: str) -> None:
    for name, tensor in theirs.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_nested:
            raise ModelError(f"'{name}' in {source} is no plain tensor of numbers: save model.state_dict() of floats")
        there, here = tuple(tensor.shape), tuple(own[name].shape)
        if there != here:
            raise ModelError(f"'{name}' has shape {there} in {source} but {here} in the model{_hint(theirs, own)}")
    for name, tensor in theirs.items():
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            raise ModelError(f"'{name}' in {source} holds NaN: the training that wrote it had failed")
