"""How long a network takes for one forward pass on this machine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from secateur.arguments import checked
from secateur.core.surgery.private_copies import apart
from secateur.measure.forward import ExampleInputs, device_of, evaluating, length
from secateur.measure.quiet_exporters import ready_to_compile
from secateur.measure.record import Record
from secateur.measure.runtimes import Runtime, ready, threads_set, verified
from secateur.rules import Seconds, Threads

WARM_UP = 3  # passes; the first ones pick kernels and fill caches


@dataclass(frozen=True)
class Latency(Record):
    """The time of one forward pass.

    Attributes:
        milliseconds: median time of one pass of the whole batch.
        spread: interquartile range of the times, in milliseconds.
        runs: how many passes were timed.
        batch_size: examples in one pass.
        threads: of torch inside an operator, on the CPU.
        device: where it ran, such as ``"cpu"`` or ``"cuda:0"``.
        runtime: how it ran, see ``Runtime``.
    """

    milliseconds: float
    spread: float
    runs: int
    batch_size: int
    threads: int
    device: str
    runtime: str


@checked
@apart("model")
def latency(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    threads: Threads = None,
    seconds: Seconds = 1.0,
    runtime: Runtime = "eager",
) -> Latency:
    """Time the forward pass of ``model`` in eval mode, after a warm-up.

    Times are those of ``torch.utils.benchmark``; a GPU is waited for. The model keeps its weights,
    layout and mode, and torch its number of threads.

    Args:
        model: any network.
        example_inputs: what its forward takes, of the batch size to time; moved to the model's device.
        threads: of the CPU; None means as many as torch has now.
        seconds: to measure for, at least; one pass is timed in any case.
        runtime: see ``Runtime``; all but ``"eager"`` work on a copy, and foreign ones are timed only if they compute
            what PyTorch computes.

    Returns:
        The median and the spread, with the conditions they were measured under.

    Raises:
        ExportError: if the network cannot be converted for the runtime.
        ModelError: if the model does not run on the example inputs, or runs differently in the runtime.
        SettingError: if ``threads``, ``seconds`` or ``runtime`` is out of range, or the runtime is not installed.
    """
    ready_to_compile()
    from torch.utils.benchmark import Timer

    with evaluating(model), torch.inference_mode(), threads_set(threads) as used:
        made = ready(model, example_inputs, runtime, used)
        if runtime not in ("eager", "channels_last"):
            verified(model, example_inputs, made, runtime)
        for _ in range(WARM_UP):
            made.run()
        timer = Timer("run()", globals={"run": made.run}, num_threads=used)
        timed = timer.blocked_autorange(min_run_time=seconds)
    return Latency(
        milliseconds=timed.median * 1e3,
        spread=timed.iqr * 1e3,
        runs=len(timed.times) * timed.number_per_run,
        batch_size=batch_of(example_inputs),
        threads=used,
        device=str(device_of(model)),
        runtime=runtime,
    )


def batch_of(inputs: ExampleInputs) -> int:
    """Return how many examples go through in one pass, as far as a list of images or the first tensor tells."""
    return length(inputs) or 1
