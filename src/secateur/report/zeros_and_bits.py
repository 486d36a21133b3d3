"""What zeros among the weights, and weights of few bits, are worth: sentences for the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secateur.report.numbers import percent

ZEROS = 0.01  # share of the parameters from which on they are worth a sentence
# by benchmarks/strided_conv.py on an AMD EPYC with AVX2, one thread, batch of 1
BREAK_EVEN = (
    "On one core of a server processor the fastest sparse product found caught up with the dense convolution only "
    "where 84 to 97 % of a layer's kernels were zero, with 64 to 256 maps, and never with 16."
)
_OPERATIONS = "Bit operations"
_OF_BITS = (
    "are what hardware made for few bits would take for one image; no runtime here does. At each place a layer of m "
    "outputs that read n numbers each takes m n (p a w + a + w + log2 n): p is the share of its weights that are not "
    "zero, w their bits and a those of what it reads, which are 32 in the first layer and all over the dense network."
)


def zeros(document: Mapping[str, Any]) -> str:
    """Return what zeros among the parameters that stay are worth; empty if a plan has not set any to zero."""
    counts = document["after"]["counts"]
    share = 1.0 - counts["nonzero"] / counts["params"] if counts["params"] else 0.0
    if share < ZEROS:
        return ""
    strided = sum(way == "strided" for way in document.get("execution", {}).values())
    text = f"{percent(share)} of the parameters that stay are zero: less to store in a sparse format, but the MACs"
    if strided:
        plural = "s whose zeros follow" if strided > 1 else " whose zeros follow"
        return (
            f"{text} are counted in full. {strided} layer{plural} a regular pattern run{'' if strided > 1 else 's'} as "
            "a smaller dense product, which was the faster way here."
        )
    return f"{text} and the time stay: dense runtimes compute with zeros as with any number. {BREAK_EVEN}"


def bits_label(document: Mapping[str, Any]) -> str:
    """Return what to call the operations on bits of a run that has left weights on grids."""
    bits = sorted(set(document["bits"].values()))
    span = f"{bits[0]} to {bits[-1]}" if len(bits) > 1 else f"{bits[0]}"
    return f"{_OPERATIONS} (weights of {span} bits, what layers read of {document['bit_operations']['inputs']})"


def bit_operations(document: Mapping[str, Any]) -> str:
    """Return what operations on bits are; empty if a run has none to count."""
    return f"{_OPERATIONS} {_OF_BITS}" if document.get("bit_operations") else ""
