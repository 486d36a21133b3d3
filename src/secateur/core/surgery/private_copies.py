"""Work on copies of the networks that are given: whoever gives one may go on with it meanwhile, in other threads too.

A network that is read, silenced or timed is for a while not what it was: its modes are others, its forward moves
buffers, weights are zero. Even where all that is put back, somebody may have looked, and a graph of autograd that was
waiting for its ``backward`` finds that a tensor has been written into.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar, cast

from torch import nn

from secateur.core.surgery.foreign import refuse_foreign, refuse_odd_tensors
from secateur.core.surgery.object_numbers import refuse_object_numbers
from secateur.core.surgery.untouched import private
from secateur.errors import ModelError

P = ParamSpec("P")
R = TypeVar("R")
_here = threading.local()  # whether this thread is inside a public call


def apart(*names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator of public calls, which get copies in the place of networks, see ``stand_in``.

    What such a call calls in its turn gets what it is given: that is a copy already, or made from one.

    Args:
        names: of the arguments that are networks, or mappings to networks; none: the call makes its copies itself.
    """

    def decorate(call: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(call)

        @functools.wraps(call)
        def outermost(*args: P.args, **kwargs: P.kwargs) -> R:
            if getattr(_here, "inside", False):
                return call(*args, **kwargs)
            given: Any = signature.bind(*args, **kwargs)
            for name in given.arguments.keys() & set(names):
                given.arguments[name] = _stood_in(given.arguments[name])
            _here.inside = True
            try:
                return cast("Callable[..., R]", call)(*given.args, **given.kwargs)
            finally:
                _here.inside = False

        return outermost

    return decorate


def _stood_in(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _stood_in(each) for name, each in cast("Mapping[Any, Any]", value).items()}
    return stand_in(value) if isinstance(value, nn.Module) else value


def stand_in(model: nn.Module) -> nn.Module:
    """Return a copy that shares nothing with the model, or the model itself within a public call, see ``apart``.

    So is a network that cannot be copied, a wrapper or program, and one whose code was put in from outside and would
    go on with the modules of the original.

    Raises:
        ModelError: if it holds a tensor that nothing here can work with, see ``refuse_odd_tensors``, or finds its own
            parts by numbers that a copy's do not have.
    """
    if getattr(_here, "inside", False):
        return model
    refuse_odd_tensors(model)
    refuse_object_numbers(model)
    try:
        refuse_foreign(model)
        return private(model)
    except ModelError:
        return model
