"""How much work an operator is: formulas for those that ``torch.utils.flop_counter`` does not know.

Work is the multiply-accumulates of convolutions, of products of matrices and of what consists of them: recurrent
layers, attention, bilinear forms, distances. As is usual, what is done element by element (gates, scales, norms,
pooling, resampling) is not work. Operators that multiply in a way that no formula covers are named, never passed over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

Formula = Callable[..., int]
"""Takes the arguments of the operator and ``out_val``, what it returned; returns MACs."""

QUIET = frozenset({"aten", "prim", "prims", "rngprims", "profiler", "c10d", "_c10d_functional", "quantized", "onednn"})
"""Libraries of operators in which those that multiply can be told by their names."""
_WORDS = re.compile(
    r"(?<![a-z])(mm|bmm|addmm|baddbmm|matmul|mv|dot|conv|convolution|linear|rnn|lstm|gru|attention|fft|trilinear|solve"
    r"|svd|qr|inv|eig|eigh|eigvals|cholesky|lu|ldl|ormqr|geqrf|householder|det|slogdet|matrix|pinv|lstsq|correlation)"
    r"(?![a-z])"
)
_IDLE = re.compile(r"upsample|unpack|fused_(lstm|gru)_cell|nms|roi_|check_errors|prepack")


@dataclass(frozen=True)
class Uncounted:
    """An operator that multiplies and is in no count.

    Attributes:
        operator: its name.
        layer: name of the module that calls it; empty for the network itself.
        least: MACs that it takes at least, one for each element that it puts out.
    """

    operator: str
    layer: str
    least: int

    def __str__(self) -> str:
        """Return what and where, for a sentence."""
        return f"{self.operator} in '{self.layer}'" if self.layer else self.operator


def macs(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int | None:
    """Return the multiply-accumulates of a call of an operator that has run, None if no formula is known.

    Args:
        func: the operator, an overload or its packet.
        args: its positional arguments.
        kwargs: its keyword arguments.
        out: what it returned.
    """
    packet = getattr(func, "overloadpacket", func)
    name = operator_name(packet)
    if name in FORMULAS:
        return FORMULAS[name](*args, **kwargs, out_val=out)
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=out)) // 2
    library, _, own = name.partition(".")
    if _IDLE.search(own) or (library in QUIET and not _WORDS.search(own)):
        return 0
    if not any(isinstance(value, Tensor) for value in tree_leaves((args, kwargs))):
        return 0  # asks for a version, or the like
    return None


def uncounted(func: Any, layer: str, out: Any) -> Uncounted:
    """Return the record of a call for which ``macs`` knows no number."""
    found = [it.numel() for it in (out if isinstance(out, tuple | list) else [out]) if isinstance(it, Tensor)]
    return Uncounted(operator_name(getattr(func, "overloadpacket", func)), layer, max(found, default=0))


def by_operator(found: Sequence[Uncounted]) -> tuple[Uncounted, ...]:
    """Return one record for each operator of each layer."""
    sums: dict[tuple[str, str], int] = {}
    for each in found:
        sums[each.operator, each.layer] = sums.get((each.operator, each.layer), 0) + each.least
    return tuple(Uncounted(operator, layer, least) for (operator, layer), least in sums.items())


def remark(names: str, least: int, before: int, after: int, keep: float | None) -> str:
    """Return what it means that some operators are not counted, as a clause; empty if there are none.

    They take the same before and after, for nothing that they touch is removed.

    Args:
        names: the operators and where they are; empty if everything is counted.
        least: MACs that they take at least.
        before: MACs of the dense network that are counted.
        after: the same of the pruned one.
        keep: the fraction of the MACs that was asked for; None if it was not.
    """
    if not names:
        return ""
    text = f"at least {least:,} MACs in {names} are not counted"
    if keep is None or keep >= 1:
        return f"{text}: shares of MACs are those of the rest"
    most = int((keep * before - after) / (1 - keep))
    if after > before * keep or most < least:
        return f"{text}: with them the target of {keep:.3g} of the MACs is missed; ask for less"
    return (
        f"{text}: the target of {keep:.3g} of the MACs is met only if they take no more than {most:,}, and else missed"
    )


def operator_name(packet: Any) -> str:
    """Return the name of an operator with its library, such as ``aten.mm``."""
    return str(packet)


def _rows(x: Tensor) -> int:
    return x.numel() // max(1, x.shape[-1])


def _gates(x: Tensor, weights: Sequence[Tensor]) -> int:
    """Every row of the input, at its turn, meets every weight that is no bias."""
    return _rows(x) * sum(weight.numel() for weight in weights if weight.dim() == 2)


def _onednn_rnn(x: Tensor, *args: Any, out_val: Any, **kwargs: Any) -> int:
    return _gates(x, args[:2])


def _cudnn_rnn(x: Tensor, weights: Sequence[Tensor], *args: Any, out_val: Any, **kwargs: Any) -> int:
    return _gates(x, weights)


def _mps_lstm(x: Tensor, hx: Any, weights: Sequence[Tensor], *args: Any, out_val: Any, **kwargs: Any) -> int:
    return _gates(x, weights)


def _attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, out_val: Any, **kwargs: Any) -> int:
    """Scores, then their product with the values, for every head of the queries."""
    return math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _matrix_vector(matrix: Tensor, vector: Tensor, *args: Any, out_val: Any, **kwargs: Any) -> int:
    return matrix.numel()


def _added_matrix_vector(bias: Tensor, matrix: Tensor, *args: Any, out_val: Any, **kwargs: Any) -> int:
    return matrix.numel()


def _dot(a: Tensor, *args: Any, out_val: Any, **kwargs: Any) -> int:
    return a.numel()


def _added_products(bias: Tensor, a: Tensor, b: Tensor, *args: Any, out_val: Any, **kwargs: Any) -> int:
    return a.numel() * b.shape[-1]


def _product(a: Tensor, b: Tensor, *args: Any, out_val: Any, **kwargs: Any) -> int:
    return a.numel() * b.shape[-1]


def _outer(bias: Tensor, a: Tensor, b: Tensor, *args: Any, out_val: Any, **kwargs: Any) -> int:
    return a.numel() * b.numel()


def _distances(a: Tensor, *args: Any, out_val: Tensor, **kwargs: Any) -> int:
    """One for each coordinate of each pair."""
    return out_val.numel() * a.shape[-1]


def _time_convolution(x: Tensor, weight: Tensor, *args: Any, out_val: Tensor, **kwargs: Any) -> int:
    return out_val.numel() * weight.shape[0] * weight.shape[1]


def _deformable(x: Tensor, weight: Tensor, *args: Any, out_val: Tensor, **kwargs: Any) -> int:
    """That of the convolution; finding the values between pixels is resampling."""
    return out_val.numel() * math.prod(weight.shape[1:])


def fourier(x: Tensor, out: Tensor, dims: Sequence[int]) -> int:
    """Return the MACs of one fast Fourier transform over some dimensions of ``x``.

    Of n complex numbers it is said to take ``5 n log2(n)`` operations, of real ones half as many
    (https://www.fftw.org/speed/method.html), whatever n is.
    """
    points = math.prod(max(x.shape[d], out.shape[d]) for d in dims)
    real = not (x.is_complex() and out.is_complex())
    return round(5 * points * math.log2(points) / (4 if real else 2))


def _fourier(x: Tensor, dims: Sequence[int], *args: Any, out_val: Tensor, **kwargs: Any) -> int:
    return fourier(x, out_val, dims) * (x.numel() // math.prod(x.shape[d] for d in dims))


def _trilinear(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    expand_a: Sequence[int],
    expand_b: Sequence[int],
    expand_c: Sequence[int],
    sums: Sequence[int],
    *args: Any,
    out_val: Tensor,
    **kwargs: Any,
) -> int:
    """``sum(a * b * c)``: what the third lacks is summed over in the product of the first two, the rest with it."""
    dims = range(a.dim() + len(expand_a))
    sizes = [1] * len(dims)
    for tensor, expand in ((a, expand_a), (b, expand_b), (c, expand_c)):
        own = iter(tensor.shape)
        for d in dims:
            if d not in expand:
                sizes[d] = max(sizes[d], next(own))
    first = math.prod(size for d, size in enumerate(sizes) if not (d in expand_a and d in expand_b))
    second = math.prod(size for d, size in enumerate(sizes) if not (d in sums and d in expand_c))
    return first + second


FORMULAS: dict[str, Formula] = {
    "aten.mkldnn_rnn_layer": _onednn_rnn,
    "aten._cudnn_rnn": _cudnn_rnn,
    "aten.miopen_rnn": _cudnn_rnn,
    "aten._lstm_mps": _mps_lstm,
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten._scaled_dot_product_fused_attention_overrideable": _attention,
    "aten._scaled_dot_product_attention_math_for_mps": _attention,
    "aten.mv": _matrix_vector,
    "aten.addmv": _added_matrix_vector,
    "aten.addmv_": _added_matrix_vector,
    "aten.dot": _dot,
    "aten.vdot": _dot,
    "aten.addbmm": _added_products,
    "aten.addbmm_": _added_products,
    "aten.addmm_": _added_products,
    "aten.baddbmm_": _added_products,
    "aten._addmm_activation": _added_products,
    "aten._int_mm": _product,
    "aten.addr": _outer,
    "aten.addr_": _outer,
    "aten._cdist_forward": _distances,
    "aten._euclidean_dist": _distances,
    "aten._pdist_forward": _distances,
    "aten.conv_tbc": _time_convolution,
    "aten._trilinear": _trilinear,
    "aten._fft_c2c": _fourier,
    "aten._fft_r2c": _fourier,
    "aten._fft_c2r": _fourier,
    "torchvision.deform_conv2d": _deformable,
}  # fmt: skip
