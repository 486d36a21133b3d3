"""Cut and prove: no network that a plan leaves is measured, timed or given out before it computes what it should."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from secateur.core.graph import Graph
from secateur.core.module_calls import ModuleStack
from secateur.core.plan import Plan
from secateur.core.surgery.batch_size_check import check_batches
from secateur.core.surgery.forward import Inputs, finite, run
from secateur.core.surgery.image_size_check import SizesAsked, check_sizes
from secateur.core.surgery.removal import apply
from secateur.core.surgery.training_flag import asking, asks_aloud
from secateur.core.surgery.training_mode_check import compare_training
from secateur.core.surgery.verification import Verification, verified
from secateur.errors import CutError, VerificationError
from secateur.spelling import setting


def cut(model: nn.Module, graph: Graph, plan: Plan, inputs: Inputs) -> nn.Module:
    """Return the network that a plan leaves, which computes on the inputs what the silenced one does.

    Raises:
        VerificationError: if the network puts out numbers that cannot be compared.
        CutError: with the plan, if the new network computes something else, or does not run.
    """
    thin = apply(model, graph, plan)
    if plan.edits:
        with carrying_out(plan):
            prove(model, graph, plan, thin, inputs)
    return thin


@dataclass(frozen=True)
class Proof:
    """That a thin network computes on the example what the silenced one does, and what its run there has shown.

    Attributes:
        check: how far the two are apart.
        outputs: of the thin network.
        sizes: whether code that is not torch's looks at sizes.
        modes: whether any code may have looked at whether it trains, or whether gradients are wanted.
    """

    check: Verification
    outputs: Any
    sizes: bool
    modes: bool


def prove(model: nn.Module, graph: Graph, plan: Plan, thin: nn.Module, inputs: Inputs) -> Proof:
    """Compare a thin network with the silenced one.

    Raises:
        VerificationError: if the network puts out numbers that cannot be compared.
        CutError: if the thin one computes something else, or does not run.
    """
    sizes, asked = SizesAsked(), set[str]()
    check, outputs = verified(model, graph, plan, thin, inputs, around=_listening(thin, sizes, asked))
    if not math.isfinite(check.difference) and not finite(run(model, inputs)):
        raise VerificationError(
            f"the network puts out NaN or infinite values for its example inputs, first at '{check.layer}', so "
            "nothing can be compared; nothing was written; give inputs such as it was trained on, or sound weights"
        )
    if not check.exact:
        raise CutError(
            f"the pruned network differs from the silenced one by {check.difference:.2g} (relative), first at "
            f"'{check.layer}'; nothing was written. Leave that layer alone ({setting('leave')}) and report this "
            "network",
            check.layer,
        )
    return Proof(check, outputs, sizes.asked, bool(asked) or not asks_aloud(thin))


@contextmanager
def _listening(thin: nn.Module, sizes: SizesAsked, asked: set[str]) -> Generator[None]:
    stack = ModuleStack(thin)
    with stack, asking(stack) as heard, sizes:
        yield
    asked |= heard


def prove_elsewhere(model: nn.Module, graph: Graph, plan: Plan, thin: nn.Module, inputs: Inputs, proof: Proof) -> bool:
    """Compare the thin network with the silenced one on other inputs and in training, where the dense one runs so.

    Args:
        model: the dense network.
        graph: its graph.
        plan: what was removed.
        thin: what is left; it agrees with the silenced network on the inputs.
        inputs: the example.
        proof: that it does.

    Returns:
        Whether it is known to run in training mode: it did, or there is no difference for its code.

    Raises:
        CutError: if the thin one computes something else there, or does not run.
    """
    check_batches(model, graph, plan, thin, inputs, proof.outputs)
    check_sizes(model, graph, plan, thin, inputs, asked=proof.sizes)
    return compare_training(model, graph, plan, thin, inputs) or not proof.modes


@contextmanager
def carrying_out(plan: Plan) -> Generator[None]:
    """Tell a cut that fails in this block which plan it was of."""
    try:
        yield
    except CutError as error:
        error.plan = error.plan or plan
        raise
