"""Prune a network of the zoo by Secateur, as a run would, and judge what is left."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.problem import Problem
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, size
from secateur.core.surgery import apply, check_batches, check_training, run, verified
from secateur.core.trace import trace
from secateur.errors import CutError, SecateurError, TargetError, TraceError
from secateur.methods.magnitude import Magnitude
from zoo_checks import checks, kept, save
from zoo_judge import duplicate, judge
from zoo_memory import mebibytes, peak_of
from zoo_networks import network

KEEP, WITHIN = 0.5, 0.01
AGAIN = 3  # readings after a cut that failed, as in a run
Row = dict[str, Any]


def secateur(kind: str, name: str, file: Path | None = None, export: bool = False) -> Row:
    """Prune a network and judge it; with a file, go through all checks and leave there what another process loads."""
    model, inputs = network(kind, name)
    warm_up()
    found: Row = {"forward": peak_of(lambda: run(model, inputs))[1], "model": mebibytes(model)}
    dense = duplicate(model)  # whatever may be done to the network itself meanwhile
    pruning = Pruning(model, inputs)
    try:
        thin = pruning.prune()
    except SecateurError as error:
        return found | pruning.facts | {"outcome": "refused", "error": f"{type(error).__name__}: {error}"[:400]}
    verdict = judge(dense, thin, inputs)
    found |= pruning.facts | {"seconds": sum(pruning.times.values()), **pruning.times, **asdict(verdict)}
    found["outcome"] = outcome(verdict.exact, pruning.verified, pruning.asked, found["keep"])
    if file is not None:
        found["checks"] = checks(kind, dense, thin, inputs, export)
        found["checks"] |= {"dense is as it was": kept(dense, model), "loaded": save(dense, thin, inputs, file)}
    return found


def outcome(exact: bool, verified: bool, asked: float, keep: float) -> str:
    """Say what came of a network: what is judged exact, what the library alone calls so, and what neither does."""
    if not exact:
        return "undecided" if verified else "WRONG"
    if not verified:
        return "refused"
    if asked != KEEP:
        return "less"
    return "exact" if KEEP - WITHIN <= keep <= KEEP else "coarse"


class Pruning:
    """Half of the MACs of a network, or half of what can go; read anew where the cut fails.

    Attributes:
        times: seconds of the processor, by step.
        facts: what is known of the network, and what was asked and kept.
        verified: whether the library itself calls the thin network exact.
    """

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        self.model, self.inputs = model, inputs
        self.times = {"trace": 0.0, "plan": 0.0, "apply": 0.0}
        self.facts: Row = {}
        self.verified, self.asked = False, KEEP
        self.graph: Graph
        self.chosen: Plan

    def prune(self) -> nn.Module:
        """Return the thin network, the last one also where the library finds that it differs.

        Raises:
            CutError: if the thin network does not run, or not in training, however often the dense one is read.
            SecateurError: what else the library says.
        """
        failed: CutError | None = None
        tried: tuple[Plan, ...] = ()
        for again in range(AGAIN + 1):
            self.facts["again"] = again
            try:
                thin, peak = peak_of(partial(self.cut, tried))
                self.facts["peak"] = max(peak, self.facts.get("peak", 0.0))
                self.check(thin)
                if self.verified or again == AGAIN:
                    return thin
                failed = None
            except CutError as error:
                failed = error
            except (TargetError, TraceError):
                if again and failed is None:
                    return thin
                if failed is not None:
                    raise failed from None
                raise
            tried = (*self.graph.tried, self.chosen)
        assert failed is not None
        raise failed

    def cut(self, tried: tuple[Plan, ...]) -> nn.Module:
        """Read, decide and cut."""
        self.graph = self.timed("trace", lambda: trace(self.model, self.inputs, tried=tried))
        if not tried:
            self.facts |= {"reachable": self.graph.explain().reachable, "groups": len(self.graph.groups)}
        self.chosen = self.plan(self.graph)
        return self.timed("apply", lambda: apply(self.model, self.graph, self.chosen))

    def check(self, thin: nn.Module) -> None:
        """Ask the library whether the thin network is exact, also with other batches, and whether it trains.

        Raises:
            CutError: if it does not run.
        """
        found, outputs = verified(self.model, self.graph, self.chosen, thin, self.inputs)
        self.verified = found.exact
        keep = size(self.graph, self.chosen).macs / max(1, size(self.graph).macs)
        self.facts |= {"keep": keep, "verify": found.difference, "layer": found.layer}
        if found.exact:
            check_batches(self.model, self.graph, self.chosen, thin, self.inputs, outputs)
            check_training(self.model, thin, self.inputs)

    def plan(self, graph: Graph) -> Plan:
        """Ask for half of the MACs; where that is out of reach, for half of what can go."""
        reachable = graph.explain().reachable
        asked = (KEEP, (1 + reachable) / 2)
        for keep in asked:
            self.asked = self.facts["asked"] = keep
            problem = Problem(self.model, graph, Target(keep), limits=Limits(multiple=1))
            try:
                return self.timed("plan", lambda problem=problem: Magnitude().plan(problem))
            except TargetError:
                if keep == asked[-1] or reachable > 0.98:
                    raise
        raise AssertionError("the last target returns or raises")

    def timed(self, step: str, work: Any) -> Any:
        """Add the seconds of the processor to a step."""
        start = time.process_time()
        try:
            return work()
        finally:
            self.times[step] += time.process_time() - start


def warm_up() -> None:
    """Load what the first pruning in a process loads: its memory belongs to no network."""
    tiny = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Unflatten(1, (4, 36)), nn.Flatten(), nn.Linear(144, 2))
    x = torch.zeros(1, 3, 8, 8)
    graph = trace(tiny, x)
    apply(tiny, graph, Magnitude().plan(Problem(tiny, graph, Target(KEEP), limits=Limits(multiple=1))))
