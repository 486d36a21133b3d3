"""A class of its own for a module whose forward is another than that of its class.

A forward that is bound to one object gets lost wherever only the class is looked at: ``pickle`` and ``torch.save``,
``torch.fx``, ``torch.jit.script``, the replicas of ``nn.DataParallel``. So the module gets a subclass of its class
that is made here of the source of the new forward. The source can be looked up, as tracebacks and TorchScript do, and
it is what a pickle contains, beside the class that it goes on from.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import linecache
import pickle
import re
import types
import typing
import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn
from torch.nn.utils import parametrize

from secateur.core.code.written_numbers import CONSTANT
from secateur.core.surgery.editing import Changes, Edited, authors, edited, hold, members
from secateur.errors import ModelError, first_line

_NUMBERS = itertools.count()
_EVALUATING, _TRAINING = "forward_in_evaluation", "forward_in_training"
_ORIGIN = "secateur_origin"


@dataclass(frozen=True)
class Origin:
    """What a generated class is made of.

    Attributes:
        base: the class that it goes on from.
        source: of its functions.
        modules: names in the source that stand for Python modules, and what to import for them.
        names: names in the source that stand for anything else.
        methods: functions of the base in which numbers are changed; then there is no source of its own.
    """

    base: type[nn.Module]
    source: str
    modules: Mapping[str, str]
    names: Mapping[str, Any]
    methods: tuple[Edited, ...] = ()


def origin_of(kind: type) -> Origin | None:
    """Return what a class was made of here; None of any other class."""
    return vars(kind).get(_ORIGIN)


def _reduce_ex(self: nn.Module, protocol: Any) -> Any:
    """Pickle and copy as the base does, but for the class, which is made again."""
    kind = next(each for each in type(self).__mro__ if origin_of(each))
    made = super(kind, self).__reduce_ex__(max(int(protocol), 2))
    origin = origin_of(type(self))
    if origin is None or isinstance(made, str):  # somebody derived a class from it, and has to say how it is pickled
        return made
    function, arguments, *rest = made
    if rest and isinstance(rest[0], dict):
        rest[0] = {name: authors(value) for name, value in rest[0].items()}
    function = origin.base if function is kind else function
    arguments = tuple(origin.base if argument is kind else argument for argument in arguments)
    parts = (origin.base, origin.source, dict(origin.modules), dict(origin.names))
    return (restored, (*parts, function, arguments, *([origin.methods] if origin.methods else [])), *rest)


def _setstate(self: nn.Module, state: Any) -> None:
    """Take the state as the base does, and put changed functions into it again."""
    kind = next(each for each in type(self).__mro__ if origin_of(each))
    base: Any = super(kind, self)
    base.__setstate__(state)
    origin = origin_of(kind)
    _hold(self, origin.methods if origin else ())


def _hold(module: nn.Module, functions: Iterable[Edited]) -> None:
    for file in hold(module, functions):
        weakref.finalize(module, linecache.cache.pop, file, None)


# pickles of pruned modules name this function: keep its place and what it takes
def restored(
    base: type[nn.Module],
    source: str,
    modules: Mapping[str, str],
    names: Mapping[str, Any],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    methods: tuple[Edited, ...] = (),
) -> Any:
    """Make an object anew, as ``function(*arguments)`` does, and give it its generated class."""
    made = function(*arguments)
    made.__class__ = generated(Origin(base, source, modules, names, methods))
    return made


def hold_again(module: nn.Module) -> None:
    """Make anew the changed functions that a module holds, which it has from another one: they shall live as long."""
    origin = origin_of(_below(module))
    held = [each for each in origin.methods if each.held] if origin else []
    for each in held:
        vars(module)[each.name] = authors(vars(module).get(each.name))
    _hold(module, held)


_CLASSES: weakref.WeakValueDictionary[Any, type[nn.Module]] = weakref.WeakValueDictionary()


def generated(origin: Origin) -> type[nn.Module]:
    """Return the class that is made of these parts, the same for the same parts."""
    names = tuple((name, value if isinstance(value, Hashable) else id(value)) for name, value in origin.names.items())
    key = (origin.base, origin.source, tuple(sorted(origin.modules.items())), names, origin.methods)
    known = _CLASSES.get(key)
    if known is None:
        known = _CLASSES[key] = _made(origin)
    return known


def _made(origin: Origin) -> type[nn.Module]:
    base = origin.base
    functions, files = members(base, origin.methods)
    if origin.source:
        program, file = _recorded(origin)
        functions, files = functions | program, [*files, file]
    about = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    parts = {**about, **functions, "__reduce_ex__": _reduce_ex, "__setstate__": _setstate, _ORIGIN: origin}
    try:
        kind = _derived(base.__name__, base, parts)
    except Exception as error:
        raise ModelError(f"no class can be derived from {base.__name__}: {first_line(error)}") from error
    for file in files:
        weakref.finalize(kind, linecache.cache.pop, file, None)
    return kind


def _recorded(origin: Origin) -> tuple[dict[str, Any], str]:
    base = origin.base
    file = f"<secateur {base.__qualname__} {next(_NUMBERS)}>"
    space: dict[str, Any] = {"__name__": base.__module__, **origin.names}
    space |= {name: importlib.import_module(path) for name, path in origin.modules.items()}
    before = set(space)
    # torch.fx wrote it in this process, or it comes with a pickle, which runs code anyway
    exec(compile(origin.source, file, "exec"), space)
    functions = {
        name: value
        for name, value in space.items()
        if name not in before and isinstance(value, types.FunctionType) and value.__code__.co_filename == file
    }
    for name, function in functions.items():
        function.__qualname__ = f"{base.__qualname__}.{name}"
    linecache.cache[file] = (len(origin.source), None, origin.source.splitlines(keepends=True), file)
    return dict(functions), file


def _derived(name: str, base: type[nn.Module], members: Mapping[str, Any]) -> type[nn.Module]:
    kind: Any = type(base)
    return kind(name, (base,), dict(members))


def replace_forward(module: nn.Module, evaluating: fx.Graph, training: fx.Graph) -> None:
    """Give a module the recorded programs for its forward; constants that they need become buffers.

    Args:
        module: changed in place; its object, parameters, hooks and the keys of its state stay.
        evaluating: what it does in evaluation mode.
        training: what it does in training mode.
    """
    for graph in (evaluating, training):
        _own_constants(module, graph)
        _by_name(graph)
    vars(module).pop("forward", None)
    if isinstance(module, fx.GraphModule):  # its class is made of its graph, and knows no modes
        module.graph = evaluating
        return
    base, methods = _present(module)
    _put(module, generated(replace(_origin(base, evaluating, training), methods=methods)))


def replace_numbers(module: nn.Module, changes: Changes) -> None:
    """Change numbers in the source of a module's methods and of what they call; the code stays the author's.

    Args:
        module: changed in place; its object, parameters, hooks and the keys of its state stay.
        changes: where the numbers stand, and what they become.

    Raises:
        ModelError: if the source is not at hand, two numbers would have to stand at one place, or no class can be
            derived from that of the module.
    """
    base, methods = _present(module)
    bound = {
        name: value.__func__
        for name, value in vars(module).items()
        if isinstance(value, types.MethodType) and value.__self__ is module
    }
    kind = _below(module)
    old = {
        name: function for name in dir(kind) if isinstance(function := getattr(kind, name, None), types.FunctionType)
    }
    functions = edited(module, methods, changes)
    made = generated(Origin(base, "", {}, {}, functions))
    _put(module, made)
    _hold(module, functions)
    for name, function in bound.items():  # a method that was put in another one's place for this object alone
        for own in (own for own, value in old.items() if value is function and getattr(made, own) is not value):
            vars(module)[name] = types.MethodType(getattr(made, own), module)


def _below(module: nn.Module) -> type[nn.Module]:
    """Return a module's class without that of its parametrisations."""
    return type(module).__bases__[0] if parametrize.is_parametrized(module) else type(module)


