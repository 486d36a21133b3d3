"""LeNet-5 in the widths of the Caffe example, the usual MNIST network of pruning papers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from secateur.errors import SettingError
from secateur.models.initial import initialise


class LeNet5(nn.Module):
    """LeNet-5 as 20-50-500-classes with 5x5 convolutions and 2x2 max pooling.

    The widths are those of Caffe's MNIST example; unlike there, a ReLU follows each convolution too, as is
    usual in PyTorch. The first linear layer fixes the size of the images.

    Source: LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition",
    Proceedings of the IEEE, 1998.

    Args:
        classes: number of outputs.
        channels: of the input images.
        image: height and width of the input images in pixels, 16 or more.

    Raises:
        SettingError: if the images are too small for two convolutions and poolings.
    """

    def __init__(self, classes: int = 10, channels: int = 1, image: int = 28) -> None:
        super().__init__()
        if image < 16:
            raise SettingError(f"LeNet-5 needs images of 16x16 pixels or more, not {image}x{image}")
        side = ((image - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * side * side, 500)
        self.fc2 = nn.Linear(500, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, channels, image, image) to logits (N, classes)."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))
