"""One tiny network for each way in which channels can be coupled.

All take images of shape (N, 3, 8, 8) and every one of them was hard for some pruning library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Head(nn.Module):
    """Average the maps and classify."""

    def __init__(self, inputs: int, classes: int = 5) -> None:
        super().__init__()
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))


class Plain(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(conv(3, 8), nn.MaxPool2d(2), conv(8, 16), Head(16))


class CatSelf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = conv(3, 8), conv(16, 6), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.mix(torch.cat([x, x], 1)))


class Bottleneck(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = conv(width, width), conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x))


class C2f(nn.Module):
    """The block of YOLO v8."""

    def __init__(self) -> None:
        super().__init__()
        self.cv1 = conv(3, 16, 1)
        self.m = nn.ModuleList(Bottleneck(8) for _ in range(2))
        self.cv2 = conv(32, 6, 1)
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.head(self.cv2(torch.cat(y, 1)))


class PixelShuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.mix, self.head = conv(3, 24), nn.PixelShuffle(2), conv(6, 4), Head(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.up(self.stem(x))))


class ChannelShuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.one, self.two = conv(16, 16, 1, groups=2), conv(16, 16, 1, groups=2)
        self.head = Head(16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(self.stem(x))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(self.two(x))


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.mix, self.head = conv(8, 6), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        return self.head(self.mix(x * gate))


class FlattenMap(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc1, self.fc2 = conv(3, 6, stride=2), nn.Linear(6 * 16, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(self.stem(x).flatten(1))))


class Decoder(nn.Module):
    """A linear layer, a written view, and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = conv(3, 6, stride=2), nn.Linear(6, 8 * 4 * 4)
        self.up, self.out = nn.ConvTranspose2d(8, 6, 2, stride=2), nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc(self.stem(x).mean((2, 3))))
        return self.out(F.relu(self.up(x.view(-1, 8, 4, 4))))


class CalledTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared, self.head = conv(3, 8), conv(8, 8), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.shared(self.shared(self.stem(x))))


class SpatialGate(nn.Module):
    """A convolution with a single output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.mix, self.head = conv(3, 8), nn.Conv2d(8, 1, 3, padding=1), conv(8, 6), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.mix(x * torch.sigmoid(self.gate(x))))


class ParameterScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.scale, self.mix, self.head = (
            conv(3, 8),
            nn.Parameter(torch.rand(1, 8, 1, 1)),
            conv(8, 6),
            Head(6),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.stem(x) * self.scale))


class BufferScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = conv(3, 8), conv(8, 6), Head(6)
        self.register_buffer("scale", torch.rand(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.stem(x) * self.scale))


class WrittenView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.fc = conv(3, 8), conv(8, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.mix(self.stem(x)), 1)
        return self.fc(x.view(x.shape[0], 24))


class OptionA(nn.Module):
    """The CIFAR shortcut without parameters: every second position, zero channels around."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.conv1, self.bn1 = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.head = Head(16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return self.head(F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))))


class GroupNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.norm = conv(3, 8), nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(4, 8)
        self.mix, self.head = conv(8, 6), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(F.relu(self.norm(self.mid(self.stem(x))))))


