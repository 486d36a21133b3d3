"""Makes twenty ONNX files as other people's exports look: opsets 7 to 23, two exporters of torch, and a converter.

python benchmarks/onnx_in_files.py FOLDER [--weights resnet20.safetensors]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import timm
import torch
import torchvision
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from secateur.measure.quiet_exporters import quiet
from secateur.models import build, load_weights

SIDE = 64
ONNX_DOMAIN = ""


def files(weights: Path | None) -> dict[str, Callable[[Path], None]]:
    """Return what makes each file, by the file's name without its ending."""
    vision = torchvision.models

    def cifar(name: str) -> nn.Module:
        model = build(name)
        if weights is not None and name == "resnet20":
            load_weights(model, weights)
        return model

    return {
        "torchvision-resnet18-op11": _old(lambda: vision.resnet18(), 11),
        "torchvision-mobilenet_v2-op10": _old(lambda: vision.mobilenet_v2(), 10),
        "torchvision-mobilenet_v3_small-op13": _old(lambda: vision.mobilenet_v3_small(), 13),
        "torchvision-shufflenet_v2-op12": _old(lambda: vision.shufflenet_v2_x0_5(), 12),
        "torchvision-efficientnet_b0-op17": _old(lambda: vision.efficientnet_b0(), 17),
        "torchvision-densenet121-op9": _old(lambda: vision.densenet121(), 9),
        "torchvision-squeezenet1_1-op8": _old(lambda: vision.squeezenet1_1(), 8),
        "torchvision-regnet_y_400mf-op18": _new(lambda: vision.regnet_y_400mf(), 18),
        "torchvision-mnasnet0_5-op20": _new(lambda: vision.mnasnet0_5(), 20),
        "torchvision-lraspp-op18": _new(_lraspp, 18),
        "timm-convnext_atto-op17": _old(lambda: timm.create_model("convnext_atto"), 17),
        "timm-ghostnet_100-op21": _new(lambda: timm.create_model("ghostnet_100"), 21),
        "timm-repvgg_a0-op23": _new(lambda: timm.create_model("repvgg_a0"), 23),
        "timm-mobilenetv3_small_050-op16": _old(lambda: timm.create_model("mobilenetv3_small_050"), 16),
        "yolo-like-op12": _old(Yolo, 12, names=("images",), results=("boxes", "scores")),
        "unet-like-op19": _new(UNet, 19),
        "keras-like-nhwc-op11": lambda path: _save(keras_like(), path, 11),
        "keras-like-separable-op7": lambda path: _save(separable(), path, 7),
        "cifar-resnet20-op11": _old(lambda: cifar("resnet20"), 11, side=32),
        "cifar-resnet56-op22": _new(lambda: cifar("resnet56"), 22, side=32),
    }


def make(folder: Path, weights: Path | None = None, only: str = "") -> list[Path]:
    """Make the files whose names hold ``only`` and return them all; those that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    for name, write in files(weights).items():
        path = folder / f"{name}.onnx"
        made.append(path)
        if only in name and not path.exists():
            torch.manual_seed(0)
            with quiet():
                write(path)
    return made


def _alive(model: nn.Module) -> nn.Module:
    """Give batch norms statistics and scales as trained ones have, so that no fold or fusion is trivial."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and bool((module.running_mean == 0).all()):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.normal_(module.bias, std=0.1)
    return model.eval()


def _old(
    network: Callable[[], nn.Module],
    opset: int,
    side: int = SIDE,
    names: Sequence[str] = ("input",),
    results: Sequence[str] = ("output",),
) -> Callable[[Path], None]:
    """Return what exports a network by following one run of it, as most files that are around were made."""

    def write(path: Path) -> None:
        torch.onnx.export(
            _alive(network()),
            (torch.randn(2, 3, side, side),),
            str(path),
            opset_version=opset,
            input_names=list(names),
            output_names=list(results),
            dynamic_axes={name: {0: "batch"} for name in (*names, *results)},
            dynamo=False,
        )

    return write


