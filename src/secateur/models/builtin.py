"""The networks that come with Secateur, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from torch import nn

from secateur.models.anwar import ConvChain
from secateur.models.densenet import DenseNet
from secateur.models.lenet import LeNet5
from secateur.models.resnet import ResNet
from secateur.models.vgg import VGG

_DEPTHS = (20, 32, 44, 56, 110)

_ANWAR_DIGITS = partial(ConvChain, padded=False, border=2, channels=1, image=28)

BUILDERS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        **{f"resnet{depth}": partial(ResNet, depth) for depth in _DEPTHS},
        **{f"resnet{depth}_projection": partial(ResNet, depth, shortcut="B") for depth in _DEPTHS},
        "vgg16_bn": VGG,
        "vgg16_bn_fc": partial(VGG, hidden=(512,)),
        "densenet40": DenseNet,
        "lenet5": LeNet5,
        "anwar_mnist1": partial(_ANWAR_DIGITS, ((5, (16,)), (5, (32,)), (5, (64,))), (120,)),
        "anwar_mnist2": partial(_ANWAR_DIGITS, ((5, (6,)), (5, (16,)), (5, (120,))), (84,)),
        "anwar_cifar10_small": partial(ConvChain, ((3, (128, 128)), (3, (128, 128)), (3, (256, 256))), (256,)),
        "anwar_cifar10_large": partial(
            ConvChain, ((3, (128, 128)), (3, (256, 256)), (3, (256, 256, 512))), (1024, 1024)
        ),
        "anwar_cifar100": partial(
            ConvChain, ((3, (128, 128)), (3, (128, 128)), (3, (256, 256, 256))), (512,), classes=100
        ),
        "anwar_svhn": partial(ConvChain, ((3, (64, 64)), (3, (128, 128)), (3, (128, 128))), (512, 512)),
    }
)
"""The function that builds each built-in network; takes ``classes`` and ``channels``, some ``image`` too."""

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
        "anwar_mnist1": "digits, 16-32-64 maps and 120 units, as Anwar and Sung 2017 prune it",
        "anwar_mnist2": "digits, 6-16-120 maps and 84 units, as Anwar and Sung 2017 prune it",
        "anwar_cifar10_small": "CIFAR-10, six convolutions of 128 to 256 maps, as Anwar and Sung 2017 prune it",
        "anwar_cifar10_large": "CIFAR-10, seven convolutions of 128 to 512 maps, as Anwar and Sung 2017 prune it",
        "anwar_cifar100": "CIFAR-100, seven convolutions of 128 to 256 maps, as Anwar and Sung 2017 prune it",
        "anwar_svhn": "house numbers, six convolutions of 64 to 128 maps, as Anwar and Sung 2017 prune it",
        "lenet5": "LeNet-5 with 20-50-500 units, for 28x28 images unless told otherwise",
    }
)
"""One line about each built-in network, by name."""
