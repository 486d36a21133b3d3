"""From a budget to a target: the largest network of a method's family that meets every limit."""

from __future__ import annotations

import math
from dataclasses import replace

from secateur.budget import Budget
from secateur.core.plan import EMPTY
from secateur.core.sizes.size import Measure, Target, size
from secateur.errors import DataError, TargetError
from secateur.events import Event
from secateur.run.budget_terms import Bargain, Settled
from secateur.run.latency_search import WithinLatency
from secateur.spelling import setting, setting_as

_PROBES = 7


def settle(bargain: Bargain, budget: Budget, target: Target | None = None) -> Settled:
    """Find the target with which the method's plan meets every limit.

    Sizes are exact and on paper. A latency is met on the whole network, measured in turns with the dense one, within
    ``within_latency.TOLERANCE``: a table of layers, measured here, leads a bisection over the method's plans, and
    measurements of whole networks correct it. A drop of accuracy is found by bisection as well.

    Args:
        bargain: the network and the method.
        budget: the limits.
        target: one more limit.

    Raises:
        DataError: if a drop of accuracy is limited without data.
        TargetError: if the limits cannot be met, or not together.
        SettingError: if the runtime is not installed.
    """
    if budget.max_drop is not None and bargain.worth is None:
        raise DataError(f"a limit on the drop of accuracy needs data; name a data set ({setting('data')})")
    sizes = _sizes(bargain, budget, target)
    settled = None if sizes is None else Settled(sizes, bargain.limits)
    if budget.max_latency is not None:
        high = 1.0 if sizes is None else bargain.share(bargain.decide(sizes, bargain.limits))
        if budget.max_params is not None or (target is not None and target.of != "macs"):
            bargain = replace(bargain, alternative=None)  # the same share of MACs has another size there
        within = WithinLatency(bargain, budget, high)
        settled = within.settle()
        bargain = within.bargain
    if budget.max_drop is not None:
        return _within_drop(bargain, budget.max_drop, settled)
    assert settled is not None  # a budget has a limit
    return settled


def _sizes(bargain: Bargain, budget: Budget, target: Target | None) -> Target | None:
    """Return the target that meets all limits of size, None if there are none."""
    dense = size(bargain.graph)
    limits: dict[Measure, float | None] = {"macs": budget.max_macs, "params": budget.max_params}
    targets = [] if target is None else [target]
    for measure, most in limits.items():
        if most is not None:
            targets.append(Target(min(1.0, most if most <= 1 else most / dense.of(measure)), measure))
    if len(targets) < 2:
        return targets[0] if targets else None
    found = [(each, size(bargain.graph, bargain.decide(each, bargain.limits))) for each in targets]
    for chosen, left in found:
        if all(left.of(each.of) <= each.keep * dense.of(each.of) * (1 + 1e-9) for each in targets):
            return chosen
    lowered = _lowered(bargain, targets)
    if lowered is None:
        raise TargetError(
            "no single plan of this method meets all limits of size, for its plans are not nested; give one of them"
        )
    return lowered


def _lowered(bargain: Bargain, targets: list[Target]) -> Target | None:
    """Return a target, lowered until its plan meets all, the one that leaves the most MACs; None if none does.

    Wide steps that one measure alone could give back make plans that are not nested, if only just.
    """
    dense = size(bargain.graph)
    found: list[tuple[int, Target]] = []
    for chosen in targets:
        for _ in range(_PROBES):
            try:
                left = size(bargain.graph, bargain.decide(chosen, bargain.limits))
            except TargetError:
                break
            over = max(left.of(each.of) / (each.keep * dense.of(each.of)) for each in targets)
            if over <= 1 + 1e-9:
                found.append((left.macs, chosen))
                break
            chosen = replace(chosen, keep=left.of(chosen.of) / dense.of(chosen.of) / over)
    return max(found, key=lambda each: each[0])[1] if found else None


def _within_drop(bargain: Bargain, most: float, settled: Settled | None) -> Settled:
    """Check the drop of a settled network; without other limits find the smallest network whose drop is allowed."""
    assert bargain.worth is not None
    dense, metric = bargain.worth(EMPTY), bargain.metric
    if not math.isfinite(dense):
        raise DataError(
            f"the {metric.name} of the dense network is NaN or infinite, of which no drop can be measured: look at how "
            "the task computes it for the validation examples, and at what the network returns for them"
        )
    if settled is not None:
        lost = dense - bargain.worth(bargain.decide(settled.target, settled.limits))
        if lost > most + 1e-9:
            fall = f"{'drops' if metric.higher_is_better else 'rises'} by {lost:.3g}"
            raise TargetError(
                f"the limits cannot be met together: where the others are met, the {metric.name} "
                f"{fall if math.isfinite(lost) else 'is NaN or infinite'}, and at most {most:.3g} was allowed; "
                f"loosen one of them, or count the drop after a training ({setting_as('drop_after', 'training')})"
            )
        return replace(settled, found={**settled.found, "drop": {"asked": most, "found": lost}})
    low, high, lost = 0.0, 1.0, 0.0
    for number in range(_PROBES):
        bargain.tell(Event("drop", "looking for the smallest network that is accurate enough", number, _PROBES))
        middle = (low + high) / 2
        try:
            plan = bargain.decide(Target(middle, "macs"), bargain.limits)
        except TargetError:  # no network is that small
            low = middle
            continue
        drop = dense - bargain.worth(plan)
        if drop <= most + 1e-9:
            high, lost = middle, drop
        else:
            low = middle
    if high == 1.0:
        raise TargetError(f"every plan of this method costs more than {most:.3g} of {metric.name}; allow more", 1.0)
    return Settled(Target(high, "macs"), bargain.limits, {"drop": {"asked": most, "found": lost}})
