"""What an int8 file must hold against the network: as good by the metric, or nearly the same answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from secateur.core.surgery.channel_differences import gap, sizes, wide
from secateur.data import Data
from secateur.data.inputs import Inputs
from secateur.export.attempt import Way
from secateur.export.comparison import Call, Found, Int8, Runner, batch_of, call_of, outputs, unlike
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
        names: of the outputs; empty: they are called by their place in what the network returns.
        left: layers that stay in float32 in the file that is compared.
        refused: whether the last file was compared and has lost too much.
    """

    images: Sequence[Inputs]
    data: Data | None
    max_drop: float | None
    names: Sequence[str] = ()
    left: tuple[str, ...] = ()
    refused: bool = False
    _before: list[Quality] = field(default_factory=list[Quality])

    def check(self, expected: nn.Module, way: Way, file: Path, calls: Sequence[Call]) -> Found:
        """Compare a file, see ``attempt.Check``."""
        found = self._found(expected, way, file, calls)
        self.refused = bool(found.refusal) and found.int8 is not None
        return found

    def _found(self, expected: nn.Module, way: Way, file: Path, calls: Sequence[Call]) -> Found:
        size = 0 if way.dynamic else batch_of(calls[0])
        run, network = in_parts(way.load(file), size), in_parts(_runner_of(expected), size)
        tallies, reason = self._tallies(network, run)
        difference = max((it.difference for it in tallies), default=math.inf)
        error = max((it.error for it in tallies), default=math.inf)
        if reason or not math.isfinite(error):
            return Found(difference, reason or "its outputs are too large to compare")
        agreement = min((it.agreement for it in tallies if it.agreement is not None), default=None)
        worst, words = self._worst(tallies, expected, calls[0])
        near = Int8(error, agreement, None, None, self.left, words, difference)
        if self.data is None:
            return Found(difference, self._strayed(worst, words), near)
        if not self._before:
            self._before.append(_quality(Ran(expected, network, calls[0]), self.data))
        reasons: list[str] = []
        before, after = self._before[0], _quality(Ran(expected, _watched(run, network, reasons), calls[0]), self.data)
        if reasons:
            return Found(difference, f"on the validation images {reasons[0]}")
        return Found(difference, self._lost(before, after), replace(near, before=before, after=after))

    def _tallies(self, network: Runner, run: Runner) -> tuple[list[Tally], str]:
        """Return what was found of each output, or why they cannot be compared."""
        tallies: list[Tally] = []
        for batch in self.images:  # whose outputs may be maps as large as the images, so that none are kept
            call = call_of(batch)
            wanted, given = network(call), run(call)
            if reason := unlike(wanted, given):
                return [], reason
            tallies = tallies or [Tally() for _ in wanted]
            for tally, want, got in zip(tallies, wanted, given, strict=True):
                tally.add(want, got)
        return tallies, ""

    def _worst(self, tallies: Sequence[Tally], network: nn.Module, call: Call) -> tuple[Tally, str]:
        """Return the output that has lost the most by its own measure, and in words which that is of several."""
        place = max(range(len(tallies)), key=lambda number: tallies[number].lost)
        worst = tallies[place]
        if len(tallies) == 1:
            return worst, ""
        name = f"'{self.names[place]}'" if self.names else _places(network(*call.args, **call.kwargs))[place]
        return worst, f"of {len(tallies)} outputs {name} is the worst: {worst.text()}"

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

    def _strayed(self, worst: Tally, words: str) -> str:
        limit = UNLABELLED if self.max_drop is None else self.max_drop
        return f"{words or worst.text()}, and {100 * limit:.3g} % are allowed" if worst.lost > limit else ""


@dataclass
class Tally:
    """Adds up how far one output of a file is from that of the network, batch by batch."""

    _squares: float = 0.0
    _size: float = 0.0
    _most: float = 0.0
    _largest: float = 0.0
    _same: float = 0.0
    _scores: int = 0

    def add(self, want: Tensor, got: Tensor) -> None:
        """Look at a batch."""
        wanted, off = sizes(want), gap(wide(want), wide(got))
        self._squares += off.square().sum().item()
        self._size += wanted.square().sum().item()
        self._most = max(self._most, off.max().item() if off.numel() else 0.0)
        self._largest = max(self._largest, wanted.max().item() if off.numel() else 0.0)
        if want.dim() == 2 and want.shape[1] > 1 and want.is_floating_point():
            self._same += int((want.argmax(1) == got.argmax(1)).sum())
            self._scores += len(want)
        elif not (want.is_floating_point() or want.is_complex()) and off.numel():
            self._same += (want == got).double().mean().item() * len(want)
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
        """Share of the images with the same largest score, or of the same whole numbers; None where it is neither."""
        return self._same / self._scores if self._scores else None

    @property
    def lost(self) -> float:
        """Share of the images with another largest score; of what is no scores the error."""
        return self.error if self.agreement is None else 1 - self.agreement

    def text(self) -> str:
        """Return what is lost, in words."""
        if self.agreement is None:
            return f"its values are off by {100 * self.error:.1f} % of their size"
        return f"{100 * self.lost:.1f} % of the images get another answer"


class Ran(nn.Module):
    """A file as a network: its outputs in the structure of those of the network that it was made of, on some call."""

    def __init__(self, network: nn.Module, run: Runner, call: Call) -> None:
        super().__init__()
        self._run = run
        self._made = _structure(network(*call.args, **call.kwargs))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the file returns."""
        return self._made(self._run(call_of(kwargs or args)))


def _places(output: Any) -> list[str]:
    """Return where each tensor stands in what a network returns, as Python says it."""
    pytree = cast(Any, _pytree)
    leaves, _ = pytree.tree_flatten_with_path(output)
    return [f"output{pytree.keystr(path)}" for path, leaf in leaves if isinstance(leaf, Tensor)]


def _runner_of(network: nn.Module) -> Runner:
    return lambda call: outputs(network(*call.args, **call.kwargs))


def _watched(run: Runner, network: Runner, reasons: list[str]) -> Runner:
    """Note why what comes out that is not finite is not what the network puts out either."""

    def watched(call: Call) -> list[Tensor]:
        found = run(call)
        if not all(bool(each.isfinite().all()) for each in found) and (reason := unlike(network(call), found)):
            reasons.append(reason)
        return found

    return watched


def _structure(output: Any) -> Callable[[list[Tensor]], Any]:
    pytree = cast(Any, _pytree)
    leaves, shape = pytree.tree_flatten(output)

    def filled(tensors: list[Tensor]) -> Any:
        values = iter(tensors)
        return pytree.tree_unflatten([next(values) if isinstance(x, Tensor) else x for x in leaves], shape)

    return filled


def in_parts(run: Runner, size: int) -> Runner:
    """Let a file that takes batches of one size alone take others: piece by piece, the last one filled up.

    Numbers of whole batches come as one for each piece.
    """

    def whole(call: Call) -> list[Tensor]:
        count = batch_of(call)
        if not size or count == size:
            return run(call)
        found: list[list[Tensor]] = []
        for start in range(0, count, size):
            found.append(run(rows_of(call, torch.arange(start, start + size).clamp(max=count - 1))))
        parts = zip(*found, strict=True)
        return [torch.cat(pieces)[:count] if pieces[0].dim() else torch.stack(pieces) for pieces in parts]

    return whole


def rows_of(call: Call, rows: slice | Tensor) -> Call:
    """Return some images of a call; tensors without dimensions are of all of them."""
    return call.map(lambda x: x[rows] if x.dim() else x)


def _quality(network: nn.Module, data: Data) -> Quality:
    return quality(network, data.batches("val"), data.task)
