"""The networks of ``post_training.py``, and the ways to prune them without training."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gram_channel_map import gram_channel_map
from secateur.core.plan import EMPTY
from secateur.core.problem import Problem
from secateur.core.selection.error_curves import ErrorCurve
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target
from secateur.core.surgery import apply
from secateur.core.trace import trace
from secateur.data import Data, load_calibration, load_data
from secateur.measure import count
from secateur.methods import make
from secateur.models import build, load_weights
from secateur.reconstruction import blind_curves, error_curves
from secateur.repair import DATA_FREE, take
from small_networks import mobilenet_v2, shufflenet_v2_x0_5
from speed_networks import torch_pruning

IMAGES = 1000
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
Scores = Mapping[str, Tensor]


@dataclass(frozen=True)
class Network:
    """A trained network.

    Attributes:
        make: what builds it.
        files: pattern of the file of its weights.
        constants: mean and standard deviation that its images are normalised with.
        said: its name in tables.
        source: kind of its data.
    """

    make: Any
    files: str
    constants: tuple[tuple[float, ...], tuple[float, ...]]
    said: str
    source: str = "cifar10"


NETWORKS = {
    "resnet20": Network(lambda: build("resnet20"), "resnet20-*.th", IMAGENET, "ResNet-20 (akamaster)"),
    "resnet56": Network(lambda: build("resnet56"), "resnet56-*.th", IMAGENET, "ResNet-56 (akamaster)"),
    "resnet56_projection": Network(
        lambda: build("resnet56_projection"), "cifar10_resnet56-*.pt", CIFAR, "ResNet-56 (chenyaofo)"
    ),
    "resnet20_projection": Network(
        lambda: build("resnet20_projection"), "cifar10_resnet20-*.pt", CIFAR, "ResNet-20 (chenyaofo)"
    ),
    "shufflenet_v2_x0_5": Network(
        shufflenet_v2_x0_5, "cifar10_shufflenetv2_x0_5-*.pt", CIFAR, "ShuffleNetV2 x0.5 (chenyaofo)"
    ),
    "vgg16_bn": Network(lambda: build("vgg16_bn"), "vgg16_bn*.safetensors", CIFAR, "VGG-16-BN"),
    "mobilenet_v2": Network(mobilenet_v2, "mobilenet_v2*.safetensors", CIFAR, "MobileNetV2 x0.5"),
    "efficientnet_lite0": Network(
        lambda: build("timm:efficientnet_lite0", classes=10),
        "efficientnet_lite0*.safetensors",
        IMAGENET,
        "EfficientNet-Lite0, pictures",
        "imagefolder",
    ),
}
"""Those of akamaster/pytorch_resnet_cifar10 and chenyaofo/pytorch-cifar-models, and three that
``post_training_NAME.toml`` train."""


@dataclass(frozen=True)
class Arm:
    """One way to choose units and to repair what is left.

    Attributes:
        method: of ``secateur.methods``, or ``"torch_pruning"`` for that library's magnitude.
        options: settings of the method.
        steps: of ``secateur.repair``, in this order, or ``"gram"`` for the map of ``gram_channel_map.py``.
        drawn: whether the choice depends on the seed: on the images, or on chance.
        images: how many unlabelled images there are.
        blind: whether error curves are estimated from weights alone.
        alike: whether residual streams count no more than other groups where the cut is shared out.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    steps: tuple[str, ...] = ()
    drawn: bool = False
    images: int = IMAGES
    alike: bool = False
    blind: bool = False

    @property
    def seeded(self) -> bool:
        """Whether anything depends on the seed."""
        return self.drawn or not DATA_FREE.issuperset(self.steps)


SHARES = {"allocate": "reconstruction"}
REFIT = ("reconstruct",)
FOLD = ("fold",)
OURS = "reconstruction, refit"
FEW = (3, 8, 16, 64, 256, 5000)
OLDER = ("magnitude", "filter_std", "bn_scale", "structured_sparsity", "batch_bridgeout")
ARMS: dict[str, Arm] = {
    OURS: Arm("reconstruction", {}, REFIT, True),
    "magnitude": Arm("magnitude"),
    "magnitude, compensate": Arm("magnitude", {}, ("compensate",)),
    "magnitude, recalibrate": Arm("magnitude", {}, ("recalibrate",)),
    "magnitude, refit": Arm("magnitude", {}, REFIT),
    "magnitude, fold": Arm("magnitude", {}, FOLD),
    "folding, fold": Arm("reconstruction", {}, FOLD, blind=True),
    "magnitude, gram": Arm("magnitude", {}, ("gram",)),
    "random_units, refit": Arm("random_units", {}, REFIT, True),
    "reconstruction, uniform": Arm("reconstruction", {"shares": "uniform"}, (), True),
    "reconstruction, uniform, refit": Arm("reconstruction", {"shares": "uniform"}, REFIT, True),
    "reconstruction, cut alone": Arm("reconstruction", {}, (), True),
    "torch_pruning, recalibrate": Arm("torch_pruning", {}, ("recalibrate",)),
    **{f"{name}, refit": Arm(name, {}, REFIT) for name in (*OLDER[1:], "weak_subnetwork")},
    f"{OURS}, streams as others": Arm("reconstruction", {}, REFIT, True, alike=True),
    **{f"{OURS}, {count} images": Arm("reconstruction", {}, REFIT, True, count) for count in FEW},
    **{
        f"magnitude, {said}, {count} images": Arm("magnitude", {}, steps, images=count)
        for count in (3, 8, 16)
        for said, steps in (("compensate", ("compensate",)), ("recalibrate", ("recalibrate",)), ("refit", REFIT))
    },
    "random_units, shares, refit": Arm("random_units", SHARES, REFIT, True),
    **{f"{name}, shares, refit": Arm(name, SHARES, REFIT, True) for name in OLDER},
}
"""Methods that shape a training of their own are taken for what they say of the weights as they are. The first is
ours, ``folding`` the same without any image; ``shares`` are those of the error curves,
where the method only says in which order units go."""


