"""Image retrieval: embeddings in which images of one class are near each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.core.graph.outputs import scores_in
from secateur.core.task import Meter, Metric, Task
from secateur.errors import DataError, ModelError
from secateur.rules import Positive
from secateur.tasks.shapes import described
from secateur.typed import check_types

RECALL_AT_1 = Metric("recall at 1", "%", digits=2)
MEAN_AVERAGE_PRECISION = Metric("mAP", "%", digits=2)


@dataclass(frozen=True)
class Retrieval(Task):
    """An embedding (N, size) for each image, learned by a triplet loss.

    Targets are class numbers, (N,) int64. Embeddings are compared by the cosine. In training each image is held against
    the farthest one of its class and the nearest one of another in the batch (Hermans et al. 2017, batch hard). For the
    metrics each image is looked up among all others of the split: whether the nearest one has its class, and the mean
    of the average precisions.

    Attributes:
        margin: by how much another class must be farther away.
    """

    name: ClassVar[str] = "retrieval"
    metrics = (RECALL_AT_1, MEAN_AVERAGE_PRECISION)
    margin: Positive = 0.2

    def __post_init__(self) -> None:
        check_types(self)

    def output(self, returned: Any) -> Tensor:
        """Return the embeddings (N, size), of length one.

        Raises:
            ModelError: if there are none.
        """
        found = scores_in(returned)
        if isinstance(found, Tensor) and found.is_floating_point() and found.ndim == 2:
            return F.normalize(found, dim=1)
        raise ModelError(
            f"a network for retrieval must return embeddings of shape (batch, size), not {described(found)}"
        )

    def loss(self, output: Tensor, batch: Any) -> Tensor:
        """Return the mean triplet loss over the images that have both kinds of neighbours in the batch."""
        labels = _labels(self.target(batch), output)
        away = 1 - output @ output.T
        same = labels[:, None] == labels[None, :]
        itself = torch.eye(len(labels), dtype=torch.bool, device=output.device)
        farthest = away.masked_fill(~same | itself, -torch.inf).amax(dim=1)
        nearest = away.masked_fill(same, torch.inf).amin(dim=1)
        usable = torch.isfinite(farthest) & torch.isfinite(nearest)
        if not bool(usable.any()):  # nothing to learn from here, and still something to go back from
            return (output * 0).sum()
        return F.relu(farthest[usable] - nearest[usable] + self.margin).mean()

    def meter(self, device: torch.device) -> Meter:
        """Return a meter of recall at 1 and mean average precision."""
        return _NeighbourMeter(self)

    def imitation(self, output: Tensor, taught: Tensor, temperature: float) -> Tensor:
        """Return the mean squared difference of all cosines between the images of a batch."""
        return F.mse_loss(output @ output.T, taught.to(output.dtype) @ taught.to(output.dtype).T)


class _NeighbourMeter(Meter):
    def __init__(self, task: Retrieval) -> None:
        self._task = task
        self._seen: list[tuple[Tensor, Tensor]] = []

    def update(self, output: Tensor, batch: Any) -> None:
        labels = _labels(self._task.target(batch), output)
        self._seen.append((output.detach().float().cpu(), labels.cpu()))

    def compute(self) -> tuple[float, ...]:
        from torchmetrics.functional.retrieval import retrieval_average_precision, retrieval_hit_rate

        embeddings, labels = (torch.cat(column) for column in zip(*self._seen, strict=True))
        hits, precisions = list[float](), list[float]()
        for place, (own, label) in enumerate(zip(embeddings, labels, strict=True)):
            others = torch.arange(len(labels)) != place
            relevant = labels[others] == label
            if not bool(relevant.any()):  # nothing could be found
                continue
            likeness = torch.nan_to_num(embeddings[others] @ own, nan=-2.0)
            hits.append(float(retrieval_hit_rate(likeness, relevant, top_k=1)))
            precisions.append(float(retrieval_average_precision(likeness, relevant)))
        if not hits:
            raise DataError("no class has two images, so that nothing can be retrieved")
        return sum(hits) / len(hits), sum(precisions) / len(precisions)


def _labels(target: Any, output: Tensor) -> Tensor:
    if not isinstance(target, Tensor) or target.shape != output.shape[:1] or target.is_floating_point():
        raise DataError(
            f"the targets of retrieval must be class numbers of shape ({len(output)},), not {described(target)}"
        )
    return target
