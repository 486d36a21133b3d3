"""An ONNX program with its layers in int8, by the static quantisation of ONNX Runtime."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from secateur.errors import ExportError, reason_of
from secateur.measure.quiet_exporters import quiet

Feed: TypeAlias = Mapping[str, Any]
"""Arrays by the names of a program's inputs."""

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_BESIDE = (
    "Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "LeakyRelu", "MaxPool", "Pad", "Relu",
    "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""What passes int8 on between layers; sigmoids, softmaxes and products of two maps stay in float32."""


_MASKED = (*_BESIDE, "Where")
_BY_CHANNEL = 13  # version of the operators that quantise channel by channel


class Quantiser:
    """A program, and the ranges that its tensors have on some inputs; quantised as often as it is asked to.

    Weights are int8 with a scale for each output channel, symmetric; activations uint8 with a scale for each tensor,
    so that processors with VNNI multiply them in one instruction. The ranges are from the least to the largest value.

    Args:
        program: an ONNX model in float32.
        feeds: inputs to calibrate by; looked at once.

    Attributes:
        program: the same with constants folded and batch norms in the layers before them, which is what is quantised.
        layers: for the name of each layer, which is that of its weight, the nodes that it consists of.
        kept: those of ``layers`` that ONNX Runtime cannot quantise, which always stay in float32.
    """

    def __init__(self, program: bytes, feeds: Iterable[Feed]) -> None:
        self._feeds = feeds
        self._ranges: bytes | None = None
        self.program = _prepared(program)
        self.layers, self.kept = _layers(self.program)
        self._masks = _masking(self.program)
        if len(self.kept) == len(self.layers):
            raise ExportError("there is no convolution and no linear layer in the program that int8 could make faster")

    def quantised(self, leave: Collection[str] = (), only: Collection[str] | None = None) -> bytes:
        """Return the program in int8.

        Args:
            leave: layers that stay in float32, beside those that are ``kept``.
            only: the layers that do not, and nothing else in the program; None for all, and what lies between them.
        """
        with _refusing(), quiet(), TemporaryDirectory() as folder:
            quantisation: Any = importlib.import_module("onnxruntime.quantization")
            given, path, ranges = (Path(folder, name) for name in ("float32.onnx", "int8.onnx", "ranges.json"))
            given.write_bytes(self.program)
            if self._ranges is not None:
                ranges.write_bytes(self._ranges)
            quantisation.quantize_static(
                given,
                path,
                _reader(quantisation.CalibrationDataReader, iter(self._feeds)),
                per_channel=True,
                activation_type=quantisation.QuantType.QUInt8,
                weight_type=quantisation.QuantType.QInt8,
                op_types_to_quantize=[*LAYERS, *_BESIDE],
                nodes_to_quantize=None if only is None else self.nodes(only),
                nodes_to_exclude=[*self.nodes({*leave, *self.kept}), *self._masks],
                calibration_cache_path=ranges,
            )
            self._ranges = ranges.read_bytes()
            return path.read_bytes()

    def nodes(self, names: Collection[str]) -> list[str]:
        """Return the nodes of some layers."""
        return [node for name in names for node in self.layers[name]]


def names_of(program: bytes) -> list[str]:
    """Return what an ONNX model calls its inputs."""
    onnx: Any = importlib.import_module("onnx")
    return [entry.name for entry in onnx.load_model_from_string(program).graph.input]


def _prepared(program: bytes) -> bytes:
    """Fold what is constant, or a bias that comes by way of a node keeps its layer in float32."""
    with _refusing(), quiet(), TemporaryDirectory() as folder:
        shapes: Any = importlib.import_module("onnxruntime.quantization.shape_inference")
        given, path = Path(folder, "given.onnx"), Path(folder, "prepared.onnx")
        given.write_bytes(_scaled_by_channel(program))
        shapes.quant_pre_process(given, path, skip_symbolic_shape=True)  # sympy would be one more package
        return path.read_bytes()


def _scaled_by_channel(program: bytes) -> bytes:
    """Return a program in operators that know a scale for each channel, which older ones do not."""
    onnx: Any = importlib.import_module("onnx")
    model = onnx.load_model_from_string(program)
    if max((it.version for it in model.opset_import if it.domain == ""), default=_BY_CHANNEL) >= _BY_CHANNEL:
        return program
    return importlib.import_module("onnx.version_converter").convert_version(model, _BY_CHANNEL).SerializeToString()


def _layers(program: bytes) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    onnx: Any = importlib.import_module("onnx")
    graph = onnx.load_model_from_string(program).graph
    constants = {tensor.name for tensor in graph.initializer}
    found: dict[str, tuple[str, ...]] = {}
    kept: dict[str, None] = {}
    for node in graph.node:
        weights = [name for name in list(node.input)[1:2] if name in constants]
        if node.op_type in LAYERS and weights:
            name = weights[0].rpartition(".")[0] or node.name
            found[name] = (*found.get(name, ()), node.name)
            if node.op_type == "ConvTranspose" and len(node.input) > 2 and _groups(node) > 1:
                kept[name] = None  # whose weight has a scale for each channel of a group, and its bias one for each
    return found, tuple(kept)


def _masking(program: bytes) -> list[str]:
    """Return the nodes that pass on infinite constants, such as those of masks: no scale has room for these."""
    onnx: Any = importlib.import_module("onnx")
    graph = onnx.load_model_from_string(program).graph
    reached = {it.name for it in graph.initializer if it.data_type == onnx.TensorProto.FLOAT and _infinite(onnx, it)}
    found: list[str] = []
    for node in graph.node:
        if node.op_type in _MASKED and reached.intersection(node.input):
            reached.update(node.output)
            found.append(node.name)
    return found


def _infinite(onnx: Any, tensor: Any) -> bool:
    import numpy as np

    return bool(np.isinf(onnx.numpy_helper.to_array(tensor)).any())


def _groups(node: Any) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


def _reader(kind: Any, feeds: Iterator[Feed]) -> Any:
    class Reader(kind):  # pyright: ignore[reportUntypedBaseClass]
        def get_next(self) -> Feed | None:
            return next(feeds, None)

    return Reader()


@contextmanager
def _refusing() -> Generator[None]:
    try:
        yield
    except (OSError, MemoryError, ExportError):
        raise
    except Exception as error:  # ONNX Runtime raises anything
        reason = reason_of(error)
        raise ExportError(f"ONNX Runtime cannot quantise the program ({reason}); leave it in float32") from error