@dataclass(frozen=True)
class Cut:
    """A network that was pruned and repaired.

    Attributes:
        macs: share of the dense network's that is left.
        seconds: of processor time for choosing and repairing.
        note: what there is to say, if anything.
    """

    model: nn.Module
    macs: float
    seconds: float
    note: str = ""


class Subject:
    """One trained network and what was measured on it; error curves are measured once for each draw of images.

    Args:
        name: of ``NETWORKS``.
        source: its data, ``cifar10:DIR`` or ``imagefolder:DIR``.
        weights: the file.
    """

    def __init__(self, name: str, source: str, weights: Path) -> None:
        network = NETWORKS[name]
        self.name = name
        self.model: nn.Module = network.make().eval()
        load_weights(self.model, weights)
        self.source = source
        self.data = self.part(None)
        self._curves: dict[Any, tuple[Sequence[ErrorCurve], float]] = {}
        self._images: dict[tuple[int, int], Sequence[Tensor]] = {}

    @cached_property
    def graph(self) -> Any:
        """How the network's units hang together."""
        return trace(self.model, self.data.example())

    @cached_property
    def macs(self) -> int:
        """Of the dense network, for one image."""
        return count(self.model, self.data.example()).macs

    def part(self, train_images: int | None) -> Data:
        """Return the data with so many of its training images; all of them if None."""
        mean, std = NETWORKS[self.name].constants
        return load_data(self.source, mean=mean, std=std, train_images=train_images)

    def images(self, seed: int, count: int) -> Any:
        """Return one draw of unlabelled training images."""
        if (seed, count) not in self._images:
            self._images = {(seed, count): load_calibration(self.data, count=count, seed=seed).batches}
        return self._images[seed, count]

    def cut(self, arm: Arm, keep: float, multiple: int, seed: int) -> Cut:
        """Prune and repair.

        Raises:
            RuntimeError: where Torch-Pruning makes no network of that size.
            SecateurError: where the target cannot be reached.
        """
        images = self.images(seed, arm.images) if arm.seeded else None
        started = time.process_time()
        if arm.method == "torch_pruning":
            made = torch_pruning(
                self.name, self.model, self.data.example(), multiple if multiple > 1 else None, keep=keep
            )
            if made.model is None:
                raise RuntimeError(made.note)
            thin, plan, spared, note = made.model.eval(), EMPTY, 0.0, made.note
        else:
            plan, spared = self._plan(arm, keep, multiple, seed)
            thin, note = apply(self.model, self.graph, plan), ""
        for step in arm.steps:
            if step == "gram":
                gram_channel_map(self.model, thin, self.graph, plan, images)
            else:
                by = [self.data.example()] if step in DATA_FREE else images
                take(step, self.model, thin, self.graph, plan, by, seed)
        seconds = time.process_time() - started + spared
        return Cut(thin, count(thin, self.data.example()).macs / self.macs, seconds, note)

    def _plan(self, arm: Arm, keep: float, multiple: int, seed: int) -> tuple[Any, float]:
        """Return the plan, and the seconds that were spared since curves were there."""
        spared = 0.0

        def errors(scores: Scores | None) -> Sequence[ErrorCurve]:
            nonlocal spared
            key = (
                seed,
                0 if arm.blind else arm.images,
                None if scores is None else tuple(it.double().numpy().tobytes() for it in scores.values()),
            )
            if key in self._curves:
                spared += self._curves[key][1]
            else:
                started = time.process_time()
                found = (
                    blind_curves(self.model, self.graph, self.data.example(), scores=scores)
                    if arm.blind
                    else error_curves(self.model, self.graph, self.images(seed, arm.images), scores=scores, seed=seed)
                )
                self._curves[key] = found, time.process_time() - started
            found = self._curves[key][0]
            return [replace(curve, weight=1.0) for curve in found] if arm.alike else found

        problem = Problem(
            self.model,
            self.graph,
            Target(keep),
            limits=Limits(multiple=multiple),
            rng=torch.Generator().manual_seed(seed),
            errors=errors,
            blind=arm.blind,
        )
        return make(arm.method, arm.options).plan(problem), spared
