"""VGG-16 with batch norm for small images, as the pruning papers use it on CIFAR."""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn

from secateur.models.initial import initialise

_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(nn.Module):
    """VGG-16-BN for small images: 13 convolutions in 5 stages, global average pooling, and linear layers.

    Convolutions and hidden linear layers have no bias, since a batch norm follows each of them. Images must
    be at least 16 pixels high and wide.

    Sources: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
    ICLR 2015, configuration D; Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, whose
    network for CIFAR-10 is ``hidden=(512,)``.

    Args:
        classes: number of outputs.
        channels: of the input images.
        hidden: widths of the linear layers before the classifier, each with batch norm and ReLU.
    """

    def __init__(self, classes: int = 10, channels: int = 3, hidden: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.features = nn.Sequential(*_features(channels))
        self.hidden = nn.Sequential(*_hidden(512, hidden))
        self.classifier = nn.Linear(hidden[-1] if hidden else 512, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, channels, H, W) to logits (N, classes)."""
        x = F.adaptive_avg_pool2d(self.features(x), 1).flatten(1)
        return self.classifier(self.hidden(x))


def _features(channels: int) -> Iterable[nn.Module]:
    width = channels
    for stage, widths in enumerate(_WIDTHS):
        if stage:
            yield nn.MaxPool2d(2)
        for outputs in widths:
            yield nn.Conv2d(width, outputs, 3, padding=1, bias=False)
            yield nn.BatchNorm2d(outputs)
            yield nn.ReLU(inplace=True)
            width = outputs


def _hidden(width: int, hidden: tuple[int, ...]) -> Iterable[nn.Module]:
    for outputs in hidden:
        yield nn.Linear(width, outputs, bias=False)
        yield nn.BatchNorm1d(outputs)
        yield nn.ReLU(inplace=True)
        width = outputs
