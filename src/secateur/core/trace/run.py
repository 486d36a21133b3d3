"""Run the network once, watch every operator, and read the groups off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from secateur.core.graph import Graph
from secateur.core.layers import SIZED
from secateur.core.literals import call_name, is_reshaping
from secateur.core.plan import DropUnits, Plan
from secateur.core.statistics import KIND, is_statistic
from secateur.core.surgery import apply, run, verify
from secateur.core.trace import sites
from secateur.core.trace.components import Components
from secateur.core.trace.resolve import Units, build
from secateur.core.trace.rules import learn
from secateur.core.trace.state import State
from secateur.errors import SecateurError, TraceError

Inputs = Tensor | Sequence[Any] | Mapping[str, Any]


def trace(model: nn.Module, example_inputs: Inputs) -> Graph:
    """Read a network into groups of units that can be removed.

    The model runs once on the inputs, in evaluation mode and without gradients, and is left as it was.

    Args:
        model: any network whose forward runs.
        example_inputs: a tensor, a tuple of positional or a dict of keyword arguments; a batch of one is enough.

    Returns:
        The groups, what is pinned and why, and everything that sizes and surgery need.

    Raises:
        ModelError: if the model does not run on the inputs.
        TraceError: if nothing consistent could be read from the run.
    """
    state = _watch(model, example_inputs)
    components = Components(state)
    constants, doubtful = sites.written(model, state, components)
    if not constants and not doubtful:
        return _graph(state, components, [])
    # Sizes in the code are believed only if a thinner network really runs and agrees. Standard layers keep their
    # sizes in attributes that surgery sets, so what they say of themselves is tried without rewriting first.
    foreign = [site for site in constants if not isinstance(model.get_submodule(site.module), SIZED)]
    for rewritten, pinned in ((foreign, []), (constants, []), (constants, doubtful), ([], [*constants, *doubtful])):
        if pinned:
            sites.pin(state, pinned)
            components = Components(state)
        graph = _graph(state, components, rewritten)
        if _survives(model, graph, example_inputs):
            return graph
    raise TraceError(
        f"{type(model).__name__} cannot be made thinner: sizes are written into its code in a way that was not "
        "understood; compute them from the inputs' shapes"
    )


def _graph(state: State, components: Components, constants: Sequence[sites.Site]) -> Graph:
    units = Units(state, components)
    return build(state, components, units, sites.rewrites(constants, units))


def _survives(model: nn.Module, graph: Graph, example_inputs: Inputs) -> bool:
    """Remove every third unit on trial and compare with the silenced network."""
    plan = Plan(tuple(DropUnits(g.name, tuple(range(g.size - 1))[::3]) for g in graph.groups))
    try:
        thin = apply(model, graph, plan)
        return verify(model, graph, plan, thin, example_inputs).exact
    except (SecateurError, RuntimeError, ValueError, IndexError, TypeError):
        return False


def _watch(model: nn.Module, example_inputs: Inputs) -> State:
    state = State.of(model)
    with state.stack, _Operators(state), _Calls(state):
        outputs = run(model, example_inputs)
    for tensor in tree_leaves(_plain(outputs)):
        if isinstance(tensor, Tensor):
            for layer in state.labels(tensor):
                state.pin(layer.reshape(-1), "an output of the network", "")
    return state


def _plain(outputs: Any) -> Any:
    """Open dataclass-like outputs so that their tensors are found."""
    if hasattr(outputs, "__dict__") and not isinstance(outputs, (Tensor, dict)):
        return [outputs, vars(outputs)]
    return outputs


class _Operators(TorchDispatchMode):
    """Carries labels through every ATen operator."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state = state

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        learn(self._state, func, args, kwargs or {}, out)
        return out


class _Calls(TorchFunctionMode):
    """Numbers the calls of each module's own forward whose sizes or statistics matter."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state = state

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name, named = call_name(func), kwargs or {}
        if not args or not isinstance(args[0], Tensor):
            return func(*args, **named)
        if is_reshaping(name, args):
            return self._reshaping(func, name, args, named)
        if is_statistic(name):
            return self._statistic(func, name, args, named)
        return func(*args, **named)

    def _reshaping(self, func: Callable[..., Any], name: str, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        call = self._state.stack.number("reshaping")
        self._state.reshaping = True
        try:
            out = func(*args, **named)
        finally:
            self._state.reshaping = False
        sites.note(self._state, call, name, args, named, out)
        return out

    def _statistic(self, func: Callable[..., Any], name: str, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        state = self._state
        state.statistic = (state.module, state.stack.number(KIND), name)
        try:
            return func(*args, **named)
        finally:
            state.statistic = None
