"""A shaper that lets one part of a network after the other grow dense while it trains, and prunes it again.

The parts may have their turns one after the other in one network, each beginning with what the turn before has left
(cyclic), or in copies that all begin with the same network, of which each gives its part to the network that the next
round begins with (parallel). One training trains the copies in turn; the network is put back before each.

Source: Xiaolong Ma et al., "Effective Model Sparsification by Scheduled Grow-and-Prune Methods", ICLR 2022, and its
code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from secateur.core.zeros.masks import Masking, Masks, smallest
from secateur.core.zeros.schedules import Cycle
from secateur.core.zeros.shaper import Moment

Turns = Literal["cyclic", "parallel"]
Start = Literal["magnitude", "random"]


class GrowingParts(Masking):
    """Grows and prunes the parts of a network in turn.

    Args:
        model: the network that trains.
        masks: of it.
        counts: how many weights of each have gone while its part is not dense.
        parts: for each of these weights the part that it is in.
        cycle: when which part is dense.
        turns: whether parts have their turns one after the other, or in copies.
        start: whether the first weights to go are the smallest, or drawn at random.
    """

    def __init__(
        self,
        model: nn.Module,
        masks: Masks,
        counts: Mapping[str, int],
        parts: Mapping[str, int],
        cycle: Cycle,
        turns: Turns = "cyclic",
        start: Start = "magnitude",
    ) -> None:
        super().__init__(masks)
        self._counts, self._parts, self._cycle = counts, parts, cycle
        self._parallel, self._random = turns == "parallel", start == "random"
        self._all = dict(model.state_dict(keep_vars=True)) if self._parallel else {}
        self._owners = owners(self._all, {id(masks.tensor(name)): part for name, part in parts.items()})
        self._sparse: dict[str, Tensor] = {}
        self._began: dict[str, Tensor] = {}
        self._grown: dict[str, Tensor] = {}
        self._stage = 0

    @torch.no_grad()
    def before_batch(self, moment: Moment) -> None:
        """Prune the part that was dense and let the next one grow, where it is time.

        Raises:
            TrainingError: if the training is too short for all turns.
        """
        self._cycle.check(moment.steps)
        due = self._cycle.stage(moment.step, moment.steps)
        if due == self._stage:
            return
        if not self._stage:
            self._begin(moment.rng)
        while self._stage < due:
            self._turn()
        moment.restart()

    @torch.no_grad()
    def finish(self) -> None:
        """Leave the network with all parts pruned."""
        if self._stage:
            while self._stage < self._cycle.stages:
                self._turn()
        self._prune(self._counts)
        self._masks.put(self._sparse)

    def _begin(self, rng: torch.Generator) -> None:
        """Find out who goes first; nothing has gone yet."""
        for name, count in self._counts.items():
            sizes = self._masks.sizes(name)
            drawn = (
                torch.rand(sizes.shape, generator=rng, device=rng.device).to(sizes.device) if self._random else sizes
            )
            self._sparse[name] = smallest(drawn, count)
        self._began = self._copied(self._all)

    def _turn(self) -> None:
        before, after = self._cycle.dense(self._stage), self._cycle.dense(self._stage + 1)
        self._stage += 1
        if before is not None and self._parallel:
            self._gather(before)
        elif before is not None:
            self._prune(self._within(before))
            self._masks.put({name: self._sparse[name] for name in self._within(before)})
        dense = () if after is None else self._within(after)
        self._masks.put({n: torch.ones_like(keep) if n in dense else keep for n, keep in self._sparse.items()})

    def _gather(self, part: int) -> None:
        """Take its part from a copy; put the network back for the next, or together from all of them."""
        own = {name: tensor for name, tensor in self._all.items() if self._owners[name] == part}
        self._grown |= self._copied(own)
        if part + 1 < self._cycle.parts:
            self._write(self._began)
            return
        self._write(self._grown)
        self._prune(self._counts)
        self._masks.put(self._sparse)
        self._began, self._grown = self._copied(self._all), {}

    def _within(self, part: int) -> tuple[str, ...]:
        return tuple(name for name, number in self._parts.items() if number == part)

    def _prune(self, names: Mapping[str, int] | tuple[str, ...]) -> None:
        """Find out who goes from some weights as they are now."""
        for name in names:
            self._sparse[name] = smallest(self._masks.sizes(name), self._counts[name])

    def _copied(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._all[name].copy_(value)

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the masks, the turn, and of copies what they began with and what has been taken from them."""
        named = {"sparse": self._sparse, "began": self._began, "grown": self._grown}
        kept = {f"{kind}/{name}": t for kind, tensors in named.items() for name, t in tensors.items()}
        return {"stage": torch.tensor(self._stage), **self._masks.state_dict(), **kept}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state_dict`` returned."""
        self._stage = int(state["stage"])
        self._masks.load_state_dict(state)
        self._sparse = {n.removeprefix("sparse/"): t.bool() for n, t in state.items() if n.startswith("sparse/")}
        self._began = {n.removeprefix("began/"): t for n, t in state.items() if n.startswith("began/")}
        self._grown = {n.removeprefix("grown/"): t for n, t in state.items() if n.startswith("grown/")}


def owners(tensors: Mapping[str, Tensor], parts: Mapping[int, int]) -> dict[str, int]:
    """Return to which part each tensor of a network belongs: to that of the last weight before it that has one.

    Args:
        tensors: of the network by name, in its order; those before the first belong to its part.
        parts: by the ``id`` of a weight, its part.
    """
    found: dict[str, int] = {}
    part = next((parts[id(tensor)] for tensor in tensors.values() if id(tensor) in parts), 0)
    for name, tensor in tensors.items():
        part = parts.get(id(tensor), part)
        found[name] = part
    return found
