"""The Python frames of a run, from the call of an operator up to the forward of the network."""

from __future__ import annotations

import itertools
import os
import pathlib
import sys
from collections.abc import Mapping
from types import FrameType, FunctionType
from typing import Any

import torch
from torch import nn

from secateur.core.torch_modes import FunctionMode

_PACKAGE = pathlib.Path(__file__).parents[2]
_INSIDE = tuple(os.path.join(str(place), "") for place in (pathlib.Path(str(torch.__file__)).parent, _PACKAGE))
_NETWORKS = tuple(os.path.join(str(_PACKAGE / part), "") for part in ("models", "checks"))  # whose code is networks'
_HEARING = FunctionMode.__torch_function__.__code__
_OWN = nn.Module._call_impl.__code__  # pyright: ignore[reportPrivateUsage]


def frames() -> list[FrameType]:
    """Return what runs between a torch function and the call of the module around it, the innermost first."""
    found: list[FrameType] = []
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None and frame.f_code is not _OWN:
        if frame.f_code is _HEARING:
            found.clear()  # what is further inside are those who listen
        found.append(frame)
        frame = frame.f_back
    return list(itertools.dropwhile(is_inside, found))


def is_inside(frame: FrameType) -> bool:
    """Tell whether a frame runs code of torch or of this library, networks that come with it excepted."""
    file = frame.f_code.co_filename
    return file.startswith(_INSIDE) and not file.startswith(_NETWORKS)


def first(frame: FrameType) -> object:
    """Return the first argument of the function that a frame runs."""
    code = frame.f_code
    return frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None


def function_of(frame: FrameType) -> FunctionType:
    """Return a function that looks names up as the code of a frame does."""
    code = frame.f_code
    cells = tuple(_cell_of(frame.f_locals, name) for name in code.co_freevars)
    return FunctionType(code, frame.f_globals, None, None, cells)


def _cell_of(values: Mapping[str, Any], name: str) -> Any:
    cell: Any = (lambda value: lambda: value)(values.get(name)).__closure__
    return cell[0]
