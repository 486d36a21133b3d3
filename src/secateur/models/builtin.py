"""The networks that come with Secateur, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from torch import nn

from .densenet import DenseNet
from .lenet import LeNet5
from .resnet import ResNet
from .vgg import VGG

_DEPTHS = (20, 32, 44, 56, 110)

BUILDERS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        **{f"resnet{depth}": partial(ResNet, depth) for depth in _DEPTHS},
        **{f"resnet{depth}_projection": partial(ResNet, depth, shortcut="B") for depth in _DEPTHS},
        "vgg16_bn": VGG,
        "vgg16_bn_fc": partial(VGG, hidden=(512,)),
        "densenet40": DenseNet,
        "lenet5": LeNet5,
    }
)
"""The function that builds each built-in network; takes ``classes`` and ``channels``, LeNet ``image`` too."""

MODELS: Mapping[str, str] = MappingProxyType(
    {
        **{f"resnet{depth}": f"CIFAR ResNet-{depth}, shortcuts without parameters (option A)" for depth in _DEPTHS},
        **{
            f"resnet{depth}_projection": f"CIFAR ResNet-{depth}, 1x1 convolutions as shortcuts (option B)"
            for depth in _DEPTHS
        },
        "vgg16_bn": "VGG-16 with batch norm and one linear layer, for small images",
        "vgg16_bn_fc": "VGG-16 with batch norm and two linear layers, as Li et al. 2017 prune it",
        "densenet40": "CIFAR DenseNet with 40 layers and growth 12, no bottlenecks",
        "lenet5": "LeNet-5 with 20-50-500 units, for 28x28 images unless told otherwise",
    }
)
"""One line about each built-in network, by name."""
