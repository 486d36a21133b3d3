"""torchvision's ShuffleNetV2 and MobileNetV2 for images of 32 pixels: the early strides are 1 and nothing is pooled.

Recipes name them ``benchmarks/small_networks.py:mobilenet_v2``. The layers have torchvision's names; weights of
chenyaofo/pytorch-cifar-models for ``shufflenet_v2_x0_5`` fit as they are.
"""

from __future__ import annotations

from typing import Any

import torchvision
from torch import nn


def shufflenet_v2_x0_5(classes: int = 10) -> nn.Module:
    """Return ShuffleNetV2 x0.5 whose first convolution keeps the size and which pools no map before the stages."""
    model: Any = torchvision.models.shufflenet_v2_x0_5(weights=None, num_classes=classes)
    model.conv1[0].stride = (1, 1)
    model.maxpool = nn.Identity()
    return model


def mobilenet_v2(classes: int = 10) -> nn.Module:
    """Return MobileNetV2 of half the width with three halvings of the image, at blocks 4, 7 and 14, instead of five."""
    model: Any = torchvision.models.mobilenet_v2(weights=None, num_classes=classes, width_mult=0.5)
    model.features[0][0].stride = (1, 1)
    model.features[2].conv[1][0].stride = (1, 1)
    return model
