"""A network that trains, and what follows it through cuts in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from secateur.core.graph import Graph
from secateur.core.plan import EMPTY, Plan, ZeroWeights
from secateur.core.sizes.size import Measure, Size, size
from secateur.core.surgery import Inputs, become, zeros_left
from secateur.errors import ModelError
from secateur.session.held_zeros import held_at_zero
from secateur.session.holders import Holders, shapes_of
from secateur.session.wrappers import wrap_again


@dataclass
class InTraining:
    """A network on its way through the cuts of a session.

    Attributes:
        model: the network, which stays the object that it is.
        whole: size of the original.
        left: size of what is left.
        wrappers: around the network, as far as they are known.
        graphs: of the networks that the cuts began with.
        zeros: single weights that a cut has set to zero and that stay so.
    """

    model: nn.Module
    whole: Size
    left: Size
    wrappers: Sequence[DistributedDataParallel] = ()
    graphs: list[Graph] = field(default_factory=list[Graph])
    zeros: Plan = EMPTY
    _let_go: Callable[[], None] = lambda: None
    _shapes: dict[str, torch.Size] = field(init=False)

    def __post_init__(self) -> None:
        self._shapes = shapes_of(self.model)

    def check(self) -> None:
        """Refuse a network that somebody else has changed.

        Raises:
            ModelError: names the first parameter that is not as this session has left it.
        """
        now = shapes_of(self.model)
        for name, shape in self._shapes.items():
            if now.get(name) != shape:
                found = f"is {tuple(now[name])}" if name in now else "is gone"
                raise ModelError(
                    f"the network was changed outside of its session: '{name}', which was {tuple(shape)}, {found}; "
                    "make a new session of the network as it is, or put back what it was"
                )

    def kept(self, of: Measure) -> float:
        """Return which fraction of the original is left."""
        return self.left.of(of) / max(1, self.whole.of(of))

    def prepared(self, thin: nn.Module, graph: Graph, plan: Plan, inputs: Inputs, held: Holders) -> Callable[[], None]:
        """Return what makes the network the thin one and lets all that was given follow; so far nothing changes.

        Args:
            thin: used up.
            graph: of the network before the cut.
            plan: what was removed.
            inputs: of the network.
            held: what follows.

        Raises:
            SecateurError: one of its kinds, for what cannot follow.
        """
        zeros, left = zeros_left(thin, graph, plan), size(graph, plan)
        follow = held.prepared(self.model, graph, plan, inputs)

        def act() -> None:
            become(self.model, thin)
            follow()
            for wrapper in held.wrappers:
                wrap_again(wrapper)
            self.wrappers, self.zeros, self.left = held.wrappers, zeros, left
            self.graphs.append(graph)
            self._shapes = shapes_of(self.model)
            self._let_go()
            masks = {edit.tensor: edit.mask() for edit in zeros.edits if isinstance(edit, ZeroWeights)}
            self._let_go = held_at_zero(self.model, masks)

        return act
