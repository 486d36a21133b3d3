"""Sizes written into Python code are made those of the thinner network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx, nn

from secateur.core.literals import Path, call_name, is_written, reshaping_nodes, write
from secateur.core.surgery.attributes import assign, moves, recorded, solve
from secateur.core.surgery.generated import replace_forward
from secateur.errors import ModelError

Change = tuple[int, str, Path, int]


def rewrite(module: nn.Module, changes: Sequence[Change]) -> None:
    """Replace sizes in the module's own forward, in training and in evaluation mode.

    Where the sizes come from numbers in its attributes, these are set. Where that is all it takes the code stays, else
    the module gets a subclass of its class, with a forward that is recorded with ``torch.fx``.

    Args:
        module: changed in place.
        changes: (number of the reshaping call, its name, path of the constant, new value).

    Raises:
        ModelError: if the forward cannot be recorded or has other calls than expected.
    """
    now, named, wanted = recorded(module), recorded(module), recorded(module)
    if isinstance(now, bool) or isinstance(named, bool) or isinstance(wanted, bool):
        raise _refusal(module, now is True)
    for mode in (0, 1):
        _change(module, wanted[mode], changes, bool(mode))
        _change(module, named[mode], [c for c in changes if _is_number(now[mode], c)], bool(mode))
    if moves(now, wanted) == {}:
        return
    numbers = solve(module, now, named)
    if numbers:  # other methods of the class may use them, also where the forward takes more than numbers
        assign(module, numbers)
        if all(_is_number(graph, change) for graph in now for change in changes):
            return
    replace_forward(module, *wanted)


def _change(module: nn.Module, graph: fx.Graph, changes: Sequence[Change], training: bool) -> None:
    nodes = reshaping_nodes(graph)
    if any(call >= len(nodes) or call_name(nodes[call].target) != function for call, function, _, _ in changes):
        raise _refusal(module, training)
    for call, _, path, value in changes:
        write(nodes[call], path, value)


def _is_number(graph: fx.Graph, change: Change) -> bool:
    call, function, path, _ = change
    return is_written(graph, call, function, path) is True


def _refusal(module: nn.Module, training: bool) -> ModelError:
    return ModelError(
        f"the sizes written in {type(module).__name__}.forward cannot be adapted in "
        f"{'training' if training else 'evaluation'} mode; compute them from the input's shape instead"
    )
