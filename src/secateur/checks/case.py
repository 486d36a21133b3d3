"""One network on which a promise is checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn

import torch
from torch import Tensor, nn

from secateur.checks.curves import error_curves
from secateur.core.graph import Graph
from secateur.core.method import Method
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.errors import ContractError
from secateur.measure import quality


@dataclass(frozen=True, eq=False)
class Case:
    """One method on one network."""

    method: Method
    name: str
    model: nn.Module
    graph: Graph
    inputs: Tensor
    batches: list[tuple[Tensor, Tensor]] = field(repr=False)

    def problem(self, model: nn.Module, target: Target, limits: Limits = Limits(), *, data: bool = True) -> Problem:  # noqa: B008
        """Return what a method may look at on this network."""
        return Problem(
            model=model,
            graph=self.graph,
            target=target,
            loss=(lambda network: quality(network, self.batches).loss_or_error) if data else None,
            batches=self.batches if data else None,
            images=[images for images, _ in self.batches] if data else None,
            validation=self.batches if data else None,
            limits=limits,
            rng=torch.Generator().manual_seed(7),
            errors=partial(error_curves, self.graph) if data else None,
        )

    def fail(self, promise: str, what: str) -> NoReturn:
        """Say that the method breaks a promise on this network."""
        fail(self.method, promise, f"on the network '{self.name}' {what}")


def fail(method: object, promise: str, what: str) -> NoReturn:
    """Say that a method breaks a promise.

    Raises:
        ContractError: always.
    """
    raise ContractError(f"{type(method).__name__} breaks the promise '{promise}': {what}", promise)
