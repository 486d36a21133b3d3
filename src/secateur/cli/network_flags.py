"""The settings of ``evaluate``, ``measure`` and ``export`` as dataclasses, whose fields are flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from secateur.errors import SettingError


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
    runtime: Literal["eager", "channels_last", "compile", "onnxruntime", "openvino"] = "eager"
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
        format: what to write, one or several.
        source: the same as --format source; plain PyTorch code and its weights, as it was trained.
        fold: make pt2 and onnx ready to run, batch norms folded and kernels laid out as it runs fastest here; else they
            are exported as trained.
        latency: whether to time memory formats for pt2; else they stay as trained.
    """

    format: tuple[Literal["pt2", "onnx", "source"], ...] = ()
    source: bool = False
    fold: bool = True
    latency: bool = True

    def kinds(self) -> tuple[str, ...]:
        """Return what to write, each once."""
        return tuple(dict.fromkeys([*self.format, *(["source"] if self.source else [])]))
