"""What a budget is settled between, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from secateur.core.graph import Graph
from secateur.core.method import Method
from secateur.core.plan import Plan
from secateur.core.selection.sensitivity_curves import Allocate
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, size
from secateur.events import Tell, ignore
from secateur.measure.forecast import Forecast
from secateur.run.latency_aware_methods import latency_aware
from secateur.tasks import ACCURACY, Metric

Decide = Callable[[Target, Limits], Plan]
Test = Callable[[Plan], float]


@dataclass(frozen=True, eq=False)
class Alternative:
    """The same method with shares that follow the times of layers.

    Attributes:
        decide: takes the forecast and returns what asks the method for a plan.
        worth: of a plan; of two plans within the limit the one with the higher is taken.
        by: what that is, in words.
    """

    decide: Callable[[Forecast], Decide]
    worth: Test
    by: str


@dataclass(frozen=True, eq=False)
class Bargain:
    """A network and a method between which a budget has to be settled.

    Attributes:
        model: the dense network.
        graph: read from it.
        inputs: what its forward takes, of the batch size that the latency is of.
        decide: asks the method for a plan.
        limits: floors and multiples that hold in any case.
        worth: the metric of the network under a plan, on validation examples, negative where lower is better; None
            without data.
        metric: what that is.
        alternative: latency-aware shares, to be tried where a latency is limited; None for none.
        seconds: to time whole networks for, each time.
        tell: hears the progress.
    """

    model: nn.Module
    graph: Graph
    inputs: Any
    decide: Decide
    limits: Limits = field(default_factory=Limits)
    worth: Test | None = None
    metric: Metric = ACCURACY
    alternative: Alternative | None = None
    seconds: float = 2.5
    tell: Tell = ignore

    def share(self, plan: Plan) -> float:
        """Return which part of the MACs a plan leaves."""
        return size(self.graph, plan).macs / max(1, size(self.graph).macs)


@dataclass(frozen=True)
class Settled:
    """What a budget comes to for one network and method.

    Attributes:
        target: what the method is asked for.
        limits: floors and multiples of widths; the multiple is one that is fast here if a latency was asked for.
        found: what was measured on the way, ready for JSON: ``latency`` with ``asked`` and ``measured`` (fractions of
            the dense network's), milliseconds, runtime, threads and ``multiple``, and with ``shares`` where
            latency-aware ones were tried: which were ``taken``, ``by`` what, and what each was worth; ``drop`` with
            ``asked`` and ``found``.
        allocate: ``"latency"`` where the method is to share its cut out by it; None: as its settings say.
    """

    target: Target
    limits: Limits
    found: Mapping[str, Any] = field(default_factory=dict[str, Any])
    allocate: Allocate | None = None

    def method(self, asked: Method) -> Method:
        """Return the method with the shares that were settled on."""
        return asked if self.allocate is None else latency_aware(asked) or asked
