"""Prune a network of the zoo by Secateur, as a run would, and judge what is left."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.core.graph import Graph
from secateur.core.limits import Limits
from secateur.core.plan import Plan
from secateur.core.problem import Problem
from secateur.core.size import Target, size
from secateur.core.surgery import apply, run, verify
from secateur.core.trace import trace
from secateur.errors import CutError, SecateurError, TargetError, TraceError
from secateur.methods.magnitude import Magnitude
from zoo_checks import checks, save
from zoo_judge import judge
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
    pruning = Pruning(model, inputs)
    try:
        thin, found["peak"] = peak_of(pruning.prune)
    except SecateurError as error:
        return found | pruning.facts | {"outcome": "refused", "error": f"{type(error).__name__}: {error}"[:400]}
    verdict = judge(model, thin, inputs)
    found |= pruning.facts | {"seconds": sum(pruning.times.values()), **pruning.times, **asdict(verdict)}
    found["outcome"] = outcome(verdict.exact, pruning.verified, pruning.asked, found["keep"])
    if file is not None:
        found["checks"] = checks(kind, model, thin, inputs, export)
        found["checks"]["loaded"] = save(model, thin, inputs, file)
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

    def prune(self) -> nn.Module:
        """Return the thin network.

        Raises:
            CutError: if the thin network does not run, however often the dense one is read.
            SecateurError: what else the library says.
        """
        graph = self.read(())
        self.facts |= {"reachable": graph.explain().reachable, "groups": len(graph.groups), "units": graph.units}
        for again in range(AGAIN + 1):
            self.facts["again"] = again
            plan = self.plan(graph)
            failed: CutError | None = None
            try:
                thin = self.timed("apply", lambda plan=plan, graph=graph: apply(self.model, graph, plan))
                check = verify(self.model, graph, plan, thin, self.inputs)
                self.verified = check.exact
                self.facts |= {
                    "keep": size(graph, plan).macs / max(1, size(graph).macs),
                    "verify": check.difference, "layer": check.layer,
                }  # fmt: skip
                if check.exact or again == AGAIN:
                    return thin
            except CutError as error:
                failed = error
                if again == AGAIN:
                    raise
            try:
                graph = self.read((*graph.tried, plan))
            except (TargetError, TraceError):
                if failed is not None:
                    raise failed from None
                return thin
        raise AssertionError("the last reading returns or raises")

    def read(self, tried: tuple[Plan, ...]) -> Graph:
        """Read the network, perhaps so that these plans can be carried out."""
        return self.timed("trace", lambda: trace(self.model, self.inputs, tried=tried))

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
