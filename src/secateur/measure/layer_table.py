"""A table of how long single layers take here, in float32 or in int8: measured once for each shape, kept on disk."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from secateur.atomic import refuse_special
from secateur.measure.layer_program import layer_program
from secateur.measure.machine import capability, device_name, steadiest_clock
from secateur.measure.runtimes import INT8, Ready, Runtime, engine_of, from_program, known, ready, threads_set

Convolution: TypeAlias = (
    nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

CACHE = "SECATEUR_CACHE"
_PASSES, _SECONDS = 5, 0.01


@dataclass(frozen=True)
class LayerShape:
    """A convolution or linear layer, and what it is run on: all that its time depends on.

    Attributes:
        kind: name of its class in ``torch.nn``.
        weight: shape of its weight.
        input: shape of what goes in, batch first.
        bias: whether it adds one.
        settings: stride, padding, dilation, groups and output padding of a convolution; empty for a linear layer.
    """

    kind: str
    weight: tuple[int, ...]
    input: tuple[int, ...]
    bias: bool
    settings: tuple[tuple[str, int | str | tuple[int, ...]], ...] = ()

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one pass."""
        if self.kind == "Linear":
            return int(np.prod(self.input[:-1])) * self.weight[0] * self.weight[1]
        space = self.input[2:] if "Transpose" in self.kind else self.output[2:]
        return self.input[0] * int(np.prod(self.weight)) * int(np.prod(space))

    @property
    def output(self) -> tuple[int, ...]:
        """Shape of what comes out."""
        return _output(self)

    def module(self) -> nn.Module:
        """Return such a layer, with weights of any value."""
        kind: Any = getattr(nn, self.kind)
        if self.kind == "Linear":
            return kind(self.weight[1], self.weight[0], bias=self.bias)
        settings = dict(self.settings)
        inputs, outputs = self.input[1], self.weight[0]
        if "Transpose" in self.kind:
            outputs = self.weight[1] * int(settings["groups"])  # type: ignore[arg-type]
        return kind(inputs, outputs, self.weight[2:], bias=self.bias, **settings)

    @staticmethod
    def of(module: Convolution | nn.Linear, weight: Sequence[int], inputs: Sequence[int], groups: int) -> LayerShape:
        """Return the shape of a layer of this kind with other widths."""
        bias = "bias" in dict(module.named_parameters(recurse=False))
        if isinstance(module, nn.Linear):
            return LayerShape("Linear", tuple(weight), tuple(inputs), bias)
        names = ["stride", "padding", "dilation", *(["output_padding"] if "Transpose" in type(module).__name__ else [])]
        settings = tuple((name, getattr(module, name)) for name in names)
        kind = next(kind.__name__ for kind in CONVOLUTIONS if kind in type(module).__mro__)
        return LayerShape(kind, tuple(weight), tuple(inputs), bias, (*settings, ("groups", groups)))


@lru_cache(maxsize=100_000)
def _output(shape: LayerShape) -> tuple[int, ...]:
    with torch.device("meta"):
        return tuple(shape.module()(torch.empty(shape.input)).shape)


@dataclass(eq=False)
class LayerTable:
    """Times of layers in one runtime on one device; measured when first asked for, and remembered.

    Attributes:
        runtime: see ``Runtime``; ``compile`` is answered with the times of ``channels_last``.
        threads: of the CPU.
        device: where.
        file: where the table is kept between programs; None for nowhere. One that was measured on another machine, or
            with another version of the runtime, is not used.
        measured: how many layers have been measured by this program.
    """

    runtime: Runtime
    threads: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    file: Path | None = None
    measured: int = 0
    _times: dict[str, float] = field(default_factory=dict[str, float])

    def __post_init__(self) -> None:
        if self.runtime == "compile":  # which needs seconds for each layer
            self.runtime = "channels_last"
        if self.file is not None:
            with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
                stored: dict[str, Any] = json.loads(self.file.read_text("utf-8"))
                if stored["about"] != self.about():  # of another machine or version: measured anew, and replaced
                    return
                self._times |= {
                    str(name): float(time) for name, time in stored["milliseconds"].items() if _is_time(time)
                }

    @staticmethod
    def here(runtime: Runtime, threads: int, device: torch.device) -> LayerTable:
        """Return the table that is kept for this machine, runtime and number of threads.

        Times of several threads of a CPU are of the clock on the wall, and on a busy machine many times too long; they
        are not kept beyond the program.
        """
        table = LayerTable(runtime, threads, device)
        if threads > 1 and device.type == "cpu":
            return table
        about = table.about()
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        return LayerTable(runtime, threads, device, cache_folder() / "layers" / f"{table.runtime}-{digest}.json")

    def about(self) -> dict[str, str | int]:
        """Return what the times depend on beside the layers."""
        return {
            "device": device_name(self.device),
            "capability": capability(self.device),
            "runtime": self.runtime,
            "version": importlib.metadata.version(engine_of(self.runtime)),
            "torch": str(torch.__version__),
            "threads": self.threads,
        }

    def milliseconds(self, shape: LayerShape) -> float:
        """Return how long one pass of the layer takes: the shortest of some, which noise disturbs the least."""
        name = json.dumps(asdict(shape), sort_keys=True)
        if name not in self._times:
            self._times[name] = self._measure(shape)
            self.measured += 1
        return self._times[name]

    def save(self) -> None:
        """Keep what was measured, atomically; a folder that cannot be written costs the memory, not the run."""
        if self.file is None or not self.measured:
            return
        partial = self.file.with_name(f".{self.file.name}.partial-{os.getpid()}")
        content = {"about": self.about(), "milliseconds": self._times}
        with contextlib.suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            refuse_special(self.file, links=True)
            partial.write_text(json.dumps(content, indent=0), "utf-8")
            os.replace(partial, self.file)

    def _measure(self, shape: LayerShape) -> float:
        with threads_set(self.threads), torch.inference_mode(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = self._ready(shape, torch.randn(shape.input, device=self.device))
            clock = steadiest_clock(self.threads, self.device)
            for _ in range(2):
                made.run()
            best, begun, passes = float("inf"), clock(), 0
            while passes < _PASSES or clock() - begun < _SECONDS:
                start = clock()
                made.run()
                best = min(best, clock() - start)
                passes += 1
        return best * 1e3

    def _ready(self, shape: LayerShape, x: Tensor) -> Ready:
        module = shape.module().to(self.device).eval()
        engine = engine_of(self.runtime)
        if engine == "torch":
            return ready(module, x, self.runtime, self.threads)
        int8 = self.runtime.endswith(INT8)
        program = layer_program(module, x, int8=int8)
        if program is None:
            return ready(module, x, self.runtime, self.threads)
        if int8:  # between layers there are no others than such numbers
            x = x.mul(40).add(128).clamp(0, 255).to(torch.uint8)
        return from_program(program, x, known(engine), self.threads)


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def cache_folder() -> Path:
    """Return where Secateur keeps what it has measured on this machine: ``$SECATEUR_CACHE``, else the user's cache."""
    named = os.environ.get(CACHE)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "secateur"
