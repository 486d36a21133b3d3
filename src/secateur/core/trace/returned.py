"""What a network returns stays, but for outputs that were named as free to lose channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from secateur.core import channel_labels as L
from secateur.core.graph.outputs import (
    FREE_IT,
    IN_ANOTHER_RUN,
    IN_TRAINING,
    are_scores,
    check_named,
    is_named,
    named,
    named_tensors,
    refuse_scores,
)
from secateur.core.trace.calls_made import Layers


@dataclass(frozen=True, eq=False)
class Returned:
    """A tensor that a run returned, by its path, with its labels.

    Attributes:
        free: whether its labels may go.
        scores: whether it stands where class scores stand.
    """

    path: str
    shape: tuple[int, ...]
    layers: Layers
    free: bool
    scores: bool = False

    @property
    def atoms(self) -> Tensor:
        """The labels that may go, each once."""
        return _atoms(self.layers)


@dataclass
class Outputs:
    """What the runs of a network returned.

    Attributes:
        patterns: of outputs that are free.
        evaluated: what the first run returned.
        trained: what it returned in training mode, if it was read there.
        also: path and shape of what other runs than the first returned beside that.
    """

    patterns: tuple[str, ...] = ()
    evaluated: list[Returned] = field(default_factory=list[Returned])
    trained: list[Returned] = field(default_factory=list[Returned])
    also: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])

    def note(self, value: Any, labels: Callable[[Tensor], Layers], pin: Callable[..., None], *, training: bool) -> None:
        """Note what a run returned, and pin of it what is not free.

        Another run than the first may return other things under the same path. It is known by its channels then: what
        has no others than those of free outputs is free.

        Args:
            value: what was returned.
            labels: of a tensor, see ``State.labels``.
            pin: see ``State.pin``.
            training: whether that was the run in training mode.

        Raises:
            SettingError: if class scores are named as free.
        """
        first, tensors = not self.evaluated, named_tensors(value)
        before = {each.path: each for each in self.evaluated}
        alike = [(path, tensor.shape[1:]) for path, tensor in tensors] == [
            (r.path, r.shape[1:]) for r in before.values()
        ]
        freed = torch.cat([torch.zeros(0, dtype=torch.long), *(each.atoms for each in self.evaluated if each.free)])
        found: list[Returned] = []
        for path, tensor in tensors:
            layers, shape = labels(tensor), tuple(tensor.shape)
            own = first or alike or path not in before
            scores = are_scores(path, tensor, value)
            free = own and is_named(path, self.patterns)
            if free and scores and path:
                refuse_scores(path, shape)
            if not first and not free and len(layers):
                free = bool(len(freed)) and bool(torch.isin(_atoms(layers), freed).all())
            found.append(Returned(path, shape, layers, free, scores))
            if own and path not in before and not first:
                self.also[path] = shape
            if not free:
                can = own and path and not scores and len(tensors) > 1
                where = path if own else f"{path} {IN_TRAINING if training else IN_ANOTHER_RUN}".strip()
                for layer in layers:
                    pin(layer.reshape(-1), named([where]), FREE_IT if can else "", output=where)
        if first:
            self.evaluated = found
        elif training:
            self.trained = found

    def check(self) -> None:
        """Refuse patterns that name no output or all of them.

        Raises:
            SettingError: with the outputs that there are.
        """
        shapes: Mapping[str, tuple[int, ...]] = {each.path: each.shape for each in self.evaluated}
        check_named(self.patterns, shapes, self.also)


def _atoms(layers: Layers) -> Tensor:
    atoms = torch.cat([torch.zeros(0, dtype=torch.long), *(torch.unique(layer) for layer in layers)])
    return atoms[atoms != L.FIXED]
