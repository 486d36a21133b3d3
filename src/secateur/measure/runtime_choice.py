"""Which runtime is the fastest for a network on this machine."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
from torch import nn

from secateur.arguments import checked
from secateur.core.surgery.private_copies import apart
from secateur.events import Event, Tell, ignore
from secateur.measure.conversion import onnx_program
from secateur.measure.forward import ExampleInputs, device_of, evaluating, moved
from secateur.measure.runtimes import Ready, Runtime, engine_of, from_program, missing, ready, threads_set, verified
from secateur.measure.side_by_side import deciding_clock, medians_of, turns_of
from secateur.rules import Seconds, Threads

_ROUNDS = 5
_EQUAL = 1.05  # times the fastest; less is chance


@checked
@apart("model")
def fastest_runtime(
    model: nn.Module,
    example_inputs: ExampleInputs,
    among: Sequence[Runtime],
    *,
    threads: Threads = None,
    seconds: Seconds = 0.25,
    tell: Tell = ignore,
) -> Runtime | None:
    """Time a network in several runtimes in turns, briefly, and return the fastest.

    A runtime that is not installed, cannot take the network or computes something else is passed over; where one alone
    is left, nothing is timed.

    Args:
        model: any network; stays as it is.
        example_inputs: what its forward takes, of the batch size to be fast for.
        among: the runtimes; the first of those within a twentieth of the fastest is taken, so that a tie is decided
            alike each time.
        threads: of the CPU; None means as many as torch has now.
        seconds: to time each for.
        tell: hears of each, under the stage ``"runtime"``.

    Returns:
        None if no runtime can have the network.
    """
    device = device_of(model)
    usable: list[Runtime] = [runtime for runtime in dict.fromkeys(among) if not missing(runtime, device)]
    made: dict[str, Ready] = {}
    program: bytes | None = None
    with evaluating(model), torch.inference_mode(), threads_set(threads) as used:
        for number, runtime in enumerate(usable):
            tell(Event("runtime", f"trying {runtime}", number, len(usable)))
            try:
                if engine_of(runtime) != "torch":
                    inputs = moved(example_inputs, device)
                    program = program or onnx_program(model, inputs)
                    candidate = from_program(program, inputs, runtime, used)
                else:
                    candidate = ready(model, example_inputs, runtime, used)
                verified(model, example_inputs, candidate, runtime)
            except Exception:  # runtimes raise anything; one that cannot take the network is no candidate
                continue
            made[runtime] = candidate
        if len(made) > 1:
            clock = deciding_clock(used, device)
            times = turns_of(made, seconds, clock, rounds=_ROUNDS, most=_ROUNDS)
            medians = {name: statistics.median(medians_of(times[name], clock)) for name in made}
            return next(name for name in usable if name in made and medians[name] <= _EQUAL * min(medians.values()))
    return next((runtime for runtime in usable if runtime in made), None)
