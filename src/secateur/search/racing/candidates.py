"""Make candidates ready to run: as fast as this machine allows, and proven to compute what silencing computes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from secateur.core.batchnorm_folding import fuse, fusible
from secateur.core.graph import Graph, layer_of, staying, tensor_of
from secateur.core.plan import EMPTY, DropUnits, Plan
from secateur.core.surgery import TOLERANCE, apply, masked, relative_difference
from secateur.core.surgery.silence import changed, silencing
from secateur.measure.forward import call
from secateur.search.racing.held_out_images import HeldOut
from secateur.search.racing.prefix_cache import Narrow, Replay, Tape, record
from secateur.tasks import CLASSIFICATION
from secateur.typed import check_types

PROBE = 8
"""Images on which every candidate is compared with the silenced network."""


@dataclass(frozen=True)
class Ways:
    """How candidates are run.

    Attributes:
        copied: as networks of their own, else silenced inside the dense one, batch by batch.
        thin: their networks are cut, else of full width with zeros.
        fused: batch norms are folded into convolutions.
        shared: what all have in common is computed once.
        channels_last: in this memory layout.

    Raises:
        SettingError: if one is neither true nor false.
    """

    copied: bool = True
    thin: bool = True
    fused: bool = True
    shared: bool = True
    channels_last: bool = False

    def __post_init__(self) -> None:
        check_types(self)


SILENCED = Ways(copied=False, thin=False, fused=False, shared=False)


@dataclass(eq=False)
class Runner:
    """One candidate ready to run; without a network it is silenced in the dense one.

    Attributes:
        network: what runs.
        narrow: for its weights, by id, which channels of a dense map they read.
        spare: calls of its forward that may write into their first argument.
        rounding: largest relative difference from the silenced network seen.
        bytes: size of the network.
    """

    network: nn.Module | None
    narrow: Mapping[int, Narrow] = field(default_factory=dict[int, Narrow])
    spare: Mapping[int, str] = field(default_factory=dict[int, str])
    rounding: float = 0.0
    bytes: int = 0

    def scores(self, images: Tensor, tape: Tape | None) -> Tensor:
        """Return class scores, (N, classes) float32; there must be a network."""
        assert self.network is not None
        if tape is None:
            return CLASSIFICATION.output(call(self.network, images)).float()
        with Replay(tape, self.narrow, spare=self.spare):
            out = self.network(images)
        return CLASSIFICATION.output(out).float()


class Bench:
    """Prepares candidates.

    Args:
        model: the dense network; left as it is.
        graph: its graph.
        plans: the candidates.
        held: the images.
        ways: how to run candidates; found out by trying the first one if None.
        timed: try all ways and take the fastest; False: take the first that agrees with the silenced network, so that
            no clock decides how sums are rounded.
        base: units that every candidate drops; what comes before the first difference from this network is shared.
        even: run all at full width with zeros and batch norms apart, so that candidates that compute the same are
            rounded alike.

    Raises:
        PlanError: if a plan belongs to another network.
        ModelError: if the network does not run on the images or gives no class scores.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        plans: Sequence[Plan],
        held: HeldOut,
        ways: Ways | None = None,
        *,
        timed: bool = True,
        base: Plan = EMPTY,
        even: bool = False,
    ) -> None:
        self._dense = apply(model, graph, EMPTY).eval().requires_grad_(False)
        self._common, self._even = base, even
        self._graph, self._plans, self._held = graph, plans, held
        self._probe = held.images[:PROBE]
        self._lock = threading.RLock()  # silencing works inside the dense network, which thin ones are cut from
        self._needed: frozenset[int] | None = None
        self._spare: Mapping[int, str] = {}
        self._changed = frozenset[str]().union(*(changed(graph, _beyond(base, plan)) for plan in plans))
        self._narrowed = self._changed | changed(graph, base)
        keeps = [graph.kept(plan) for plan in plans]
        self._statistics = any(not bool(staying(s.units, keep).all()) for s in graph.statistics for keep in keeps)
        with torch.no_grad():
            CLASSIFICATION.output(call(self._dense, self._probe))
            self._pairs = fusible(self._dense, self._probe)
            self.use(ways or (self._fastest(timed) if len(held) > held.batch else SILENCED))
            if self.ways.shared:
                self._learn_needed()

    def use(self, ways: Ways) -> None:
        """Settle how candidates are run."""
        self.ways, self._needed, self._spare = ways, None, {}
        self._base = apply(self._dense, self._graph, silencing(self._graph, self._common))
        self._shape(self._base)

    def runner(self, i: int) -> Runner:
        """Make a candidate ready and compare it with the silenced network; it runs silenced if they do not agree."""
        if not self.ways.copied:
            return Runner(None)
        with self._lock:
            runner = self._made(i)
        expected, images = self.silenced(i, self._probe), self.laid_out(self._probe)
        try:
            found = runner.scores(images, self.tape(images))
        except Exception:  # foreign code on a network it was not written for: whatever it raises, the answer is no
            return Runner(None)
        runner.rounding = relative_difference(expected, found)
        return runner if runner.rounding <= TOLERANCE else Runner(None)

    def silenced(self, i: int, images: Tensor) -> Tensor:
        """Return what the definition says: class scores of the dense network with the plan's units silenced."""
        with self._lock, masked(self._dense, self._graph, self._plans[i]) as network:
            return CLASSIFICATION.output(call(network, images.contiguous())).float()

    def tape(self, images: Tensor) -> Tape | None:
        """Compute on a batch what all candidates share; None if they do not."""
        if not self.ways.shared:
            return None
        edited = [tensor_of(self._base, name) for name in self._changed]
        return record(self._base, images, edited, self._statistics, self._needed)

    def laid_out(self, images: Tensor) -> Tensor:
        """Return images in the memory layout of the candidates."""
        fits = self.ways.channels_last and images.dim() == 4
        return images.contiguous(memory_format=torch.channels_last if fits else torch.contiguous_format)

    def _made(self, i: int) -> Runner:
        plan = self._plans[i] if self.ways.thin else silencing(self._graph, self._plans[i])
        network = apply(self._dense, self._graph, plan)
        self._shape(network)
        keep = self._graph.kept(plan)
        narrow: dict[int, Narrow] = {}
        for name in self._narrowed:
            units = self._read_units(name)
            if units is not None and not bool(staying(units, keep).all()):
                kept = torch.nonzero(staying(units, keep)).flatten().to(self._held.images.device)
                narrow[id(tensor_of(network, name))] = Narrow(kept, len(units))
        size = sum(t.nbytes for t in (*network.parameters(), *network.buffers()))
        return Runner(network, narrow, self._spare, bytes=size)

    def _shape(self, network: nn.Module) -> None:
        if self.ways.fused:
            fuse(network, self._pairs)
        if self.ways.channels_last:
            network.to(memory_format=torch.channels_last)
        network.requires_grad_(False)

    def _read_units(self, name: str) -> Tensor | None:
        """Return the unit of each channel that a weight reads."""
        roles = self._graph.roles[name]
        own = self._graph.tensors[name][1][roles.index("reads")] if "reads" in roles else None
        return self._graph.convolutions.get(layer_of(name), own)

    def _learn_needed(self) -> None:
        """Find out which shared results are used later, so that the others can go, and which calls own their input."""
        images = self.laid_out(self._probe)
        tape, runner = self.tape(images), self.runner(0)
        if tape is None or runner.network is None:
            return
        with Replay(tape, runner.narrow, watch=True) as replay:
            out = runner.network(images)
        self._needed, self._spare = replay.needed, replay.spare(out)

    def _fastest(self, timed: bool) -> Ways:
        """Return the fastest way, or the first, whose first candidate agrees with the silenced network."""
        best, least = SILENCED, float("inf")
        for ladder in self._ladders():
            for tried in ladder:
                seconds = self._timed(tried)
                if seconds is not None and not timed:
                    return tried
                if seconds is not None:
                    best, least = (tried, seconds) if seconds < least else (best, least)
                    break
        return best

    def _ladders(self) -> Iterator[tuple[Ways, ...]]:
        """Yield ways to try, of which the later ones stand in for the first where it does not agree."""
        if self._even:
            ways = Ways(thin=False, fused=False)
            yield ways, replace(ways, shared=False)
            return
        for layout in (False, True) if self._held.images.dim() == 4 else (False,):
            for thin in (True, False):
                ways = Ways(thin=thin, channels_last=layout)
                # folding or sharing may be what does not agree, so each is given up alone before both
                less = (ways, replace(ways, fused=False), replace(ways, shared=False))
                yield *less, replace(ways, fused=False, shared=False)

    def _timed(self, ways: Ways) -> float | None:
        """Return the seconds that the first candidate takes for a batch; None if it does not agree."""
        if not ways.thin and self._statistics:
            return None  # zeros are no substitute where channels are averaged
        try:
            self.use(ways)
            images = self.laid_out(self._held.images[: self._held.batch])
            tape = self.tape(images)
        except Exception:  # as in ``runner``
            return None
        runner = self.runner(0)
        if runner.network is None:
            return None
        before = _versions(tape)
        taken = [self._seconds(lambda: runner.scores(images, tape)) for _ in range(3)]
        return min(taken) if _versions(tape) == before else None

    def _seconds(self, work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        if self._held.images.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start


def _beyond(base: Plan, plan: Plan) -> Plan:
    """Return a plan without the units that another one drops already."""
    gone = {name: frozenset(units) for name, units in base.dropped().items()}
    return Plan(
        tuple(
            DropUnits(edit.group, tuple(unit for unit in edit.units if unit not in gone.get(edit.group, ())))
            if isinstance(edit, DropUnits)
            else edit
            for edit in plan.edits
        )
    )


def _versions(tape: Tape | None) -> list[int]:
    """Return how often each recorded tensor has been written to: candidates must not."""
    return [x._version for x in tape.results if isinstance(x, Tensor)] if tape else []
