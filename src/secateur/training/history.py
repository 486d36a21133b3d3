"""What a training run reports: one row per epoch, and the speed settings it ran with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from secateur import reading
from secateur.arguments import checked
from secateur.errors import ArtifactError, SettingError
from secateur.rules import Number
from secateur.tasks import ACCURACY, Metric
from secateur.typed import check_types

_RENAMED: dict[str, str] = {
    "train_accuracy": "train_metric",
    "val_accuracy": "val_metric",
}  # what earlier versions wrote


@dataclass(frozen=True)
class Speed:
    """How the arithmetic of a training runs; each field takes the same words as the setting of that name.

    Attributes:
        precision: ``"float32"``, or mixed precision with ``"bf16"`` or ``"fp16"``.
        memory_format: ``"contiguous"`` or ``"channels_last"``.
        compile: ``"on"`` where the network runs through ``torch.compile``.

    Raises:
        SettingError: if a field has another word.
    """

    precision: Literal["float32", "bf16", "fp16"] = "float32"
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    compile: Literal["on", "off"] = "off"

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class Row:
    """One epoch.

    Attributes:
        epoch: counted from 1.
        train_loss: mean loss over the training examples as they were trained on, without a method's penalty.
        train_metric: the metric on them at that moment, of classes the share in [0, 1] that were right; None where it
            costs more than a look.
        val_loss: mean loss on the validation examples after the epoch; None without such examples, or where the loss
            exists in training alone.
        val_metric: the metric on the validation examples; None without such examples.
        lr: learning rate of the epoch's first step.
        seconds: time of the epoch, validation included.
    """

    epoch: int
    train_loss: Number
    train_metric: float | None
    val_loss: Number | None
    val_metric: Number | None
    lr: float
    seconds: float

    def __post_init__(self) -> None:
        check_types(self)


def row_of(values: Mapping[str, Any]) -> Row:
    """Return the epoch that ``dataclasses.asdict`` was called on, by this version or an earlier one.

    Raises:
        TypeError, ValueError, SettingError: if it is none.
    """
    return Row(**{_RENAMED.get(name, name): value for name, value in dict(values).items()})


@checked
@dataclass(frozen=True)
class History:
    """A whole training run.

    Attributes:
        rows: one per epoch, in order.
        speed: what the training ran with; give its fields back as settings to repeat it exactly.
        selected: the epoch whose weights the network has, counted from 1; 0 if it was not trained.
        metric: of the task.
    """

    rows: tuple[Row, ...] = ()
    speed: Speed = Speed()
    selected: int = 0
    metric: Metric = ACCURACY

    def __post_init__(self) -> None:
        check_types(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the history in values that JSON has."""
        rows = [asdict(row) for row in self.rows]
        metric = asdict(self.metric)
        return {"rows": rows, "speed": asdict(self.speed), "selected": self.selected, "metric": metric}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> History:
        """Return the history that ``to_dict`` wrote.

        Raises:
            ArtifactError: if it is none.
        """
        try:
            rows = tuple(map(row_of, values["rows"]))
            metric = Metric(**values["metric"]) if "metric" in values else ACCURACY
            return History(rows, Speed(**values["speed"]), values["selected"], metric)
        except (LookupError, TypeError, ValueError, SettingError) as error:
            raise ArtifactError(f"the stored history is damaged: {reading.wrong(error)}") from error
