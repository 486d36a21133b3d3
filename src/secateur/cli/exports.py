"""Writing the files that run without Secateur: the network made ready to run, or as it was trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from secateur.errors import DataError, ExportError, ModelError, VerificationError
from secateur.events import Event

if TYPE_CHECKING:
    from torch import nn

    from secateur.data import Calibration, Data
    from secateur.events import Tell
    from secateur.export import Exported
    from secateur.measure import Deployed

NO_IMAGES = "int8 is calibrated on images, and there are none: give --calibrate a folder of pictures, or --data"


@dataclass(frozen=True)
class Written:
    """A file that was exported.

    Attributes:
        file: what was written.
        bytes: how large it is, with the weights beside it.
        folded: how many batch norms the network in it has folded away.
        memory_format: how its kernels are laid out, ``"contiguous"`` or ``"channels_last"``.
    """

    file: Exported
    bytes: int
    folded: int = 0
    memory_format: str = "contiguous"

    def within(self, folder: Path) -> Written:
        """Return the same for files of these names in another folder, where they were moved to."""
        beside = self.file.beside
        file = replace(
            self.file, path=folder / self.file.path.name, beside=None if beside is None else folder / beside.name
        )
        return replace(self, file=file)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        int8 = self.file.int8
        return {
            "path": str(self.file.path),
            "kind": self.file.kind,
            "bytes": self.bytes,
            "difference": self.file.difference,
            "dynamic_batch": self.file.dynamic_batch,
            "folded": self.folded,
            "memory_format": self.memory_format,
            **({} if int8 is None else {"int8": int8.to_dict()}),
            **({"remark": self.file.remark} if self.file.remark else {}),
        }

    def line(self) -> str:
        """Return what there is to say of it."""
        from secateur.report.numbers import size

        batch = "any batch size" if self.file.dynamic_batch else "this batch size only"
        norms = f", {_norms(self.folded)} folded" if self.folded else ""
        last = ", channels last" if self.memory_format == "channels_last" else ""
        near = f"differs by {self.file.difference:.1e}" if self.file.int8 is None else self.file.int8.text()
        remark = f", {self.file.remark}" if self.file.remark else ""
        return f"Exported: {self.file.path} ({size(self.bytes)}, {near}, {batch}{norms}{last}{remark})"


def ready(model: nn.Module, example: Any, kinds: Iterable[str], *, time: bool, tell: Tell) -> Deployed | None:
    """Return the network ready to run, where a format asks for it and it can be made; else None, and say why.

    Args:
        model: as it was trained.
        example: what it takes.
        kinds: the formats; only ``pt2`` has a memory format that can be timed, and source stays as it was trained.
        time: whether anything may be timed.
        tell: hears of it.
    """
    from secateur.measure import deploy

    programs = set(kinds) - {"source"}
    if not programs:
        return None
    try:
        return deploy(model, example, time=time and "pt2" in programs, tell=tell)
    except (ModelError, VerificationError) as error:
        tell(Event("warning", f"exported as it was trained: {error}"))
        return None


def in_int8(kind: str) -> bool:
    """Tell whether a format is one in int8, which takes images."""
    return kind.endswith("-int8")


def images_for(kinds: Iterable[str], data: Data | None, images: Calibration | None) -> dict[str, Any]:
    """Return what files in int8 are calibrated on and judged by, as ``export_int8`` takes it; nothing without any.

    Raises:
        DataError: if there are no images.
    """
    if not any(map(in_int8, kinds)):
        return {}
    if data is None and images is None:
        raise DataError(NO_IMAGES)
    return {"calibrate": images, "data": data}


def write(
    kind: str,
    model: nn.Module,
    made: Deployed | None,
    example: Any,
    path: Path,
    int8: Mapping[str, Any] = MappingProxyType({}),
) -> Written:
    """Export in one format, compared with the network as it was trained.

    What cannot be exported when it is ready to run is exported without its memory format, then as it was trained.

    Args:
        kind: one of ``secateur.export.FILES``.
        model: as it was trained.
        made: what ``ready`` returned.
        example: what it takes.
        path: the file.
        int8: what ``export_int8`` takes beside that.

    Raises:
        ExportError: if none of them can be exported.
    """
    from secateur.artifact import is_full
    from secateur.export import export_source

    if kind == "source":
        return _weighed(export_source(model, example, path))
    failed: list[ExportError] = []
    for network, folded, memory_format in _variants(kind, model, made):
        try:
            return _weighed(_program(kind, int8)(network, example, path, reference=model), folded, memory_format)
        except ExportError as error:
            if is_full(error.__cause__):
                raise
            failed.append(error)
            if in_int8(kind):  # which was tried in many ways, and loses as much in any other
                break
    raise failed[-1]


def _weighed(file: Exported, folded: int = 0, memory_format: str = "contiguous") -> Written:
    return Written(file, sum(each.stat().st_size for each in file.files), folded, memory_format)


def said_of(made: Deployed | None) -> list[str]:
    """Return one line on how the network was made ready to run; none if it was not."""
    if made is None:
        return []
    parts = [f"{_norms(len(made.folded))} folded"] if made.folded else []
    if made.left:
        parts.append(f"{len(made.left)} left because folding would change the outputs ({made.left[0][1]})")
    if made.times:
        from secateur.measure.deployment import AS_GIVEN

        by_name = {name.replace("_", " "): each.milliseconds for name, each in made.times.items()}
        times = ", ".join(f"{name} {milliseconds:.3g} ms" for name, milliseconds in by_name.items())
        threads = next(iter(made.times.values())).threads
        ready = [each.milliseconds for name, each in made.times.items() if name != AS_GIVEN]
        unsure = made.times[made.memory_format].milliseconds > min(ready)
        why = ", which their scatter does not tell apart" if unsure else ""
        parts.append(f"{made.memory_format.replace('_', ' ')} (eager, threads: {threads}; {times}{why})")
    return [f"Ready to run: {'; '.join(parts)}."] if parts else []


def _variants(kind: str, model: nn.Module, made: Deployed | None) -> Iterable[tuple[nn.Module, int, str]]:
    """Yield the networks to try, with the number of folded batch norms and the memory format of each."""
    from secateur.measure.deployment import laid_out

    if made is not None:
        last = made.memory_format == "channels_last"
        if kind == "pt2" and last:
            yield made.model, len(made.folded), made.memory_format
        yield laid_out(made.model, "contiguous") if last else made.model, len(made.folded), "contiguous"
    yield model, 0, "contiguous"


def _program(kind: str, int8: Mapping[str, Any]) -> Callable[..., Exported]:
    from secateur.export import export_int8, export_onnx, export_pt2

    return partial(export_int8, kind=kind, **int8) if in_int8(kind) else {"pt2": export_pt2, "onnx": export_onnx}[kind]


def _norms(count: int) -> str:
    return f"{count} batch norm{'' if count == 1 else 's'}"
