"""Layers whose outputs read different inputs: the diverse group convolution, and the same for linear layers.

Outputs that read the same inputs form a block, a small dense layer on the inputs picked for it. Only the weights
inside the blocks exist. Equal blocks without a common input run as one grouped convolution. Where many narrow
blocks are slower than one wide layer, ``execution = "dense"`` runs the layer on the full weight instead, with
zeros outside the blocks; ``secateur.measure.fastest`` times both and chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from secateur.core.plan import Block
from secateur.core.sizes.regrouped import Layout
from secateur.core.zeros.strided import same

Execution = Literal["blocks", "dense"]
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_HOOK_OPTIONS = ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")


class BlockLayer(nn.Module):
    """What block convolutions and block linear layers have in common.

    Attributes:
        blocks: the dense layer of each block, without bias for the outputs of others; a single grouped
            convolution where the blocks are equal and share no input.
        constant: ``(n,)`` bias of the outputs that read nothing, a buffer of zeros if the layer has no bias. Surgery
            keeps them; ``secateur.repair.fold_constants`` removes those that layers behind can stand in for.
        execution: run block by block, or on the full weight with zeros outside the blocks.
    """

    blocks: nn.ModuleList
    constant: Tensor
    order: Tensor  # (outputs,) where each output stands in the concatenation of the blocks' outputs
    channels: Tensor  # (inputs,) number of each input

    def __init__(self, layout: Layout, weight: Tensor, bias: Tensor | None, like: nn.Module) -> None:
        super().__init__()
        self.execution: Execution = "blocks"
        self._full: tuple[list[Tensor], Tensor] | None = None
        self.dim = -3 if weight.dim() == 4 else -1
        self.outputs, self.inputs = layout.outputs, layout.inputs
        reading = [block for block in layout.blocks if block.inputs]
        silent = [output for block in layout.blocks if not block.inputs for output in block.outputs]
        self.silent = len(silent)
        placed = torch.tensor([output for block in reading for output in block.outputs] + silent)
        parts = self._parts(reading)
        self.blocks = nn.ModuleList(self._part(like, part, weight, bias) for part in parts)
        for number, part in enumerate(parts):
            chosen = torch.tensor([i for block in part for i in block.inputs], device=weight.device)
            self.register_buffer(f"inputs{number}", chosen)
        self.ordered = placed.tolist() == list(range(self.outputs))
        self.register_buffer("order", torch.argsort(placed).to(weight.device))
        self.register_buffer("channels", torch.arange(self.inputs, device=weight.device), persistent=False)
        if bias is not None and silent:
            self.constant = nn.Parameter(bias.detach()[silent].clone(), requires_grad=bias.requires_grad)
        else:
            self.register_buffer("constant", weight.detach().new_zeros(len(silent)), persistent=False)

    @classmethod
    def of(cls, layer: Any, layout: Layout) -> Self:
        """Return a layer that computes what ``layer`` computes with zeros outside the blocks.

        Args:
            layer: a plain convolution or linear layer, or a block layer; left as it is, its hooks carry over.
            layout: the blocks; the outputs and inputs are those of ``layer``.
        """
        made = cls(layout, layer.weight, layer.bias, layer.blocks[0] if isinstance(layer, BlockLayer) else layer)
        for name in (*_HOOKS, *_HOOK_OPTIONS):
            getattr(made, name).update(getattr(layer, name, {}))
        made._is_full_backward_hook = layer._is_full_backward_hook
        return made.train(layer.training)

    @property
    def weight(self) -> Tensor:
        """The full weight ``(outputs, inputs, ...)`` with zeros outside the blocks, computed from the blocks'."""
        rows: list[Tensor] = []
        for number, block in enumerate(self.parts):
            chosen = self.chosen(number)
            groups = getattr(block, "groups", 1)
            for own, inputs in zip(block.weight.chunk(groups), chosen.chunk(groups), strict=True):
                shape = (own.shape[0], self.inputs, *own.shape[2:])
                rows.append(own.new_zeros(shape).index_copy(1, inputs, own))
        if len(self.constant):
            rows.append(rows[0].new_zeros(len(self.constant), *rows[0].shape[1:]))
        return torch.cat(rows).index_select(0, self.order)

    @property
    def bias(self) -> Tensor | None:
        """The bias of all outputs, ``(outputs,)``, computed from the blocks'; None without."""
        parts = [block.bias for block in self.parts]
        if any(part is None for part in parts):
            return None
        return torch.cat([*parts, self.constant]).index_select(0, self.order)

    def assign(self, weight: Tensor, bias: Tensor | None) -> None:
        """Take other weights, in place.

        Args:
            weight: the full weight ``(outputs, inputs, ...)``; what lies outside the blocks is not looked at.
            bias: ``(outputs,)``; not looked at if the layer has none.
        """
        placed = torch.argsort(self.order)
        with torch.no_grad():
            for number, block in enumerate(self.parts):
                groups = getattr(block, "groups", 1)
                for own, inputs in zip(block.weight.chunk(groups), self.chosen(number).chunk(groups), strict=True):
                    outputs, placed = placed[: len(own)], placed[len(own) :]
                    own.copy_(weight[outputs][:, inputs])
            if bias is not None and self.bias is not None:
                given = bias[torch.argsort(self.order)].split([*(len(b.bias) for b in self.parts), len(self.constant)])
                for own, values in zip([*(block.bias for block in self.parts), self.constant], given, strict=True):
                    own.copy_(values)

    @property
    def parts(self) -> list[Any]:
        """The layers of the blocks, in order."""
        return list(self.blocks)

    def chosen(self, block: int) -> Tensor:
        """Return the inputs that a block reads, int64, in the order of its columns."""
        return getattr(self, f"inputs{block}")

    def layout(self) -> Layout:
        """Return the blocks."""
        placed = torch.argsort(self.order).tolist()
        blocks: list[Block] = []
        for number, block in enumerate(self.parts):
            groups = getattr(block, "groups", 1)
            width = block.weight.shape[0] // groups
            for inputs in self.chosen(number).chunk(groups):
                outputs, placed = placed[:width], placed[width:]
                blocks.append(Block(tuple(sorted(outputs)), tuple(sorted(inputs.tolist()))))
        if placed:
            blocks.append(Block(tuple(sorted(placed)), ()))
        return Layout(self.outputs, self.inputs, tuple(blocks))

    def forward(self, x: Tensor) -> Tensor:
        """Compute all outputs in their order."""
        if not torch.compiler.is_compiling() and is_in_torch_dispatch_mode(include_infra_modes=False):
            self._announce(x)
        if self.execution == "dense":
            return self._dense(x, self._full_weight(), self.bias)
        made = [block(x.index_select(self.dim, self.chosen(i))) for i, block in enumerate(self.parts)]
        if self.silent:
            made.append(self._silent_like(made[0]))
        joined = made[0] if len(made) == 1 else torch.cat(made, self.dim)
        return joined if self.ordered else joined.index_select(self.dim, self.order)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.ordered = self.order.tolist() == list(range(self.outputs))

    def extra_repr(self) -> str:
        """Return the sizes for printing."""
        weights = sum(block.weight.numel() for block in self.parts)
        return f"{self.inputs}, {self.outputs}, weights={weights}, execution={self.execution}"

    def _announce(self, x: Tensor) -> None:
        """Let whoever reads the network see that ``channels`` are those of the input, by a product of no elements."""
        if x.dim() > -self.dim:
            torch.mul(x[:0], self.channels.reshape(-1, *[1] * (-self.dim - 1)))

    def _silent_like(self, made: Tensor) -> Tensor:
        shape = list(made.shape)
        shape[self.dim] = len(self.constant)
        return self.constant.to(made.dtype).reshape(-1, *[1] * (-self.dim - 1)).expand(shape)

    def _full_weight(self) -> Tensor:
        """Return the full weight; outside of training it is put together again only where a block has changed."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self.weight
        own = [block.weight for block in self.parts]
        # values are compared, not version counters: fused optimizers change weights without counting
        if self._full is None or not all(map(same, self._full[0], own)):
            self._full = ([weight.detach().clone() for weight in own], self.weight)
        return self._full[1]

    def _parts(self, blocks: Sequence[Block]) -> list[list[Block]]:
        """Return which blocks run together in one layer."""
        return [[block] for block in blocks]

    def _part(self, like: Any, part: Sequence[Block], weight: Tensor, bias: Tensor | None) -> nn.Module:
        raise NotImplementedError

    def _dense(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise NotImplementedError


class BlockConv2d(BlockLayer):
    """A 2-d convolution whose outputs read different inputs; maps (N, inputs, H, W) to (N, outputs, H', W').

    Source: Guo et al., "Self-grouping Convolutional Neural Networks", Neural Networks 132, 2020.
    """

    @property
    def in_channels(self) -> int:
        """Number of inputs."""
        return self.inputs

    @property
    def out_channels(self) -> int:
        """Number of outputs."""
        return self.outputs

    def _parts(self, blocks: Sequence[Block]) -> list[list[Block]]:
        sizes = {(len(block.outputs), len(block.inputs)) for block in blocks}
        together = [i for block in blocks for i in block.inputs]
        if len(blocks) > 1 and len(sizes) == 1 and len(set(together)) == len(together):
            return [list(blocks)]
        return [[block] for block in blocks]

    def _part(self, like: Any, part: Sequence[Block], weight: Tensor, bias: Tensor | None) -> nn.Module:
        outputs = [output for block in part for output in block.outputs]
        made = nn.Conv2d(
            sum(len(block.inputs) for block in part),
            len(outputs),
            like.kernel_size,
            like.stride,
            like.padding,
            like.dilation,
            len(part),
            bias is not None,
            like.padding_mode,
            device="meta",
        )
        return _filled(made, part, weight, bias)

    def _dense(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        like: Any = self.blocks[0]
        padding = like.padding
        if like.padding_mode != "zeros":
            x, padding = F.pad(x, like._reversed_padding_repeated_twice, mode=like.padding_mode), 0
        return F.conv2d(x, weight, bias, like.stride, padding, like.dilation)


class BlockLinear(BlockLayer):
    """A linear layer whose outputs read different inputs; maps (..., inputs) to (..., outputs)."""

    @property
    def in_features(self) -> int:
        """Number of inputs."""
        return self.inputs

    @property
    def out_features(self) -> int:
        """Number of outputs."""
        return self.outputs

    def _part(self, like: Any, part: Sequence[Block], weight: Tensor, bias: Tensor | None) -> nn.Module:
        (block,) = part
        made = nn.Linear(len(block.inputs), len(block.outputs), bias is not None, device="meta")
        return _filled(made, part, weight, bias)

    def _dense(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


def _filled(made: nn.Module, part: Sequence[Block], weight: Tensor, bias: Tensor | None) -> nn.Module:
    """Give a layer the weights of its blocks."""
    last = weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last and not weight.is_contiguous() else torch.contiguous_format
    with torch.no_grad():
        rows = [weight[list(block.outputs)][:, list(block.inputs)] for block in part]
        own = torch.cat(rows).contiguous(memory_format=layout)
        made.weight = nn.Parameter(own, requires_grad=weight.requires_grad)
        if bias is not None:
            own = bias[[output for block in part for output in block.outputs]]
            made.bias = nn.Parameter(own, requires_grad=bias.requires_grad)
    return made
