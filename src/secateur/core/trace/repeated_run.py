"""Does the network take the same path when it runs again on the same inputs?

What is read off one run says nothing about another path. A forward can take one if it looks at something beside its
inputs: a generator of random numbers, or what its modules have noted down. Where that was used, the network runs
again: with the smallest and the largest numbers that its generators can draw, and some more times as it comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from secateur.core.module_calls import ModuleStack, Operators
from secateur.core.surgery import Inputs
from secateur.core.surgery.forward import forward
from secateur.core.surgery.untouched import untouched
from secateur.core.torch_modes import FunctionMode
from secateur.core.trace.clock import Clock
from secateur.core.trace.draws import Around
from secateur.errors import TraceError

FEW, MANY = 6, 30  # runs; many where the extremes of a generator are not known

Path = tuple[Mapping[str, int], list[tuple[str, str]]]  # how often each module is called; operators in their order


def check(model: nn.Module, inputs: Inputs, around: Around, entered: Mapping[str, int], clock: Clock) -> None:
    """Refuse a network whose path changes from run to run in evaluation mode.

    Args:
        model: the network, which has run once.
        inputs: what it ran on.
        around: as it was before that run.
        entered: how often each module was called in it.
        clock: how long this may take.

    Raises:
        TraceError: if it takes another path, naming the module where it does.
    """
    drawn, noted = around.drawn(), around.noted()
    if not drawn and not noted:
        return
    entered = dict(entered)
    with untouched(model):
        paths = list[Path]()
        for place in _runs(drawn):
            clock.check("a run on the same inputs")
            paths.append(_path(model, inputs))
            where = _differs(entered, paths[0], paths[-1])
            if where is not None:
                raise TraceError(
                    f"{type(model).__name__} takes another path when it runs again on the same inputs{where}, in "
                    f"evaluation mode too, so that what goes together cannot be known; let it draw {place}in training "
                    "mode only"
                )


def _runs(drawn: Any) -> Iterator[str]:
    """Set up one run after the other; yield what the network depends on."""
    if not drawn:
        yield from ["and count "] * 2
        return
    states = [source.get() for source in drawn]
    extremes = [source.extremes() for source in drawn]
    for end in range(2) if all(extremes) else ():
        for source, found in zip(drawn, extremes, strict=True):
            source.put(found[end])
        yield ""
    for source, state in zip(drawn, states, strict=True):
        source.put(state)
    yield from [""] * (FEW if all(extremes) else MANY)


def _path(model: nn.Module, inputs: Inputs) -> Path:
    stack = ModuleStack(model)
    operators: list[tuple[str, str]] = []

    def hear(func: Any, *_: Any) -> None:
        operators.append((stack.current, func.overloadpacket.__name__))

    with stack, Operators(hear), _Function():
        forward(model, inputs)  # which leaves what it draws and counts for the next run
    return dict(stack.entered), operators


def _differs(entered: Mapping[str, int], first: Path, now: Path) -> str | None:
    """Return where two runs part; the operators of the very first run count not, which may fill caches."""
    names = [name for name in {**entered, **now[0]} if entered.get(name) != now[0].get(name)]
    if not names and first[1] != now[1]:
        names = [a[0] for a, b in zip(first[1], now[1], strict=False) if a != b] or [""]
    if not names:
        return None
    return f", first at '{names[0]}'" if names[0] else ""


class _Function(FunctionMode):
    """Does nothing, but modules that look for a function mode behave as they do while they are read."""

    def _called(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return func(*args, **named)
