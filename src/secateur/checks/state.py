"""What a method could disturb: the network that it looks at, and everybody's random numbers."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from secateur.core.surgery.untouched import equal


@contextmanager
def other_randomness(seed: int) -> Generator[None]:
    """Set every global generator, so that who draws from one is found out; put them back afterwards."""
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)


def state_of(model: nn.Module) -> dict[str, Tensor | str]:
    """Return everything that a method must leave as it is, by a name to show; tensors as copies."""
    state: dict[str, Tensor | str] = {}
    for name, module in model.named_modules():
        hooks = sum(len(value) for key, value in vars(module).items() if key.endswith("_hooks") and value)
        state[f"module '{name}' (its class, mode or hooks)"] = f"{type(module)} {module.training} {hooks}"
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        state[f"the values of '{name}'"] = tensor.detach().clone()
        state[f"requires_grad of '{name}'"] = str(tensor.requires_grad)
        state[f"the gradient of '{name}'"] = "none" if tensor.grad is None else tensor.grad.clone()
    return state


def same(one: Tensor | str, other: Tensor | str) -> bool:
    """Tell whether two entries of ``state_of`` are the same, tensors bit for bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and equal(one, other)
    return isinstance(one, str) and one == other
