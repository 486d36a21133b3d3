"""The initial weights that all built-in networks share."""

from __future__ import annotations

from torch import nn


def initialise(model: nn.Module) -> None:
    """Draw the weights of ``model`` in place as He et al. 2015 do for rectifiers.

    Convolutions and linear layers get normal weights of variance 2 / fan-in and biases of zero; batch norms
    start as the identity. The draw uses torch's global generator: seed it to repeat it.

    Source: He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", ICCV 2015, equation 10.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
