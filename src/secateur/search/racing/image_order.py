"""Which images come when: a sample of every kind first, then the rest kind by kind.

A network that has lost maps goes wrong on some classes much more than on others. So every candidate is shown first the
images of the classes that it missed most in the sample: the errors that rule it out come early. Errors are counted
either way, so who wins does not depend on the order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from secateur.search.racing.held_out_images import HeldOut

KINDS = 10  # at most; labels that leave the same rest share a kind where there are more classes
SAMPLE = 10  # one image in so many belongs to the sample


@dataclass(frozen=True, eq=False)
class Parts:
    """Images in the order of their parts.

    Attributes:
        held: the images.
        sample: places of the sample of each kind.
        rest: places of the other images of each kind.
    """

    held: HeldOut
    sample: tuple[range, ...]
    rest: tuple[range, ...]

    @property
    def all(self) -> tuple[range, ...]:
        """All parts, in the order of their places."""
        return (*self.sample, *self.rest)

    @staticmethod
    def whole(held: HeldOut) -> Parts:
        """Return all images as one part, in their own order."""
        return Parts(held, (), (range(len(held)),))

    @staticmethod
    def of(held: HeldOut) -> Parts:
        """Sort images by kind; fewer kinds where parts would be much smaller than a batch."""
        labels = held.labels.cpu()
        kinds = max(1, min(KINDS, len(labels.unique()), len(held) // (3 * held.batch)))
        kind, sampled = labels % kinds, torch.arange(len(held)) % SAMPLE == 0
        chosen = [kind == k for k in range(kinds)]
        places = [torch.nonzero(mask & part).flatten() for part in (sampled, ~sampled) for mask in chosen]
        order, start = torch.cat(places).to(held.labels.device), 0
        ranges: list[range] = []
        for place in places:
            ranges.append(range(start, start + len(place)))
            start += len(place)
        return Parts(HeldOut(held.images[order], held.labels[order]), tuple(ranges[:kinds]), tuple(ranges[kinds:]))
