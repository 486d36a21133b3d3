"""Random small networks and random plans."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from nets import Head, lived_in
from secateur.core.graph import Graph
from secateur.core.plan import DropUnits, Plan, ZeroWeights

Draw = Callable[..., int]
ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (nn.ReLU, nn.Sigmoid, nn.SiLU, nn.Identity, nn.PReLU)


class Chain(nn.Sequential):
    """Convolution, batch norm or not, activation."""


class Add(nn.Module):
    def __init__(self, one: nn.Module, two: nn.Module) -> None:
        super().__init__()
        self.one, self.two = one, two

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.two(x)


class Concat(nn.Module):
    def __init__(self, one: nn.Module, two: nn.Module) -> None:
        super().__init__()
        self.one, self.two = one, two

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.two(x)], 1)


class Padded(nn.Module):
    """Subsample or not, then zero channels before and after, as in option A."""

    def __init__(self, step: int, before: int, after: int) -> None:
        super().__init__()
        self.step, self.before, self.after = step, before, after

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.step, :: self.step], (0, 0, 0, 0, self.before, self.after))


class Split(nn.Module):
    """Parts of written sizes, one of them convolved, joined in the other order."""

    def __init__(self, first: int, second: int, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.inner = first, second, inner

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.split([self.first, self.second], 1)
        return torch.cat([b, self.inner(a)], 1)


class Chunk(nn.Module):
    """Two equal halves, one of which gates the other."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return a * torch.sigmoid(b)


class Slice(nn.Module):
    """The first channels, convolved, beside all of them."""

    def __init__(self, first: int, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.inner = first, inner

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.inner(x[:, : self.first]), x], 1)


class Twice(nn.Module):
    def __init__(self, shared: nn.Module) -> None:
        super().__init__()
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(self.shared(x))


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))


class Shuffle(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(width, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Statistics(nn.Module):
    """Whatever normalises, averages or compares over channels."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.norm = {
            "layer norm": lambda: nn.LayerNorm(width),
            "instance norm": lambda: nn.InstanceNorm2d(width, affine=True, track_running_stats=True),
            "group norm": lambda: nn.GroupNorm(next(g for g in (3, 2, 1) if width % g == 0), width),
            "one group each": lambda: nn.GroupNorm(width, width),
        }.get(kind, nn.Identity)()

    def forward(self, x: Tensor) -> Tensor:
        match self.kind:
            case "layer norm":
                return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            case "mean":
                return x * torch.sigmoid(x.mean(1, keepdim=True))
            case "largest":
                return x * torch.sigmoid(x.max(1, keepdim=True)[0])
            case "softmax":
                return torch.softmax(x, dim=1)
            case "length":
                return F.normalize(x + 0.1, dim=1)
            case "deviation":
                return x / (1 + torch.std(x, 1, correction=0, keepdim=True))
            case _:
                return self.norm(x)


STATISTICS = (
    "layer norm",
    "instance norm",
    "group norm",
    "one group each",
    "mean",
    "largest",
    "softmax",
    "length",
    "deviation",
)


class WrittenHead(nn.Module):
    """Flatten to a size that stands in the code."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.size = width * side * side
        self.fc1, self.fc2 = nn.Linear(self.size, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(x.contiguous().view(-1, self.size))))


class FlattenHead(nn.Sequential):
    def __init__(self, width: int, side: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(width * side * side, 6), nn.Tanh(), nn.Linear(6, 4))


def _chain(draw: Draw, inputs: int, outputs: int, groups: int = 1, stride: int = 1) -> nn.Module:
    kernel = draw(st.sampled_from([1, 3]))
    bias, norm = draw(st.booleans()), draw(st.booleans())
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bool(bias))
    act = draw(st.sampled_from(range(len(ACTIVATIONS))))
    activation = nn.PReLU(outputs) if ACTIVATIONS[act] is nn.PReLU else ACTIVATIONS[act]()
    return Chain(convolution, nn.BatchNorm2d(outputs) if norm else nn.Identity(), activation)


def _residual(draw: Draw, width: int, side: int) -> tuple[nn.Module, int, int]:
    kind = draw(st.sampled_from(["identity", "projection", "padded"]))
    if kind == "identity":
        return Add(_chain(draw, width, width), nn.Identity()), width, side
    stride = draw(st.sampled_from([1, 2])) if side % 2 == 0 else 1
    if kind == "projection":
        out = draw(st.integers(2, 8))
        short = nn.Conv2d(width, out, 1, stride, bias=False)
    else:
        before, after = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        out = width + before + after
        short = Padded(stride, before, after)
    return Add(_chain(draw, width, out, stride=stride), short), out, side // stride


