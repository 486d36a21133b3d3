"""What the own code of each module does, step by step: an operator that it runs, or a module that it calls.

A thinner network does the same steps as the one it was made from, up to where it breaks: the number of the step says
which channels the code was about to use there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._pytree import tree_leaves

from secateur.core.interrupts import deferred
from secateur.core.module_calls import ModuleStack, Operators
from secateur.core.surgery import Inputs, run, tensors_in
from secateur.core.trace.calls_made import Step
from secateur.core.trace.state import State
from secateur.errors import ModelError

Hear = Callable[[str, str, Any, Any], None]  # module, which module it called (empty: an operator), given, made


@contextmanager
def listening(stack: ModuleStack, hear: Hear) -> Generator[None]:
    """Hear of every step once it is done; to be entered after what labels tensors."""
    names = stack.named()

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if id(module) in names:
            hear(stack.current, names[id(module)], (args, kwargs), output)

    hook = register_module_forward_hook(leave, with_kwargs=True)
    try:
        with Operators(lambda _, args, kwargs, out: hear(stack.current, "", (args, kwargs), out)):
            yield
    finally:
        with deferred:
            hook.remove()


def noting(state: State) -> Hear:
    """Return what notes the labels of all that a step was given and made."""

    def labels(value: Any) -> tuple[Tensor, ...]:
        return tuple(layer for tensor in tensors_in(value) for layer in state.labels(tensor))

    def note(module: str, called: str, given: Any, made: Any) -> None:
        state.did.setdefault(module, []).append(Step(called, labels(given), labels(made)))
        for each in tree_leaves(given) if called else ():
            if isinstance(each, (nn.Module, nn.Parameter)):
                weights = each.parameters() if isinstance(each, nn.Module) else (each,)
                state.handed.setdefault(called, set()).update(map(id, weights))

    return note


@dataclass
class Progress:
    """How far a network came.

    Attributes:
        done: how many steps each module's own code did.
        entered: the modules in the order in which they were first called.
        module: whose forward was running when it broke; None: it ran through.
        line: of the code that broke: its file, and the number.
    """

    done: dict[str, int] = field(default_factory=dict[str, int])
    entered: tuple[str, ...] = ()
    module: str | None = None
    line: tuple[str, int] = ("", 0)

    def beyond(self, other: Progress) -> bool:
        """Tell whether this one came further."""
        if self.module is None or other.module is None:
            return self.module is None and other.module is not None
        mine, others = sum(self.done.values()), sum(other.done.values())
        return mine > others or (mine == others and self.line[0] == other.line[0] and self.line[1] > other.line[1])


def progress(thin: nn.Module, inputs: Inputs) -> Progress:
    """Run a network, and say how far it came."""
    stack, found = ModuleStack(thin), Progress()

    def note(module: str, *_: Any) -> None:
        found.done[module] = found.done.get(module, 0) + 1

    try:
        with stack, listening(stack, note):
            run(thin, inputs)
    except ModelError as error:
        found.module = stack.current
        found.line = _line(error.__cause__)
    found.entered = tuple(stack.entered)
    return found


def _line(error: BaseException | None) -> tuple[str, int]:
    at = error.__traceback__ if error else None
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return (at.tb_frame.f_code.co_filename, at.tb_lineno) if at else ("", 0)


def calls(steps: Mapping[str, Sequence[Step]], module: str) -> Iterator[tuple[str, int, Step]]:
    """Yield where a module is called: by whom, as which step, and the step."""
    for caller, done in steps.items():
        for number, step in enumerate(done):
            if step.called == module:
                yield caller, number, step


def above(module: str) -> list[str]:
    """Return a module's name and those of all around it, the innermost first."""
    parts = module.split(".") if module else []
    return [".".join(parts[:end]) for end in range(len(parts), -1, -1)]
