"""Weights that a method has set to zero stay so while somebody's own code trains them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from secateur.core.surgery import Hold


def held_at_zero(model: nn.Module, masks: Mapping[str, Tensor]) -> Callable[[], None]:
    """Set weights back to zero after each step of any optimizer that holds parameters of the network.

    Which optimizer that will be nobody has to say: after a kill it is made when the zeros are there already.

    Args:
        model: as long as it lives its zeros are held.
        masks: for each tensor by its name, what stays (True) and what is held.

    Returns:
        What lets them go.
    """
    if not masks:
        return lambda: None
    keeper, own = Hold(model, masks), {id(parameter) for parameter in model.parameters()}

    def set_back(optimizer: torch.optim.Optimizer, *_: object) -> None:
        if any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"]):
            keeper.after_step(0)

    handle = register_optimizer_step_post_hook(set_back)
    weakref.finalize(model, handle.remove)
    return handle.remove