def _parts(draw: Draw, width: int, side: int) -> tuple[nn.Module, int, int]:
    kind = draw(st.sampled_from(["cat", "cat input", "chunk", "split", "slice"]))
    out = draw(st.integers(2, 6))
    if kind == "cat":
        other = draw(st.integers(2, 6))
        return Concat(_chain(draw, width, out), _chain(draw, width, other)), out + other, side
    if kind == "cat input":
        return Concat(nn.Identity(), _chain(draw, width, out)), width + out, side
    if kind == "chunk" and width % 2 == 0:
        return Chunk(), width // 2, side
    first = draw(st.integers(1, width - 1)) if width > 1 else 0
    if not first:
        return nn.Identity(), width, side
    if kind == "slice":
        return Slice(first, _chain(draw, first, out)), width + out, side
    return Split(first, width - first, _chain(draw, first, out)), width - first + out, side


def _grouped(draw: Draw, width: int, side: int) -> tuple[nn.Module, int, int]:
    kind = draw(st.sampled_from(["grouped", "depthwise", "shuffled"]))
    if kind == "depthwise":
        multiplier = draw(st.integers(1, 2))
        return _chain(draw, width, width * multiplier, groups=width), width * multiplier, side
    groups = draw(st.sampled_from([g for g in (2, 3, 4) if width % g == 0] or [1]))
    out = groups * draw(st.integers(1, 4))
    block = _chain(draw, width, out, groups=groups)
    return (nn.Sequential(Shuffle(groups), block) if kind == "shuffled" else block), out, side


def _step(draw: Draw, width: int, side: int) -> tuple[nn.Module, int, int]:
    """Return a block, and the number of channels and the side of the maps that come out of it."""
    kind = draw(
        st.sampled_from(
            ["conv", "residual", "parts", "grouped", "pool", "twice", "gate", "scale", "resize", "statistics"]
        )
    )
    match kind:
        case "residual":
            return _residual(draw, width, side)
        case "parts":
            return _parts(draw, width, side)
        case "grouped":
            return _grouped(draw, width, side)
        case "pool" if side % 2 == 0:
            return (nn.MaxPool2d(2) if draw(st.booleans()) else nn.AvgPool2d(2)), width, side // 2
        case "twice":
            return Twice(_chain(draw, width, width)), width, side
        case "gate":
            return Gate(width, draw(st.integers(2, 4))), width, side
        case "scale":
            return Scale(width), width, side
        case "statistics" if width > 1:
            return Statistics(draw(st.sampled_from(STATISTICS)), width), width, side
        case "resize" if side < 8:
            if width % 4 == 0 and draw(st.booleans()):
                return nn.PixelShuffle(2), width // 4, side * 2
            out = draw(st.integers(2, 6))
            return nn.ConvTranspose2d(width, out, 2, stride=2), out, side * 2
        case _:
            out = draw(st.integers(2, 8))
            return _chain(draw, width, out), out, side


@st.composite
def networks(draw: Draw, most: int = 5) -> nn.Module:
    """Return a network for images (N, 3, 8, 8) in evaluation mode, batch norms as after training."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    width, side = draw(st.integers(2, 8)), 8
    blocks = [_chain(draw, 3, width)]
    for _ in range(draw(st.integers(0, most))):
        block, width, side = _step(draw, width, side)
        blocks.append(block)
    head = draw(st.sampled_from([Head, FlattenHead, WrittenHead]))
    blocks.append(Head(width) if head is Head else head(width, side))
    return lived_in(nn.Sequential(*blocks))


@st.composite
def plans(draw: Draw, graph: Graph, zeros: bool = False) -> Plan:
    """Return a plan that leaves at least one unit in every group; with ``zeros``, it may silence weights too."""
    edits: list[DropUnits | ZeroWeights] = []
    for group in graph.groups:
        units = draw(st.sets(st.integers(0, group.size - 1), max_size=group.size - 1))
        if units:
            edits.append(DropUnits(group.name, tuple(sorted(units))))
    if zeros:
        name = draw(st.sampled_from(sorted(n for n in graph.parameters if n.endswith("weight"))))
        shape = graph.tensors[name][0]
        keep = torch.rand(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))) < 0.6
        edits.append(ZeroWeights.of(name, keep))
    return Plan(tuple(edits))
