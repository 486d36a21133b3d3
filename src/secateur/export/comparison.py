"""What an exported file must hold against the network: the same outputs on two batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from secateur.core.surgery.channel_differences import gap, own_rounding, relative_gap, wide, worst_channel
from secateur.core.surgery.forward import INPUTS, listed
from secateur.core.surgery.generators import common
from secateur.core.surgery.steady_draws import Steady
from secateur.errors import ExportError
from secateur.measure import Quality

Value: TypeAlias = Tensor | bool | int | float | str | None
Inputs: TypeAlias = Annotated[Tensor | tuple[Value, ...] | Mapping[str, Value], INPUTS]
Runner: TypeAlias = Callable[["Call"], list[Tensor]]
Kind: TypeAlias = Literal["pt2", "onnx", "source", "onnx-int8", "openvino-int8"]

TOLERANCE = 1e-4
_PART_TOLERANCE = 10 * TOLERANCE
"""Of a part of an output relative to its own size: parts are smaller than the sums that were rounded."""
_FLOOR = 1e-2  # of the largest value of an output; what is smaller holds the rounding of what is not
_PAIR = ("before", "after")


@dataclass(frozen=True)
class Int8:
    """How near a file whose layers are in int8 comes to the network.

    Attributes:
        error: root mean square of the differences of an output, relative to that of the output; the worst output.
        agreement: share of the images whose largest output is the same; None where outputs are no scores of classes.
        before: how well the network does on the validation images; None without labelled ones.
        after: how well the file does on them.
        left: layers that stay in float32.
        worst: which of several outputs has lost the most, and how much, in words; empty where there is one.
        most: largest deviation of any number that was put out, relative to the largest of its output.
    """

    error: float
    agreement: float | None = None
    before: Quality | None = None
    after: Quality | None = None
    left: tuple[str, ...] = ()
    worst: str = ""
    most: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        pair = {name: None if one is None else one.to_dict() for name, one in vars(self).items() if name in _PAIR}
        worst = {"worst": self.worst} if self.worst else {}
        return {
            "error": self.error,
            "most": self.most,
            "agreement": self.agreement,
            "left": list(self.left),
            **pair,
            **worst,
        }

    def text(self) -> str:
        """Return how near the file comes and what stays in float32, in words."""
        if self.before is not None and self.after is not None:
            metric = self.before.metric
            near = (
                f"validation {metric.name} {metric.text(self.after.value)}, in float32 "
                f"{metric.text(self.before.value)}, of {self.after.examples:,} examples; outputs off by "
                f"{100 * self.error:.2g} %, by {100 * self.most:.2g} % of the largest at most"
            )
        elif self.agreement is not None:
            near = f"{100 * self.agreement:.4g} % of the images get the same answer"
        else:
            near = f"off by {100 * self.error:.2g} %"
        count = len(self.left)
        left = f", {count} layer{'' if count == 1 else 's'} in float32: {', '.join(self.left)}" if count else ""
        worst = f"; {self.worst}" if self.worst else ""
        return f"int8: {near}{worst}{left}"


@dataclass(frozen=True)
class Found:
    """What a comparison of a file with a network has found.

    Attributes:
        difference: see ``Exported``.
        refusal: why the file is not to be kept; empty if it is.
        int8: of a file in int8 how near it comes.
    """

    difference: float
    refusal: str = ""
    int8: Int8 | None = None


@dataclass(frozen=True)
class Exported:
    """A file that computes what the network computes.

    Attributes:
        path: the file.
        kind: ``"pt2"``, ``"onnx"``, ``"source"``, ``"onnx-int8"`` or ``"openvino-int8"``.
        difference: largest absolute difference of any output, relative to the output's largest value; each of its
            channels, and each index of its last dimension, was compared by its own as well.
        dynamic_batch: whether the file takes batches of any size; otherwise only that of the example inputs.
        beside: the file with the weights, where they stand apart.
        int8: how near a file in int8 comes to the network; None for others, which compute the same.
        remark: how it differs from the ONNX file that the network came from, in words; empty where it does not.
    """

    path: Path
    kind: Kind
    difference: float
    dynamic_batch: bool
    beside: Path | None = None
    int8: Int8 | None = None
    remark: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that were written."""
        return (self.path,) if self.beside is None else (self.path, self.beside)


@dataclass(frozen=True)
class Call:
    """Positional and named inputs of one forward pass, on the CPU; those that are no tensors are part of a program."""

    args: tuple[Value, ...]
    kwargs: dict[str, Value]

    def map(self, function: Callable[[Tensor], Tensor]) -> Call:
        """Return the call with every tensor replaced."""

        def replaced(value: Value) -> Value:
            return function(value) if isinstance(value, Tensor) else value

        return Call(tuple(map(replaced, self.args)), {name: replaced(x) for name, x in self.kwargs.items()})

    def tensors(self) -> list[Tensor]:
        """Return all tensors in order."""
        return [value for value in (*self.args, *self.kwargs.values()) if isinstance(value, Tensor)]


