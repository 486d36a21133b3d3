"""Places of numbers as distances from each to the next, in few bits each."""

from __future__ import annotations

import numpy as np

from secateur import reading


def to_gaps(places: np.ndarray, bits: int) -> np.ndarray:
    """Return the distances between ascending places, the first from -1, as bytes.

    A distance of 1 to ``2^bits`` is written as one less than it is. Over a longer way stands ``2^bits`` itself, a
    filler: so far there is nothing.

    Args:
        places: ``(n,)``, distinct, ascending, not negative.
        bits: 1 to 7.
    """
    longest = 2**bits
    distances = np.diff(places.astype(np.int64), prepend=-1)
    fillers = (distances - 1) // longest
    out = np.full(len(distances) + int(fillers.sum()), longest, dtype=np.uint8)
    out[np.cumsum(fillers + 1) - 1] = distances - fillers * longest - 1
    return out


def from_gaps(gaps: np.ndarray, bits: int, size: int) -> np.ndarray:
    """Return the places that ``to_gaps`` has written.

    Args:
        gaps: bytes.
        bits: as they were written with.
        size: of what the places are in.

    Raises:
        reading.Unfit: if one is none.
    """
    longest = 2**bits
    if len(gaps) and int(gaps.max()) > longest:
        raise reading.Unfit(f"a distance of more than {bits} bits is in it")
    steps = np.where(gaps < longest, gaps.astype(np.int64) + 1, longest)
    places = (np.cumsum(steps) - 1)[gaps < longest]
    if len(gaps) and (int(gaps[-1]) == longest or int(places[-1]) >= size):
        raise reading.Unfit("a weight lies behind the end of its layer")
    return places