class GroupConv(nn.Module):
    """Unequal numbers of inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped, self.head = conv(3, 16), conv(16, 24, groups=4), Head(24)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.grouped(self.stem(x)))


class DepthMultiplier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise, self.point, self.head = conv(3, 8), conv(8, 16, groups=8), conv(16, 6, 1), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.point(self.depthwise(self.stem(x))))


class Branching(nn.Module):
    """Python decides by shape and by value."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.head = conv(3, 8), conv(8, 8), conv(8, 8), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if x.shape[-1] > 4:
            x = self.one(x)
        return self.head(self.two(x) if x.abs().sum() >= 0 else x)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.classes, self.box = conv(3, 8), Head(8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        return {"classes": self.classes(x), "box": self.box(x)}


class FrozenNorm(nn.Module):
    """Batch norm whose statistics and affine are all buffers, as in detectors."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Conv2d(3, 8, 3, padding=1, bias=False), conv(8, 6), Head(6)
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        x = self.stem(x) * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)
        return self.head(self.mix(F.relu(x)))


class UnevenSplit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right, self.head = conv(3, 32), conv(12, 6), conv(20, 6), Head(12)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.split(self.stem(x), [12, 20], dim=1)
        return self.head(torch.cat([self.left(a), self.right(b)], 1))


class CatThenAdd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = conv(3, 12), conv(12, 8), conv(12, 4)
        self.mix, self.head = conv(12, 6), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.mix(x + torch.cat([self.left(x), self.right(x)], 1)))


class FirstChannels(nn.Module):
    """Uses the first 16 of 24 channels here and all of them there."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.part, self.whole, self.head = conv(3, 24), conv(16, 6), conv(24, 6), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.part(x[:, :16]) + self.whole(x))


class AllFrozen(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)


class ChannelStatistics(nn.Module):
    """CBAM: a gate from the mean and the maximum over channels, after a gate from those over the map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.before, self.spatial = conv(3, 6), conv(6, 8), nn.Conv2d(2, 1, 3, padding=1)
        self.down, self.up = nn.Linear(8, 4), nn.Linear(4, 8)
        self.mix, self.head = conv(8, 6), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(self.stem(x))
        pooled = (x.mean((2, 3)), x.amax((2, 3)))
        gate = sum(self.up(F.relu(self.down(p))) for p in pooled)
        x = x * torch.sigmoid(gate)[:, :, None, None]
        statistics = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        return self.head(self.mix(x * torch.sigmoid(self.spatial(statistics))))


class Tied(nn.Module):
    """Two layers own one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = (
            conv(3, 8),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1),
            Head(8),
        )
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(F.relu(self.a(self.stem(x))))))


class Sigmoid(nn.Module):
    """Silencing the makers would not do: sigmoid(0) is not 0, and the batch norm has a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sigmoid(self.norm(self.two(torch.sigmoid(self.one(x))))))


PATTERNS: Mapping[str, Callable[[], nn.Module]] = {
    "cat([x, x])": CatSelf,
    "chunk and cat (YOLO C2f)": C2f,
    "pixel shuffle": PixelShuffle,
    "channel shuffle": ChannelShuffle,
    "squeeze and excite": SqueezeExcite,
    "flatten a map": FlattenMap,
    "linear, written view, transposed conv": Decoder,
    "called twice": CalledTwice,
    "single output": SpatialGate,
    "parameter scale": ParameterScale,
    "buffer scale": BufferScale,
    "written view": WrittenView,
    "option A": OptionA,
    "group norm": GroupNorm,
    "grouped conv": GroupConv,
    "depth multiplier": DepthMultiplier,
    "python branch": Branching,
    "dict of two heads": TwoHeads,
    "frozen norm": FrozenNorm,
    "uneven split": UnevenSplit,
    "cat then add": CatThenAdd,
    "first channels": FirstChannels,
    "all frozen": AllFrozen,
    "channel statistics (CBAM)": ChannelStatistics,
}
"""The 24 patterns on which pruning libraries differ."""

NETS: Mapping[str, Callable[[], nn.Module]] = {"plain": Plain, "tied": Tied, "sigmoid": Sigmoid, **PATTERNS}
"""Every tiny network, by name."""

TYPICAL = {
    "plain", "tied", "chunk and cat (YOLO C2f)", "channel shuffle", "squeeze and excite",
    "linear, written view, transposed conv", "called twice", "option A", "depth multiplier", "dict of two heads",
    "frozen norm",
}  # fmt: skip


def first(name: str) -> Any:
    """Return a name as a parameter of a test that is slow with networks that are not typical."""
    return name if name in TYPICAL else pytest.param(name, marks=pytest.mark.slow)


SOME_FIRST = [first(name) for name in NETS]
"""Every name, for what rests on promises that are tested on all of them: those that are not typical are slow tests."""


def make(name: str) -> nn.Module:
    """Return a tiny network in evaluation mode, with batch norms as if it had been trained."""
    torch.manual_seed(0)
    return lived_in(NETS[name]())


def lived_in(model: nn.Module) -> nn.Module:
    """Give batch norms statistics, scales and shifts that differ from channel to channel; evaluation mode."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
            ):
                if tensor is not None:
                    with torch.no_grad():
                        tensor.uniform_(low, high)
    return model.eval()


def images(batch: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return random images that every tiny network takes."""
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def norms_in(net: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules())
