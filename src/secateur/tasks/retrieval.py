"""Image retrieval: embeddings in which images of one class are near each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.core.graph.outputs import scores_in
from secateur.core.task import Meter, Metric, Task, nothing_measured
from secateur.errors import DataError, ModelError
from secateur.rules import Positive
from secateur.tasks.shapes import at_least_single, described, is_real, is_whole
from secateur.typed import check_types

RECALL_AT_1 = Metric("recall at 1", "%", digits=2)
MEAN_AVERAGE_PRECISION = Metric("mAP", "%", digits=2)
_HELD = 2**23  # cosines that are held at a time


@dataclass(frozen=True)
class Retrieval(Task):
    """An embedding (N, size) for each image, learned by a triplet loss.

    Targets are class numbers, (N,) int64. Embeddings are compared by the cosine. In training each image is held against
    the farthest one of its class and the nearest one of another in the batch (batch hard; Hermans, Beyer, Leibe: In
    Defense of the Triplet Loss for Person Re-Identification, 2017), so that a batch should hold several of each class.
    For the metrics each image is looked up among all others of the split: whether the nearest one has its class, and
    the mean of the average precisions. Images that have no other of their class are not looked up. Where others of its
    class and of another are equally near, those of another come first.

    Attributes:
        margin: by how much another class must be farther away, in cosine.
    """

    name: ClassVar[str] = "retrieval"
    metrics = (RECALL_AT_1, MEAN_AVERAGE_PRECISION)
    margin: Positive = 0.2

    def __post_init__(self) -> None:
        check_types(self)

    def output(self, returned: Any) -> Tensor:
        """Return the embeddings (N, size), of length one, in float32 or wider.

        Raises:
            ModelError: if there are none.
        """
        found = scores_in(returned)
        if is_real(found) and found.ndim == 2:
            return F.normalize(at_least_single(found), dim=1)
        raise ModelError(
            f"a network for retrieval must return embeddings of shape (batch, size), not {described(returned)}"
        )

    def loss(self, output: Tensor, batch: Any) -> Tensor:
        """Return the mean triplet loss over the images that have both kinds of neighbours in the batch, 0 if none."""
        labels = _labels(self.target(batch), output)
        away = 1 - output @ output.T
        same = labels[:, None] == labels[None, :]
        friends = same & ~torch.eye(len(labels), dtype=torch.bool, device=output.device)
        farthest = away.masked_fill(~friends, -torch.inf).amax(dim=1)
        nearest = away.masked_fill(same, torch.inf).amin(dim=1)
        usable = friends.any(dim=1) & ~same.all(dim=1)
        losses = F.relu(farthest - nearest + self.margin).masked_fill(~usable, 0)
        return losses.sum() / usable.sum().clamp(min=1)

    def in_vain(self, batch: Any) -> str:
        """Say so where no image has both another one of its class and one of another class."""
        labels = self.target(batch)
        if not isinstance(labels, Tensor):
            return ""
        counts = labels.unique(return_counts=True)[1]
        several = len(counts) > 1 and bool((counts > 1).any())
        return "" if several else "no image has both another one of its class and one of another class"

    def meter(self, device: torch.device) -> Meter:
        """Return a meter of recall at 1 and mean average precision."""
        return _NeighbourMeter(self)

    def imitation(self, output: Tensor, taught: Tensor, temperature: float) -> Tensor:
        """Return the mean squared difference of all cosines between the images of a batch.

        What is passed on is which images are alike, as in Tung, Mori: Similarity-Preserving Knowledge Distillation,
        2019; embeddings of another size can teach as well.
        """
        return F.mse_loss(output @ output.T, taught.to(output.dtype) @ taught.to(output.dtype).T)


class _NeighbourMeter(Meter):
    def __init__(self, task: Retrieval) -> None:
        self._task = task
        self._seen: list[tuple[Tensor, Tensor]] = []

    def update(self, output: Tensor, batch: Any) -> None:
        labels = _labels(self._task.target(batch), output)
        if len(labels):
            self._seen.append((output.detach().cpu().float(), labels.cpu().long()))

    def compute(self) -> tuple[float, ...]:
        if not self._seen:
            raise nothing_measured()
        embeddings, labels = (torch.cat(column) for column in zip(*self._seen, strict=True))
        ranks = list(_ranks(embeddings, labels))
        if not ranks:
            raise DataError(
                f"no class has two images among these {len(labels)}, so that none can be found by another: give two or "
                "more of a class"
            )
        hits = torch.cat([each[:, 0] == 1 for each in ranks])
        # of each rank the share of images up to there that are of the class
        shares = [torch.arange(1, each.shape[1] + 1, dtype=torch.float64) / each for each in ranks]
        precisions = torch.cat([each.mean(dim=1) for each in shares])
        return float(hits.double().mean()), float(precisions.mean())


def _ranks(embeddings: Tensor, labels: Tensor) -> Iterator[Tensor]:
    """Yield at which places images find the others of their class, ascending from 1, (images, others) int64.

    Args:
        embeddings: (N, size) float32 of length one, on the CPU; where they are NaN, others of the class come last and
            those of another class first.
        labels: (N,) int64.
    """
    order = labels.argsort(stable=True)  # so that a class is a slice
    embeddings, (_, sizes) = embeddings[order], labels[order].unique_consecutive(return_counts=True)
    ends = sizes.cumsum(0).tolist()
    bounds = list(zip([0, *ends[:-1]], ends, strict=True))
    held = max(1, _HELD // len(labels))
    for first in range(0, len(labels), held):
        last = min(first + held, len(labels))
        cosines = embeddings[first:last] @ embeddings.T
        here = [(start, end) for start, end in bounds if start < last and end > first and end - start > 1]
        inside = [_others(cosines, first, start, end) for start, end in here]
        cosines.nan_to_num_(nan=2.0)
        for start, end in here:
            cosines[max(start - first, 0) : end - first, start:end] = -torch.inf
        cosines.numpy().sort(axis=1)  # several times as fast as torch, which keeps the places as well
        for (start, end), near in zip(here, inside, strict=True):
            rows = cosines[max(start - first, 0) : end - first]
            before = len(labels) - torch.searchsorted(rows.contiguous(), near)
            yield before + torch.arange(1, near.shape[1] + 1)


def _others(cosines: Tensor, first: int, start: int, end: int) -> Tensor:
    """Return the cosines of images of a class with the others of it, descending, (images, others)."""
    rows = slice(max(start - first, 0), end - first)
    near = cosines[rows, start:end].nan_to_num(nan=-2.0)
    itself = torch.arange(len(near)) + max(first - start, 0)
    near[torch.arange(len(near)), itself] = -torch.inf
    return torch.from_numpy(-np.sort(-near.numpy(), axis=1))[:, :-1].contiguous()


def _labels(target: Any, output: Tensor) -> Tensor:
    """Return class numbers (N,).

    Raises:
        DataError: if they are none.
    """
    if not is_whole(target) or target.shape != output.shape[:1]:
        raise DataError(
            f"the targets of retrieval must be class numbers of shape ({len(output)},), not {described(target)}"
        )
    return target
