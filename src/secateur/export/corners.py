"""The four corners: the dense and the pruned network, in float32 and in int8, as files that are tested and timed."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from secateur.core.metric import refuse_endless
from secateur.data import Calibration, Data, load_calibration
from secateur.errors import ExportError, ModelError, VerificationError
from secateur.events import Event, Tell, ignore
from secateur.export.comparison import Exported, Int8, batch_of, call_of
from secateur.export.int8 import IMAGES, Judged, quantised
from secateur.export.likeness import Ran, in_parts
from secateur.export.onnx_interface import called_as
from secateur.export.programs import export_called, load_onnx, missing
from secateur.measure import Quality, Runtime, SideBySide, deploy, quality
from secateur.measure import missing as missing_runtime
from secateur.measure.forward import evaluating, repeated
from secateur.measure.runtimes import Ready, from_program, threads_set
from secateur.measure.side_by_side import in_turns
from secateur.progress import shown

ENGINES: tuple[Runtime, ...] = ("onnxruntime", "openvino")
FLOAT32, INT8 = "float32", "int8"


def unjudged(how: Judged) -> Judged:
    """Return how a file in int8 is made where it does not matter what it answers."""
    return replace(how, data=None, max_drop=math.inf, mixed=False)


@dataclass(frozen=True)
class Corner:
    """One network in one precision, as an ONNX file.

    Attributes:
        network: ``"dense"`` or ``"pruned"``.
        precision: ``"float32"`` or ``"int8"``.
        bytes: size of the file.
        quality: how well it does on the test images; None without labelled ones.
        int8: how near a file in int8 comes to its network.
    """

    network: str
    precision: str
    bytes: int
    quality: Quality | None
    int8: Int8 | None = None

    @property
    def name(self) -> str:
        """What it is called beside the others."""
        return f"{self.network} {self.precision}"


@dataclass(frozen=True)
class Corners:
    """What is known of the four corners.

    Attributes:
        found: those that there are, the dense network in float32 first.
        times: of each runtime that is installed, by the names of the corners; all in turns.
        left_out: why others are not there, a sentence for each.
    """

    found: tuple[Corner, ...]
    times: tuple[SideBySide, ...]
    left_out: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; a speed-up is over the dense network in float32."""
        return {"corners": [self._entry(corner) for corner in self.found], "left_out": list(self.left_out)}

    def _entry(self, corner: Corner) -> dict[str, Any]:
        first = self.found[0].name
        times = {
            it.runtime: {
                "milliseconds": it.latencies[corner.name].milliseconds,
                "spread": it.latencies[corner.name].spread,
                "clock": it.clock,
                "speedup": it.ratio(first, corner.name),
                "speedup_low": it.interval(first, corner.name)[0],
                "speedup_high": it.interval(first, corner.name)[1],
                "differs": it.differ(first, corner.name),
            }
            for it in self.times
        }
        return {
            "network": corner.network,
            "precision": corner.precision,
            "bytes": corner.bytes,
            "quality": None if corner.quality is None else corner.quality.to_dict(),
            "int8": None if corner.int8 is None else corner.int8.to_dict(),
            "times": times,
        }


@dataclass
class _Made:
    """Files while they are made."""

    folder: Path
    corners: list[Corner] = field(default_factory=list[Corner])
    files: dict[str, Exported] = field(default_factory=dict[str, Exported])
    left_out: list[str] = field(default_factory=list[str])


