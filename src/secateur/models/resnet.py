"""The CIFAR residual networks of He et al. 2016, with either of the paper's two usual shortcuts.

The names of the layers are those of the checkpoints that the field passes around: ``linear`` as the head
with shortcut A, ``fc`` and ``downsample.{0,1}`` with shortcut B.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from secateur.errors import SettingError
from secateur.models.initial import initialise

Shortcut = Literal["A", "B"]


class PaddedShortcut(nn.Module):
    """Shortcut A: every second row and column, with zero channels put before and after; no parameters.

    Args:
        pad: how many zero channels to add on each side.
    """

    def __init__(self, pad: int) -> None:
        super().__init__()
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + 2 pad, ceil(H / 2), ceil(W / 2))."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut around them.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        stride: of the first convolution.
        shortcut: how the input reaches the sum where the shape changes.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            if shortcut == "A":
                self.downsample = PaddedShortcut((outputs - inputs) // 2)
            else:
                self.downsample = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
                )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride))."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.downsample(x))


class ResNet(nn.Module):
    """A CIFAR residual network: 3 stages of 16, 32 and 64 channels; takes images of any size.

    Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2.

    Args:
        depth: number of weighted layers, 6n + 2 for n blocks a stage (20, 32, 44, 56, 110, ...).
        classes: number of outputs.
        channels: of the input images.
        shortcut: "A" subsamples and pads with zeros (no parameters), "B" is a 1x1 convolution and batch norm.

    Raises:
        SettingError: if the depth is not 6n + 2.
    """

    def __init__(self, depth: int, classes: int = 10, channels: int = 3, shortcut: Shortcut = "A") -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise SettingError(f"a CIFAR ResNet has 6n + 2 layers (8, 14, 20, ...), which {depth} is not")
        blocks = (depth - 2) // 6
        self.shortcut = shortcut
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, 1, shortcut)
        self.layer2 = _stage(16, 32, blocks, 2, shortcut)
        self.layer3 = _stage(32, 64, blocks, 2, shortcut)
        if shortcut == "A":
            self.linear = nn.Linear(64, classes)
        else:
            self.fc = nn.Linear(64, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, channels, H, W) to logits (N, classes)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.linear(x) if self.shortcut == "A" else self.fc(x)


def _stage(inputs: int, outputs: int, blocks: int, stride: int, shortcut: Shortcut) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1, shortcut) for _ in range(blocks - 1)))
