"""Cut and prove: no network that a plan leaves is measured, timed or given out before it computes what it should."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import nn

from secateur.core.graph import Graph
from secateur.core.plan import Plan
from secateur.core.surgery.batches import check_batches
from secateur.core.surgery.forward import Inputs, finite, run
from secateur.core.surgery.removal import apply
from secateur.core.surgery.sizes import check_sizes
from secateur.core.surgery.training import compare_training
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


def prove(model: nn.Module, graph: Graph, plan: Plan, thin: nn.Module, inputs: Inputs) -> tuple[Verification, Any]:
    """Return how far a thin network is from the silenced one, and what it puts out.

    Raises:
        VerificationError: if the network puts out numbers that cannot be compared.
        CutError: if the thin one computes something else, or does not run.
    """
    check, outputs = verified(model, graph, plan, thin, inputs)
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
    return check, outputs


def prove_elsewhere(
    model: nn.Module, graph: Graph, plan: Plan, thin: nn.Module, inputs: Inputs, outputs: Any = None
) -> None:
    """Compare the thin network with the silenced one on other inputs and in training, where the dense one runs so.

    Args:
        model: the dense network.
        graph: its graph.
        plan: what was removed.
        thin: what is left; it agrees with the silenced network on the inputs.
        inputs: the example.
        outputs: of the thin network for them, if they are known.

    Raises:
        CutError: if the thin one computes something else there, or does not run.
    """
    check_batches(model, graph, plan, thin, inputs, outputs)
    check_sizes(model, graph, plan, thin, inputs)
    compare_training(model, graph, plan, thin, inputs)


@contextmanager
def carrying_out(plan: Plan) -> Generator[None]:
    """Tell a cut that fails in this block which plan it was of."""
    try:
        yield
    except CutError as error:
        error.plan = error.plan or plan
        raise
