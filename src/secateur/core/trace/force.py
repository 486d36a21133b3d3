"""How much is done about the sizes in the code of one class of modules."""

from __future__ import annotations

from enum import IntEnum

from secateur.core.trace import sites
from secateur.core.trace.calls_made import Site


class Force(IntEnum):
    """What is done about the sizes in the code of one class of modules; each step includes those before."""

    WRITTEN = 0  # constants are rewritten, except in standard layers, whose attributes surgery sets
    STANDARD = 1  # in standard layers too
    COMPUTED = 2  # so are sizes that the code computes, as from the width of another tensor
    UNKNOWN = 3  # what could not be recorded is pinned
    EVERYTHING = 4  # all is pinned
    ARRIVING = 5  # and so is what enters these modules, from where the code may take a width


def is_pinned(found: sites.Following, site: Site, force: Force) -> bool:
    """Tell whether the channels that a size speaks of stay."""
    return force >= Force.EVERYTHING or (force >= Force.UNKNOWN and site in found.unknown)


def is_rewritten(found: sites.Following, site: Site, force: Force) -> bool:
    """Tell whether a size follows the widths."""
    if site in found.constants:
        return force >= Force.STANDARD or site.module not in found.standard
    return force >= Force.COMPUTED and site in found.computed
