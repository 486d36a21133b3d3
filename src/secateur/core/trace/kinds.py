"""Which modules of a network are of the kinds that rules ask for, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from secateur.core.attention import is_attention
from secateur.core.layer_families import CONVOLUTIONS, RECURRENT
from secateur.core.zeros.blocks import BlockLayer


@dataclass(frozen=True)
class Kinds:
    """The names of all modules of a kind."""

    convolutions: frozenset[str]
    group_norms: frozenset[str]
    blocks: frozenset[str]
    recurrent: frozenset[str]
    attention: frozenset[str]

    @staticmethod
    def of(model: nn.Module) -> Kinds:
        """Look a network through."""

        def named(kind: Callable[[nn.Module], bool]) -> frozenset[str]:
            return frozenset(name for name, module in model.named_modules() if kind(module))

        return Kinds(
            convolutions=named(lambda module: isinstance(module, CONVOLUTIONS)),
            group_norms=named(lambda module: isinstance(module, nn.GroupNorm)),
            blocks=named(lambda module: isinstance(module, BlockLayer)),
            recurrent=named(lambda module: type(module) in RECURRENT),
            attention=named(is_attention),
        )
