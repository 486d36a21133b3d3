"""What is noted of the calls that a run makes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from secateur.core.channel_statistics import KIND
from secateur.core.code.source import Spot
from secateur.core.code.written_numbers import Path

Layers = tuple[Tensor, ...]
# of a size: module, number of the call there, its name, path in its arguments, where in the source if that is known
Place = tuple[str, int, str, Path, Spot | None]


@dataclass(frozen=True)
class Call:
    """A call of a layer that multiplies: ``scale`` MACs for each combination of positions of its axes."""

    layer: str
    scale: int
    axes: tuple[int | Tensor, ...]


@dataclass(frozen=True, eq=False)
class Site:
    """A size in the arguments of a reshaping call, and the dimension that it speaks of.

    Attributes:
        window: which positions along ``dim`` the number counts.
        sign: -1 where the number counts from the end.
        spot: where in the source it stands, or why it is at no one place there that can be changed.
        training: whether only the run in training mode made the call, which is the ``call``-th there.
    """

    module: str
    call: int
    function: str
    path: Path
    layer: Tensor
    dim: int
    window: slice
    sign: int
    spot: Spot | str = ""
    training: bool = False

    @property
    def place(self) -> Place:
        """Where in the code it is; one expression of the source is one place, however often it is run."""
        if isinstance(self.spot, Spot):
            return self.module, 0, self.function, self.path, self.spot
        return self.module, self.call, self.function, self.path, None


@dataclass(frozen=True, eq=False)
class Step:
    """What the own code of a module did: the module that it called, or nothing for an operator; labels in and out."""

    called: str
    given: Layers
    made: Layers


@dataclass(frozen=True)
class Dependence:
    """A call whose result depends on all channels along a dimension at once."""

    module: str
    call: int
    dim: int
    atoms: Tensor
    kind: str = KIND

    @property
    def place(self) -> tuple[str, str, int, int]:
        """Where in the code it is, and along which dimension."""
        return self.kind, self.module, self.call, self.dim
