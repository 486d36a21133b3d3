"""Deep Compression of a finished network: shared values, gaps between them and Huffman codes, in one file.

Source: Song Han, Huizi Mao, William J. Dally, "Deep Compression", ICLR 2016, arXiv:1510.00149.
"""

from __future__ import annotations

from secateur.encoding.encoded import Encoded, decode, encode
from secateur.encoding.rates import EncodedLayer
from secateur.encoding.settings import Encoding

__all__ = ["Encoded", "EncodedLayer", "Encoding", "decode", "encode"]
