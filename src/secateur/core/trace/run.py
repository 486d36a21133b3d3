"""Run the network once, watch every operator, and read the groups off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload

from secateur.arguments import checked
from secateur.core.attention import ATTENTION
from secateur.core.channel_statistics import KIND, NEIGHBOURS, READING, READS, is_statistic, kind_of
from secateur.core.code.written_numbers import call_name, is_reshaping
from secateur.core.graph import Graph
from secateur.core.graph.names import several
from secateur.core.module_calls import Operators, bound
from secateur.core.plan import Plan
from secateur.core.surgery import Inputs, tensors_in
from secateur.core.surgery.foreign import Network, refuse_foreign
from secateur.core.surgery.forward import forward, in_evaluation, modes_kept
from secateur.core.surgery.private_copies import apart
from secateur.core.surgery.steady_draws import WithoutDropout
from secateur.core.surgery.training_flag import asking, may_differ
from secateur.core.surgery.training_mode_check import in_training
from secateur.core.surgery.untouched import ordinary, refuse_shapeless, untouched
from secateur.core.torch_modes import FunctionMode
from secateur.core.trace import elementwise, gains, heads, reach, recurrent, repeated_run, sites
from secateur.core.trace.clock import Clock
from secateur.core.trace.decisions import Decisions
from secateur.core.trace.draws import Around
from secateur.core.trace.rules import learn
from secateur.core.trace.state import State
from secateur.core.trace.steps import listening, noting
from secateur.core.trace.trial import Trials, settle
from secateur.errors import ModelError, TraceError
from secateur.events import Event, Tell, ignore
from secateur.rules import Number

# calls that hand a tensor's elements to other code, from where no operator brings them back
LEAVING = frozenset({"numpy", "tolist", "__array__", "__dlpack__"})
# calls that make a Python value of a tensor, by which code may decide what to do
DECIDING = frozenset(
    {"__bool__", "__contains__", "__float__", "__index__", "__int__", "allclose", "equal", "is_nonzero", "item"}
)
# operators that do the same, whoever calls them
_GIVING = frozenset({torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default})


@checked
def trace(
    model: Network,
    example_inputs: Inputs,
    *,
    free_outputs: Sequence[str] = (),
    seconds: Number | None = None,
    tell: Tell = ignore,
    tried: Sequence[Plan] = (),
) -> Graph:
    """Read a network into groups of units that can be removed.

    The model runs once on the inputs, in evaluation mode and without gradients, and is left as it was, also when
    this is interrupted. Where its code looks at whether it trains, or whether gradients are wanted, it also runs in
    training mode, without dropout and batch statistics, if it runs so on the inputs. Where sizes are written into the
    code, thinner networks run on trial. What layers could meet that are never run stays.

    Args:
        model: any network whose forward runs.
        example_inputs: a tensor, a tuple of positional or a dict of keyword arguments; a batch of one is enough.
        free_outputs: paths (or patterns) of outputs whose width is nobody's concern, such as ``"1"``, ``"1.feats"`` or
            ``"hidden_states.*"``: their channels can go. By default all that is returned keeps its width.
        seconds: give up after this time; None: take as long as it takes.
        tell: hears of each module as it runs.
        tried: plans of what was read before whose cut failed, each with those before it for ``tried``: what is in their
            way is rewritten or pinned, so that a plan with these units can be carried out.

    Returns:
        The groups, what is pinned and why, and everything that sizes and surgery need.

    Raises:
        ModelError: if the model does not run on the inputs, builds layers when it first runs, or is a wrapper or
            program that cannot be read.
        PlanError: if one of the plans that were tried is of another network.
        SettingError: if ``seconds`` is not above 0, or ``free_outputs`` name no output, class scores or everything.
        TraceError: if nothing consistent could be read from the run, it returns no tensors, takes another path when
            it runs again, or time is up.
    """
    return traced(
        model, example_inputs, free_outputs=free_outputs, seconds=seconds, tell=tell, tried=tried, trials="always"
    )


@apart("model")
@ordinary()
def traced(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    free_outputs: Sequence[str] = (),
    seconds: Number | None = None,
    tell: Tell = ignore,
    tried: Sequence[Plan] = (),
    trials: Trials = "always",
) -> Graph:
    """Do what ``trace`` does; trials can be left to the first real cut where no size is written into the code.

    Args:
        model: see ``trace``.
        example_inputs: see ``trace``.
        free_outputs: see ``trace``.
        seconds: see ``trace``.
        tell: see ``trace``.
        tried: see ``trace``.
        trials: ``"always"``, or ``"where needed"``, for whoever proves each cut and reads anew where one fails: a
            trial cut with its proof takes a quarter of the time of reading, deciding and cutting.
    """
    refuse_foreign(model)
    refuse_shapeless(example_inputs)
    tell(Event("trace", "reading the network"))  # before the names of its modules
    clock = Clock(type(model).__name__, seconds)
    with untouched(model):  # whose forwards leave what they draw and count, or nobody would notice
        state = _watch(model, example_inputs, several(free_outputs), clock, tell)
    with modes_kept(model):  # in training mode, looking at a weight may be enough to change it
        return settle(model, state, example_inputs, clock, tried, trials)


def _watch(model: nn.Module, example_inputs: Inputs, free_outputs: tuple[str, ...], clock: Clock, tell: Tell) -> State:
    state, around, decisions = State.of(model), Around(model), Decisions()
    state.outputs.patterns = free_outputs
    state.stack.arrive = lambda name, inputs: state.arrivals.setdefault(name, []).extend(
        layer for tensor in tensors_in(inputs) for layer in state.labels(tensor)
    )

    def watched(training: bool, beside: AbstractContextManager[object], inputs: Inputs) -> bool:
        without = WithoutDropout() if training else nullcontext()
        state.samples = next((len(tensor) for tensor in tensors_in(inputs) if tensor.dim()), 1)
        with state.stack, _carrying(state, clock, tell), _Calls(state, decisions), without, beside:
            outputs = forward(model, inputs, training=in_training if training else in_evaluation)
        state.outputs.note(outputs, state.labels, state.pin, training=training)
        return bool(tensors_in(outputs))

    with asking(state.stack) as asked:
        returns = watched(False, listening(state.stack, noting(state)), example_inputs)
    if not returns:
        raise TraceError(
            f"{type(model).__name__} returns no tensors, so that nothing could be verified; "
            "make its forward return tensors"
        )
    _refuse_built(model, state)
    repeated_run.check(model, example_inputs, around, state.stack.entered, clock)
    trains = may_differ(model, asked, state.arrivals)
    reach.complete(model, state, decisions, example_inputs, watched, trains=trains)
    reach.pin_unheard(model, state, example_inputs, watched)
    state.outputs.check()
    return state


def _refuse_built(model: nn.Module, state: State) -> None:
    """Refuse a network that made parameters in its first run, which no copy of it would have."""
    known = {name for name, _ in state.names.values()}
    for name, parameter in model.named_parameters():
        if id(parameter) not in state.names and name not in known:
            raise ModelError(
                f"{type(model).__name__} builds '{name}' in its first run: run the network on an input once, or load "
                "its weights, and give it then"
            )


def _carrying(state: State, clock: Clock, tell: Tell) -> Operators:
    """Return what carries labels through every ATen operator."""
    modules = len(state.stack)

    def hear(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        clock.check(state.module)
        tell(Event("trace", state.module, len(state.stack.entered), modules))
        if func in _GIVING and not state.calling:
            state.unheard.add(state.module)
        if not state.paused:
            learn(state, func, args, kwargs, out)

    return Operators(hear)


class _Calls(FunctionMode):
    """Numbers the calls of each module's own forward whose sizes or statistics matter."""

    def __init__(self, state: State, decisions: Decisions) -> None:
        super().__init__()
        self._state = state
        self._decisions = decisions
        decisions.begin()

    def _called(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        state, before = self._state, self._state.calling
        state.calling = before or not isinstance(func, OpOverload)  # which other listeners hand on
        try:
            return self._heard(func, args, named)
        finally:
            state.calling = before

    def _heard(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        name = call_name(func)
        if name in recurrent.RULES and not named:
            return self._recurrent(func, name, args)
        if name == "zeros" and self._state.module in self._state.kinds.recurrent:
            return recurrent.begin(self._state, func(*args, **named))
        if not args or not isinstance(args[0], Tensor):
            return func(*args, **named)
        if name in DECIDING:
            return self._decisions.take(partial(func, **named), *args)
        if name in LEAVING:
            for layer in self._state.labels(args[0]):
                self._state.pin(layer.reshape(-1), f"leaves torch through {name}()", "keep the computation in torch")
        if name == ATTENTION:
            if self._state.module in self._state.kinds.attention:
                return self._one_statistic(func, name, args, named, heads.attention)
            for tensor in tensors_in((args, named)):
                for layer in self._state.labels(tensor):
                    self._state.pin(layer.reshape(-1), heads.ONE_WIDTH, heads.REMEDY)
        if name == NEIGHBOURS:
            return self._one_statistic(func, name, args, named, elementwise.neighbours)
        if name in READS:
            return self._reading(func, name, args, named)
        if is_reshaping(name, args):
            return self._reshaping(func, name, args, named)
        if name == "_weight_norm" and not named:
            return self._weight_norm(func, args)
        if is_statistic(name):
            return self._statistic(func, name, args, named)
        return func(*args, **named)

    def _recurrent(self, func: Callable[..., Any], name: str, args: tuple[Any, ...]) -> Any:
        """One rule for the whole layer, which some processors run as one operator and others step by step."""
        out = self._as_one(func, args, {})
        elementwise.careful(self._state, args, out, name, lambda: recurrent.RULES[name](self._state, args, out))
        return out

    def _weight_norm(self, func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """One rule for what some processors run as one operator and others step by step."""
        out = self._as_one(func, args, {})
        elementwise.careful(self._state, args, out, "weight_norm", lambda: gains.weight_norm(self._state, args, out))
        return out

    def _one_statistic(
        self,
        func: Callable[..., Any],
        name: str,
        args: tuple[Any, ...],
        named: dict[str, Any],
        rule: Callable[[State, dict[str, Any], Any], None],
    ) -> Any:
        """One rule for a whole call over channels; it is told the arguments by their names."""
        state = self._state
        state.statistic = (state.module, state.stack.number(kind_of(name)), name)
        try:
            out = self._as_one(func, args, named)
            elementwise.careful(state, [args, named], out, name, lambda: rule(state, bound(func, args, named), out))
        finally:
            state.statistic = None
        return out

    def _as_one(self, func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Run a call whose operators are not read one by one, since one rule knows it all."""
        self._state.paused = True
        try:
            return func(*args, **named)
        finally:
            self._state.paused = False

    def _reshaping(self, func: Callable[..., Any], name: str, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        call = self._state.stack.number("reshaping")
        self._state.reshaping = True
        try:
            out = func(*args, **named)
        finally:
            self._state.reshaping = False
        note = partial(sites.note, self._state, call, func, args, named, out)
        elementwise.careful(self._state, [args, named], out, name, note)
        return out

    def _reading(self, func: Callable[..., Any], name: str, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        state = self._state
        state.reading = (state.module, state.stack.number(READING), READS[name])
        try:  # a convolution may hold a number of groups too
            return self._reshaping(func, name, args, named) if is_reshaping(name, args) else func(*args, **named)
        finally:
            state.reading = None

    def _statistic(self, func: Callable[..., Any], name: str, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        state = self._state
        state.statistic = (state.module, state.stack.number(KIND), name)
        try:
            return func(*args, **named)
        finally:
            state.statistic = None
