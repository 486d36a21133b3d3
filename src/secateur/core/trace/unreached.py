"""Which layers did the example not run, and which modules' code could run them?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from secateur.core.layer_families import CONVOLUTIONS
from secateur.core.trace.numbers_in_code import speaks_of, takes_more
from secateur.core.trace.state import State


@dataclass(frozen=True)
class Unreached:
    """A module that the example does not run, or parameters that it does not use of one that it does.

    Attributes:
        name: of the outermost module whose forward was not called; else of a parameter.
        layers: for each layer in it its width.
        sizes: numbers of channels above 1 that its parameters speak of.
        reads: how many channels its first layer reads; 0 where it has none that mixes channels.
        makes: how many its last layer makes where that is a convolution, else 0.
        tied: its parameters that modules share which did run.
        callers: the modules whose code could run it.
        takes: how many channels each of its layers reads.
        cut: whether own code could cut a tensor to so many channels, see ``numbers_in_code.speaks_of``.
        more: whether that code could be given tensors that the example did not have.
        alone: whether it mixes no channels, such as a norm or a single parameter, and so meets what has its size.
    """

    name: str
    layers: Mapping[str, int]
    sizes: frozenset[int]
    reads: int
    makes: int
    tied: tuple[str, ...]
    callers: frozenset[str]
    takes: frozenset[int] = frozenset()
    cut: bool = False
    more: bool = False
    alone: bool = False


class _Modules:
    """The modules of a network under their first names, and what is missing of each."""

    def __init__(self, model: nn.Module, state: State, read: frozenset[str]) -> None:
        self.by_name = dict(model.named_modules())
        self.first = {id(module): name for name, module in self.by_name.items()}
        self.every = dict(model.named_modules(remove_duplicate=False))
        self.entered = frozenset(state.stack.entered)
        ran = {id(p) for name in self.entered for p in self.by_name[name].parameters(recurse=False)}
        self.missing: dict[str, list[str]] = {}
        self.live = set(self.entered)
        for name, module in self.by_name.items():
            for leaf, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
                known = state.names[id(parameter)][0] in read
                if not known or (name not in self.entered and id(parameter) in ran):
                    self.missing.setdefault(name, []).append(leaf)
                else:  # its weight was read by other code, as by a function
                    self.live.add(name)
        self.live = {above for name in self.live for above in _down_to(name)}

    def outermost(self, name: str) -> str:
        """Return the outermost module on the way to this one in which nothing has run, else this one."""
        return next((above for above in _down_to(name) if above not in self.live), name)

    def below(self, name: str) -> list[nn.Module]:
        """Return a module that did not run with all in it; nothing of one that did."""
        return [] if name in self.live else list(self.by_name[name].modules())

    def callers(self, name: str) -> frozenset[str]:
        """Return the nearest modules that ran, above each place in which this one is registered, or itself."""
        places = [place for place, module in self.every.items() if module is self.by_name[name]]
        found = (
            next(self.first[id(self.every[above])] for above in reversed(way) if self._ran(above))
            for way in (list(_down_to(place)) for place in places)
        )
        return frozenset(found)

    def _ran(self, name: str) -> bool:
        return name == "" or self.first[id(self.every[name])] in self.entered


def unreached(model: nn.Module, state: State, read: frozenset[str]) -> list[Unreached]:
    """Return what the example did not run, in the order of the network's modules.

    Args:
        model: the network.
        state: with the modules that were entered in the run.
        read: names of the parameters that were used.
    """
    modules = _Modules(model, state, read)
    groups: dict[str, list[str]] = {}
    for name in modules.missing:
        groups.setdefault(modules.outermost(name), []).append(name)
    return [_entry(modules, state, read, place, names) for place, names in groups.items()]


def _entry(modules: _Modules, state: State, read: frozenset[str], place: str, names: Sequence[str]) -> Unreached:
    owners = {name: modules.by_name[name] for name in names}
    parameters = {
        f"{name}.{leaf}" if name else leaf: owner.get_parameter(leaf)
        for name, owner in owners.items()
        for leaf in modules.missing[name]
    }
    sizes = {size for parameter in parameters.values() for size in parameter.shape[: 3 if parameter.dim() == 3 else 2]}
    layers = [owner for owner in owners.values() if isinstance(owner, (*CONVOLUTIONS, nn.Linear))]
    sizes |= {size for layer in layers for size in _reads_and_makes(layer)}
    takes = frozenset(_reads_and_makes(layer)[0] for layer in layers)
    callers = modules.callers(place)
    code = [*owners.values(), *modules.below(place), *(modules.by_name[name] for name in callers)]
    known = {name: state.names[id(parameter)][0] for name, parameter in parameters.items()}
    return Unreached(
        name=next(iter(parameters)) if place in modules.live else place,
        layers={
            row: width for name, owner in owners.items() for row, width in _rows(name, owner, modules.missing[name])
        },
        sizes=frozenset(size for size in sizes if size > 1),
        reads=_reads_and_makes(layers[0])[0] if layers else 0,
        makes=_reads_and_makes(layers[-1])[1] if layers and isinstance(layers[-1], CONVOLUTIONS) else 0,
        tied=tuple(original for original in known.values() if original in read),
        callers=callers,
        takes=takes,
        cut=speaks_of(code, takes),
        more=takes_more(code),
        alone=place in modules.live or not layers,
    )


def _reads_and_makes(layer: nn.Module) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    assert isinstance(layer, CONVOLUTIONS)
    return layer.in_channels, layer.out_channels


def _rows(name: str, owner: nn.Module, missing: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield what an explanation lists: a layer by its weight, and parameters that belong to none."""
    if "weight" in missing:
        mixes = isinstance(owner, (*CONVOLUTIONS, nn.Linear))
        yield name or "weight", _reads_and_makes(owner)[1] if mixes else _width(owner.get_parameter("weight"))
        return
    for leaf in missing:
        yield f"{name}.{leaf}" if name else leaf, _width(owner.get_parameter(leaf))


def _width(parameter: Tensor) -> int:
    """Return the last size above 1, which is that of the channels in a norm, an embedding or a gate."""
    return next((size for size in reversed(parameter.shape) if size > 1), 1)


def _down_to(name: str) -> Iterator[str]:
    """Yield the names of the network, of the modules on the way to one, and of itself."""
    yield ""
    parts = name.split(".") if name else []
    for end in range(1, len(parts) + 1):
        yield ".".join(parts[:end])
