"""What a pruned network can learn from in a limited time: labels, or the outputs of the dense network without any."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from secateur.core.surgery import run
from secateur.core.surgery.forward import tensors_in
from secateur.data.inputs import Inputs
from secateur.measure.forward import call, joined, length, moved, part
from secateur.training.lesson_kind import Judgement
from secateur.training.objective import Outputs
from secateur.training.settings import Settings
from secateur.training.share import Share, trained_on
from secateur.training.steps import Parts

if TYPE_CHECKING:
    from accelerate import Accelerator

    from secateur.data import Data

FINE_TUNING = Settings()
"""How a network is fine-tuned where nobody has said it."""

IMITATING = Settings(
    optimizer="adamw", lr=3e-4, weight_decay=0.0, batch_size=64, clip_grad=1.0, augment="none", distill=1.0
)
"""How a network imitates the dense one: a rate so small that a repaired network is not taken apart."""

FEWEST = 16
"""Images that are held out at least, and trained on at least."""

_SHARE = 5  # one image of so many is held out


class Labelled:
    """Fine-tuning on the training images, judged by the validation images; see ``Lesson``.

    Args:
        data: the labelled data, with validation images.
        settings: how to train; None for ``FINE_TUNING``, without end.
        teacher: the dense network, for settings that distil as well.
    """

    def __init__(self, data: Data, settings: Settings | None, teacher: nn.Module) -> None:
        self.data = data
        self.settings = settings or FINE_TUNING
        self.passes = None if settings is None else settings.epochs
        self.teacher = teacher if self.settings.distill else None
        self.name = trained_on(data)
        self.task = data.task.smoothed(self.settings.label_smoothing)

    def open(self, model: nn.Module, accelerator: Accelerator) -> nn.Module:
        """Prepare for a network on its device; return what its gradients are taken through."""
        self.share = Share(self.data, self.settings, 0, accelerator)  # whose order counts for nothing
        self.length = len(self.share.train(0))
        self.model = model
        if self.teacher is not None:
            self.teacher.eval()
        prepared: nn.Module = accelerator.prepare(Outputs(model, self.task))
        return prepared

    def count(self) -> int:
        """Return the number of batches of a pass."""
        return self.length

    def batches(self, seed: int) -> Iterator[Any]:
        """Yield batches of the training examples, augmented."""
        order: Any = self.data.batches(
            "train",
            self.settings.batch_size,
            augment=self.settings.augment,
            shuffle=True,
            seed=seed,
            device=self.share.accelerator.device,
        )
        yield from order

    def loss(self, parts: Parts, batch: Any) -> Tensor:
        """Return that of ``fit``."""
        self.model.train()
        return parts.loss(parts.placed(batch))[0]

    def judge(self, model: nn.Module) -> Judgement:
        """Judge by metric and loss on the validation examples."""
        loss, value = self.share.validate(model)
        return Judgement(math.nan if loss is None else loss, value, self.task.metric)


class Imitation:
    """Learning the outputs of the dense network without labels, judged on images that are held out; see ``Lesson``.

    The loss is the squared difference of every tensor of the output, over the squared size of the dense network's, and
    the mean over tensors where there are several. Batch norms keep the statistics that they have, which a repair has
    fitted: their scales and shifts learn, and what the network computes at the start is what the repair has left.

    One image of five is held out, and at least ``FEWEST``. A repair may have looked at these as well: that makes it
    harder, never easier, for training to look better than the repair.

    Args:
        dense: the network that is imitated.
        images: batches of what the networks take, ``2 * FEWEST`` images or more in all; kept where they are.
        name: of the images, for checkpoints.
        left: returns what the other network has of the outputs of the dense one.
    """

    def __init__(
        self,
        dense: nn.Module,
        images: Sequence[Inputs],
        name: str,
        left: Callable[[Any], list[Tensor]] = tensors_in,
    ) -> None:
        self.settings, self.task, self.passes, self.teacher, self.name = IMITATING, None, None, dense, name
        self.left = left
        self.images = tuple(images)
        places = [(number, row) for number, batch in enumerate(self.images) for row in range(length(batch))]
        step = max(2, min(_SHARE, len(places) // FEWEST))
        self.held = [place for at, place in enumerate(places) if at % step == step - 1]
        self.kept = [place for at, place in enumerate(places) if at % step != step - 1]

    def open(self, model: nn.Module, accelerator: Accelerator) -> nn.Module:
        """Prepare for a network on its device; return it, for its gradients are taken through itself."""
        self.model, self.device = model, accelerator.device
        self.answers = [self._answer(self._gathered(places)) for places in self._split(self.held)]
        return model

    def count(self) -> int:
        """Return the number of batches of a pass."""
        return math.ceil(len(self.kept) / self.settings.batch_size)

    def batches(self, seed: int) -> Iterator[Inputs]:
        """Yield what the networks take, on the device."""
        order = torch.randperm(len(self.kept), generator=torch.Generator().manual_seed(seed)).tolist()
        for places in self._split([self.kept[at] for at in order]):
            yield self._gathered(places)

    def loss(self, parts: Parts, batch: Inputs) -> Tensor:
        """Return the relative squared error of the outputs of a batch, a scalar."""
        self.model.eval()
        answers = self._answer(batch)
        with parts.accelerator.autocast():
            found = _outputs(call(self.model, batch))
        errors = [_squared(own - answer) / _floor(_squared(answer)) for own, answer in _pairs(found, answers)]
        return torch.stack(errors).mean()

    def judge(self, model: nn.Module) -> Judgement:
        """Judge by the relative squared error of the outputs on the images that are held out."""
        errors = sizes = torch.zeros(len(self.answers[0]), dtype=torch.float64)
        for places, answers in zip(self._split(self.held), self.answers, strict=True):
            pairs = _pairs(_outputs(run(model, self._gathered(places))), answers)
            errors = errors + torch.stack([_squared(own - answer).double().cpu() for own, answer in pairs])
            sizes = sizes + torch.stack([_squared(answer).double().cpu() for answer in answers])
        return Judgement(float((errors / _floor(sizes)).mean()))

    def _answer(self, batch: Inputs) -> list[Tensor]:
        return _outputs(self.left(run(self.teacher, batch)))

    def _split(self, places: Sequence[tuple[int, int]]) -> list[Sequence[tuple[int, int]]]:
        size = self.settings.batch_size
        return [places[at : at + size] for at in range(0, len(places), size)]

    def _gathered(self, places: Sequence[tuple[int, int]]) -> Inputs:
        """Return images by the number of their batch and their row there, as one batch; in the order of the batches."""
        rows: dict[int, list[int]] = {}
        for number, row in places:
            rows.setdefault(number, []).append(row)
        found = joined([part(self.images[number], torch.tensor(rows[number])) for number in sorted(rows)])
        return moved(found, self.device)


def _outputs(output: Any) -> list[Tensor]:
    return [tensor for tensor in tensors_in(output) if tensor.is_floating_point()]


def _pairs(found: Sequence[Tensor], answers: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    return zip((tensor.float() for tensor in found), (tensor.float() for tensor in answers), strict=True)


def _squared(tensor: Tensor) -> Tensor:
    return tensor.float().square().sum()


def _floor(sizes: Tensor) -> Tensor:
    """Return sums of squares to divide by; an output that is zero throughout has none."""
    return sizes.clamp(min=torch.finfo(torch.float32).tiny)
