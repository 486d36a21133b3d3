"""Set the kernels to zero that add least to what their layers put out, for networks that describe images.

Idea.         A descriptor by which images are found again needs few of the edges of a network, an edge being the
              kernel by which one map reads another. Those that hardly contribute go.
Rule.         criterion = data: score(edge) = mean over images and positions of |map * kernel| (convolved), which is
              what the edge alone adds to the map that it makes. criterion = weights: the l2 or l1 norm of the kernel.
              The smallest go first, the same share of each layer (scope = uniform), or over all layers after division
              by the mean of the layer (global). A map that nothing reads any more goes as a whole, with all that made
              only it.
Needs.        Images, no labels; for criterion = weights nothing. Targets are in nonzero.
Cost.         A forward of the images, and about one more in which each layer runs map by map.
Differences.  Only the abstract of the paper was open to us, which names edges, scores with and without data, and
              fine-tuning by a triplet loss: the formulas of both scores, the shares and all defaults are ours. The
              descriptor and the loss are those of the task ``retrieval``; with any other task the edges are judged
              alike. The first convolution and linear layers are left alone by default, depthwise layers and the last
              kernel of a layer always. A map that has lost all it reads but is read itself stays, for it still sends a
              constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from secateur.core.graph import layer_of, tensor_of
from secateur.core.method import Method, Paper
from secateur.core.plan import EMPTY, Plan, ZeroWeights
from secateur.core.problem import Problem
from secateur.core.selection.target_selection import Scope
from secateur.core.selection.unread import unread_units
from secateur.core.sizes.size import Target, size
from secateur.core.zeros.patterns import kernel_mask, maskable
from secateur.errors import DataError, SettingError, TargetError
from secateur.measure.edge_contributions import edge_contributions
from secateur.spelling import said, setting


@dataclass(frozen=True)
class RetrievalEdges(Method):
    """Kernels by what they contribute.

    Attributes:
        criterion: data, by what a kernel adds on images, or weights, by its norm.
        norm: of kernels, for criterion = weights.
        scope: uniform, the same share of each layer, or global, all layers compete.
        ratio: share of the kernels that goes, in [0, 1); None where the target decides.
        stem: whether the first convolution may lose kernels.
        linear: whether linear layers may lose weights.
    """

    criterion: Literal["data", "weights"] = "data"
    norm: Literal["l2", "l1"] = "l2"
    scope: Scope = "uniform"
    ratio: float | None = None
    stem: bool = False
    linear: bool = False

    paper: ClassVar[Paper] = Paper(
        title="Pruning Convolutional Neural Networks for Image Instance Retrieval",
        authors="Gaurav Manek, Jie Lin, Vijay Chandrasekhar, Lingyu Duan, Sateesh Giduthuri, Xiaoli Li, Tomaso Poggio",
        venue="arXiv preprint",
        year=2017,
        link="arXiv:1707.05455",
        kind="article",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratio is not None and not 0.0 <= self.ratio < 1.0:
            raise SettingError(f"ratio must be in [0, 1), not {self.ratio}: it is the share that goes")

    def check(self, target: Target | None) -> None:
        """Refuse a size that zeroed kernels do not change, and settings that do not say how much goes, or twice."""
        if target is not None and self.ratio is not None:
            raise SettingError("both a target and a ratio say how much goes; give one of them")
        if target is None and self.ratio is None:
            goal, ratio = said("target=", "--keep", "keep in [target]"), setting("ratio")
            raise TargetError(f"say how much goes: a target ({goal}), or the ratio of each layer ({ratio})")
        if target is not None and target.keep < 1.0 and target.of != "nonzero":
            nonzero = said("Target(..., 'nonzero')", "--of nonzero", "of = 'nonzero'")
            raise TargetError(
                f"zeroed kernels leave the {target.of} as they are; set the target in nonzero ({nonzero})", 1.0
            )

    def plan(self, problem: Problem) -> Plan:
        """Zero the lowest edges until the target is met, or as many as the ratio says."""
        self.check(problem.target)
        if problem.target is not None and problem.target.keep >= 1.0:
            return EMPTY
        scores = self.scores(problem)
        order = self._order(scores)
        if problem.target is None:
            total = sum(values.numel() for values in scores.values())
            if self.ratio and not len(order):
                raise TargetError("no kernels can go but those of the first convolution or of linear layers", 1.0)
            return _zeroed(problem, scores, order[: math.floor((self.ratio or 0.0) * total + 1e-9)])
        whole = size(problem.graph).nonzero
        most = problem.target.most(whole)
        least = size(problem.graph, _zeroed(problem, scores, order)).nonzero
        if least > most:
            raise TargetError(
                f"cannot keep only {problem.target.keep:.3g} of the nonzero: with one kernel left in every prunable "
                f"layer {least / whole:.3g} remain; ask for at least that, or allow more layers",
                least / whole,
            )
        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            fits = size(problem.graph, _zeroed(problem, scores, order[:middle])).nonzero <= most
            low, high = (low, middle) if fits else (middle + 1, high)
        return _zeroed(problem, scores, order[:high])

    def scores(self, problem: Problem) -> dict[str, Tensor]:
        """Return for each weight that may lose kernels the score of each, of the shape of its first two dimensions.

        Raises:
            DataError: if images are needed and there are none.
            SettingError: if weights or images are NaN.
        """
        names = maskable(problem.graph, stem=self.stem, linear=self.linear)
        weights = {name: tensor_of(problem.model, name).detach().double().cpu() for name in names}
        norms = {name: _flat(it).norm(dim=2, p=1 if self.norm == "l1" else 2) for name, it in weights.items()}
        scores = norms
        if self.criterion == "data" and names:
            if not problem.images:
                weights_alone = said("criterion='weights'", "--criterion weights", "criterion = 'weights'")
                raise DataError(
                    f"retrieval_edges looks at what kernels add on images, and there are none; give {setting('data')}, "
                    f"or judge by weights ({weights_alone})"
                )
            scores = edge_contributions(problem.model, names, problem.images)
        for name, values in scores.items():
            if bool(values.isnan().any()):
                raise SettingError(
                    f"the weights of '{layer_of(name)}' or the images contain NaN; they cannot be scored"
                )
        return {name: torch.where(norms[name] == 0, -1.0, values) for name, values in scores.items()}  # zeros first

    def _order(self, scores: dict[str, Tensor]) -> Tensor:
        """Return the numbers of all edges but the last of each layer, counted layer by layer, as they go."""
        keys: list[Tensor] = []
        for values in scores.values():
            flat = values.flatten()
            places = torch.argsort(flat, stable=True)
            if self.scope == "uniform":
                key = torch.empty_like(flat)
                key[places] = torch.arange(1, len(flat) + 1).to(flat) / len(flat)
            else:
                key = flat / (float(flat.clamp(min=0.0).mean()) or 1.0)
            key[places[-1]] = torch.inf
            keys.append(key)
        joined = torch.cat([*keys, torch.zeros(0, dtype=torch.float64)])
        return torch.argsort(joined, stable=True)[: int(joined.isfinite().sum())]


def _flat(weight: Tensor) -> Tensor:
    """Return a weight as ``(first, second, positions in the kernel)``."""
    return weight.flatten(2) if weight.dim() > 2 else weight[:, :, None]


def _zeroed(problem: Problem, scores: dict[str, Tensor], edges: Tensor) -> Plan:
    """Return the plan without these edges, and without the maps that nothing reads any more."""
    counts = [values.numel() for values in scores.values()]
    keep = torch.ones(sum(counts), dtype=torch.bool)
    keep[edges] = False
    masks: dict[str, Tensor] = {}
    for (name, values), own in zip(scores.items(), keep.split(counts), strict=True):
        if not bool(own.all()):
            masks[name] = kernel_mask(problem.graph.tensors[name][0], own.reshape(values.shape))
    dropped = unread_units(problem.graph, masks, problem.limits)
    return Plan((*dropped, *(ZeroWeights.of(name, mask) for name, mask in masks.items())))
