"""The networks that ``real_speed.py`` times, and what each of them becomes at half of its MACs."""

from __future__ import annotations

import copy
import importlib.metadata
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur import prune
from secateur.core.selection.target_selection import Limits
from secateur.errors import SecateurError
from secateur.measure import count
from secateur.models import build

KEEP = 0.5
# Torch-Pruning has no target in MACs, so a width ratio is looked for, from these downwards: with ``round_to`` it leaves
# layers whole whose width would be rounded to nothing, so that a larger ratio may cut less
WIDEST = (0.5, 0.4, 0.3)
WIDER = (0.7, 0.6)  # for less than half of the MACs
FINEST, NEAR = 0.004, 0.99  # the search ends at this step of the ratio, or at this share of the MACs allowed


@dataclass(frozen=True, eq=False)
class Variant:
    """A thin network with its MACs, or the reason why there is none.

    Attributes:
        model: None where it could not be made.
        macs: of one image; 0 without a model.
        note: how it was made, or the reason.
    """

    model: nn.Module | None
    macs: int
    note: str


class UNet(nn.Module):
    """The network of Ronneberger, Fischer and Brox, 2015, with padding and batch norms, at half of its widths."""

    def __init__(self, classes: int = 2, widths: tuple[int, ...] = (32, 64, 128, 256, 512)) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        self.first = self.twice(3, widths[0])
        self.down = nn.ModuleList(nn.Sequential(nn.MaxPool2d(2), self.twice(a, b)) for a, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in reversed(pairs))
        self.join = nn.ModuleList(self.twice(2 * a, a) for a, _ in reversed(pairs))
        self.out = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(batch, classes, height, width)``."""
        levels = [self.first(x)]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = levels.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([levels.pop(), up(x)], 1))
        return self.out(x)

    @staticmethod
    def twice(inputs: int, outputs: int) -> nn.Sequential:
        """Return two convolutions."""
        layers: list[nn.Module] = []
        for each in (inputs, outputs):
            layers += [nn.Conv2d(each, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers)


class Detector(nn.Module):
    """A detector up to its raw boxes and classes; what is picked from them takes longer or shorter by the image."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.backbone, self.head = whole.backbone, whole.head

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes and classes of all anchors."""
        found = self.head(list(self.backbone(x).values()))
        return found["bbox_regression"], found["cls_logits"]


def _of_torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name, weights=None, **options)

    return make


def _ssdlite() -> nn.Module:
    return Detector(_of_torchvision("ssdlite320_mobilenet_v3_large", weights_backbone=None)())


_PLAIN = ("resnet18", "resnet50", "densenet121", "mobilenet_v2", "efficientnet_b0")
_MORE = ("regnet_x_400mf", "convnext_tiny", "vgg16_bn", "shufflenet_v2_x1_0", "mobilenet_v3_large")
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    **{name: (_of_torchvision(name), 224) for name in _PLAIN},
    "resnet20": (lambda: build("resnet20"), 32),
    "resnet56": (lambda: build("resnet56"), 32),
    **{name: (_of_torchvision(name), 224) for name in _MORE},
    "googlenet": (_of_torchvision("googlenet", aux_logits=False, init_weights=False), 224),
    "unet": (UNet, 128),
    "ssdlite320_mobilenet_v3_large": (_ssdlite, 320),
}
"""How each is made, and the side of its images."""


def dense(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network in eval mode and one image; what flows through it has a sane size at every layer."""
    torch.manual_seed(0)
    make, side = NETWORKS[name]
    model = make().eval()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.1)
        norm.momentum = None  # an average of what is seen
        norm.train()
    with torch.no_grad():
        model(torch.randn(4, 3, side, side))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval(), torch.randn(1, 3, side, side)


def variants(name: str, model: nn.Module, image: Tensor) -> dict[str, Variant]:
    """Return the networks to time beside the dense one, by the names that the tables use."""
    return {
        "ours": ours(model, image),
        "multiple=1": ours(model, image, limits=Limits(multiple=1)),
        "tp round_to=1": torch_pruning(name, model, image, None),
        "tp round_to=16": torch_pruning(name, model, image, 16),
    }


def ours(model: nn.Module, image: Tensor, **options: Any) -> Variant:
    try:
        thin = prune(model, image, method="magnitude", target=KEEP, latency=False, **options).model
    except SecateurError as error:
        return Variant(None, 0, str(error))
    return Variant(thin, count(thin, image).macs, "")


def torch_pruning(name: str, model: nn.Module, image: Tensor, round_to: int | None, keep: float = KEEP) -> Variant:
    """Return the largest network of Torch-Pruning that keeps at most this share of the MACs, found by bisection."""
    macs = count(model, image).macs

    def thinner(ratio: float) -> Variant:
        try:
            thin = _pruned(name, model, image, ratio, round_to)
            return Variant(thin, count(thin, image).macs, f"width ratio {ratio:.3f}")
        except Exception as error:  # a library not under test raises anything
            return Variant(None, 0, f"Torch-Pruning fails: {type(error).__name__}: {first_line(error)}")

    for high in WIDEST if keep >= KEEP else (*WIDER, *WIDEST):
        best = thinner(high)
        if best.model is None:
            return best
        if best.macs <= keep * macs:
            break
    else:
        return Variant(None, 0, f"Torch-Pruning keeps {best.macs / macs:.2f} of the MACs at {best.note}")
    low = 0.0
    while high - low > FINEST and best.macs < NEAR * keep * macs:
        middle = thinner((low + high) / 2)
        if middle.model is None:
            return middle
        if middle.macs > keep * macs:
            low = (low + high) / 2
        else:
            high, best = (low + high) / 2, middle
    return best


def _pruned(name: str, model: nn.Module, image: Tensor, ratio: float, round_to: int | None) -> nn.Module:
    import torch_pruning as tp

    thin = copy.deepcopy(model)
    pruner = tp.pruner.MagnitudePruner(
        thin,
        image,
        importance=tp.importance.MagnitudeImportance(p=1),
        pruning_ratio=ratio,
        round_to=round_to,
        ignored_layers=_last(name, thin),
    )
    pruner.step()
    return thin


def _last(name: str, model: Any) -> list[nn.Module]:
    """Return the layers that make the outputs, which Torch-Pruning has to be told to leave alone."""
    if name == "unet":
        return [model.out]
    if name.startswith("ssdlite"):
        heads = (model.head.regression_head, model.head.classification_head)
        return [each[-1] for head in heads for each in head.module_list]
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200]


def versions() -> dict[str, str]:
    """Return the versions of what makes and runs the networks."""
    found: dict[str, str] = {}
    for package in ("torch", "torchvision", "onnxruntime", "openvino", "torch-pruning"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found
