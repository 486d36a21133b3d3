"""How much an error at a layer changes what the network puts out: squared gradients, by output channel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.surgery import Inputs, tensors_in
from secateur.measure.forward import call, evaluating, tensors
from secateur.reconstruction.sites import hooked

DRAWS = 2


def influence(
    model: nn.Module, layers: Iterable[str], batches: Sequence[Inputs], *, images: int = 256, seed: int = 0
) -> dict[str, Tensor]:
    """Return by how much the outputs vary with independent errors of variance 1 at all places of a layer's output.

    That is the sum over places of squared gradients of random projections of the network's outputs (Hutchinson), in the
    mean over images, divided by the variance of these projections: 1 means as much as images differ.

    Returns:
        ``(outputs,)`` float64 for each layer; layers that no output depends on are left out.
    """
    names = set(layers)
    found: dict[str, Tensor] = {}
    taken: list[tuple[str, Tensor, int]] = []
    generator = torch.Generator().manual_seed(seed)
    projected: list[Tensor] = []
    count = 0

    def leave(name: str, module: nn.Module, given: Any, output: Any) -> None:
        if name in names and isinstance(output, Tensor) and output.requires_grad:
            taken.append((name, output, -1 if isinstance(module, nn.Linear) else 1))
            output.register_hook(lambda g, n=name, d=taken[-1][2]: note(n, g, d))

    def note(name: str, gradient: Tensor, channel: int) -> None:
        squares = gradient.detach().movedim(channel, -1).flatten(0, -2).square().sum(0).double().cpu()
        found[name] = found[name] + squares if name in found else squares

    with evaluating(model), hooked(model, lambda *_: None, leave), torch.enable_grad():
        for batch in batches:
            if count >= images:
                break
            given, size = _watched(batch, min(32, images - count))
            taken.clear()
            outputs = [it for it in tensors_in(call(model, given)) if it.is_floating_point() and it.requires_grad]
            if not outputs:
                return {}
            for turn in range(DRAWS):
                values: list[Tensor] = []
                for it in outputs:
                    sign = torch.randint(0, 2, it.shape[1:], generator=generator).to(it) * 2 - 1
                    values.append((it * sign).flatten(1).sum(1) if it.dim() > 1 else it * sign)
                total = torch.stack([v for v in values if v.shape == values[0].shape]).sum(0)
                projected.append(total.detach().double().cpu())
                total.sum().backward(retain_graph=turn + 1 < DRAWS, inputs=[t for t in tensors(given) if t.requires_grad])
            count += size
    variance = float(torch.stack([p.var() for p in projected if len(p) > 1]).mean()) if projected else 1.0
    return {name: value / (count * DRAWS * max(variance, 1e-30)) for name, value in found.items()}


def _watched(batch: Any, most: int) -> tuple[Any, int]:
    if isinstance(batch, Tensor):
        some = batch[:most].clone()
        return (some.requires_grad_(True) if some.is_floating_point() else some), len(some)
    if isinstance(batch, dict):
        pairs = {name: _watched(value, most) for name, value in batch.items()}
        return {name: value for name, (value, _) in pairs.items()}, next(iter(pairs.values()))[1]
    parts = [_watched(value, most) for value in batch]
    return tuple(value for value, _ in parts), parts[0][1]
