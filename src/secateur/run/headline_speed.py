"""In what a run states how fast its network is, and the one measurement that states it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from secateur.budget import Budget, agreed
from secateur.errors import SettingError, first_line
from secateur.events import Event, Tell
from secateur.measure import Runtime, SpeedUp, fastest_runtime, missing, side_by_side
from secateur.measure.forward import ExampleInputs, device_of
from secateur.measure.runtimes import known
from secateur.measure.speed_up import DENSE, PRUNED
from secateur.recipe_rules import EXPORTS
from secateur.run.device_placement import several_processes
from secateur.run.job import Job

_PYTORCH: tuple[Runtime, ...] = ("eager", "channels_last")
_MEANT_FOR: dict[str, tuple[Runtime, ...]] = {
    "pt2": _PYTORCH,
    "source": _PYTORCH,
    "onnx": ("onnxruntime", "openvino"),
    "onnx-int8": ("onnxruntime_int8", "openvino_int8"),
    "openvino-int8": ("openvino_int8",),
}
_UNTIMED: tuple[Runtime, ...] = ("onnxruntime", "openvino", "channels_last", "eager")


def meant_for(formats: Sequence[str]) -> tuple[Runtime, ...]:
    """Return the runtimes that can run a network which is exported in these formats.

    ``compile`` is none of them: it takes minutes, so it must be named.
    """
    return tuple(dict.fromkeys(runtime for kind in formats for runtime in _MEANT_FOR[kind])) or _PYTORCH


def asked_for(
    runtime: Runtime | Sequence[Runtime] | None, threads: int | None, budget: Budget | None
) -> tuple[Runtime | None, tuple[Runtime, ...], int | None]:
    """Return the runtime that is named, if one is, those among which the fastest is taken otherwise, and the threads.

    Raises:
        SettingError: if a runtime is unknown, or the budget names another one, or other threads.
    """
    several: tuple[Runtime, ...] = (
        () if runtime is None or isinstance(runtime, str) else tuple(known(each) for each in runtime)
    )
    named, threads = agreed(budget, known(runtime) if isinstance(runtime, str) else None, threads)
    return named, several or meant_for(EXPORTS), threads


def check_runtime(runtime: Runtime | None, device: torch.device | str) -> None:
    """Refuse a runtime that is to be timed and cannot be had here, before any work.

    Raises:
        SettingError: saying what to install.
    """
    if runtime is not None and (reason := missing(known(runtime), device)):
        raise SettingError(reason)


def chosen(job: Job) -> Runtime:
    """Return the fastest runtime of those that the network is meant for, or what an earlier run of the job has chosen.

    Raises:
        ArtifactError: if the choice cannot be written into the work folder.
    """

    def choose() -> Runtime:
        among = _without_timing(job) if several_processes() else job.among
        job.tell(Event("runtime", "choosing the runtime"))
        with job.clock("runtime"):
            return fastest_of(job.dense, job.inputs, among, job.threads, job.tell)

    def read(name: str) -> Runtime:
        check_runtime(known(name), device_of(job.dense))
        return known(name)

    return job.choices.take("runtime", job.dense, (job.among, job.threads), choose, read)


def fastest_of(
    model: nn.Module, inputs: ExampleInputs, among: Sequence[Runtime], threads: int | None, tell: Tell
) -> Runtime:
    """Return the fastest of some runtimes for a network; one of PyTorch's where none of them can have it."""
    for group in (among, _PYTORCH):
        found = fastest_runtime(model, inputs, group, threads=threads, tell=tell)
        if found is not None:
            return found
    return "eager"


def timed_together(
    dense: nn.Module, pruned: nn.Module, inputs: ExampleInputs, runtime: Runtime, threads: int | None, tell: Tell
) -> SpeedUp:
    """Time the dense and the pruned network in turns.

    Where the runtime cannot have one of them, they are timed in PyTorch eager, and a warning is told: a training that
    went before shall not be lost for that.
    """
    networks = {DENSE: dense, PRUNED: pruned}
    tell(Event("measure", "timing the dense and the pruned network in turns"))
    try:
        return SpeedUp.of(side_by_side(networks, inputs, runtime, threads=threads, tell=tell))
    except Exception as error:  # runtimes raise anything
        if runtime == "eager":
            raise
        tell(
            Event("warning", f"the networks cannot be timed in {runtime} and are timed in eager ({first_line(error)})")
        )
        return SpeedUp.of(side_by_side(networks, inputs, "eager", threads=threads, tell=tell))


def _without_timing(job: Job) -> tuple[Runtime, ...]:
    """Return one runtime: where several processes train, all decide alike, which clocks would not."""
    device = device_of(job.dense)
    usable: list[Runtime] = [runtime for runtime in _UNTIMED if runtime in job.among and not missing(runtime, device)]
    return tuple(usable[:1]) or ("eager",)
