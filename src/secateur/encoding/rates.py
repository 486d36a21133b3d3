"""How many times smaller an encoded network is, on paper and as it was written."""

from __future__ import annotations

from dataclasses import dataclass

FLOAT = 32
"""Bits of a weight before."""


def rate_of_sharing(weights: int, values: int, bits: int = FLOAT) -> float:
    """Return how much smaller weights are that share some values: ``n b / (n log2 k + k b)``.

    Args:
        weights: how many there are.
        values: how many they share, a power of 2.
        bits: of each before.
    """
    return weights * bits / (weights * number_bits(values) + values * bits)


def number_bits(values: int) -> int:
    """Return how many bits say which of so many values it is."""
    return max(values - 1, 0).bit_length()


def expected_fillers(density: float, gap_bits: int) -> float:
    """Return how many fillers there are for each weight if these lie anywhere: the sum of all (1 - d)^(j 2^bits)."""
    empty = (1.0 - density) ** 2**gap_bits
    return empty / (1.0 - empty) if density > 0.0 else 0.0


@dataclass(frozen=True)
class EncodedLayer:
    """What became of one weight.

    Attributes:
        name: of the tensor.
        weights: how many numbers it has.
        left: how many of them are not zero.
        values: how many values these share.
        fillers: how many fillers stand between them.
        gap_bits: of each distance.
        huffman: bits of the Huffman codes of both, on paper, without their tables.
        written: bytes of codes and values in the file.
        steps: how many steps the values are multiples of, one for each channel of a weight that lies on a grid.
    """

    name: str
    weights: int
    left: float
    values: int
    fillers: float
    gap_bits: int
    huffman: int = 0
    written: int = 0
    steps: int = 0

    @property
    def bits(self) -> int:
        """Bits of the number of a value."""
        return number_bits(self.values)

    @property
    def shared(self) -> float:
        """Bits before Huffman coding, values included, as in the paper: a filler is a weight of zero."""
        return (self.left + self.fillers) * (self.bits + self.gap_bits) + (self.values + self.steps) * FLOAT

    @staticmethod
    def on_paper(name: str, weights: int, density: float, bits: int, gap_bits: int) -> EncodedLayer:
        """Return what to expect of a layer that keeps this share of its weights.

        Args:
            name: of the layer.
            weights: how many there are.
            density: share that is left.
            bits: of the number of a value.
            gap_bits: of each distance.
        """
        left = weights * density
        return EncodedLayer(name, weights, left, 2**bits, left * expected_fillers(density, gap_bits), gap_bits)
