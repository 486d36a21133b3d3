"""How long a network takes for one forward pass on this machine."""

from __future__ import annotations

import copy
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from ..errors import SettingError, nearest
from .forward import ExampleInputs, call, device_of, evaluating, moved, tensors
from .record import Record

Runtime = Literal["eager", "channels_last"]
"""How the network is run: as it is, or with images and kernels laid out channels last."""

_WARM_UP = 3  # passes; the first ones pick kernels and fill caches


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
        runtime: how it ran, ``"eager"`` or ``"channels_last"``.
    """

    milliseconds: float
    spread: float
    runs: int
    batch_size: int
    threads: int
    device: str
    runtime: str


def latency(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    threads: int | None = None,
    seconds: float = 1.0,
    runtime: Runtime = "eager",
) -> Latency:
    """Time the forward pass of ``model`` in eval mode, after a warm-up.

    Times are those of ``torch.utils.benchmark``, which waits for the GPU. The model keeps its weights,
    layout and mode, and torch its number of threads.

    Args:
        model: any network.
        example_inputs: what its forward takes, of the batch size to time; moved to the model's device.
        threads: for torch to use on the CPU; None means as many as now.
        seconds: to measure for, at least; one pass is timed in any case.
        runtime: see ``Runtime``; ``"channels_last"`` works on a copy.

    Returns:
        The median and the spread, with the conditions they were measured under.

    Raises:
        ModelError: if the model does not run on the example inputs.
        SettingError: if ``threads``, ``seconds`` or ``runtime`` is out of range.
    """
    _check(threads, seconds, runtime)
    from torch.utils.benchmark import Timer

    layout = None
    if runtime == "channels_last":
        layout = torch.channels_last
        model = copy.deepcopy(model).to(memory_format=layout)
    device = device_of(model)
    inputs = moved(example_inputs, device, layout)
    with evaluating(model), torch.inference_mode(), _threads(threads) as used:
        for _ in range(_WARM_UP):
            call(model, inputs)
        timer = Timer("call(model, inputs)", globals={"call": call, "model": model, "inputs": inputs}, num_threads=used)
        timed = timer.blocked_autorange(min_run_time=seconds)
    first = next(tensors(inputs), None)
    return Latency(
        milliseconds=timed.median * 1e3,
        spread=timed.iqr * 1e3,
        runs=len(timed.times) * timed.number_per_run,
        batch_size=1 if first is None or first.ndim == 0 else first.shape[0],
        threads=used,
        device=str(device),
        runtime=runtime,
    )


def _check(threads: int | None, seconds: float, runtime: str) -> None:
    if runtime not in get_args(Runtime):
        known = get_args(Runtime)
        raise SettingError(f"unknown runtime '{runtime}'{nearest(runtime, known)}: choose {' or '.join(known)}")
    if threads is not None and threads < 1:
        raise SettingError(f"the number of threads must be 1 or more, not {threads}")
    if not seconds > 0:
        raise SettingError(f"the seconds to measure for must be more than 0, not {seconds}")


@contextmanager
def _threads(threads: int | None) -> Generator[int]:
    before = torch.get_num_threads()
    used = before if threads is None else threads
    torch.set_num_threads(used)
    try:
        yield used
    finally:
        torch.set_num_threads(before)
