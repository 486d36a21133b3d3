"""Where training happens: device, memory format and process group, all given back as they were found."""

from __future__ import annotations

import atexit
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from secateur.errors import TrainingError
from secateur.training.history import Speed
from secateur.training.settings import Settings

if TYPE_CHECKING:
    from accelerate import Accelerator

if dist.is_available():
    # Its functions take the process group that is open at their first import as a default, and keep it alive
    # after it was closed. DistributedDataParallel imports them; they have to come before any group does.
    import_module("torch.distributed.nn.functional")

_LOST = (dist.DistError, dist.DistBackendError, dist.DistNetworkError) if dist.is_available() else ()
_SOCKET = re.compile(
    r"gloo|ncclSystemError|ncclRemoteError|connection (closed|reset|refused) by peer|TCPStore", re.IGNORECASE
)

_MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
_PRECISIONS = {"float32": "no", "bf16": "bf16", "fp16": "fp16"}


def memory_format(speed: Speed) -> torch.memory_format:
    """Return torch's own name of the memory format."""
    return _MEMORY_FORMATS[speed.memory_format]


def device_type(settings: Settings) -> str:
    """Return ``"cpu"`` or ``"cuda"``.

    Raises:
        TrainingError: if CUDA is asked for and there is none, or fp16 is asked for on the CPU.
    """
    available = torch.cuda.is_available()
    if settings.device == "cuda" and not available:
        raise TrainingError(
            "training on 'cuda' is asked for but torch finds no CUDA device; use device 'auto' or 'cpu'"
        )
    kind = "cuda" if available and settings.device != "cpu" else "cpu"
    if kind == "cpu" and settings.precision == "fp16":
        raise TrainingError("precision 'fp16' needs a CUDA device; on the CPU use 'auto', 'float32' or 'bf16'")
    return kind


@contextmanager
def accelerated(device: str, precision: str) -> Generator[Accelerator]:
    """Give an ``Accelerator`` for this training only.

    accelerate keeps device and precision in process-wide state that refuses to change. A library cannot
    impose its choice on the whole process, so the state is set aside and put back. The process group, if
    there is one, stays; one that accelerate had to open is closed when the process ends.

    Args:
        device: ``"cpu"`` or ``"cuda"``; with several processes each takes its own CUDA device.
        precision: as in ``Speed``.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    shared: list[dict[str, Any]] = [
        kind._shared_state  # pyright: ignore[reportPrivateUsage]
        for kind in (PartialState, AcceleratorState, GradientState)
    ]
    kept = [dict(state) for state in shared]
    for state in shared:
        state.clear()
    try:
        theirs = _group_is_open()
        accelerator = Accelerator(
            cpu=device == "cpu", mixed_precision=_PRECISIONS[precision], gradient_accumulation_steps=1
        )
        if _group_is_open() and not theirs:
            atexit.register(_close_group)
        yield accelerator
    finally:
        for state, old in zip(shared, kept, strict=True):
            state.clear()
            state.update(old)


@contextmanager
def speaking(checkpoint: Path | None) -> Generator[None]:
    """Say in one sentence that the other processes of a training cannot be reached.

    Args:
        checkpoint: from which the training goes on; None for nothing.

    Raises:
        TrainingError: instead of what gloo, NCCL or torch's store say of sockets.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, _LOST) and not _SOCKET.search(str(error)):
            raise
        remedy = f"; it goes on from {checkpoint}" if checkpoint is not None and checkpoint.exists() else ""
        raise TrainingError(
            "another process of this training has ended or cannot be reached: read what it said last, mend that, and "
            f"start all of them again{remedy}"
        ) from error


def _group_is_open() -> bool:
    return dist.is_available() and dist.is_initialized()


def _close_group() -> None:
    # A worker thread of gloo that still lets go of a tensor while the interpreter goes down aborts the
    # process, after all its work was done. A group of NCCL is left to torch: closing it waits for processes
    # that may have failed.
    if _group_is_open() and dist.get_backend() == "gloo":
        dist.destroy_process_group()


@contextmanager
def placed(model: nn.Module | None, device: torch.device, speed: Speed) -> Generator[None]:
    """Move the model, if any, to device and memory format; afterwards put both, and all modes, back."""
    if model is None:
        yield
        return
    modes = {module: module.training for module in model.modules()}
    places = [(tensor.device, tensor.stride()) for tensor in _tensors(model)]
    try:
        move(model, device, speed)
        yield
    finally:
        for tensor, (home, stride) in zip(_tensors(model), places, strict=True):
            _put_back(tensor, home, stride)
        for module, mode in modes.items():
            module.training = mode


def move(model: nn.Module, device: torch.device, speed: Speed) -> nn.Module:
    """Move the model in place, and return it."""
    return model.to(device).to(memory_format=memory_format(speed))  # pyright: ignore[reportCallIssue]


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _put_back(tensor: Tensor, home: torch.device, stride: tuple[int, ...]) -> None:
    if tensor.device == home and tensor.stride() == stride:
        return
    old = torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=home)
    tensor.data = old.copy_(tensor.detach())
