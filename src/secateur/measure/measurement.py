"""Everything that is known about a network, in one value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from secateur.arguments import checked
from secateur.core.surgery.private_copies import apart
from secateur.errors import ArtifactError
from secateur.events import Event, Tell, ignore
from secateur.measure.counts import Counts, count
from secateur.measure.forward import ExampleInputs
from secateur.measure.latency import Latency, latency
from secateur.measure.quality import Quality, quality
from secateur.rules import Seconds, Threads
from secateur.tasks import Task
from secateur.typed import check_types


@checked
@dataclass(frozen=True)
class Measurement:
    """The size of a network, and, where they were measured, how well and how fast it does.

    Attributes:
        counts: parameters, MACs and activations.
        quality: how well it does its task; None where there was no data.
        latency: None where it was not timed.
    """

    counts: Counts
    quality: Quality | None = None
    latency: Latency | None = None

    def __post_init__(self) -> None:
        check_types(self)

    def to_dict(self) -> dict[str, Any]:
        """Return nested dicts of numbers and strings, with None for what was not measured."""
        return {
            "counts": self.counts.to_dict(),
            "quality": None if self.quality is None else self.quality.to_dict(),
            "latency": None if self.latency is None else self.latency.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measurement:
        """Return the measurement that ``to_dict`` was called on.

        Raises:
            ArtifactError: if an entry is missing, unknown, or of the wrong type.
        """
        known = ("counts", "quality", "latency")
        if "accuracy" in values and "quality" not in values:  # as earlier versions wrote it
            values = {"quality" if name == "accuracy" else name: part for name, part in values.items()}
        for name in values:
            if name not in known:
                raise ArtifactError(f"the stored measurement has an unknown entry '{name}': the file is damaged")
        parts = {name: _part(values, name) for name in known}
        if parts["counts"] is None:
            raise ArtifactError("the stored measurement lacks 'counts': the file is damaged")
        return cls(
            counts=Counts.from_dict(parts["counts"]),
            quality=None if parts["quality"] is None else Quality.from_dict(parts["quality"]),
            latency=None if parts["latency"] is None else Latency.from_dict(parts["latency"]),
        )


@checked
@apart("model")
def measure(
    model: nn.Module,
    example_inputs: ExampleInputs,
    batches: Iterable[Any] | None = None,
    *,
    task: Task | None = None,
    time: bool = True,
    threads: Threads = None,
    seconds: Seconds = 1.0,
    tell: Tell = ignore,
) -> Measurement:
    """Count, test and time ``model``, which stays as it is.

    Args:
        model: any network.
        example_inputs: what its forward takes; its batch size is that of the MACs and the time.
        batches: examples to measure how well it does on, as for ``quality``.
        task: what the network is for; None for classification.
        time: whether to measure the latency.
        threads: for the latency, as for ``latency``.
        seconds: to time for.
        tell: hears of each part, under the stage ``"measure"``.

    Returns:
        The measurement, with None for the parts that were not asked for.

    Raises:
        DataError: if the batches are empty or do not fit the model.
        ModelError: if the model does not run.
    """
    tell(Event("measure", "counting parameters and MACs"))
    counts = count(model, example_inputs)
    tested = None
    if batches is not None:
        tell(Event("measure", "testing the network"))
        tested = quality(model, batches, task, tell=tell)
    timed = None
    if time:
        tell(Event("measure", "timing the forward pass"))
        timed = latency(model, example_inputs, threads=threads, seconds=seconds)
    return Measurement(counts, tested, timed)


def _part(values: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    part: Any = values.get(name)
    if part is not None and not isinstance(part, Mapping):
        raise ArtifactError(f"'{name}' in the stored measurement must be a table: the file is damaged")
    return cast("Mapping[str, Any] | None", part)