def difference(network: nn.Module, run: Runner, call: Call) -> float:
    """Return the largest difference of an output relative to its largest value; inf where not comparable.

    A channel, or an index of the last dimension, that is off by more than its own rounding counts by its own size.

    What both draw at random, they draw from the same states.
    """
    states = [(source, source.get()) for source in common()]
    expected = _outputs_of(network, call)
    for source, state in states:
        source.put(state)
    found = run(call)
    whole, part = _whole(expected, found), _part(expected, found)
    if part and whole <= TOLERANCE:  # which the whole hides, if it is no rounding
        part = _part(expected, found, own_rounding(lambda roll: _outputs_of(network, call.map(roll))))
    return max(whole, part)


def steady_difference(network: nn.Module, run: Runner, call: Call) -> float:
    """Do the same where the file has constants for all that is drawn at random, see ``Steady``; inf if nothing is."""
    with Steady() as steady:
        expected = _outputs_of(network, call)
    found = run(call)
    return max(_whole(expected, found), _part(expected, found)) if steady.used else float("inf")


def why_unlike(network: nn.Module, run: Runner, call: Call) -> str:
    """Say why a file and its network cannot be compared; empty where they can."""
    return unlike(_outputs_of(network, call), run(call))


def unlike(expected: list[Tensor], given: list[Tensor]) -> str:
    """Say why the outputs of a file cannot be compared with those of its network; empty where they can."""
    shapes, wanted = ([list(x.shape) for x in these] for these in (given, expected))
    if shapes != wanted:
        return f"its outputs have the shapes {shapes}, and those of the network {wanted}"
    if any(bool(x.isnan().any()) for x in expected):
        return "the network itself puts out NaN here, which nothing can be compared with; export what comes before that"
    if any(x.numel() and bool(x.isinf().all()) for x in expected):
        return "the network itself puts out nothing that is finite here; export it with sound weights"
    if not all(bool(gap(wide(x), wide(y)).isfinite().all()) for x, y in zip(expected, given, strict=True)):
        return "it puts out infinity or NaN where the network does not, or a finite number where that does"
    return ""


def _outputs_of(network: nn.Module, call: Call) -> list[Tensor]:
    return outputs(network(*call.args, **call.kwargs))


def _whole(expected: list[Tensor], given: list[Tensor]) -> float:
    """Return the largest difference of an output relative to its largest value; inf where not comparable."""
    if [x.shape for x in expected] != [x.shape for x in given]:
        return float("inf")
    return max(map(relative_gap, expected, given), default=0.0)


def _part(expected: list[Tensor], given: list[Tensor], rounding: Sequence[Tensor] = ()) -> float:
    """Return how far the worst channel is off where that is no rounding, else 0; in units of ``TOLERANCE``."""
    if [x.shape for x in expected] != [x.shape for x in given]:
        return float("inf")
    own = rounding or [None] * len(expected)
    parts = (worst_channel(want, got, _FLOOR, it) for want, got, it in zip(expected, given, own, strict=True))
    worst = max(parts, default=0.0)
    return worst * TOLERANCE / _PART_TOLERANCE if worst > _PART_TOLERANCE else 0.0


def outputs(value: Any) -> list[Tensor]:
    """Return the tensors in a network's output, in the order of the exporters."""
    leaves: list[Any] = cast(Any, _pytree).tree_leaves(value)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def call_of(inputs: Inputs) -> Call:
    """Return the inputs as one call, on the CPU.

    Raises:
        ExportError: if they are nothing that a program can take, or an empty batch.
    """
    if listed(inputs) is not None:
        raise ExportError(
            "a network that takes a list of images, as detectors do, chooses among what it finds, which no exported "
            "program follows: export its backbone and heads alone, as a network of one tensor (see 'Detection' in "
            "docs/tasks.md)"
        )
    if isinstance(inputs, Tensor):
        call = Call((inputs,), {})
    elif isinstance(inputs, Mapping):
        call = Call((), dict(inputs))
    else:
        call = Call(tuple(inputs), {})
    values = cast("list[object]", [*call.args, *call.kwargs.values()])
    if not call.tensors() or not all(x is None or isinstance(x, Tensor | bool | int | float | str) for x in values):
        raise ExportError(
            "example inputs must be a tensor, or a tuple or dictionary of tensors and of plain numbers, texts or None"
        )
    if any(x.dim() and not len(x) for x in call.tensors()):
        raise ExportError("the example inputs are a batch of 0 images, with which nothing runs; give one or more")
    return call.map(lambda x: x.detach().cpu())


def batch_of(call: Call) -> int:
    """Return the batch size that all inputs share; 0 where they share none."""
    sizes = {x.shape[0] if x.ndim else 0 for x in call.tensors()}
    return sizes.pop() if len(sizes) == 1 else 0


def random_call(call: Call, batch: int, seed: int) -> Call:
    """Return random images, as many as ``batch`` (0 = unchanged); whole numbers repeat the example's."""
    generator = torch.Generator().manual_seed(seed)

    def fill(x: Tensor) -> Tensor:
        shape = (batch, *x.shape[1:]) if batch else x.shape
        if x.is_floating_point():
            return torch.randn(shape, generator=generator).to(x.dtype)
        return x if not batch else x[torch.arange(batch) % len(x)]

    return call.map(fill)
