"""A network ready to run: batch norms folded, in the memory format that is fastest here, and proven to be the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateur.arguments import checked
from secateur.core.batchnorm_folding import fuse, fusible
from secateur.core.surgery import relative_difference, run, tensors_in
from secateur.core.surgery.precision import InDouble, widened
from secateur.core.surgery.private_copies import apart
from secateur.core.surgery.steady_draws import Steady
from secateur.core.surgery.untouched import owned, private
from secateur.errors import ModelError, VerificationError, first_line
from secateur.events import Event, Tell, ignore
from secateur.measure.forward import ExampleInputs, device_of, moved, refilled, tensors
from secateur.measure.latency import Latency
from secateur.measure.layer_execution import fastest
from secateur.measure.runtimes import threads_set
from secateur.measure.side_by_side import side_by_side
from secateur.rules import Seconds, Threads
from secateur.typed import check_types

MemoryFormat = Literal["contiguous", "channels_last"]
Pairs = tuple[tuple[str, str], ...]

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
"""Largest relative difference of the outputs that passes for rounding, by the type of the weights."""

_LAYOUTS: Mapping[MemoryFormat, torch.memory_format] = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}
AS_GIVEN = "as given"


@dataclass(frozen=True, eq=False)
class Deployed:
    """A network ready to run.

    Attributes:
        model: a copy in evaluation mode that takes no gradients; run it under ``torch.inference_mode``.
        folded: each layer with the batch norm that was folded into it.
        left: such pairs whose folding moved the outputs beyond rounding, so that it was undone.
        memory_format: how the kernels of its convolutions are laid out.
        difference: largest difference from the outputs of the network it was made from, relative to the largest, on
            the example inputs, on random inputs, and on a batch of another size where the network takes one.
        times: of a forward pass in PyTorch eager, taken in turns: of the network ``"as given"``, and of this one in
            each memory format that computes the same; empty if nothing was timed.
    """

    model: nn.Module
    folded: Pairs
    left: Pairs
    memory_format: MemoryFormat
    difference: float
    times: Mapping[str, Latency] = field(default_factory=dict[str, Latency])

    def __post_init__(self) -> None:
        check_types(self)


@checked
@apart("model")
def deploy(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    fold: bool = True,
    time: bool = True,
    seconds: Seconds = 0.5,
    threads: Threads = None,
    tell: Tell = ignore,
) -> Deployed:
    """Make a copy of a network that computes the same and runs as fast as PyTorch eager allows.

    Batch norms are folded into the layers before them where that is exact. With ``time``, layers with a choice run
    the faster way, see ``fastest``, and kernels are laid out channels last if that is measured to be faster, beyond
    noise; a network that does not run so, or computes something else, stays as it is. Every step is compared with the
    network, which draws the same random numbers then; where rounding alone could explain a difference, both are
    compared in float64.

    Args:
        model: any network; left as it is.
        example_inputs: what its forward takes, of the batch size to be fast for; moved to the model's device.
        fold: whether to fold batch norms.
        time: whether anything may be timed; without, memory format and execution stay those of the network.
        seconds: to time each variant for, at least.
        threads: of the CPU to time with; None means as many as torch has now.
        tell: hears of what is done, under the stage ``"deploy"``.

    Raises:
        ModelError: if the network cannot be copied, or does not run on the inputs.
        SettingError: if ``threads`` or ``seconds`` is out of range.
        VerificationError: if even an unchanged copy does not compute the same, or the network itself another time when
            it draws the same random numbers.
    """
    inputs = moved(example_inputs, device_of(model))
    proof = _Proof(model, inputs)
    proof.check_repeats()
    network = _copied(model)
    if time:
        with threads_set(threads):
            fastest(network, owned(inputs))
    if not proof.holds(network):
        raise VerificationError(
            f"a copy of {type(model).__name__} computes something else than the network (outputs differ by "
            f"{proof.difference(network):.1e}), so that nothing can be proven"
        )
    found = fusible(network, owned(inputs)) if fold else []
    if found:
        tell(Event("deploy", f"folding {len(found)} batch norms and comparing"))
    folded = _exact(network, found, proof)
    fuse(network, folded)
    memory_format, times = _format_of(network), dict[str, Latency]()
    if time:
        tell(Event("deploy", "timing memory formats"))
        network, memory_format, times = _fastest_format(model, network, proof, seconds, threads)
    left = tuple(pair for pair in found if pair not in folded)
    return Deployed(network, tuple(folded), left, memory_format, proof.difference(network), times)


def laid_out(network: nn.Module, memory_format: MemoryFormat) -> nn.Module:
    """Return a copy of a network with its kernels in a memory format.

    Raises:
        ModelError: if there are kernels that it is not made for, such as those of 3-d convolutions.
    """
    try:
        return private(network).to(memory_format=_LAYOUTS[memory_format])
    except RuntimeError as error:
        raise ModelError(
            f"{type(network).__name__} cannot be laid out {memory_format}: {first_line(error)}; leave it as it is"
        ) from None


def _copied(model: nn.Module) -> nn.Module:
    made = private(model)
    made.zero_grad(set_to_none=True)
    return made.eval().requires_grad_(False)


def _exact(network: nn.Module, pairs: list[tuple[str, str]], proof: _Proof) -> list[tuple[str, str]]:
    """Return the pairs that can be folded together without moving the outputs, found by halving."""
    if not pairs or _folds(network, pairs, proof):
        return pairs
    if len(pairs) == 1:
        return []
    middle = len(pairs) // 2
    found = [*_exact(network, pairs[:middle], proof), *_exact(network, pairs[middle:], proof)]
    return found if _folds(network, found, proof) else []


def _folds(network: nn.Module, pairs: list[tuple[str, str]], proof: _Proof) -> bool:
    trial = private(network)
    fuse(trial, pairs)
    return proof.holds(trial)


def _format_of(network: nn.Module) -> MemoryFormat:
    """Return the memory format of the kernels; contiguous if any tells."""
    kernels = [tensor for tensor in network.parameters() if tensor.dim() == 4]
    last = [tensor.is_contiguous(memory_format=torch.channels_last) for tensor in kernels]
    plain = [tensor.is_contiguous() for tensor in kernels]
    return "channels_last" if all(last) and not all(plain) else "contiguous"


def _fastest_format(
    given: nn.Module, network: nn.Module, proof: _Proof, seconds: float, threads: int | None
) -> tuple[nn.Module, MemoryFormat, dict[str, Latency]]:
    """Time the network in both memory formats, with inputs as they are given, and return the faster one."""
    own = _format_of(network)
    other: MemoryFormat = "contiguous" if own == "channels_last" else "channels_last"
    made: dict[str, nn.Module] = {own: network}
    if any(tensor.dim() == 4 for tensor in network.parameters()):
        try:
            changed = laid_out(network, other)
        except ModelError:
            pass
        else:
            if proof.holds(changed):
                made[other] = changed
    timed = side_by_side({AS_GIVEN: given, **made}, owned(proof.example), "eager", threads=threads, seconds=seconds)
    faster = other in made and timed.differ(other, own) and timed.ratio(other, own) < 1
    chosen = other if faster else own
    return made[chosen], chosen, dict(timed.latencies)


class _Proof:
    """What a network computes on a few inputs, to hold others against.

    Args:
        model: the network.
        example: what it takes; not changed by networks that write into their inputs.

    Raises:
        ModelError: if it does not run on them.
    """

    def __init__(self, model: nn.Module, example: ExampleInputs) -> None:
        self.example = example
        self._model = model
        kinds = {x.dtype for x in model.parameters() if x.dtype in TOLERANCES} or {torch.float32}
        self._tolerance = max(TOLERANCES[kind] for kind in kinds)
        self._trials = [(example, run(model, example))]
        for other in _others(example):
            try:
                outputs = run(model, other)
            except ModelError:
                continue
            finite = all(bool(x.isfinite().all()) for x in tensors_in(outputs))
            if finite and relative_difference(outputs, run(model, other)) <= self._tolerance:
                self._trials.append((other, outputs))

    def check_repeats(self) -> None:
        """Refuse a network that puts out something else when it draws the same numbers.

        Raises:
            VerificationError: if it does.
        """
        difference = self._between_two_runs(self.example)
        if difference > self._tolerance and device_of(self._model).type != "mps":
            with InDouble():
                difference = min(difference, self._between_two_runs(widened(self.example)))
        if difference > self._tolerance:
            raise VerificationError(
                f"{type(self._model).__name__} computes something else each time it runs on the same inputs and draws "
                f"the same numbers (outputs differ by {difference:.1e}), so that nothing can be proven; let its "
                "forward draw from the generators of torch, numpy and Python alone, or from some that it holds"
            )

    def _between_two_runs(self, inputs: Any) -> float:
        return relative_difference(run(self._model, inputs), run(self._model, inputs))

    def holds(self, network: nn.Module) -> bool:
        """Tell whether a network computes the same but for rounding."""
        return self.difference(network) <= self._tolerance

    def difference(self, network: nn.Module) -> float:
        """Return the largest relative difference of a network's outputs; where it is large, the one in float64."""
        try:
            found = max(relative_difference(want, run(network, inputs)) for inputs, want in self._trials)
            if found > self._tolerance:
                found = min(found, self._in_double(network))
            return found if found <= self._tolerance else min(found, self._if_steady(network))
        except ModelError:
            return math.inf

    def _in_double(self, network: nn.Module) -> float:
        """Compare in float64: an error in the last digit may change what a network chooses, or adds up on a GPU."""
        if device_of(network).type == "mps":  # which has no float64
            return math.inf
        wide = [widened(inputs) for inputs, _ in self._trials]
        with InDouble():
            return max(relative_difference(run(self._model, inputs), run(network, inputs)) for inputs in wide)

    def _if_steady(self, network: nn.Module) -> float:
        """Compare with constants for what is drawn: noise like a tensor is drawn in the order of its memory."""
        worst = 0.0
        for inputs, _ in self._trials:
            with Steady() as steady:
                expected = run(self._model, inputs)
            if not steady.used:
                return math.inf
            with Steady():
                worst = max(worst, relative_difference(expected, run(network, inputs)))
        return worst


def _others(example: ExampleInputs) -> Iterator[ExampleInputs]:
    """Yield random inputs of the same shapes, and with one more example; what may not be any number repeats the given.

    These are whole numbers, and beside images tables of floating-point ones: such as boxes, whose first column says in
    which image they lie, and operators read memory wherever that points.
    """
    generator = torch.Generator().manual_seed(0)
    least = min(3, max((x.dim() for x in tensors(example) if x.is_floating_point()), default=0))

    def filled(x: Tensor, more: int) -> Tensor:
        if x.is_floating_point() and x.dim() >= least:
            shape = (x.shape[0] + more, *x.shape[1:]) if x.dim() else x.shape
            return torch.randn(shape, generator=generator).to(x.device, x.dtype)
        return x[torch.arange(x.shape[0] + more, device=x.device) % x.shape[0]] if more else x

    given = list(tensors(example))
    yield refilled(example, iter([filled(x, 0) for x in given]))
    sizes = {x.shape[0] if x.dim() else 0 for x in given}
    if len(sizes) == 1 and sizes != {0}:
        yield refilled(example, iter([filled(x, 1) for x in given]))
