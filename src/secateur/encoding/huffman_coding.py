"""Huffman codes of bytes.

They are written as a DEFLATE stream (RFC 1951) that holds nothing else: canonical codes with their lengths in front,
which zlib of the standard library writes and any language reads. Libraries of Huffman codes alone keep their tables in
pickles, or leave it to their version which of two equal trees they build.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Iterable

import numpy as np

from secateur import reading

_LEVEL, _MEMORY = 9, 9  # the most memory makes the longest blocks, each of which has a table of its own


def packed(symbols: np.ndarray) -> bytes:
    """Return the Huffman code of bytes, with a check sum."""
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, _MEMORY, zlib.Z_HUFFMAN_ONLY)
    return stream.compress(symbols.astype(np.uint8).tobytes()) + stream.flush()


def unpacked(stream: bytes, count: int) -> np.ndarray:
    """Return so many bytes that ``packed`` has coded; no more are made, whatever the stream holds.

    Raises:
        reading.Unfit: if it holds another number of them, or is damaged.
    """
    reader = zlib.decompressobj()
    try:
        symbols = reader.decompress(stream, count + 1)
    except zlib.error as error:
        raise reading.Unfit(f"a code is damaged ({error})") from None
    if len(symbols) != count or not reader.eof or reader.unused_data:
        raise reading.Unfit(f"a code does not hold the {count:,} numbers that it should")
    return np.frombuffer(symbols, np.uint8)


def bits_of(counts: Iterable[int]) -> int:
    """Return how many bits the best Huffman code takes for symbols that occur so often."""
    heap = [count for count in counts if count]
    if len(heap) == 1:
        return heap[0]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        pair = heapq.heappop(heap) + heapq.heappop(heap)
        total += pair
        heapq.heappush(heap, pair)
    return total
