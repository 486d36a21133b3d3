"""What a training run is asked to do, as plain values that a TOML file or a command line can carry."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias, cast

from secateur import rules
from secateur.arguments import checked
from secateur.errors import SettingError, nearest
from secateur.rules import Rule

OptimizerName: TypeAlias = Literal["sgd", "adamw"]
ScheduleName: TypeAlias = Literal["cosine", "step", "constant"]
Select: TypeAlias = Literal["last", "best"]
PrecisionChoice: TypeAlias = Literal["auto", "float32", "bf16", "fp16"]
MemoryFormatChoice: TypeAlias = Literal["auto", "contiguous", "channels_last"]
CompileChoice: TypeAlias = Literal["auto", "on", "off"]
DeviceChoice: TypeAlias = Literal["auto", "cpu", "cuda"]


@checked
@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a network is trained.

    Attributes:
        epochs: passes over the training images; 0 trains nothing (``recalibrate`` still acts).
        batch_size: images of one optimizer step divided by ``accumulate``, over all processes together; with
            several processes each takes an equal share, so that their number does not change the training.
        optimizer: ``"sgd"`` or ``"adamw"``.
        lr: learning rate after warm-up.
        momentum: of SGD; AdamW keeps its usual betas (0.9, 0.999).
        nesterov: Nesterov's form of SGD's momentum; without effect where ``momentum`` is 0.
        weight_decay: applied to every trained parameter, biases and norms included, as in most pruning
            papers.
        schedule: ``"cosine"`` to zero over the steps, ``"step"`` by ``gamma`` at ``milestones``, or
            ``"constant"``.
        milestones: epochs, counted from the start of training, after which ``"step"`` multiplies the rate.
        gamma: factor of ``"step"``.
        warmup_epochs: epochs in which the rate rises linearly to ``lr``, before the schedule begins.
        label_smoothing: share of the target that is spread evenly over the classes.
        augment: name of the data set's training augmentation, for instance ``"crop_flip"`` or ``"none"``.
        distill: weight in [0, 1] of the teacher's soft targets; the labels have the rest; 0 needs no teacher.
        temperature: softening of the teacher's and the network's outputs for ``distill``.
        clip_grad: largest norm of all gradients together; 0 for no limit.
        accumulate: batches whose gradients are averaged for one optimizer step.
        recalibrate: re-estimate the batch-norm statistics before the first epoch.
        select: keep the weights of the ``"last"`` epoch, or of the epoch ``"best"`` on the validation images.
        precision: ``"float32"``, or mixed with ``"bf16"`` or ``"fp16"``; ``"auto"`` measures and keeps the
            fastest.
        memory_format: ``"contiguous"`` or ``"channels_last"``; ``"auto"`` measures.
        compile: ``"on"`` or ``"off"``: run through ``torch.compile``; ``"auto"`` when a long training gains
            by it.
        device: ``"cpu"`` or ``"cuda"``; ``"auto"`` takes CUDA where it is available.

    Raises:
        SettingError: if a value is out of range, of the wrong type, or does not fit another one.
    """

    epochs: int = 10
    batch_size: int = 128
    optimizer: OptimizerName = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: ScheduleName = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup_epochs: int = 0
    label_smoothing: float = 0.0
    augment: str = "crop_flip"
    distill: float = 0.0
    temperature: float = 4.0
    clip_grad: float = 0.0
    accumulate: int = 1
    recalibrate: bool = False
    select: Select = "last"
    precision: PrecisionChoice = "auto"
    memory_format: MemoryFormatChoice = "auto"
    compile: CompileChoice = "auto"
    device: DeviceChoice = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.milestones, list):  # as TOML gives it
            object.__setattr__(self, "milestones", tuple(cast("list[int]", self.milestones)))
        for name, refusal in rules.broken(self, _RULES):
            raise SettingError(f"training setting '{name}' {refusal}")
        for name in _FLOATS:
            object.__setattr__(self, name, float(getattr(self, name)))
        self._check_schedule()

    def _check_schedule(self) -> None:
        if self.epochs and self.warmup_epochs >= self.epochs:
            raise SettingError(
                f"training setting 'warmup_epochs' must be less than 'epochs' ({self.epochs}), not {self.warmup_epochs}"
            )
        if (self.schedule == "step") != bool(self.milestones):
            raise SettingError(
                "training setting 'milestones' must name at least one epoch for the schedule 'step' and be left "
                f"out for others, not {list(self.milestones)} with the schedule '{self.schedule}'"
            )
        if self.milestones and self.milestones[0] <= self.warmup_epochs:
            raise SettingError(
                f"training setting 'milestones' must lie after 'warmup_epochs' ({self.warmup_epochs}), "
                f"not {list(self.milestones)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return every setting by name, in values that TOML and JSON have."""
        return {**asdict(self), "milestones": list(self.milestones)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Settings:
        """Return the settings of a mapping; what is left out takes its default.

        Raises:
            SettingError: if a name is unknown or a value is out of range.
        """
        known = [field.name for field in fields(Settings)]
        for name in values:
            if name not in known:
                raise SettingError(
                    f"there is no training setting '{name}'{nearest(name, known)}; remove it or use one of: "
                    + ", ".join(known)
                )
        return Settings(**values)


_CHOICES: dict[str, Any] = {
    "optimizer": OptimizerName,
    "schedule": ScheduleName,
    "select": Select,
    "precision": PrecisionChoice,
    "memory_format": MemoryFormatChoice,
    "compile": CompileChoice,
    "device": DeviceChoice,
}
_EPOCHS = rules.each(rules.whole(1), "a list of rising whole numbers of at least 1")
_RULES: dict[str, Rule] = {
    "epochs": rules.whole(0),
    "batch_size": rules.whole(1),
    "lr": rules.number(lambda v: v > 0, "a number above 0"),
    "momentum": rules.number(lambda v: 0 <= v < 1, "a number in [0, 1)"),
    "nesterov": rules.FLAG,
    "weight_decay": rules.number(lambda v: v >= 0, "a number of at least 0"),
    "milestones": Rule(lambda v: _EPOCHS.accepts(v) and all(a < b for a, b in itertools.pairwise(v)), _EPOCHS.wanted),
    "gamma": rules.number(lambda v: 0 < v <= 1, "a number in (0, 1]"),
    "warmup_epochs": rules.whole(0),
    "label_smoothing": rules.number(lambda v: 0 <= v < 1, "a number in [0, 1)"),
    "augment": rules.text("the name of an augmentation", least=1),
    "distill": rules.number(lambda v: 0 <= v <= 1, "a number in [0, 1]"),
    "temperature": rules.number(lambda v: v > 0, "a number above 0"),
    "clip_grad": rules.number(lambda v: v >= 0, "a number of at least 0"),
    "accumulate": rules.whole(1),
    "recalibrate": rules.FLAG,
    **{name: rules.one_of(choices, mark="'") for name, choices in _CHOICES.items()},
}
_FLOATS = (
    "lr",
    "momentum",
    "weight_decay",
    "gamma",
    "label_smoothing",
    "distill",
    "temperature",
    "clip_grad",
)
