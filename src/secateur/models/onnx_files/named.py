"""Which names of networks are ONNX files, and what pictures such a file takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

ENDING = ".onnx"
CHANNELS = (1, 3, 4)
"""What the last size of an input is where pictures have their channels last."""


def is_onnx(spec: str) -> bool:
    """Tell whether the name of a network is that of an ONNX file."""
    return spec.lower().endswith(ENDING)


def pictures_of(spec: str) -> tuple[int, int]:
    """Return channels and height of the pictures that a file takes; 3 and 224 where it does not say so.

    Raises:
        ModelError: if there is no such file, or it is damaged.
    """
    from secateur.models.onnx_files.reading_files import read

    model = read(Path(spec).expanduser())
    given = inputs_of(model)
    if len(given) != 1:
        return 3, 224
    shape = sizes_of(given[0])
    if channels_last(model, given[0]):
        shape = [shape[0], shape[3], shape[1], shape[2]]
    channels, side = (shape[1], shape[2]) if len(shape) == 4 else (None, None)
    return channels or 3, side or 224


def files_of(spec: str) -> list[Path]:
    """Return an ONNX file, and those with its weights.

    Raises:
        ModelError: if there is no such file, or it is damaged, or asks for files outside of its folder.
    """
    from secateur.models.onnx_files.reading_files import beside

    path = Path(spec).expanduser()
    return [path, *beside(path)]


def inputs_of(model: Any) -> list[Any]:
    """Return the inputs of a model without constants, which old files name among them."""
    held = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in held]


def sizes_of(value: Any) -> list[int | None]:
    """Return the shape of an input; None for sizes that are free."""
    return [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim]


def in_words(sizes: Sequence[int | None]) -> str:
    """Return a shape for a message, such as ``[free, 3, 32, 32]``."""
    return f"[{', '.join('free' if size is None else str(size) for size in sizes)}]"


def batch_axes(model: Any) -> dict[str, str]:
    """Return what a model calls the first size of its inputs and outputs, where that is free and has a name."""
    firsts = {value.name: value.type.tensor_type.shape.dim[:1] for value in (*inputs_of(model), *model.graph.output)}
    return {name: sizes[0].dim_param for name, sizes in firsts.items() if sizes and sizes[0].dim_param}


def channels_last(model: Any, value: Any) -> bool:
    """Tell whether an input is a batch of pictures with channels last that a transposition puts first."""
    shape = sizes_of(value)
    if len(shape) != 4 or shape[3] not in CHANNELS:
        return False
    readers = [node for node in model.graph.node if value.name in node.input]
    return bool(readers) and all(
        node.op_type == "Transpose" and [list(a.ints) for a in node.attribute if a.name == "perm"] == [[0, 3, 1, 2]]
        for node in readers
    )
