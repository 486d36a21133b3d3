"""States of networks, to be compared."""

from __future__ import annotations

from torch import Tensor, nn


def tensors(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}
