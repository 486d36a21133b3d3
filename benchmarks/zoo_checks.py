"""What else a thin network must do that the dense one does: be loaded elsewhere, train, be traced, fused and exported.

Each check returns "ok", "none" where the dense network does not do it either, or what failed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import zoo_ultralytics
from secateur.core.surgery import relative_difference, tensors_in
from secateur.errors import first_line
from zoo_judge import EXACT, double, duplicate, outputs_of, tensors

FUSED = 1e-3  # relative; a fused network rounds elsewhere


def checks(kind: str, dense: nn.Module, thin: nn.Module, inputs: Any, export: bool) -> dict[str, str]:
    """Return what came of each check, but of loading, which takes another process."""
    found = {"training": training(dense, thin, inputs), "fx": symbolic(dense, thin, inputs)}
    if kind == "ultralytics":
        found["fused"] = fused(dense, thin, inputs)
        if export:
            found["exported"] = failure(lambda: zoo_ultralytics.export(thin, inputs)) or "ok"
            found["its trainer"] = failure(lambda: zoo_ultralytics.train(thin, inputs)) or "ok"
    return found


def kept(before: nn.Module, after: nn.Module) -> str:
    """Tell whether all tensors of the dense network are what they were before it was read."""
    now = dict(tensors(after))
    other = [name for name, tensor in tensors(before) if not torch.equal(tensor, now[name])]
    return f"{len(other)} tensors are not what they were, first '{other[0]}'" if other else "ok"


def training(dense: nn.Module, thin: nn.Module, inputs: Any) -> str:
    """Run forward and backward in training mode, with the inputs or with two of each."""

    def steps(model: nn.Module, given: Any) -> None:
        model = duplicate(model).train().requires_grad_(True)
        outputs = [t for t in tensors_in(_call(model, given)) if t.requires_grad]
        if not outputs:
            raise RuntimeError("no gradient reaches the outputs")
        torch.stack([t.float().sum() for t in outputs]).sum().backward()
        if not any(p.grad is not None for p in model.parameters()):
            raise RuntimeError("no gradient reaches a weight")

    twice = tree_map(lambda x: torch.cat([x, x]) if isinstance(x, Tensor) and x.dim() > 1 else x, inputs)
    why = "none"
    for given in (inputs, twice):
        if failure(lambda given=given: steps(dense, given)):
            continue
        why = failure(lambda given=given: steps(thin, given)) or "ok"
        break
    return why


def symbolic(dense: nn.Module, thin: nn.Module, inputs: Any) -> str:
    """Trace with torch.fx and compare, where the dense network can be traced and then does what it did."""
    return _alike(dense, thin, inputs, lambda model: torch.fx.symbolic_trace(duplicate(model)), EXACT)


def fused(dense: nn.Module, thin: nn.Module, inputs: Any) -> str:
    """Fuse norms into convolutions as Ultralytics does before it predicts, and compare."""
    return _alike(dense, thin, inputs, lambda model: duplicate(model).fuse(verbose=False), FUSED, first=True)


def _alike(
    dense: nn.Module, thin: nn.Module, inputs: Any, made: Callable[[Any], nn.Module], limit: float, first: bool = False
) -> str:
    def difference(model: nn.Module, inputs: Any) -> float:
        return relative_difference(*(_first(outputs_of(m, inputs), first) for m in (model, made(model))))

    def close(model: nn.Module) -> None:
        found = difference(model, inputs)
        if found > limit:  # what chooses may choose otherwise after an error in the last digit
            found = difference(double(model), double(inputs))
        if found > limit:
            raise RuntimeError(f"differs by {found:.1e}")

    return "none" if failure(lambda: close(dense)) else failure(lambda: close(thin)) or "ok"


def _first(outputs: Any, first: bool) -> Any:
    """Return of the outputs in evaluation what is predicted, if so asked: a fused network leaves other parts away."""
    return outputs[0] if first and isinstance(outputs, (tuple, list)) else outputs


def _call(model: nn.Module, inputs: Any) -> Any:
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


def failure(work: Callable[[], object]) -> str:
    """Return why it does not; empty if it does."""
    try:
        torch.manual_seed(0)
        work()
    except Exception as error:
        return f"{type(error).__name__}: {first_line(error)}"[:300]
    return ""


# -- in another process ----------------------------------------------------------------------------------------


def save(dense: nn.Module, thin: nn.Module, inputs: Any, file: Path) -> str:
    """Write the thin network, inputs and outputs; return what failed, and nothing if it is there."""
    why = failure(lambda: torch.save((thin, inputs, tensors_in(outputs_of(thin, inputs))), file))
    return "none" if why and failure(lambda: torch.save(dense, file)) else why


def loaded(file: Path) -> str:
    """Load the thin network, in a process that has pruned nothing, and compare."""

    def work() -> None:
        thin, inputs, wanted = torch.load(file, weights_only=False)
        found = relative_difference(wanted, tensors_in(outputs_of(thin, inputs)))
        if found > EXACT:
            raise RuntimeError(f"differs by {found:.1e} after loading")

    return failure(work) or "ok"