@shown
def corners(
    networks: Mapping[str, nn.Module],
    example_inputs: Any,
    *,
    calibrate: Calibration | None = None,
    data: Data | None = None,
    max_drop: float | None = None,
    untested: Collection[str] = (),
    engines: Sequence[Runtime] = ENGINES,
    batch_size: int = 1,
    threads: int | None = None,
    seconds: float = 2.0,
    progress: bool | None = None,
    tell: Tell = ignore,
) -> Corners:
    """Write each network as an ONNX file in float32 and in int8, and test and time all of them, in turns.

    Args:
        networks: the dense and the pruned one, by these names.
        example_inputs: what they take, a batch of one.
        calibrate: unlabelled images to calibrate on; None for training images of ``data``.
        data: labelled ones, by whose validation split files in int8 are judged, and by whose test split all are tested.
        max_drop: what a file in int8 may lose, see ``export_int8``.
        untested: networks that have not the weights they were trained to: timed alone, whatever they answer.
        engines: what runs them, as far as it is installed.
        batch_size: images in a pass that is timed.
        threads: of the CPU; None for as many as torch takes.
        seconds: to time each for.
        progress: whether to show on standard error what goes on; None: in a terminal and in a notebook.
        tell: hears of it, instead of a display.

    Raises:
        DataError: if there are no images.
        ExportError: if the dense network cannot be exported in float32, or a package is missing.
    """
    if reason := missing("onnx-int8"):
        raise ExportError(reason)
    if max_drop is not None:
        refuse_endless(max_drop, None if data is None else data.task.metric)
    unlabelled = load_calibration(calibrate or data, count=IMAGES, example=example_inputs)
    how = Judged(unlabelled.at_most(IMAGES), data, max_drop)
    with TemporaryDirectory() as folder:
        made = _Made(Path(folder))
        for name, network in networks.items():
            _write(made, name, network, example_inputs, unjudged(how) if name in untested else how, tell)
        batch = repeated(example_inputs, batch_size)
        times: list[SideBySide] = []
        for engine in engines:
            if reason := missing_runtime(engine):
                made.left_out.append(reason)
                continue
            times.append(_timed(made, batch, engine, batch_size, threads, seconds, tell))
        return Corners(tuple(made.corners), tuple(times), tuple(made.left_out))


def _write(made: _Made, name: str, model: nn.Module, example: Any, how: Judged, tell: Tell) -> None:
    tell(Event("corners", f"exporting the {name} network in float32"))
    try:
        network = deploy(model, example, time=False).model
    except (ModelError, VerificationError):
        network = model
    called = replace(called_as(model), last=())  # one layout for all, so that one input fits all
    example = example if called.dynamic else called.example
    float32 = export_called(network, example, made.folder / f"{name}.onnx", called, model)
    _add(made, name, FLOAT32, float32, model, how, example, tell)
    tell(Event("corners", f"exporting the {name} network in int8"))
    try:
        int8 = quantised(float32, model, example, made.folder / f"{name}.int8.onnx", "onnx-int8", how, tell, called)
    except ExportError as error:
        made.left_out.append(f"the {name} network in int8: {error}")
        return
    _add(made, name, INT8, int8, model, how, example, tell)


def _add(
    made: _Made, name: str, precision: str, file: Exported, model: nn.Module, how: Judged, example: Any, tell: Tell
) -> None:
    tested = None
    if how.data is not None:
        tell(Event("corners", f"testing the {name} network in {precision}"))
        run = load_onnx(file.path)
        run = run if file.dynamic_batch else in_parts(run, batch_of(call_of(example)))
        with evaluating(model):
            ran = Ran(model, run, call_of(example))
            tested = quality(ran, how.data.batches("test"), how.data.task)
    corner = Corner(name, precision, file.path.stat().st_size, tested, file.int8)
    made.corners.append(corner)
    made.files[corner.name] = file


def _timed(
    made: _Made, batch: Any, engine: Runtime, batch_size: int, threads: int | None, seconds: float, tell: Tell
) -> SideBySide:
    with threads_set(threads) as used, torch.inference_mode():
        ready: dict[str, Ready] = {
            name: from_program(file.path.read_bytes(), batch, engine, used) for name, file in made.files.items()
        }
        differences = {name: file.difference for name, file in made.files.items()}
        cpu = torch.device("cpu")
        return in_turns(ready, differences, engine, batch_size, used, cpu, seconds, tell)