def _new(network: Callable[[], nn.Module], opset: int, side: int = SIDE) -> Callable[[Path], None]:
    """Return what exports a network through ``torch.export``."""

    def write(path: Path) -> None:
        program: Any = torch.onnx.export(
            _alive(network()),
            (torch.randn(2, 3, side, side),),
            opset_version=opset,
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        program.save(str(path))

    return write


class _Out(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)["out"]


def _lraspp() -> nn.Module:
    return _Out(
        torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
    )


class _Block(nn.Sequential):
    def __init__(self, before: int, after: int, kernel: int = 3, stride: int = 1) -> None:
        conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(after), nn.SiLU())


class _C2f(nn.Module):
    def __init__(self, width: int, count: int = 2) -> None:
        super().__init__()
        half = width // 2
        self.first = _Block(width, width, 1)
        self.inner = nn.ModuleList(nn.Sequential(_Block(half, half), _Block(half, half)) for _ in range(count))
        self.last = _Block((2 + count) * half, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for block in self.inner:
            parts.append(parts[-1] + block(parts[-1]))
        return self.last(torch.cat(parts, 1))


class Yolo(nn.Module):
    """What exports of detectors are made of: splits, concatenations, pooling in a row, upsampling, decoded boxes."""

    def __init__(self, width: int = 32, classes: int = 4, bins: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(_Block(3, 16, stride=2), _Block(16, width, stride=2))
        self.fine = _C2f(width)
        self.down = _Block(width, 2 * width, stride=2)
        self.coarse = _C2f(2 * width)
        self.reduce = _Block(2 * width, width, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.mixed = _Block(4 * width, 2 * width, 1)
        self.up = nn.Upsample(scale_factor=2)
        self.joined = _Block(3 * width, width)
        self.heads = nn.ModuleList(nn.Conv2d(w, 4 * bins + classes, 1) for w in (width, 2 * width))
        self.classes, self.bins = classes, bins

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes and scores."""
        fine = self.fine(self.stem(x))
        coarse = self.reduce(self.coarse(self.down(fine)))
        pooled = [coarse]
        for _ in range(3):
            pooled.append(self.pool(pooled[-1]))
        coarse = self.mixed(torch.cat(pooled, 1))
        fine = self.joined(torch.cat([self.up(coarse), fine], 1))
        flat = [head(y).flatten(2) for head, y in zip(self.heads, (fine, coarse), strict=True)]
        boxes, scores = torch.cat(flat, 2).split((4 * self.bins, self.classes), 1)
        weights = torch.arange(self.bins, dtype=x.dtype)
        spread = boxes.view(x.shape[0], 4, self.bins, -1).softmax(2)
        return (spread * weights.view(1, 1, -1, 1)).sum(2), scores.sigmoid()


class UNet(nn.Module):
    """Transposed convolutions, leaky units and connections past the bottom."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = _Block(3, 16), _Block(16, 32), _Block(32, 64)
        self.pool = nn.MaxPool2d(2)
        self.up_two, self.up_one = nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)
        self.back_two, self.back_one = _Block(64, 32), _Block(32, 16)
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of two classes."""
        one = self.one(x)
        two = self.two(self.pool(one))
        three = nn.functional.leaky_relu(self.three(self.pool(two)))
        two = self.back_two(torch.cat([self.up_two(three), two], 1))
        return self.head(self.back_one(torch.cat([self.up_one(two), one], 1)))


class _Graph:
    """Nodes and weights of a graph that is written operator by operator."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.draw = np.random.default_rng(0)

    def add(self, kind: str, *inputs: str, count: int = 1, **attributes: Any) -> str:
        names = [f"{kind.lower()}_{len(self.nodes)}_{i}:0" for i in range(count)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, f"model/{kind}_{len(self.nodes)}", **attributes))
        return names[0]

    def number(self, values: Any, kind: Any = np.int64) -> str:
        name = f"const__{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def weight(self, *shape: int) -> str:
        scale = (2 / max(1, np.prod(shape[1:]))) ** 0.5 if len(shape) > 1 else 0.1
        return self.number(self.draw.normal(0, scale, shape), np.float32)

    def norm(self, x: str, width: int) -> str:
        around = self.number(self.draw.uniform(0.7, 1.3, width), np.float32)
        spread = self.number(self.draw.uniform(0.5, 1.5, width), np.float32)
        return self.add("BatchNormalization", x, around, self.weight(width), self.weight(width), spread, epsilon=1e-3)

    def model(self, inputs: dict[str, list[Any]], outputs: dict[str, list[Any]]) -> Any:
        def described(values: dict[str, list[Any]]) -> list[Any]:
            return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values.items()]

        return helper.make_graph(self.nodes, "tf2onnx", described(inputs), described(outputs), self.weights)


