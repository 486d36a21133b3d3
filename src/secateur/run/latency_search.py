"""The largest network that is as fast as asked: a table of layers leads the search, the whole network decides."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from torch import nn

from secateur.budget import Budget
from secateur.core.plan import EMPTY, Plan
from secateur.core.sizes.limits import BLOCK, PARTS, Limits
from secateur.core.sizes.size import Target
from secateur.core.surgery import cut
from secateur.errors import TargetError
from secateur.events import Event, Tell, ignore
from secateur.measure import Runtime, side_by_side
from secateur.measure.forecast import Forecast
from secateur.measure.forward import device_of
from secateur.measure.layer_table import LayerTable
from secateur.measure.runtimes import known, threads_set
from secateur.run.budget_terms import Alternative, Bargain, Settled

TOLERANCE = 0.05
"""How far from the latency asked for the whole network may be, relative."""

_AIM = 0.985  # of the latency asked for, for what is measured again is a little different
_NEAR = 0.97, 1.01  # where the search stops: closer than the tolerance, for the same reason
_CORRECTIONS = 5
_STEPS = 9
_GRIDS = ((1, 0), (8, 0), (16, 0), (32, 0), (16, 8), (32, 8))  # multiple of widths, and parts of narrow groups
_GRIDS_TRIED = 3
_SOURCE = "finer in small groups, with which the budget of latency is met best"


@dataclass(frozen=True)
class _Tried:
    """A whole network that was measured.

    Attributes:
        share: of the dense network's time that it takes.
        keep: target that its plan was made for.
        macs: share of the MACs that it has.
        limits: grid of its widths.
        before: milliseconds of the dense network.
        after: milliseconds of the thin one.
    """

    share: float
    keep: float
    macs: float
    limits: Limits
    before: float
    after: float


class WithinLatency:
    """The search for the plan that takes as long as was asked for.

    Attributes:
        bargain: the network and the method; once settled, with the shares that were settled on.

    Args:
        bargain: the network and the method.
        budget: has a limit of latency.
        high: largest share of MACs that other limits allow.
    """

    def __init__(self, bargain: Bargain, budget: Budget, high: float = 1.0) -> None:
        limit = budget.latency()
        assert limit is not None
        self.bargain, self.high = bargain, high
        self.runtime: Runtime = known(budget.runtime or "eager")
        with threads_set(budget.threads) as threads:
            self.threads = threads
        self.plans: dict[tuple[float, Limits], Plan] = {}
        whole = self.milliseconds(bargain.model)[1]
        self.asked = min(1.0, limit[0] / whole if limit[1] else limit[0])
        table = LayerTable.here(self.runtime, self.threads, device_of(bargain.model))
        self.forecast = Forecast.of(bargain.model, bargain.graph, bargain.inputs, table, whole)

    def settle(self) -> Settled:
        """Return the target whose plan is as fast as asked, and no smaller than that takes.

        Raises:
            TargetError: if there is none.
        """
        tried: list[_Tried] = []
        for limits, keep in self.grids()[:_GRIDS_TRIED]:
            tried += self.corrected(limits, keep)
            if self.good(tried[-1].share):
                break
        chosen = self.best(tried)
        settled = self.settled(chosen)
        if self.bargain.alternative is not None:
            settled = self.shared(self.bargain.alternative, chosen, settled)
        self.forecast.table.save()
        return settled

    def settled(self, chosen: _Tried) -> Settled:
        """Return what a network that was measured stands for."""
        found = {
            "asked": self.asked,
            "measured": chosen.share,
            "dense_milliseconds": chosen.before,
            "milliseconds": chosen.after,
            "runtime": self.runtime,
            "threads": self.threads,
            "multiple": chosen.limits.multiple,
        }
        return Settled(Target(chosen.keep, "macs"), chosen.limits, {"latency": found})

    def shared(self, alternative: Alternative, chosen: _Tried, settled: Settled) -> Settled:
        """Look for a network of the same latency on the same grid with latency-aware shares; return the better one."""
        self.bargain.tell(Event("layers", "sharing the cut out by the times of layers"))
        usual, other = self.plan(chosen.keep, chosen.limits), copy.copy(self)
        other.plans = {}
        other.bargain = replace(self.bargain, decide=alternative.decide(self.forecast), alternative=None)
        # what the forecast is off by for the one is the best guess for the other
        goal = self.asked * _AIM * (self.predicted(chosen.keep, chosen.limits) or chosen.share) / chosen.share
        keep = other.largest(goal, chosen.limits)
        tried = [] if keep is None else other.corrected(chosen.limits, keep)
        worth = {"scope": alternative.worth(usual)}
        found: dict[str, Any] = {"by": alternative.by, "worth": worth, "taken": "scope"}
        taken = settled
        if other.met(tried):
            best = other.best(tried)
            worth["latency"] = alternative.worth(other.plan(best.keep, best.limits))
            found["measured"] = {"scope": chosen.share, "latency": best.share}
            if worth["latency"] > worth["scope"]:
                self.bargain, found["taken"] = other.bargain, "latency"
                taken = replace(other.settled(best), allocate="latency")
        latency = {**taken.found["latency"], "forecast_milliseconds": self.forecast.whole, "shares": found}
        return replace(taken, found={"latency": latency})

    def met(self, tried: list[_Tried]) -> list[_Tried]:
        """Return the networks that keep the latency asked for."""
        return [each for each in tried if each.share <= self.asked * (1 + TOLERANCE)]

    def best(self, tried: list[_Tried]) -> _Tried:
        """Return the network nearest to the latency asked for, of those that keep it.

        Raises:
            TargetError: if none does.
        """
        met = self.met(tried)
        if not met:
            self.refuse(min(tried, key=lambda each: each.share))
        return max(met, key=lambda each: (self.good(each.share), each.share >= self.asked * (1 - TOLERANCE), each.macs))

    def corrected(self, limits: Limits, keep: float) -> list[_Tried]:
        """Measure whole networks on one grid of widths, each time with the goal that the one before suggests."""
        tried: list[_Tried] = []
        goal = self.asked * _AIM
        for _ in range(_CORRECTIONS):
            tried.append(self.measured(keep, limits))
            share = tried[-1].share
            if self.good(share) or (share <= self.asked and keep >= self.high):
                break
            goal *= self.asked * _AIM / share
            following = self.largest(goal, limits)
            if following is None or self.plan(following, limits) in [self.plan(each.keep, limits) for each in tried]:
                break  # the widths are too coarse for anything in between
            keep = following
        return tried

    def good(self, share: float) -> bool:
        """Say whether a share of the dense network's time is so near to the one asked for that no search is due."""
        return self.asked * _NEAR[0] <= share <= self.asked * _NEAR[1]

    def grids(self) -> list[tuple[Limits, float]]:
        """Return grids of widths with the target that takes the time by the table; the one with the most MACs first.

        Raises:
            TargetError: if no network on any grid is as fast.
        """
        found: list[tuple[float, Limits, float]] = []
        own = self.bargain.limits
        grids = [replace(own, multiple=multiple, parts=parts) for multiple, parts in _GRIDS]
        if own.multiple == "auto":
            others = (replace(own, multiple=it, parts=PARTS, by_group=(), source=_SOURCE) for it in (8, 32))
            grids = [own, *others]
        elif own.multiple > 1:  # asked for by the user, for reasons of their own
            grids = [replace(own, multiple=own.multiple * times) for times in (1, 2, 4)]
        for number, limits in enumerate(grids):
            self.bargain.tell(Event("layers", f"timing layers in {self.runtime}", number, len(grids)))
            keep = self.largest(self.asked * _AIM, limits)
            self.forecast.table.save()
            if keep is not None:
                found.append((self.bargain.share(self.plan(keep, limits)), limits, keep))
        if not found:
            self.refuse()
        found.sort(key=lambda each: (-round(each[0], 2), -_coarseness(each[1])))
        return [(limits, keep) for _, limits, keep in found]

    def largest(self, goal: float, limits: Limits) -> float | None:
        """Return the largest target that takes the share ``goal`` of the time by the table; None if none does."""
        top, low, found = self.high, 0.0, None
        share = self.predicted(top, limits)
        if share is not None and share <= goal:
            return top
        for _ in range(_STEPS):
            middle = (low + top) / 2
            share = self.predicted(middle, limits)
            if share is not None and share > goal:
                top = middle
                continue
            low = middle
            if share is not None:
                found = middle
                if share > 0.99 * goal:
                    break
        return found

    def predicted(self, keep: float, limits: Limits) -> float | None:
        """Return the share of the dense network's time by the table; None where no network is that small."""
        try:
            plan = self.plan(keep, limits)
        except TargetError:
            return None
        return self.forecast.milliseconds(self.bargain.graph.kept(plan)) / self.forecast.whole

    def plan(self, keep: float, limits: Limits) -> Plan:
        """Return the method's plan, decided once."""
        if keep >= 1:
            return EMPTY
        if (keep, limits) not in self.plans:
            self.plans[keep, limits] = self.bargain.decide(Target(keep, "macs"), limits)
        return self.plans[keep, limits]

    def measured(self, keep: float, limits: Limits) -> _Tried:
        """Measure the whole network under a plan.

        Raises:
            CutError: if the plan cannot be carried out.
        """
        plan = self.plan(keep, limits)
        thin = cut(self.bargain.model, self.bargain.graph, plan, self.bargain.inputs)
        share, before = self.milliseconds(thin)
        return _Tried(share, keep, self.bargain.share(plan), limits, before, before * share)

    def milliseconds(self, thin: nn.Module) -> tuple[float, float]:
        """Return a network's share of the dense one's time, measured in turns, and the dense one's milliseconds."""
        bargain = self.bargain
        return in_turns(
            bargain.model, thin, bargain.inputs, self.runtime, self.threads, seconds=bargain.seconds, tell=bargain.tell
        )

    def refuse(self, nearest: _Tried | None = None) -> NoReturn:
        """Raise the error that says how fast a network of this family can be."""
        near = f"; the fastest that was tried takes {nearest.share:.3g} of it" if nearest else ""
        raise TargetError(
            f"no plan of this method brings the latency in {self.runtime} to {self.asked:.3g} of the dense network's"
            f"{near}; allow more time, or more layers",
            nearest.keep if nearest else None,
        )


def _coarseness(limits: Limits) -> int:
    return BLOCK if limits.multiple == "auto" else limits.multiple


def in_turns(
    dense: nn.Module,
    thin: nn.Module,
    inputs: Any,
    runtime: Runtime,
    threads: int,
    *,
    seconds: float = 2.5,
    tell: Tell = ignore,
) -> tuple[float, float]:
    """Return a network's share of the dense one's time, measured in turns, and the dense one's milliseconds."""
    networks = {"dense": dense} if thin is dense else {"dense": dense, "pruned": thin}
    found = side_by_side(networks, inputs, runtime, threads=threads, seconds=seconds, tell=tell)
    return (found.ratio("pruned", "dense") if "pruned" in networks else 1.0), found.latencies["dense"].milliseconds
