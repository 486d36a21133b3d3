"""Small networks, one for each task of ``tasks.py``; recipes name them as ``task_networks.py:FUNCTION``."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD, SSDHead
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from secateur import transfer_weights
from secateur.models.published import PRETRAINED, published

LITE = "efficientnet_lite0"
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def unet(classes: int = 11, channels: int = 3) -> nn.Module:
    """Return a U-Net that scores every second pixel in each direction."""
    return UNet(classes, channels)


def lraspp(classes: int = 11) -> nn.Module:
    """Return torchvision's LR-ASPP on MobileNetV3-Large, with random weights."""
    return lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=classes)


def detector(classes: int = 4, channels: int = 3, image: int = 256) -> nn.Module:
    """Return torchvision's SSD on a small residual network, for cells of some 20 to 120 pixels; 0 is the background."""
    features = Features(channels, (16, 24, 48, 96, 128), 3)
    return single_shot(features, features.out_channels, classes, image, ([0.5] * channels, [0.25] * channels))


def lite(classes: int = 10) -> nn.Module:
    """Return timm's EfficientNet-Lite0 with published weights for ImageNet and a last layer that knows nothing yet."""
    model = timm.create_model(LITE, num_classes=classes)
    transfer_weights(model, PRETRAINED, torch.zeros(1, 3, 128, 128), name=f"timm:{LITE}")
    return model


def lite_detector(classes: int = 4, image: int = 256) -> nn.Module:
    """Return torchvision's SSD on timm's EfficientNet-Lite0 with published weights for ImageNet."""
    features = Maps(timm.create_model(LITE, features_only=True, out_indices=(2, 3, 4)))
    known = published(f"timm:{LITE}")
    own = features.network.state_dict()
    features.network.load_state_dict({name: known[name] for name in own})
    return single_shot(features, features.out_channels, classes, image, IMAGENET)


def single_shot(
    features: nn.Module, widths: Sequence[int], classes: int, image: int, norm: tuple[list[float], list[float]]
) -> SSD:
    """Return an SSD on features of three sizes, each half of the one before."""
    boxes = DefaultBoxGenerator([[2], [2], [2]], scales=[0.075, 0.18, 0.36, 0.6])
    head = SSDHead(list(widths), boxes.num_anchors_per_location(), classes)
    return SSD(
        features, boxes, (image, image), classes, head=head,
        image_mean=norm[0], image_std=norm[1], detections_per_img=100, nms_thresh=0.5,
    )  # fmt: skip


def super_resolution(channels: int = 3) -> nn.Module:
    """Return a network of residual blocks without batch norm that doubles height and width."""
    return SuperResolution(channels)


def embedding() -> nn.Module:
    """Return `lite` with 64 numbers for each image in place of scores."""
    return lite(64)


def counter(channels: int = 3) -> nn.Module:
    """Return a small residual network that gives each image one number."""
    return Pooled(Features(channels, (16, 24, 48, 64), 1), 1)


def layer(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution of 3 x 3 with batch norm and ReLU."""
    convolution = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outside), nn.ReLU())


class Block(nn.Module):
    """Two convolutions of 3 x 3 that are added to what they read."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = layer(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape, (N, C, H, W)."""
        return F.relu(features + self.second(self.first(features)))


class Features(nn.Module):
    """A stem and stages of a residual block each, all of which halve height and width.

    Args:
        channels: of images.
        widths: of the stem and of each stage.
        last: how many of the stages are put out, by number.
    """

    def __init__(self, channels: int, widths: Sequence[int], last: int) -> None:
        super().__init__()
        self.stem = layer(channels, widths[0], 2)
        pairs = itertools.pairwise(widths)
        self.stages = nn.ModuleList(nn.Sequential(layer(one, two, 2), Block(two)) for one, two in pairs)
        self.last = last
        self.out_channels = list(widths[-last:])

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Return the features of the last stages by their numbers, the finest first."""
        features = self.stem(images)
        found = OrderedDict[str, Tensor]()
        for number, stage in enumerate(self.stages):
            features = stage(features)
            if number >= len(self.stages) - self.last:
                found[str(number)] = features
        return found


class Maps(nn.Module):
    """Features of a network of timm that gives several, by their numbers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.out_channels: list[int] = network.feature_info.channels()  # type: ignore[operator, union-attr]

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Return the features by their numbers, the finest first."""
        return OrderedDict((str(number), found) for number, found in enumerate(self.network(images)))


class Pooled(nn.Module):
    """Numbers for each image, linear in the mean of its features over all places."""

    def __init__(self, features: Features, numbers: int) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Linear(features.out_channels[-1], numbers)

    def forward(self, images: Tensor) -> Tensor:
        """Return numbers, (N, numbers)."""
        (found,) = self.features(images).values()
        return self.head(found.mean(dim=(2, 3)))


class UNet(nn.Module):
    """Ronneberger et al. 2015 with batch norms, half of its resolution and a fraction of its widths."""

    def __init__(self, classes: int, channels: int, widths: Sequence[int] = (16, 32, 64, 96)) -> None:
        super().__init__()
        self.stem = layer(channels, widths[0], 2)
        self.down = nn.ModuleList()
        before = widths[0]
        for width in widths:
            self.down.append(nn.Sequential(layer(before, width), layer(width, width)))
            before = width
        self.up = nn.ModuleList()
        for width in widths[-2::-1]:
            self.up.append(nn.Sequential(layer(before + width, width), layer(width, width)))
            before = width
        self.head = nn.Conv2d(before, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores, (N, classes, H / 2, W / 2); H and W are multiples of 16."""
        features = self.down[0](self.stem(images))
        kept = [features]
        for stage in self.down[1:]:
            features = stage(F.max_pool2d(features, 2))
            kept.append(features)
        for stage, skipped in zip(self.up, kept[-2::-1], strict=True):
            wider = F.interpolate(features, scale_factor=2.0, mode="nearest")
            features = stage(torch.cat([wider, skipped], dim=1))
        return self.head(features)


class Added(nn.Module):
    """Two convolutions of 3 x 3 without batch norm that are added to what they read."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape, (N, C, H, W)."""
        return features + self.second(F.relu(self.first(features)))


class SuperResolution(nn.Module):
    """Lim et al. 2017 (EDSR) with few and narrow blocks, added to the bicubic image as Kim et al. 2016 (VDSR) do."""

    def __init__(self, channels: int, width: int = 48, blocks: int = 4, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale
        self.head = nn.Conv2d(channels, width, 3, 1, 1)
        self.body = nn.Sequential(*(Added(width) for _ in range(blocks)), nn.Conv2d(width, width, 3, 1, 1))
        self.grow = nn.Conv2d(width, channels * scale**2, 3, 1, 1)
        with torch.no_grad():  # begins with the bicubic image
            self.grow.weight.mul_(0.1)

    def forward(self, images: Tensor) -> Tensor:
        """Return images in twice the height and width, (N, C, 2 H, 2 W)."""
        plain = F.interpolate(images, scale_factor=float(self.scale), mode="bicubic", align_corners=False)
        found = self.head(images)
        return plain + F.pixel_shuffle(self.grow(found + self.body(found)), self.scale)


class Bicubic(nn.Module):
    """What a network for super-resolution by 2 has to beat."""

    def forward(self, images: Tensor) -> Tensor:
        """Return images in twice the height and width, (N, C, 2 H, 2 W)."""
        return F.interpolate(images, scale_factor=2.0, mode="bicubic", align_corners=False)
