"""Changes of sizes in the code of a module, with the places in the source where they stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.code.source import Spot
from secateur.core.code.written_numbers import Path, at, call_name, is_reshaping
from secateur.core.surgery.rewriting import Change
from secateur.core.torch_modes import FunctionMode
from secateur.core.trace.places import Places


class _Hearing(FunctionMode):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.names = {id(part): name for name, part in module.named_modules()}
        self.places: list[tuple[Places, dict[str, Any]]] = []

    def _called(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if args and isinstance(args[0], Tensor) and is_reshaping(call_name(func), args):
            self.places.append((Places(self.names, func, len(args)), {"args": args, "kwargs": named}))
        return func(*args, **named)


def changes(module: nn.Module, x: Tensor, wanted: Sequence[tuple[int, str, Path, int]]) -> list[Change]:
    """Run a module in both modes; what training has at another place is a change of its own."""
    found: dict[object, Change] = {}
    was_training = module.training
    for training in (False, True):
        with _Hearing(module.train(training)) as heard, torch.no_grad():
            module(x)
        for call, function, path, value in wanted:
            places, arguments = heard.places[call]
            spot = places.spot(path, at(arguments, path))
            known = spot if isinstance(spot, Spot) else None
            key = known or (call, path)
            found.setdefault(key, Change(call, function, path, value, known, not training))
    module.train(was_training)
    return list(found.values())
