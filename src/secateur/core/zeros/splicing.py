"""Pruning that can be taken back: which weights are out of play changes while the network trains.

The network computes with ``w * keep``; the gradient found there updates every weight, those out of play included, so
that a weight which turns out to matter grows until it comes back. A band around the threshold, in which nothing
changes, keeps weights from going to and fro.

Source: Yiwen Guo, Anbang Yao, Yurong Chen, "Dynamic Network Surgery for Efficient DNNs", NIPS 2016, and its code.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

BAND = 0.1
"""Half the width of the band, as a share of the threshold."""


def chance(step: int, gamma: float, power: float) -> float:
    """Return with what probability the masks of a layer are brought up to date at a step, ``(1 + gamma i)^-power``."""
    return float((1.0 + gamma * step) ** -power)


def splice(keep: Tensor, values: Tensor, threshold: float, band: float = BAND) -> Tensor:
    """Return who is in play after an update.

    What is in play goes if its value is at most ``(1 - band) * threshold``; what is out comes back if its value is
    above ``(1 + band) * threshold``; in between nothing changes.

    Args:
        keep: who is in play, boolean, of any shape.
        values: how much each matters, at least 0, of the same shape.
        threshold: at least 0.
        band: half the width of the band, in [0, 1).
    """
    return (keep & (values > (1.0 - band) * threshold)) | (values > (1.0 + band) * threshold)


def by_deviation(values: Tensor, keep: Tensor, rate: float) -> float:
    """Return the threshold ``mean + rate * standard deviation`` of the values in play, at least 0.

    The deviation is that of the values themselves, not an estimate from a sample, as in the authors' code.
    """
    present = values[keep].double()
    if not len(present):
        return 0.0
    return max(0.0, float(present.mean() + rate * present.std(correction=0)))


def by_count(values: Tensor, count: int) -> float:
    """Return the largest threshold that so many values lie above; ties may leave fewer above it.

    Args:
        values: at least 0, of any shape.
        count: at least 0; with all of them the threshold lies below the smallest value, at 0 if that is 0.
    """
    flat = values.flatten()
    if count >= len(flat):
        return float(flat.min()) / 2
    return float(torch.kthvalue(flat, len(flat) - count).values)


class Overlay:
    """Weights that are in the network only as far as they are in play.

    The network's own tensors hold ``w * keep`` and what is left of w is kept aside. An optimizer that has moved the
    network's tensors has moved all of w, since what was out of play was zero there. Weight decay acts on what is in
    play only.

    Args:
        tensors: by name, the network's weights; all are in play at first.
    """

    def __init__(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        self._tensors = dict(tensors)
        self._aside = {name: torch.zeros_like(tensor) for name, tensor in self._tensors.items()}

    def __contains__(self, name: str) -> bool:
        """Tell whether a tensor is among them."""
        return name in self._tensors

    def whole(self, name: str) -> Tensor:
        """Return all weights of a tensor, those out of play included; without gradient, a new tensor."""
        tensor = self._tensors[name].detach()
        return tensor + self._aside[name].to(tensor.device)

    @torch.no_grad()
    def show(self, name: str, keep: Tensor) -> None:
        """Put into play what ``keep`` says, a boolean that can be broadcast to the tensor."""
        whole, keep = self.whole(name), keep.to(self._tensors[name].device)
        self._tensors[name].copy_(torch.where(keep, whole, 0.0))
        self._aside[name] = torch.where(keep, 0.0, whole)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what is kept aside."""
        return dict(self._aside)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take back what ``state_dict`` returned."""
        for name, tensor in self._tensors.items():
            self._aside[name] = state[name].to(tensor.device, tensor.dtype)
