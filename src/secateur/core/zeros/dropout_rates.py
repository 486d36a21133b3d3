"""Rates of dropout that follow what is left of a network: with fewer weights there is less to overfit.

Source: Song Han, Jeff Pool, John Tran, William Dally, "Learning both Weights and Connections for Efficient Neural
Networks", NIPS 2015.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from torch import nn

from secateur.core.graph import layer_of, tensor_of

_Dropout = nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d


def rescaled(rate: float, left: int, whole: int) -> float:
    """Return the rate for a layer of which so many weights are left, ``rate * sqrt(left / whole)``."""
    return rate * math.sqrt(left / whole) if whole else rate


class DropoutRates:
    """The layers of dropout in a network, each with the layer whose weights it goes by.

    That is the next one among the network's modules that has such weights, which in a network whose modules stand in
    the order in which they run is the one that reads what is left by the dropout. Behind the last of them a rate stays.

    Args:
        model: the network, with the weights from which on is counted; what is zero already has gone before.
        names: of weights that may go.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        weights = {layer_of(name): name for name in names}
        waiting: list[_Dropout] = []
        self._found: list[tuple[_Dropout, float, str, int]] = []
        for name, module in model.named_modules():
            if isinstance(module, _Dropout):
                waiting.append(module)
            elif name in weights:
                whole = int(tensor_of(model, weights[name]).count_nonzero())
                self._found += [(each, each.p, weights[name], whole) for each in waiting]
                waiting = []

    def rescale(self, left: Callable[[str], int]) -> None:
        """Set all rates to what is left of each weight, by its name."""
        for module, rate, weight, whole in self._found:
            module.p = rescaled(rate, min(left(weight), whole), whole)
