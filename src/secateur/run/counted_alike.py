"""MACs of networks whose work depends on what they find: both are counted for as much as the dense one finds."""

from __future__ import annotations

from dataclasses import replace

from secateur.measure import Measurement

REGIONS = (
    "MACs are those that the plan leaves, for as many regions as the dense network works on; on the example the pruned "
    "one took {:,}"
)
"""What a result says where they are not what one pass took."""

_NEAR = 0.005  # of the dense network's MACs, within which a count is what was planned


def counted_alike(found: Measurement, dense: Measurement, left: float) -> Measurement:
    """Return a measurement with the MACs for the regions that the dense network works on.

    A detector whose second stage looks at each box that the first has found does less work where it finds fewer, which
    says nothing of what was removed: a network that finds nothing would have hardly any MACs.

    Args:
        found: of the pruned network.
        dense: of the dense one.
        left: share of the MACs that the plans leave, layer by layer, for the regions of the dense network.
    """
    planned = round(dense.counts.macs * left)
    if abs(found.counts.macs - planned) <= _NEAR * dense.counts.macs:
        return found
    return replace(found, counts=replace(found.counts, macs=planned))
