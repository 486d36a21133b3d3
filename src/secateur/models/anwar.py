"""The networks of Anwar and Sung 2017: plain chains of convolutions and poolings for digits and small pictures."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from secateur.errors import SettingError
from secateur.models.initial import initialise


class ConvChain(nn.Module):
    """Convolutions with batch norm and ReLU, poolings between them, and hidden linear layers.

    Poolings are maxima over overlapping 3x3 windows, two pixels apart, as in the paper. Every convolution and
    hidden linear layer is followed by batch norm and ReLU and has no bias.

    Source: Anwar, Sung, "Coarse Pruning of Convolutional Neural Networks with Random Masks", 2017, table 1.

    Args:
        convolutions: kernel size and widths of the convolutions of each stage; a pooling stands between stages.
        hidden: widths of the linear layers before the classifier.
        padded: whether convolutions keep the size of the maps.
        border: zero pixels put around the image.
        classes: number of outputs.
        channels: of the input images.
        image: height and width of the input images in pixels.

    Raises:
        SettingError: if the images are too small.
    """

    def __init__(
        self,
        convolutions: tuple[tuple[int, tuple[int, ...]], ...],
        hidden: tuple[int, ...],
        *,
        padded: bool = True,
        border: int = 0,
        classes: int = 10,
        channels: int = 3,
        image: int = 32,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.ZeroPad2d(border)] if border else []
        width, side = channels, image + 2 * border
        for stage, (kernel, widths) in enumerate(convolutions):
            for outputs in widths:
                layers += _block(width, outputs, kernel, padded)
                width, side = outputs, side if padded else side - kernel + 1
            if stage + 1 < len(convolutions):
                layers.append(nn.MaxPool2d(3, stride=2, padding=1))
                side = (side + 1) // 2
            if side < 1:
                raise SettingError(f"this network needs larger images than {image}x{image} pixels")
        self.features = nn.Sequential(*layers)
        self.hidden = nn.Sequential(*_hidden(width * side * side, hidden))
        self.classifier = nn.Linear(hidden[-1], classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, channels, image, image) to logits (N, classes)."""
        return self.classifier(self.hidden(self.features(x).flatten(1)))


def _block(inputs: int, outputs: int, kernel: int, padded: bool) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2 if padded else 0, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _hidden(width: int, hidden: tuple[int, ...]) -> Iterable[nn.Module]:
    for outputs in hidden:
        yield nn.Linear(width, outputs, bias=False)
        yield nn.BatchNorm1d(outputs)
        yield nn.ReLU(inplace=True)
        width = outputs
