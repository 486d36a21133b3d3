"""Run a network as training runs it, but for what is drawn at random and noted down: so that runs can be compared."""

from __future__ import annotations

import pickle
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]

from secateur.core.graph import Graph
from secateur.core.layers import CHANNEL_NORMS, RECURRENT
from secateur.core.plan import Plan
from secateur.core.surgery.batches import other_batches
from secateur.core.surgery.forward import Inputs, forward, run
from secateur.core.surgery.generators import common, held
from secateur.core.surgery.silence import masked
from secateur.core.surgery.steady import WithoutDropout
from secateur.core.surgery.untouched import untouched
from secateur.core.surgery.verification import TOLERANCE, left, relative_difference, verified
from secateur.errors import ModelError, VerificationError, first_line

# these do in training what they do in evaluation, but for what they draw and note
_STEADY = (
    *CHANNEL_NORMS,
    *RECURRENT,
    _DropoutNd,
    nn.MultiheadAttention,
    nn.TransformerEncoder,
    nn.TransformerEncoderLayer,
)


def in_training(module: nn.Module) -> bool:
    """Tell of a module that it trains; norms, dropouts and the like stay in evaluation mode."""
    return not isinstance(module, _STEADY)


def run_in_training(model: nn.Module, inputs: Inputs) -> Any:
    """Run the model as training runs it, without gradients, dropout and batch statistics, and leave it as it was.

    Raises:
        ModelError: if the forward fails.
    """
    with WithoutDropout():
        return run(model, inputs, training=in_training)


def training_batches(inputs: Inputs) -> list[Inputs]:
    """Return the inputs, and twice a single one: some code cannot train on one alone."""
    others = other_batches(inputs)
    return [inputs, *others] if len(others) == 1 else [inputs]


def breaks_in_training(model: nn.Module, graph: Graph, plan: Plan, thin: nn.Module, inputs: Inputs) -> str | None:
    """Return the first layer at which the thin network differs in training from the silenced one, None if none does.

    Where numbers are drawn, the two draw others, so that nothing can be compared: then it must run.

    Args:
        model: the dense network, which runs in training on these inputs.
        graph: its graph.
        plan: what was removed.
        thin: what is left.
        inputs: the example.

    Raises:
        ModelError: if the thin network does not run.
    """
    found = run_in_training(thin, inputs)
    try:
        with masked(model, graph, plan):
            expected, drawn = _run_and_draw(model, inputs)
    except ModelError:
        return None
    if drawn or relative_difference(left(graph, plan, expected, in_training), found) <= TOLERANCE:
        return None
    with WithoutDropout():
        result, _ = verified(model, graph, plan, thin, inputs, training=in_training)
    return None if result.exact else result.layer


def _run_and_draw(model: nn.Module, inputs: Inputs) -> tuple[Any, bool]:
    with untouched(model, weights=True), WithoutDropout():
        sources = common() + held(model)
        before = [pickle.dumps(source.get()) for source in sources]
        outputs = forward(model, inputs, training=in_training)
        return outputs, before != [pickle.dumps(source.get()) for source in sources]


def check_training(model: nn.Module, thin: nn.Module, inputs: Inputs) -> None:
    """Run the thin network in training mode, if the dense one can do so.

    Args:
        model: the dense network.
        thin: what is left of it; it agrees with the silenced one in evaluation mode.
        inputs: the example.

    Raises:
        VerificationError: if the thin network does not run.
    """
    for batch in training_batches(inputs):
        try:
            run_in_training(thin, batch)
            return
        except ModelError as error:
            trouble = first_line(error)
        try:
            run_in_training(model, batch)
        except ModelError:  # it wants targets or more inputs: no fault of the cut
            continue
        raise VerificationError(
            f"the pruned network computes what it should in evaluation mode but does not run in training mode, as the "
            f"dense one does: {trouble}; nothing was written. Take sizes in the code that only training runs from its "
            "inputs' shapes"
        )
