"""How a network is encoded, as plain values that a command line can carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from secateur.arguments import checked
from secateur.core.graph import layer_of, within
from secateur.errors import SettingError, nearest
from secateur.typed import check_types

MOST_BITS = 8
"""Bits of the number of a shared value; Huffman codes are of bytes."""

USUAL_CONV, USUAL_LINEAR = 8, 5

MOST_GAP_BITS = 7
"""Bits of a gap: a byte holds their values and one more, which says that no weight follows yet."""


@checked
@dataclass(frozen=True)
class Encoding:
    """How many bits stand for a weight, and for the way from one to the next.

    Attributes:
        conv_bits: of the number of a shared value in convolutions and other tensors of three dimensions or more, 1 to
            8; 0 stores them as they are. By default 8, and weights on a grid of up to 8 bits stay on it.
        linear_bits: likewise in linear layers and other tables; by default 5, or as many as a grid has.
        bits: (pattern of layer names, bits) for layers with bits of their own; the first that matches counts.
        gap_bits: of the distance between two weights that are not zero, 1 to 7; over a longer way a filler stands.

    Raises:
        SettingError: if a number is out of range.
    """

    conv_bits: int | None = None
    linear_bits: int | None = None
    bits: Sequence[tuple[str, int]] = ()
    gap_bits: int = 5

    def __post_init__(self) -> None:
        check_types(self)
        pairs = self.bits.items() if isinstance(self.bits, Mapping) else self.bits
        object.__setattr__(self, "bits", tuple((str(pattern), int(bits)) for pattern, bits in pairs))
        named = [("conv_bits", self.conv_bits), ("linear_bits", self.linear_bits)]
        for name, bits in (*named, *((f"bits of '{pattern}'", bits) for pattern, bits in self.bits)):
            if bits is not None and not 0 <= bits <= MOST_BITS:
                raise SettingError(f"{name} must be 0 to {MOST_BITS}, not {bits}; 0 stores weights as they are")
        if not 1 <= self.gap_bits <= MOST_GAP_BITS:
            raise SettingError(f"gap_bits must be 1 to {MOST_GAP_BITS}, not {self.gap_bits}")

    def bits_of(self, shapes: Mapping[str, Sequence[int]], grids: Mapping[str, int] | None = None) -> dict[str, int]:
        """Return the bits of each tensor by its name; those with fewer than two dimensions have 0.

        Args:
            shapes: of the tensors.
            grids: how many bits those have that lie on a grid, which are enough where nobody asks for others.

        Raises:
            SettingError: if a pattern of ``bits`` names no layer.
        """
        large = {name: len(shape) for name, shape in shapes.items() if len(shape) > 1}
        layers = [layer_of(name) for name in large]
        for pattern, _ in self.bits:
            if not any(within(layer, pattern) for layer in layers):
                raise SettingError(f"no layer with weights matches '{pattern}' of 'bits'{nearest(pattern, layers)}")
        found = dict.fromkeys(shapes, 0)
        for name, dims in large.items():
            asked = self.linear_bits if dims == 2 else self.conv_bits
            asked = next((bits for pattern, bits in self.bits if within(layer_of(name), pattern)), asked)
            usual = USUAL_LINEAR if dims == 2 else USUAL_CONV
            own = (grids or {}).get(name, 0)
            found[name] = (max(usual, own) if own <= MOST_BITS else usual) if asked is None else asked
        return found
