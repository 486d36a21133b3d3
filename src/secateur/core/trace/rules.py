"""Which rule treats which ATen operator: one small table a kind. What is in no table is pinned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from secateur.core.operator_macs import macs, uncounted
from secateur.core.trace import assemble, deform, elementwise, fourier, mix, move, pick, product
from secateur.core.trace.calls_made import Call
from secateur.core.trace.state import State

Args = Sequence[Any]
Rule = Callable[[State, Args, Any], None]

MOVES: dict[str, Rule] = {
    **dict.fromkeys(["clone", "detach", "alias", "_to_copy", "lift_fresh", "contiguous", "lift_fresh_copy"], move.same),
    **dict.fromkeys(["_conj", "_neg_view"], move.same),
    **dict.fromkeys(
        [
            "view",
            "_unsafe_view",
            "reshape",
            "_reshape_alias",
            "unsqueeze",
            "squeeze",
            "flatten",
            "_reshape_copy",
        ],
        move.reshape,
    ),
    "permute": move.permute,
    **dict.fromkeys(["t", "transpose"], move.transpose),
    "expand": move.expand,
    **dict.fromkeys(["split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes"], assemble.split),
    **dict.fromkeys(["select", "unbind"], assemble.select),
    "cat": assemble.cat,
    "stack": assemble.stack,
    "constant_pad_nd": assemble.pad,
    "repeat": assemble.repeat,
    "channel_shuffle": move.shuffle,
    "im2col": move.patches,
    "col2im": move.overlay,
    "unfold": move.windows,
    "index_select": pick.index_select,
    **dict.fromkeys(["gather", "scatter", "scatter_add", "scatter_reduce"], pick.at_indices),
    **dict.fromkeys(["index_add", "index_copy", "index_fill"], pick.along_one),
    "index_put": pick.put,
    **dict.fromkeys(["embedding", "_embedding_bag"], pick.table),
    **dict.fromkeys(["max_unpool2d", "max_unpool3d"], pick.unpool),
    "rot90": move.rotate,
    "view_as_real": move.to_pairs,
    "view_as_complex": move.from_pairs,
    "diagonal": move.diagonal,
    **dict.fromkeys(["tril", "triu"], move.triangle),
    "_pack_padded_sequence": move.packed,
    **dict.fromkeys(["roi_align", "roi_pool", "grid_sampler_2d", "grid_sampler_3d"], move.regions),
}
MOVES_WITH_OPERATOR: dict[str, Callable[..., None]] = {
    **dict.fromkeys(["slice", "narrow"], assemble.cut),
    **dict.fromkeys(["unsqueeze_", "transpose_", "t_", "swapaxes_", "swapdims_"], move.reshape_in_place),
    **dict.fromkeys(["flip", "roll"], move.reorder),
    **dict.fromkeys(["pixel_shuffle", "pixel_unshuffle"], move.blocks),
    "index": pick.index,
    **dict.fromkeys(["cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "sort", "topk"], move.order),
}
MIXES: dict[str, Rule] = {
    **dict.fromkeys(["convolution", "_convolution"], mix.convolution),
    **dict.fromkeys(["mm", "bmm"], product.mm),
    **dict.fromkeys(["addmm", "baddbmm"], product.addmm),
    "linear": mix.linear,
    "deform_conv2d": deform.deformable,
    **dict.fromkeys(["_fft_c2c", "_fft_r2c", "_fft_c2r"], fourier.transform),
    **dict.fromkeys(
        [
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_cudnn_attention",
        ],
        product.attention,
    ),
}
NORMS: dict[str, Rule] = {
    **dict.fromkeys(["native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm"], mix.batch_norm),
    "native_group_norm": mix.group_norm,
    **dict.fromkeys(["native_layer_norm", "_fused_rms_norm"], mix.layer_norm),
}
WINDOWS: dict[str, int] = {  # operator -> number of spatial dimensions
    "max_pool2d_with_indices": 2, "max_pool3d_with_indices": 3, "avg_pool2d": 2, "avg_pool3d": 3, "avg_pool1d": 1,
    "_adaptive_avg_pool2d": 2, "_adaptive_avg_pool3d": 3, "adaptive_avg_pool1d": 1, "adaptive_max_pool2d": 2,
    "upsample_nearest2d": 2, "_upsample_nearest_exact2d": 2, "upsample_bilinear2d": 2, "upsample_bicubic2d": 2,
    "upsample_nearest1d": 1, "upsample_linear1d": 1, "upsample_trilinear3d": 3, "upsample_nearest3d": 3,
    "_upsample_nearest_exact1d": 1, "_upsample_nearest_exact3d": 3,
    "_upsample_bilinear2d_aa": 2, "_upsample_bicubic2d_aa": 2, "_upsample_lanczos2d_aa": 2,
    "adaptive_max_pool3d": 3, "fractional_max_pool2d": 2, "fractional_max_pool3d": 3,
    "reflection_pad2d": 2, "replication_pad2d": 2, "reflection_pad1d": 1, "replication_pad1d": 1,
    "reflection_pad3d": 3, "replication_pad3d": 3,
}  # fmt: skip
REDUCTIONS = frozenset(
    {
        "mean",
        "sum",
        "amax",
        "amin",
        "max",
        "min",
        "var",
        "std",
        "var_mean",
        "std_mean",
        "linalg_vector_norm",
        "norm",
        "logsumexp",
        "prod",
        "argmax",
        "argmin",
        "aminmax",
        "median",
        "nanmedian",
        "mode",
        "kthvalue",
        "count_nonzero",
        "any",
        "all",
        "_is_all_true",
        "_is_any_true",
    }
)
# elementwise although torch does not tag them so
ELEMENTWISE = frozenset(
    {
        "hardswish",
        "hardswish_",
        "native_dropout",
        "uniform_",
        "exponential_",
        "log_normal_",
        "cauchy_",
        "bernoulli",
        "normal",
        "normal_functional",
        "poisson",
        "binomial",
        "rrelu_with_noise",
        "rrelu_with_noise_functional",
        "fake_quantize_per_tensor_affine_cachemask",
        "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
        "_prelu_kernel",
        "copy_",
        "fill_",
        "zero_",
        "normal_",
        "mish_",
        "complex",
        "polar",
        "bernoulli_",
    }
)
# takes a scale and a zero point for each channel
QUANTISES = frozenset({"fake_quantize_per_channel_affine_cachemask"})
LIKE = frozenset(
    {f"{kind}_like" for kind in ("zeros", "ones", "empty", "full", "rand", "randn")}
    | {f"new_{kind}" for kind in ("zeros", "ones", "empty", "full")}
)


def learn(state: State, func: Any, args: Args, kwargs: dict[str, Any], out: Any) -> None:
    """Update the state after an operator has run."""
    name = func.overloadpacket.__name__
    if name not in MOVES and name.removesuffix("_") in pick.WRITING:
        name = name.removesuffix("_")
    if name not in MIXES:  # whose rules know what becomes of their work
        _note_work(state, func, args, kwargs, out)
    args = _positional(func, args, kwargs)
    first = next((o for o in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(o, Tensor)), None)
    if first is None:
        return
    tensors = [arg for arg in elementwise.flat(args) if isinstance(arg, Tensor)]
    own = all(state.is_own(arg) for arg in tensors)
    for tensor in elementwise.flat(out):
        if isinstance(tensor, Tensor):
            state.own[tensor] = own
    if tensors:
        rule = partial(_follow, state, func, name, args, kwargs, out, first)
        if not elementwise.careful(state, args, out, _full(func, name), rule) and name in MIXES:
            _note_work(state, func, args, kwargs, out)


def _follow(state: State, func: Any, name: str, args: Args, kwargs: dict[str, Any], out: Any, first: Tensor) -> None:
    """Apply the rule of an operator, whose first output is ``first``."""
    if name in MOVES:
        MOVES[name](state, args, out)
    elif name == "squeeze_" and len(args) > 1:  # without a dimension nothing says which of them went
        move.reshape_in_place(state, args, first, func=func)
    elif name == "set_" and len(args) == 1:
        state.set(first, [])  # emptied, to save memory
    elif name in MOVES_WITH_OPERATOR:
        MOVES_WITH_OPERATOR[name](state, args, out, func=func)
    elif name in MIXES:
        MIXES[name](state, args, out)
    elif name in NORMS:
        NORMS[name](state, args, first)
    elif name in WINDOWS:
        for tensor in elementwise.flat(out):  # beside the largest, where they were
            elementwise.window(state, args, tensor, spatial=WINDOWS[name])
    elif name in REDUCTIONS:
        # whether sizes of one stay is an argument that some operators take by its name alone
        elementwise.reduce(state, args, first, dims=_reduced(func, args, kwargs))
        for indices in elementwise.flat(out)[1:]:  # where the largest or smallest were found
            state.set(indices, state.labels(first))
    elif name in ("_softmax", "_log_softmax", "_safe_softmax"):
        elementwise.softmax(state, args, first)
    elif name in QUANTISES:
        elementwise.quantised(state, args, first)
    elif name == "glu":
        elementwise.halves(state, args, first)
    elif name in LIKE:
        elementwise.like(state, args, first)
    elif name in ELEMENTWISE or torch.Tag.pointwise in func.tags:
        elementwise.elementwise(state, args, first, name=name)
    else:
        elementwise.unknown(state, args, out, _full(func, name))


def _full(func: Any, name: str) -> str:
    return f"aten.{name}" if func.namespace == "aten" else f"{func.namespace}.{name}"


def _note_work(state: State, func: Any, args: Args, kwargs: dict[str, Any], out: Any) -> None:
    """Count an operator whose channels all stay, or note that it is not counted."""
    number = macs(func, args, kwargs, out)
    if number is None:
        state.uncounted.append(uncounted(func, state.module, out))
    elif number:
        state.calls.append(Call(state.module, number, (1,)))


def _positional(func: Any, args: Args, kwargs: dict[str, Any]) -> Args:
    """Put keyword arguments in their places, so that rules need only look at positions."""
    if not kwargs:
        return args
    full = list(args)
    for place, argument in enumerate(func._schema.arguments):
        if place >= len(full) and not argument.kwarg_only:
            full.append(kwargs.get(argument.name, argument.default_value))
    full.extend(value for value in kwargs.values() if isinstance(value, Tensor) and not any(value is a for a in full))
    return tuple(full)


def _reduced(func: Any, args: Args, kwargs: dict[str, Any]) -> Sequence[int] | None:
    """Return the dimensions of a reduction, None for all."""
    names = [argument.name for argument in func._schema.arguments]
    dims = (dict(zip(names, args, strict=False)) | kwargs).get("dim")
    if dims is None and func.overloadpacket.__name__ in ("mode", "kthvalue"):
        dims = -1
    return [dims] if isinstance(dims, int) else dims