def _present(module: nn.Module) -> tuple[type[nn.Module], tuple[Edited, ...]]:
    """Return the author's class, and what was changed in it so far."""
    kind = _below(module)
    known = origin_of(kind)
    return (known.base, known.methods) if known else (kind, ())


def _put(module: nn.Module, made: type[nn.Module]) -> None:
    if parametrize.is_parametrized(module):  # the last parametrisation that goes puts back the class below
        above = type(module)
        own = {name: value for name, value in vars(above).items() if name not in ("__dict__", "__weakref__")}
        made = _derived(above.__name__, made, own)
    module.__class__ = made


def _own_constants(module: nn.Module, graph: fx.Graph) -> None:
    for node in graph.nodes:
        if CONSTANT in node.meta:
            name = next(name for n in itertools.count() if not hasattr(module, name := f"_constant{n}"))
            module.register_buffer(name, node.meta.pop(CONSTANT), persistent=False)
            node.target = name


def _spell_types(base: type[nn.Module], graph: fx.Graph) -> None:
    """Put types in the place of annotations that are text; leave out those that could not be pickled."""
    hints: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # whatever the text of somebody's annotations raises: they are no program
        hints = typing.get_type_hints(base.forward)
    for node in graph.nodes:
        if isinstance(node.type, str):
            node.type = hints.get("return" if node.op == "output" else str(node.target).strip("*"))
        try:
            pickle.dumps(node.type)
        except Exception:
            node.type = None


def _by_name(graph: fx.Graph) -> None:
    """Read parametrised tensors by their names again, which stay when the parametrisation goes."""
    for node in graph.nodes:
        if node.op == "call_module" and node.target.startswith("parametrizations."):
            node.op, node.target = "get_attr", node.target.removeprefix("parametrizations.")


def _origin(base: type[nn.Module], evaluating: fx.Graph, training: fx.Graph) -> Origin:
    """Write both programs down; where they are not the same, as one that asks for the mode."""
    for graph in (evaluating, training):
        _spell_types(base, graph)
    codes = [graph.python_code("self") for graph in (evaluating, training)]
    source, other = (code.src.strip() + "\n" for code in codes)
    if source != other:
        header = next(line for line in source.splitlines() if line.startswith("def forward("))
        given = ", ".join(str(node.target) for node in evaluating.nodes if node.op == "placeholder")
        source = source.replace("def forward(", f"def {_EVALUATING}(", 1)
        other = other.replace("def forward(", f"def {_TRAINING}(", 1)
        source = (
            f"{source}\n\n{other}\n\n{header}\n"
            f"    if self.training:\n        return self.{_TRAINING}({given})\n"
            f"    return self.{_EVALUATING}({given})\n"
        )
    names = {**codes[0].globals, **codes[1].globals}
    used = {name: value for name, value in names.items() if re.search(rf"\b{name}\b", source)}
    modules = {name: value.__name__ for name, value in used.items() if isinstance(value, types.ModuleType)}
    return Origin(base, source, modules, {name: value for name, value in used.items() if name not in modules})
