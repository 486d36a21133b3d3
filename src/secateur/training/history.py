"""What a training run reports: one row per epoch, and the speed settings it ran with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from secateur import reading
from secateur.arguments import checked
from secateur.errors import ArtifactError, SettingError
from secateur.rules import Number
from secateur.typed import check_types


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
        train_loss: mean loss over the training images as they were trained on, without a method's penalty.
        train_accuracy: share in [0, 1] of them that were right at that moment.
        val_loss: mean cross-entropy on the validation images after the epoch; None without such images.
        val_accuracy: share in [0, 1] of the validation images that are right; None without such images.
        lr: learning rate of the epoch's first step.
        seconds: time of the epoch, validation included.
    """

    epoch: int
    train_loss: Number
    train_accuracy: float
    val_loss: Number | None
    val_accuracy: float | None
    lr: float
    seconds: float

    def __post_init__(self) -> None:
        check_types(self)


@checked
@dataclass(frozen=True)
class History:
    """A whole training run.

    Attributes:
        rows: one per epoch, in order.
        speed: what the training ran with; give its fields back as settings to repeat it exactly.
        selected: the epoch whose weights the network has, counted from 1; 0 if it was not trained.
    """

    rows: tuple[Row, ...] = ()
    speed: Speed = Speed()
    selected: int = 0

    def __post_init__(self) -> None:
        check_types(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the history in values that JSON has."""
        rows = [asdict(row) for row in self.rows]
        return {"rows": rows, "speed": asdict(self.speed), "selected": self.selected}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> History:
        """Return the history that ``to_dict`` wrote.

        Raises:
            ArtifactError: if it is none.
        """
        try:
            rows = tuple(Row(**row) for row in values["rows"])
            return History(rows, Speed(**values["speed"]), values["selected"])
        except (LookupError, TypeError, SettingError) as error:
            raise ArtifactError(f"the stored history is damaged: {reading.wrong(error)}") from error
