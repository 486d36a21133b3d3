"""The plain CIFAR DenseNet (no bottlenecks, no compression), the usual 40-layer test of pruning papers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.errors import SettingError
from secateur.models.initial import initialise


class DenseLayer(nn.Module):
    """Batch norm, ReLU and a 3x3 convolution whose outputs are put behind the inputs.

    Args:
        inputs: channels that come in.
        growth: channels that are added.
    """

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, inputs + growth, H, W)."""
        return torch.cat((x, self.conv(F.relu(self.bn(x)))), dim=1)


class Transition(nn.Module):
    """Batch norm, ReLU, a 1x1 convolution that keeps the width, and 2x2 average pooling.

    Args:
        width: channels that come in and go out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, width, H, W) to (N, width, H // 2, W // 2)."""
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2)


class DenseNet(nn.Module):
    """A CIFAR DenseNet of 3 dense blocks that starts with 16 channels; takes images of 4 pixels or more.

    Source: Huang, Liu, van der Maaten, Weinberger, "Densely Connected Convolutional Networks", CVPR 2017,
    section 3; without its dropout.

    Args:
        depth: number of weighted layers, 3n + 4 for n layers a block.
        growth: channels that each layer adds.
        classes: number of outputs.
        channels: of the input images.

    Raises:
        SettingError: if the depth is not 3n + 4.
    """

    def __init__(self, depth: int = 40, growth: int = 12, classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        if depth < 7 or (depth - 4) % 3:
            raise SettingError(f"a CIFAR DenseNet has 3n + 4 layers (7, 10, ..., 40), which {depth} is not")
        layers = (depth - 4) // 3
        widths = [16 + block * layers * growth for block in range(4)]
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.block1 = _block(widths[0], layers, growth)
        self.transition1 = Transition(widths[1])
        self.block2 = _block(widths[1], layers, growth)
        self.transition2 = Transition(widths[2])
        self.block3 = _block(widths[2], layers, growth)
        self.bn = nn.BatchNorm2d(widths[3])
        self.linear = nn.Linear(widths[3], classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, channels, H, W) to logits (N, classes)."""
        x = self.transition1(self.block1(self.conv1(x)))
        x = self.block3(self.transition2(self.block2(x)))
        x = F.adaptive_avg_pool2d(F.relu(self.bn(x)), 1).flatten(1)
        return self.linear(x)


def _block(inputs: int, layers: int, growth: int) -> nn.Sequential:
    return nn.Sequential(*(DenseLayer(inputs + layer * growth, growth) for layer in range(layers)))
