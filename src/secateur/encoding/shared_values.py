"""Weights that share few values: which they are, who has which, and how the values train on."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.core.graph import tensor_of
from secateur.core.zeros.shaper import Shaper
from secateur.encoding.on_grids import Grid, multiples
from secateur.errors import SettingError

_MOST_ITERATIONS = 100  # of k-means; it is at rest long before


@dataclass(frozen=True, eq=False)
class Sharing:
    """Who shares which value in one weight.

    Attributes:
        members: for each place 0 where the weight is zero, else the number of its value from 1; int64, in the shape of
            the weight, on the CPU.
        first: for each value the first place that has it, in row-major order, ``(values,)``.
        grid: what the weight lies on, if its values are whole multiples of the steps of its channels.
    """

    members: Tensor
    first: Tensor
    grid: Grid | None = None

    def values(self, weight: Tensor) -> Tensor:
        """Return the values that a weight shares, ``(values,)``, where it is; on a grid, the whole numbers."""
        if self.grid is not None:
            return self.grid.levels(weight).flatten()[self.first].to(weight.dtype)
        return weight.detach().flatten()[self.first.to(weight.device)]


def clustered(values: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return at most ``2^bits`` values that stand for many, ascending, and the number of each one's.

    They are the means of k-means that begins with values at equal distances from the smallest to the largest; where
    there are no more than that, they are the values themselves.

    Args:
        values: ``(n,)``, at least one.
        bits: at least 1.
    """
    distinct, numbers = np.unique(values, return_inverse=True)
    most = 2**bits
    if len(distinct) <= most:
        return distinct, numbers.reshape(-1)
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    start = np.linspace(distinct[0], distinct[-1], most, dtype=np.float64)[:, None]
    with threadpool_limits(1):  # threads would add up in any order, and equal networks shall give equal files
        begun: Any = KMeans  # whose stubs know no given centres
        means = begun(most, init=start, n_init=1, max_iter=_MOST_ITERATIONS, tol=1e-7)
        labels = means.fit_predict(np.asarray(values, dtype=np.float64)[:, None])
    centres = means.cluster_centers_[:, 0]
    used, labels = np.unique(labels, return_inverse=True)
    order = np.argsort(centres[used], kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return centres[used][order], place[labels.reshape(-1)]


@torch.no_grad()
def share(weight: Tensor, bits: int) -> Sharing:
    """Let a weight share values in place; what is zero stays so, and has none of them.

    Args:
        weight: of floating-point numbers, none of them NaN or infinite.
        bits: at least 1.
    """
    flat = weight.detach().double().flatten().cpu()
    there = torch.nonzero(flat).flatten()
    members = torch.zeros(len(flat), dtype=torch.int64)
    first = torch.zeros(0, dtype=torch.int64)
    table = torch.zeros(1, dtype=weight.dtype)
    if len(there):
        centres, numbers = clustered(flat[there].numpy(), bits)
        members[there] = torch.from_numpy(numbers).long() + 1
        first = there[torch.from_numpy(np.unique(numbers, return_index=True)[1])]
        table = torch.cat([table, torch.from_numpy(centres).to(weight.dtype)])
    weight.copy_(table.to(weight.device)[members.to(weight.device)].reshape(weight.shape))
    return Sharing(members.reshape(weight.shape), first)


@torch.no_grad()
def share_on_grid(weight: Tensor, grid: Grid) -> Sharing:
    """Return who shares which whole number of a grid; the weight stays as it is."""
    levels = grid.levels(weight)
    weight.copy_(multiples(levels, grid.steps, grid.axis, weight.dtype))  # the same, but for the sign of zeros
    flat = levels.flatten()
    there = torch.nonzero(flat).flatten()
    numbers = np.unique(flat[there].numpy(), return_index=True, return_inverse=True)
    members = torch.zeros(len(flat), dtype=torch.int64)
    members[there] = torch.from_numpy(numbers[2]).reshape(-1) + 1
    return Sharing(members.reshape(weight.shape), there[torch.from_numpy(numbers[1])], grid)


def share_all(model: nn.Module, bits: Mapping[str, int], grids: Mapping[str, Grid] | None = None) -> dict[str, Sharing]:
    """Let the weights of a network share values in place.

    Args:
        model: the network.
        bits: of each weight by its name; those with 0 are left alone.
        grids: of weights that lie on one; where the bits are enough for it, they stay there.

    Raises:
        SettingError: if a weight is NaN or infinite.
    """
    found: dict[str, Sharing] = {}
    for name, number in bits.items():
        weight = tensor_of(model, name)
        if number and not bool(weight.isfinite().all()):
            raise SettingError(f"'{name}' holds NaN or infinity, which no value can be shared with; encode another")
        grid = (grids or {}).get(name)
        if number:
            fits = grid is not None and grid.bits <= number
            found[name] = share_on_grid(weight, grid) if grid is not None and fits else share(weight, number)
    return found


class SharedValues(Shaper):
    """Trains values instead of weights: each moves by the sum of the gradients of those that share it.

    What lies on a grid stays there.

    Args:
        model: the network that trains.
        sharings: who shares what, by the names of its weights.
    """

    def __init__(self, model: nn.Module, sharings: Mapping[str, Sharing]) -> None:
        self._pairs = [(tensor_of(model, name), sharing) for name, sharing in sharings.items() if sharing.grid is None]
        self._held = [tensor_of(model, name) for name, sharing in sharings.items() if sharing.grid is not None]

    @contextlib.contextmanager
    def attached(self) -> Generator[None]:
        """Add up gradients inside the block."""
        with contextlib.ExitStack() as stack:
            for tensor in self._held:
                stack.callback(tensor.requires_grad_, tensor.requires_grad)
                tensor.requires_grad_(False)
            for tensor, sharing in self._pairs:
                if tensor.requires_grad:
                    stack.callback(tensor.register_hook(partial(_summed, sharing)).remove)
            yield

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Make all that share a value equal again: an optimizer may round them differently."""
        for tensor, sharing in self._pairs:
            values = sharing.values(tensor)
            table = torch.cat([torch.zeros_like(values[:1]) if len(values) else values.new_zeros(1), values])
            tensor.copy_(table[sharing.members.to(tensor.device)])


def _summed(sharing: Sharing, gradient: Tensor) -> Tensor:
    members = sharing.members.to(gradient.device).flatten()
    sums = gradient.new_zeros(len(sharing.first) + 1).index_add_(0, members, gradient.flatten())
    sums[0] = 0.0
    return sums[members].reshape(gradient.shape)
