"""The only code that edits a model: remove for real, silence reversibly, and check that both agree."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur.core.graph import Graph, count, tensor_of
from secateur.core.layers import CHANNEL_NORMS, CONVOLUTIONS
from secateur.core.literals import rewrite
from secateur.core.plan import Plan
from secateur.core.shaper import Shaper
from secateur.core.size import sliced, zero_masks
from secateur.errors import ModelError, PlanError

Inputs = Tensor | Sequence[Any] | Mapping[str, Any]
TOLERANCE = 1e-4  # relative, in float32; see Verification


@dataclass(frozen=True)
class Verification:
    """How far the thin network is from the silenced original.

    Attributes:
        difference: largest absolute difference of the outputs, relative to their largest absolute value.
        exact: whether that is within rounding (1e-4 in float32).
        layer: the first layer whose output differs; empty if exact.
    """

    difference: float
    exact: bool
    layer: str = ""


def run(model: nn.Module, inputs: Inputs) -> Any:
    """Run the model on example inputs in evaluation mode without gradients; every module's mode is restored.

    Raises:
        ModelError: if the forward fails.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        with torch.no_grad():
            return _call(model, inputs)
    except Exception as error:
        if isinstance(error, (KeyboardInterrupt, MemoryError)):
            raise
        raise ModelError(
            f"{type(model).__name__} does not run on the example inputs ({describe(inputs)}): {_first_line(error)}"
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode


def _call(model: nn.Module, inputs: Inputs) -> Any:
    if isinstance(inputs, Tensor):
        return model(inputs)
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


def describe(inputs: Inputs) -> str:
    """Return the shapes of example inputs for a message."""
    shapes = [str(tuple(leaf.shape)) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    return f"shape {', '.join(shapes)}" if shapes else "no tensors"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def apply(model: nn.Module, graph: Graph, plan: Plan) -> nn.Module:
    """Return a new, physically smaller network; the argument is left untouched.

    Device, dtype, memory format, training mode, hooks and ``requires_grad`` carry over; gradients do not.

    Args:
        model: the network that ``graph`` was traced from, or one of the same architecture.
        graph: its groups.
        plan: what to remove.

    Raises:
        PlanError: if the plan or graph belongs to another network, or would leave a group without units.
        ModelError: if the model cannot be copied.
    """
    keep = graph.kept(plan)
    _check(model, graph, keep)
    masks = zero_masks(graph, plan, keep)
    thin = _copy_with(
        model, {name: _thin(tensor_of(model, name), name, graph, keep, masks) for name in graph.tensors}
    )
    if bool((~keep).any()):
        _set_sizes(thin, graph, keep)
        _rewrite_code(thin, graph, keep)
    return thin


def _check(model: nn.Module, graph: Graph, keep: Tensor) -> None:
    for name, (shape, _) in graph.tensors.items():
        found = tuple(tensor_of(model, name).shape)
        if found != shape:
            raise PlanError(
                f"'{name}' has shape {found} where the traced network has {shape}; trace this model first"
            )
    for group in graph.groups:
        first = graph.offsets[group.name]
        if not bool(keep[first : first + group.size].any()):
            raise PlanError(
                f"the plan removes all {group.size} units of group '{group.name}'; at least one must stay"
            )


def _thin(tensor: Tensor, name: str, graph: Graph, keep: Tensor, masks: Mapping[str, Tensor]) -> Tensor:
    """Return the tensor without the removed positions, with silenced weights at zero; never a view of the old."""
    with torch.no_grad():
        new = sliced(tensor.detach(), graph.tensors[name][1], keep)
        new = new.clone() if new.data_ptr() == tensor.data_ptr() else new
        if (
            tensor.dim() == 4
            and tensor.is_contiguous(memory_format=torch.channels_last)
            and not tensor.is_contiguous()
        ):
            new = new.contiguous(memory_format=torch.channels_last)
        if name in masks:
            new.mul_(masks[name].to(new.device))
    return nn.Parameter(new, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new


def _copy_with(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Deep-copy a model, but put the given tensors in the place of the old ones, ties included."""
    memo: dict[int, Any] = {id(tensor_of(model, name)): new for name, new in tensors.items()}
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise ModelError(f"{type(model).__name__} cannot be copied: {_first_line(error)}") from error


def _set_sizes(thin: nn.Module, graph: Graph, keep: Tensor) -> None:
    """Bring the size attributes of standard modules in line with their tensors."""
    for name, module in thin.named_modules():
        if isinstance(module, CONVOLUTIONS):
            if name in graph.convolutions:
                units = graph.convolutions[name]
                inner = len(units) // module.groups
                if module.groups > inner:  # whole groups went, see the tracer's rule
                    module.groups = int((keep[units] | (units < 0)).sum()) // inner
            rows, columns = module.weight.shape[:2]
            module.in_channels = rows if module.transposed else columns * module.groups
            module.out_channels = columns * module.groups if module.transposed else rows
            continue
        owned: Any = next(
            (t for t in (getattr(module, n, None) for n in ("weight", "running_mean")) if t is not None), None
        )
        if owned is None:
            continue
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = owned.shape
        elif isinstance(module, CHANNEL_NORMS):
            module.num_features = len(owned)
        elif isinstance(module, nn.PReLU):
            module.num_parameters = len(owned)
        elif isinstance(module, nn.GroupNorm):
            module.num_channels = len(owned)
        elif isinstance(module, nn.LayerNorm):
            module.normalized_shape = tuple(owned.shape)


def _rewrite_code(thin: nn.Module, graph: Graph, keep: Tensor) -> None:
    by_module: dict[str, list[tuple[int, str, tuple[int | str, ...], int]]] = {}
    for entry in graph.rewrites:
        for size in entry.literals:
            new = size.sign * count(size.axis, keep)
            by_module.setdefault(entry.module, []).append((entry.call, entry.function, size.path, new))
    for name, changes in by_module.items():
        rewrite(thin.get_submodule(name), changes)


@contextlib.contextmanager
def masked(model: nn.Module, graph: Graph, plan: Plan) -> Generator[nn.Module]:
    """Silence what the plan removes, inside the model itself; on leaving, restore every bit.

    The weights that read a removed unit are zeroed, so that in evaluation mode the model computes exactly what
    the thin network computes, whatever the activation functions.

    Raises:
        PlanError: if the plan does not belong to the network.
    """
    keep = graph.kept(plan)
    _check(model, graph, keep)
    saved: dict[str, Tensor] = {}
    try:
        with torch.no_grad():
            for name, positions in _silenced(graph, plan, keep).items():
                tensor = tensor_of(model, name)
                saved[name] = tensor.detach().clone()
                tensor.masked_fill_(positions.to(tensor.device), 0.0)
        yield model
    finally:
        with torch.no_grad():
            for name, value in saved.items():
                tensor_of(model, name).copy_(value)


def _silenced(graph: Graph, plan: Plan, keep: Tensor) -> dict[str, Tensor]:
    """Return for each weight to change the positions to zero (boolean, broadcastable to its shape)."""
    positions: dict[str, Tensor] = {}
    for name, roles in graph.roles.items():
        shape, dims = graph.tensors[name]
        for d, (role, units) in enumerate(zip(roles, dims, strict=True)):
            if role != "reads" or units is None:
                continue
            gone = ~(keep[units] | (units < 0))
            if bool(gone.any()):
                gone = gone.reshape([-1 if i == d else 1 for i in range(len(shape))])
                positions[name] = positions[name] | gone if name in positions else gone
    everything = torch.ones(graph.units, dtype=torch.bool)
    for name, mask in zero_masks(graph, plan, everything).items():
        positions[name] = positions[name] | ~mask if name in positions else ~mask
    return positions


class Hold(Shaper):
    """Keeps silenced weights at zero while a network trains, whatever the optimizer does to them."""

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        self._pairs = [(tensor_of(model, name), mask) for name, mask in masks.items()]
        self._pairs = [(tensor, mask.to(tensor.device, tensor.dtype)) for tensor, mask in self._pairs]

    def after_step(self, step: int) -> None:
        """Set the silenced weights back to zero."""
        with torch.no_grad():
            for tensor, mask in self._pairs:
                tensor.mul_(mask.to(tensor.device))


def hold(thin: nn.Module, graph: Graph, plan: Plan) -> Hold:
    """Return a shaper that keeps the zeros of an applied plan through training.

    Args:
        thin: the network that ``apply`` returned.
        graph: the graph of the dense network.
        plan: the plan that was applied.
    """
    return Hold(thin, zero_masks(graph, plan, graph.kept(plan)))


def verify(model: nn.Module, graph: Graph, plan: Plan, thin: nn.Module, inputs: Inputs) -> Verification:
    """Compare the thin network with the silenced original on the given inputs, in evaluation mode.

    Args:
        model: the dense network, left as it was.
        graph: its graph.
        plan: what was removed.
        thin: what ``apply`` returned.
        inputs: any inputs that the network accepts.

    Raises:
        ModelError: if one of the networks does not run.
    """
    with masked(model, graph, plan):
        expected = run(model, inputs)
    found = run(thin, inputs)
    difference = relative_difference(expected, found)
    if difference <= TOLERANCE:
        return Verification(difference, True)
    return Verification(difference, False, _first_difference(model, graph, plan, thin, inputs))


def relative_difference(expected: Any, found: Any) -> float:
    """Return the largest absolute difference over all output tensors, relative to the largest expected value."""
    pairs = list(zip(_tensors(expected), _tensors(found), strict=True))
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    scale = max((float(a.abs().max()) for a, _ in pairs if a.numel()), default=0.0)
    worst = max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0)
    if worst != worst:
        return float("inf")
    return worst / scale if scale > 0 else worst


def _tensors(value: Any) -> list[Tensor]:
    opened = vars(value) if hasattr(value, "__dict__") and not isinstance(value, (Tensor, dict)) else value
    return [t.detach().double() for t in tree_leaves(opened) if isinstance(t, Tensor)]


def _first_difference(model: nn.Module, graph: Graph, plan: Plan, thin: nn.Module, inputs: Inputs) -> str:
    """Return the first layer that makes channels whose kept channels differ between the two networks."""
    keep = graph.kept(plan)
    with masked(model, graph, plan):
        expected = _outputs(model, graph, inputs)
    found = _outputs(thin, graph, inputs)
    for name, wanted in expected.items():
        got = found.get(name)
        units = graph.tensors[f"{name}.weight"][1][graph.roles[f"{name}.weight"].index("makes")]
        if got is None:
            return name
        dim = 1 if wanted.dim() >= 4 else wanted.dim() - 1
        if units is not None and len(units) == wanted.shape[dim]:
            wanted = wanted.index_select(
                dim, torch.nonzero(keep[units] | (units < 0)).flatten().to(wanted.device)
            )
        if relative_difference(wanted, got) > TOLERANCE:
            return name
    return "the output"


def _outputs(model: nn.Module, graph: Graph, inputs: Inputs) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda m, i, o, name=name: outputs.setdefault(name, o.detach()))
        for name, module in model.named_modules()
        if "makes" in graph.roles.get(f"{name}.weight", ())
    ]
    try:
        run(model, inputs)
    except ModelError:
        pass  # the layers before the failure are what we came for
    finally:
        for hook in hooks:
            hook.remove()
    return outputs
