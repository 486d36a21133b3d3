"""Programs with their layers in int8, calibrated on unlabelled images and held against the network.

Where a file loses too much, the layers that hurt the most stay in float32.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from secateur import rules
from secateur.arguments import checked
from secateur.core.metric import refuse_endless
from secateur.data import Calibration, Data, load_calibration
from secateur.data.calibration import SOURCE
from secateur.errors import DataError, ExportError, SettingError, nearest
from secateur.events import Event, Tell, ignore
from secateur.export.attempt import Way, export, write_through
from secateur.export.comparison import Call, Exported, Inputs, Runner, batch_of, call_of
from secateur.export.likeness import Likeness, Tally, rows_of
from secateur.export.onnx_interface import Called, called_as
from secateur.export.programs import PLAIN, export_onnx, feed, load_onnx, load_openvino, missing, session
from secateur.measure.forward import dtype_of
from secateur.measure.quantisation import Quantiser, names_of
from secateur.measure.quiet_exporters import quiet
from secateur.progress import shown
from secateur.spelling import setting

Int8Kind: TypeAlias = Literal["onnx-int8", "openvino-int8"]

IMAGES = 300
"""Images to calibrate by, and without labels to compare on; the ranges of more are hardly wider."""

RANKED = 32
"""Images by which it is found out which layers hurt."""

_NAMED = 5  # layers in a refusal
_WEIGHTS = ".bin"

_Images = Annotated[Any, rules.optional(SOURCE)]
_Drop = Annotated[float | None, rules.optional(rules.number(lambda value: value >= 0, "a number from 0 on"))]


@checked
@shown
def export_int8(
    model: nn.Module,
    example_inputs: Inputs,
    path: str | Path,
    *,
    kind: Int8Kind = "onnx-int8",
    calibrate: _Images = None,
    data: Data | None = None,
    max_drop: _Drop = None,
    leave: Sequence[str] = (),
    mixed: bool = True,
    reference: nn.Module | None = None,
    progress: bool | None = None,
    tell: Tell = ignore,
) -> Exported:
    """Write the network with its layers in int8: as an ONNX file by ONNX Runtime, or for OpenVINO by NNCF.

    Weights are int8 with a scale for each output channel, activations uint8 with a scale for each tensor. The ONNX file
    holds pairs of QuantizeLinear and DequantizeLinear, which ONNX Runtime, OpenVINO and TensorRT read.

    Args:
        model: the network; its weights, device and train/eval mode stay as they are.
        example_inputs: one batch, first dimension = batch; the values are not stored.
        path: the file to write, usually ``model.int8.onnx`` or ``model.int8.xml``, which has a ``.bin`` beside it.
        kind: which of the two.
        calibrate: unlabelled images, as for ``secateur.data.load_calibration``; None for training images of ``data``.
        data: labelled images, by whose validation split the file is judged; None for a comparison of outputs alone.
        max_drop: largest loss of the metric on the validation images, in its own unit: of accuracy and other shares a
            fraction below 1. Without ``data`` the share of the calibration images that may get another answer, or where
            outputs are no scores how far they may be off, relative to their size; of several outputs each; below 1 as
            well. None for 0.01 (of the value where the metric is no share), and 0.1 without ``data``.
        leave: layers, or modules with all the layers in them (names or patterns), that stay in float32; some must be
            left for int8. Grouped transposed convolutions with a bias stay so in any case.
        mixed: leave those layers in float32 as well that hurt the most, 1, 2, 4 and so on up to half of them, until
            the file loses no more than it may.
        reference: a network that the file is compared with; ``model`` itself if None.
        progress: whether to show on standard error what goes on; None: in a terminal and in a notebook.
        tell: hears of what is done, under the stage ``"export"`` and the kind, instead of a display.

    Returns:
        What was written, after it ran on the images; ``int8`` says how near it came.

    Raises:
        DataError: if there are no images, or they do not fit the network.
        ExportError: if packages are missing, the network cannot be exported, or the file loses too much, naming the
            layers that hurt; none is left then.
        SettingError: if there is no such layer to leave, or a setting is out of range.
    """
    if reason := missing(kind):
        raise ExportError(reason)
    if calibrate is None and data is None:
        raise DataError("int8 is calibrated on images, and there are none: give 'calibrate' some, or 'data'")
    if kind == "openvino-int8" and Path(path).suffix != ".xml":
        raise ExportError(f"OpenVINO's files are named .xml, and '{path}' is not; give a path such as model.int8.xml")
    if (own := dtype_of(model)) != torch.float32:
        raise ExportError(f"int8 is made of networks in float32, and this one is in {own}; give model.float()")
    if max_drop is not None:
        refuse_endless(max_drop, None if data is None else data.task.metric)
    call_of(example_inputs)
    images = load_calibration(data if calibrate is None else calibrate, count=IMAGES, example=example_inputs)
    with TemporaryDirectory() as folder:
        tell(Event(f"export {kind}", "exporting in float32"))
        float32 = export_onnx(model, example_inputs, Path(folder, "model.onnx"), reference=reference)
        judged = Judged(images.at_most(IMAGES), data, max_drop, tuple(leave), mixed)
        whole = reference or model
        return quantised(float32, whole, example_inputs, Path(path), kind, judged, tell, called_as(whole))


@dataclass(frozen=True)
class Judged:
    """How a file in int8 is made and judged, see ``export_int8``."""

    images: Calibration
    data: Data | None = None
    max_drop: float | None = None
    leave: tuple[str, ...] = ()
    mixed: bool = True


def quantised(
    float32: Exported,
    model: nn.Module,
    example_inputs: Inputs,
    path: Path,
    kind: Int8Kind,
    how: Judged,
    tell: Tell,
    called: Called = PLAIN,
) -> Exported:
    """Write an ONNX file in int8, held against the network that it was exported from, see ``export_int8``."""
    example_inputs = example_inputs if called.dynamic else called.example
    size = 0 if float32.dynamic_batch else batch_of(call_of(example_inputs))
    program = _Program(float32.path.read_bytes(), how.images, size, kind, tell, called)
    modules = {name: type(module).__name__ for name, module in model.named_modules() if name}
    fixed = tuple(program.named(how.leave, modules))
    if how.leave and program.all_of(fixed):
        raise SettingError(
            f"{setting('leave')} names every layer that could be in int8, so that there is none; name fewer of them, "
            "or export in float32"
        )
    likeness = Likeness(how.images.batches, how.data, how.max_drop, called.outputs)
    ways = [_way(program, likeness, fixed, more, float32.dynamic_batch) for more in program.steps(fixed, how.mixed)]
    try:
        made = export(model, example_inputs, path, kind, ways, check=likeness.check)
        return replace(made, remark=float32.remark if kind == "onnx-int8" else "")
    except ExportError as error:
        if not likeness.refused:
            raise
        worst = ", ".join(program.worst(fixed)[:_NAMED])
        remedy = f"allow more with {setting('max_drop')}, or prune less" if how.mixed else "leave some in float32"
        raise ExportError(f"{error}; the layers that hurt the most are {worst}: {remedy}") from error


class _Program:
    """A network in int8 with any of its layers left in float32, in one of the formats."""

    def __init__(
        self, program: bytes, images: Calibration, size: int, kind: Int8Kind, tell: Tell, called: Called
    ) -> None:
        self.kind, self._tell, self._called = kind, tell, called
        names, calls = names_of(program), [called.turned(call) for call in _pieces(images, size)]
        self._ranking = calls[: -(-RANKED // size)] if size else [rows_of(calls[0], slice(RANKED))]
        self._feeds = [feed(names, call) for call in calls]
        self._quantiser = Quantiser(program, self._feeds)
        self._worst: list[str] | None = None

    def named(self, leave: Sequence[str], modules: Mapping[str, str]) -> list[str]:
        """Return the layers that are ``layers_of`` the names, after those that int8 cannot hold."""
        return list(dict.fromkeys([*self._quantiser.kept, *layers_of(leave, list(self._quantiser.layers), modules)]))

    def all_of(self, layers: Collection[str]) -> bool:
        """Say whether these are all layers that there are."""
        return len(layers) == len(self._quantiser.layers)

    def steps(self, fixed: Collection[str], mixed: bool) -> Iterator[int]:
        """Yield how many of the worst layers to leave in float32, trial by trial."""
        yield 0
        most = (len(self._quantiser.layers) - len(fixed)) // 2 if mixed else 0
        yield from (1 << power for power in range(most.bit_length()))

    def worst(self, fixed: Collection[str]) -> list[str]:
        """Return the other layers, that first whose int8 alone moves the outputs the most."""
        if self._worst is None:
            layers = [layer for layer in self._quantiser.layers if layer not in fixed]
            wanted = list(map(session(self._quantiser.program), self._ranking))
            errors: dict[str, float] = {}
            for number, layer in enumerate(layers):
                self._tell(Event(f"export {self.kind}", f"looking at {layer}", number, len(layers)))
                run = session(self._quantiser.quantised(only=[layer]))
                errors[layer] = max(_error(want, run(call)) for want, call in zip(wanted, self._ranking, strict=True))
            self._worst = sorted(layers, key=lambda layer: -errors[layer])
        return self._worst

    def write(self, leave: Collection[str], path: Path) -> None:
        """Write the network with these layers in float32."""
        some = f", {len(leave)} of {len(self._quantiser.layers)} in float32" if leave else ""
        self._tell(Event(f"export {self.kind}", f"calibrating, and putting layers into int8{some}"))
        if self.kind == "onnx-int8":
            write_through(path, self._quantiser.quantised(leave))
            return
        nncf: Any = importlib.import_module("nncf")
        openvino: Any = importlib.import_module("openvino")
        with quiet():
            model = openvino.Core().read_model(self._quantiser.program)
            parts = [f"{re.escape(node)}(/.*)?" for node in self._quantiser.nodes(leave)]  # a Gemm is read as two
            scope = nncf.IgnoredScope(patterns=parts)
            feeds = nncf.Dataset(self._feeds)
            made = nncf.quantize(model, feeds, subset_size=len(self._feeds), ignored_scope=scope if leave else None)
            openvino.save_model(made, path, compress_to_fp16=False)

    def load(self, path: Path) -> Runner:
        """Make what was written run."""
        self._tell(Event(f"export {self.kind}", "comparing it with the network"))
        return (load_onnx if self.kind == "onnx-int8" else load_openvino)(path, self._called)


def layers_of(names: Sequence[str], layers: Sequence[str], modules: Mapping[str, str]) -> list[str]:
    """Return the layers that are named, by a pattern or a module around them.

    Args:
        names: what is named.
        layers: those that can be in int8.
        modules: the classes of all modules of the network by their names.

    Raises:
        SettingError: if one names none.
    """
    found: list[str] = []
    for name in names:
        these = [layer for layer in layers if fnmatchcase(layer, name) or layer.startswith(f"{name}.")]
        if not these:
            other = next((module for module in modules if fnmatchcase(module, name)), None)
            problem = f"there is no layer '{name}' to leave in float32{nearest(name, layers)}"
            if other is not None:
                problem = (
                    f"'{other}' is of {modules[other]}, which is no layer that int8 makes faster: name a convolution "
                    "or linear layer to leave in float32"
                )
            raise SettingError(f"{problem}; the first are {', '.join(layers[:_NAMED])}")
        found += these
    return found


def _way(program: _Program, likeness: Likeness, fixed: tuple[str, ...], more: int, dynamic: bool) -> Way:
    def write(network: nn.Module, call: Call, path: Path) -> None:
        likeness.left = (*fixed, *(program.worst(fixed)[:more] if more else ()))
        program.write(likeness.left, path)

    return Way(dynamic, write, program.load, _WEIGHTS if program.kind == "openvino-int8" else "")


def _pieces(images: Calibration, size: int) -> Iterator[Call]:
    """Yield the images as calls, where a program takes batches of one size alone so many at a time."""
    for batch in images.batches:
        call = call_of(batch)
        if not size:
            yield call
            continue
        for start in range(0, batch_of(call), size):
            yield rows_of(call, torch.arange(start, start + size).clamp(max=batch_of(call) - 1))


def _error(wanted: Iterable[Tensor], given: Iterable[Tensor]) -> float:
    tallies = [Tally() for _ in wanted]
    for tally, want, got in zip(tallies, wanted, given, strict=True):
        tally.add(want, got)
    return max(tally.error for tally in tallies)
