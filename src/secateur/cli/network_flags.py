"""The settings of ``evaluate``, ``measure`` and ``export`` as dataclasses, whose fields are flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from secateur.errors import SettingError
from secateur.spelling import setting


@dataclass(frozen=True)
class Testing:
    """How quality is measured.

    Attributes:
        split: which images.
        batch_size: images at a time.
    """

    split: Literal["test", "val"] = "test"
    batch_size: int = 256


@dataclass(frozen=True)
class Timing:
    """How a forward pass is timed.

    Attributes:
        latency: whether to time at all.
        batch_size: images in a pass.
        threads: of the CPU; as many as torch takes if not given.
        seconds: how long to time.
        runtime: how the network is run.
        device: where, such as cpu or cuda.
    """

    latency: bool = True
    batch_size: int = 1
    threads: int | None = None
    seconds: float = 1.0
    runtime: Literal[
        "eager", "channels_last", "compile", "onnxruntime", "openvino", "onnxruntime_int8", "openvino_int8"
    ] = "eager"  # fmt: skip
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("batch_size", "threads", "seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SettingError(f"{name} must be above 0, not {value}")


@dataclass(frozen=True)
class Files:
    """What to export.

    Attributes:
        format: what to write, one or several; pt2 and, with secateur[export], onnx if nothing is asked for.
        source: the same as --format source; plain PyTorch code and its weights, as it was trained.
        int8: the same as --format onnx-int8; an ONNX file with its layers in int8.
        fold: make all but source ready to run, batch norms folded and kernels laid out as it runs fastest here; else
            they are exported as trained.
        latency: whether to time memory formats for pt2; else they stay as trained.
    """

    format: tuple[Literal["pt2", "onnx", "source", "onnx-int8", "openvino-int8"], ...] = ()
    source: bool = False
    int8: bool = False
    fold: bool = True
    latency: bool = True

    def kinds(self) -> tuple[str, ...]:
        """Return what to write, each once."""
        more = [*(["source"] if self.source else []), *(["onnx-int8"] if self.int8 else [])]
        return tuple(dict.fromkeys([*self.format, *more]))


@dataclass(frozen=True)
class Quantising:
    """How a file in int8 is made.

    Attributes:
        max_drop: largest loss of the metric on the validation images, in its own unit, of shares a fraction; without
            labels the share of images that may get another answer. Leave out for 0.01, and 0.1 without labels.
        leave: layers, or modules with all the layers in them (names or patterns), that stay in float32.
        mixed: whether the layers that hurt the most stay in float32 as well, until the file loses no more than that.
    """

    max_drop: float | None = None
    leave: tuple[str, ...] = ()
    mixed: bool = True

    def __post_init__(self) -> None:
        if self.max_drop is not None and not self.max_drop >= 0:
            raise SettingError(f"{setting('max_drop')} must be a number from 0 on, not {self.max_drop}")
