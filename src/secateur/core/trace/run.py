"""Run the network once, watch every operator, and read the groups off."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from secateur.core.graph import Graph
from secateur.core.literals import call_name, is_reshaping
from secateur.core.plan import DropUnits, Plan
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
    graph = _graph(state, components, constants)
    # Sizes in the code are believed only if a thinner network really runs and agrees.
    for suspects in ([*doubtful], [*constants]):
        if not (constants or doubtful) or _survives(model, graph, example_inputs):
            return graph
        sites.pin(state, suspects)
        components = Components(state)
        constants = [site for site in constants if site not in suspects]
        doubtful = [site for site in doubtful if site not in suspects]
        graph = _graph(state, components, constants)
    if not _survives(model, graph, example_inputs):
        raise TraceError(
            f"{type(model).__name__} cannot be made thinner: sizes are written into its code in a way that was not "
            "understood; compute them from the inputs' shapes"
        )
    return graph


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
    with _module_stack(state), _Operators(state), _Calls(state):
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


@contextlib.contextmanager
def _module_stack(state: State) -> Generator[None]:
    """Know which module's forward is running; global hooks leave the model itself untouched."""

    def enter(module: nn.Module, inputs: Any) -> None:
        name = state.modules.get(id(module), state.module)
        state.stack.append(name)
        state.entered[name] = state.entered.get(name, 0) + 1

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        state.stack.pop()

    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


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
    """Numbers the reshaping calls of each module's own forward, as ``torch.fx`` would record them."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state = state
        self._made: dict[str, int] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = call_name(func)
        if not args or not isinstance(args[0], Tensor) or not is_reshaping(name, args):
            return func(*args, **(kwargs or {}))
        state = self._state
        call = self._made.get(state.module, 0)
        self._made[state.module] = call + 1
        state.reshaping = True
        try:
            out = func(*args, **(kwargs or {}))
        finally:
            state.reshaping = False
        sites.note(state, call, name, args, kwargs or {}, out)
        return out
