"""What an int8 file must hold against the network: as good by the metric, or nearly the same answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from secateur.data import Data
from secateur.data.inputs import Inputs
from secateur.export.attempt import Way
from secateur.export.comparison import Call, Found, Int8, Runner, batch_of, call_of, outputs
from secateur.measure import Quality, quality

LABELLED, UNLABELLED = 0.01, 0.1
"""What may be lost where nobody says how much: of a metric in % or of its value, and of the answers without labels."""


@dataclass(eq=False)
class Likeness:
    """Compares a file with the network on images; its ``check`` is one of ``attempt.export``.

    Attributes:
        images: batches of unlabelled ones.
        data: labelled ones, whose validation split the metric is of; None without.
        max_drop: see ``export_int8``.
        left: layers that stay in float32 in the file that is compared.
        refused: whether the last file was compared and has lost too much.
    """

    images: Sequence[Inputs]
    data: Data | None
    max_drop: float | None
    left: tuple[str, ...] = ()
    refused: bool = False
    _before: list[Quality] = field(default_factory=list[Quality])

    def check(self, expected: nn.Module, way: Way, file: Path, calls: Sequence[Call]) -> Found:
        """Compare a file, see ``attempt.Check``."""
        found = self._found(expected, way, file, calls)
        self.refused = bool(found.refusal)
        return found

    def _found(self, expected: nn.Module, way: Way, file: Path, calls: Sequence[Call]) -> Found:
        size = 0 if way.dynamic else batch_of(calls[0])
        run, network = in_parts(way.load(file), size), in_parts(_runner_of(expected), size)
        difference, error, agreement = self._deviation(network, run)
        if not math.isfinite(error):
            return Found(difference, "its outputs are not finite or have another shape")
        if self.data is None:
            return Found(difference, self._strayed(error, agreement), Int8(error, agreement, None, None, self.left))
        if not self._before:
            self._before.append(_quality(Ran(expected, network, calls[0]), self.data))
        before, after = self._before[0], _quality(Ran(expected, run, calls[0]), self.data)
        return Found(difference, self._lost(before, after), Int8(error, agreement, before, after, self.left))

    def _deviation(self, network: Runner, run: Runner) -> tuple[float, float, float | None]:
        tallies: list[Tally] = []
        for batch in self.images:  # whose outputs may be maps as large as the images, so that none are kept
            call = call_of(batch)
            wanted, given = network(call), run(call)
            if [x.shape for x in wanted] != [x.shape for x in given]:
                return math.inf, math.inf, None
            tallies = tallies or [Tally() for _ in wanted]
            for tally, want, got in zip(tallies, wanted, given, strict=True):
                tally.add(want, got)
        scores = [tally.agreement for tally in tallies if tally.agreement is not None]
        worst = max(tally.difference for tally in tallies), max(tally.error for tally in tallies)
        return *worst, min(scores, default=None)

    def _lost(self, before: Quality, after: Quality) -> str:
        metric = before.metric
        scale = 1.0 if metric.unit == "%" else abs(before.value)
        limit = LABELLED * scale if self.max_drop is None else self.max_drop
        if metric.lost(before.value, after.value) <= limit:
            return ""
        return (
            f"its {metric.name} on the validation images is {metric.text(after.value)} and that of the network "
            f"{metric.text(before.value)}, and it may lose {metric.text(limit)} at most"
        )

    def _strayed(self, error: float, agreement: float | None) -> str:
        limit = UNLABELLED if self.max_drop is None else self.max_drop
        if agreement is None:
            off = f"its outputs are off by {100 * error:.1f} % of their size"
            return f"{off}, and {100 * limit:.3g} % are allowed" if error > limit else ""
        other = f"{100 * (1 - agreement):.1f} % of the images get another answer"
        return f"{other}, and {100 * limit:.3g} % are allowed" if 1 - agreement > limit else ""


@dataclass
class Tally:
    """Adds up how far one output of a file is from that of the network, batch by batch."""

    _squares: float = 0.0
    _size: float = 0.0
    _most: float = 0.0
    _largest: float = 0.0
    _same: int = 0
    _scores: int = 0

    def add(self, want: Tensor, got: Tensor) -> None:
        """Look at a batch."""
        wanted, off = want.double(), got.double() - want.double()
        self._squares += off.square().sum().item()
        self._size += wanted.square().sum().item()
        self._most = max(self._most, off.abs().max().item() if off.numel() else 0.0)
        self._largest = max(self._largest, wanted.abs().max().item() if off.numel() else 0.0)
        if want.dim() == 2 and want.shape[1] > 1 and want.is_floating_point():
            self._same += int((want.argmax(1) == got.argmax(1)).sum())
            self._scores += len(want)

    @property
    def error(self) -> float:
        """Root mean square of the differences, relative to that of the output; infinite where they are not finite."""
        found = math.sqrt(self._squares / self._size) if self._size else math.sqrt(self._squares)
        return found if math.isfinite(found) else math.inf

    @property
    def difference(self) -> float:
        """Largest difference, relative to the largest value."""
        return self._most / (self._largest or 1.0)

    @property
    def agreement(self) -> float | None:
        """Share of the images with the same largest score; None where these are no scores."""
        return self._same / self._scores if self._scores else None


class Ran(nn.Module):
    """A file as a network: its outputs in the structure of those of the network that it was made of, on some call."""

    def __init__(self, network: nn.Module, run: Runner, call: Call) -> None:
        super().__init__()
        self._run = run
        self._made = _structure(network(*call.args, **call.kwargs))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the file returns."""
        return self._made(self._run(call_of(kwargs or args)))


def _runner_of(network: nn.Module) -> Runner:
    return lambda call: outputs(network(*call.args, **call.kwargs))


def _structure(output: Any) -> Callable[[list[Tensor]], Any]:
    pytree = cast(Any, _pytree)
    leaves, shape = pytree.tree_flatten(output)

    def filled(tensors: list[Tensor]) -> Any:
        values = iter(tensors)
        return pytree.tree_unflatten([next(values) if isinstance(x, Tensor) else x for x in leaves], shape)

    return filled


def in_parts(run: Runner, size: int) -> Runner:
    """Let a file that takes batches of one size alone take others: piece by piece, the last one filled up."""

    def whole(call: Call) -> list[Tensor]:
        count = batch_of(call)
        if not size or count == size:
            return run(call)
        found: list[list[Tensor]] = []
        for start in range(0, count, size):
            found.append(run(rows_of(call, torch.arange(start, start + size).clamp(max=count - 1))))
        return [torch.cat(pieces)[:count] for pieces in zip(*found, strict=True)]

    return whole


def rows_of(call: Call, rows: slice | Tensor) -> Call:
    """Return some images of a call; tensors without dimensions are of all of them."""
    return call.map(lambda x: x[rows] if x.dim() else x)


def _quality(network: nn.Module, data: Data) -> Quality:
    return quality(network, data.batches("val"), data.task)
