"""A training that fails leaves the network as it was given."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from torch import nn

from secateur.errors import TrainingError
from secateur.training import checkpoint as disk


class DivergedError(TrainingError):
    """A loss is not finite; the network has been put back to its last good state, as the message says."""


@contextmanager
def undone(model: nn.Module) -> Generator[None]:
    """Put the tensors of a network back after an error; not where somebody interrupts, or a loss is not finite.

    They are kept on the CPU meanwhile. What a checkpoint on disk holds stays there.
    """
    before = {name: tensor.detach().to("cpu", copy=True) for name, tensor in disk.tensors_of(model)}
    try:
        yield
    except DivergedError:
        raise
    except Exception:
        disk.restore(model, {**disk.snapshot(model), **before})  # a buffer that a forward has made may be new
        raise
