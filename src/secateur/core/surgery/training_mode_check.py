"""Run a network as training runs it, but for what is drawn at random and noted down: so that runs can be compared."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]

from secateur.core.graph import Graph
from secateur.core.layer_families import CHANNEL_NORMS, RECURRENT
from secateur.core.plan import Plan
from secateur.core.surgery.batch_size_check import other_batches
from secateur.core.surgery.forward import Inputs, finite, run
from secateur.core.surgery.steady_draws import Steady, WithoutDropout
from secateur.core.surgery.verification import TOLERANCE, relative_difference, verified
from secateur.errors import CutError, ModelError, VerificationError, first_line

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
    """Run the model as training runs it, gradients enabled, without dropout and batch statistics; leave it as it was.

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

    What is drawn is the same for both, or constant where its number depends on widths, as in ``verify``. Where the
    dense network differs from itself even so, nothing can be compared: then the thin one must run.

    Args:
        model: the dense network, which runs in training on these inputs.
        graph: its graph.
        plan: what was removed.
        thin: what is left.
        inputs: the example.

    Raises:
        CutError: if the thin network does not run.
        ModelError: if it does not, and the silenced one does not either.
    """
    try:
        with WithoutDropout():
            result, _ = verified(model, graph, plan, thin, inputs, training=in_training)
    except CutError:
        raise
    except ModelError:
        run_in_training(thin, inputs)
        return None
    return None if result.exact or not _repeats(model, inputs) else result.layer


def _repeats(model: nn.Module, inputs: Inputs) -> bool:
    """Whether the network computes the same finite numbers when it trains twice on constants in the place of draws."""
    with Steady():
        first = run(model, inputs, training=in_training)
    with Steady():
        return finite(first) and relative_difference(first, run(model, inputs, training=in_training)) <= TOLERANCE


def compare_training(model: nn.Module, graph: Graph, plan: Plan, thin: nn.Module, inputs: Inputs) -> bool:
    """Compare the thin network with the silenced one in training mode, where its code looks at whether it trains.

    Args:
        model: the dense network.
        graph: its graph.
        plan: what was removed.
        thin: what is left; it agrees with the silenced network in evaluation mode.
        inputs: the example.

    Returns:
        Whether it was run there at all.

    Raises:
        CutError: if the thin network does not run, or computes something else than the silenced one.
    """
    if not graph.trained_outputs:
        return False
    for batch in training_batches(inputs):
        try:
            place = breaks_in_training(model, graph, plan, thin, batch)
        except CutError as error:
            raise CutError(f"in training mode {error}", error.place) from error
        except ModelError:  # such as one image that is too few for both
            continue
        if place is not None:
            raise CutError(
                f"the pruned network computes what it should in evaluation mode but not in training mode, first at "
                f"'{place}'; nothing was written. Take sizes in the code that only training runs from its inputs' "
                "shapes",
                place,
            )
        return True
    return False


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