def keras_like() -> Any:
    """Return a network of Keras as converters write it: images last in channels, pads of their own, pairs of
    transpositions that nobody has removed, a dense layer as MatMul and Add.
    """
    g = _Graph()
    x = g.add("Transpose", "input_1:0", perm=[0, 3, 1, 2])
    x = g.add("Pad", x, g.number([0, 0, 0, 0, 0, 0, 1, 1]), mode="constant")
    x = g.norm(g.add("Conv", x, g.weight(16, 3, 3, 3), kernel_shape=[3, 3], strides=[2, 2]), 16)
    low, high = g.number(0, np.float32), g.number(6, np.float32)
    x = g.add("Clip", x, low, high)
    x = g.add("Transpose", g.add("Transpose", x, perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2])
    for width, before in ((32, 16), (32, 32)):
        y = g.norm(g.add("Conv", x, g.weight(width, before, 3, 3), auto_pad="SAME_UPPER", kernel_shape=[3, 3]), width)
        gate = g.add("Clip", g.add("Add", y, g.number(3, np.float32)), low, high)  # hard swish
        y = g.add("Mul", y, g.add("Mul", gate, g.number(1 / 6, np.float32)))
        x = g.add("Add", x, y) if width == before else y
    y = g.add("GlobalAveragePool", x)  # squeeze and excitation, through vectors
    y = g.add("Squeeze", y, axes=[2, 3])
    y = g.add("Relu", g.add("Add", g.add("MatMul", y, g.weight(32, 8)), g.weight(8)))
    y = g.add("Sigmoid", g.add("Add", g.add("MatMul", y, g.weight(8, 32)), g.weight(32)))
    x = g.add("Mul", x, g.add("Unsqueeze", y, axes=[2, 3]))
    x = g.add("Transpose", x, perm=[0, 2, 3, 1])
    x = g.add("ReduceMean", x, axes=[1, 2], keepdims=0)
    x = g.add("Add", g.add("MatMul", x, g.weight(32, 10)), g.weight(10))
    g.nodes.append(helper.make_node("Softmax", [x], ["predictions:0"], axis=1))
    return g.model({"input_1:0": ["N", SIDE, SIDE, 3]}, {"predictions:0": ["N", 10]})


def separable() -> Any:
    """Return a network of depthwise convolutions in the oldest opset, with a flattening computed from its shape."""
    g = _Graph()
    x = g.add("Pad", "image", pads=[0, 0, 1, 1, 0, 0, 1, 1])
    x = g.add("Relu", g.norm(g.add("Conv", x, g.weight(16, 3, 3, 3), strides=[2, 2], kernel_shape=[3, 3]), 16))
    for before, after in ((16, 32), (32, 48)):
        y = g.add("Conv", x, g.weight(before, 1, 3, 3), group=before, pads=[1, 1, 1, 1], kernel_shape=[3, 3])
        y = g.add("Clip", g.norm(y, before), min=0.0, max=6.0)
        x = g.add("Relu", g.norm(g.add("Conv", y, g.weight(after, before, 1, 1), kernel_shape=[1, 1]), after))
    x = g.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    batch = g.add("Gather", g.add("Shape", x), g.number(0), axis=0)
    shape = g.add("Concat", g.add("Unsqueeze", batch, axes=[0]), g.number([-1]), axis=0)
    x = g.add("Reshape", x, shape)
    side = SIDE // 4
    g.nodes.append(helper.make_node("Gemm", [x, g.weight(10, 48 * side * side), g.weight(10)], ["logits"], transB=1))
    return g.model({"image": ["N", 3, SIDE, SIDE]}, {"logits": ["N", 10]})


def _save(graph: Any, path: Path, opset: int) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(ONNX_DOMAIN, opset)], ir_version=4)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    for path in make(given.folder, given.weights, given.only):
        print(path, path.stat().st_size if path.exists() else "not made")


if __name__ == "__main__":
    main()
