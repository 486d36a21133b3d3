"""What can be refused before the long work begins."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.graph import Graph, Groups, layer_of, maker_of, within
from secateur.core.graph.explanation import REACH_IT
from secateur.core.graph.outputs import FREE_IT
from secateur.core.method import Method, ScoreMethod, shapes
from secateur.core.plan import Plan
from secateur.core.selection.target_selection import check_reach
from secateur.core.sizes.limits import Limits
from secateur.core.sizes.size import Target, size
from secateur.core.trace import Trials, traced
from secateur.core.zeros.blocks import BlockLayer
from secateur.data import Data
from secateur.errors import ModelError, SettingError, TargetError, nearest
from secateur.events import Tell, ignore, warn
from secateur.measure import Quality
from secateur.methods import name_of
from secateur.models.untrained import is_untrained
from secateur.run.device_placement import quality_at
from secateur.spelling import said

SEEN_IMAGES = 1000  # of validation, to find out whether the network was trained on them
SEEN_GAP = 0.02  # of accuracy, between validation and test images, that may have other reasons
_BATCH = 250


def read(
    model: nn.Module,
    inputs: Any,
    leave: Sequence[str],
    *,
    free_outputs: Sequence[str] = (),
    groups: Groups = "all",
    patience: float | None = None,
    tell: Tell = ignore,
    tried: Sequence[Plan] = (),
    trials: Trials = "always",
) -> Graph:
    """Trace a network, perhaps again after plans that failed, and leave some layers alone, and all streams if so asked.

    Outputs that are free may lose channels. Trials can wait for the first real cut, see ``secateur.core.trace.traced``.

    Raises:
        ModelError: if the network does not run on the inputs.
        SettingError: if a pattern in ``leave`` names no layer, or ``free_outputs`` name no output or the prediction.
        TargetError: if nothing can be pruned.
        TraceError: if it was not read within ``patience`` seconds.
    """
    graph = traced(model, inputs, free_outputs=free_outputs, seconds=patience, tell=tell, tried=tried, trials=trials)
    layers = [maker_of(tensor) for tensor, roles in graph.roles.items() if "makes" in roles]
    names = list(dict.fromkeys([*layers, *(group.name for group in graph.groups)]))
    for pattern in leave:
        if not any(within(name, pattern) for name in names):
            raise SettingError(
                f"no convolution or linear layer matches '{pattern}', by its own name or that of a module around it, "
                f"which was to be left alone{nearest(pattern, _around(names))}; `secateur explain` lists them"
            )
    graph = graph.without(*leave).choose(groups)
    # block layers can be regrouped further although what they read is pinned
    if not graph.free and not any(isinstance(module, BlockLayer) for module in model.modules()):
        why = f" ({reasons})" if (reasons := _reasons(model, graph)) else ""
        raise TargetError(
            f"nothing in {type(model).__name__} can be pruned: every channel is pinned or left alone{why}; "
            "`secateur explain` says why for each layer"
        )
    return graph


def _reasons(model: nn.Module, graph: Graph) -> str:
    """Say why nothing can be pruned where something could be done about it, and what."""
    found = [graph.spared] if graph.inside else []
    if graph.unreached:
        found.append(f"{_not_run(graph)}; {REACH_IT}")
    scripted = [name for name, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    if scripted:
        found.append(f"'{scripted[0]}' is a scripted network, whose layers stay; give the module that it was made from")
    if any(pin.remedy == FREE_IT for pin in graph.pins):
        how = said("free_outputs", "--free-outputs", "'free_outputs' in the recipe")
        found.append(f"outputs beside the prediction pin some: {how} frees those it names")
    rows = [row for row in graph.explain().rows if row.prunable < row.width and row.remedy]
    if rows and not found:
        found.append(f"'{rows[0].layer}': {rows[0].reason}; {rows[0].remedy}")
    return "; ".join(found)


def _around(layers: Sequence[str]) -> list[str]:
    """Return layers and the modules that they are part of."""
    parts = [layer.split(".") for layer in layers]
    return list(dict.fromkeys(".".join(each[:end]) for each in parts for end in range(1, len(each) + 1)))


def warn_of_uncounted(graph: Graph, tell: Tell) -> None:
    """Say that the count of MACs is partial, for a network with operators that no formula covers."""
    if text := size(graph).missing:
        warn(text, tell)


def warn_of_unreached(graph: Graph, tell: Tell) -> None:
    """Say which layers the example inputs do not run."""
    if graph.unreached:
        warn(f"{_not_run(graph)}, so that all channels stay that these could read or give; {REACH_IT}", tell)


def warn_of_random_weights(model: nn.Module, tell: Tell) -> None:
    """Say so where a network has certainly never been trained."""
    if is_untrained(model):
        where = said("", " (--weights)", " ('weights' in the recipe)")
        warn(
            f"the weights of {type(model).__name__} are as they were drawn at random, or hardly other, so that which "
            f"of them matter is chance: load trained weights first{where}",
            tell,
        )


def warn_of_no_training(methods: Sequence[Method], tell: Tell) -> None:
    """Say of methods that act while a network trains that there is no training in which they could."""
    for name in dict.fromkeys(name_of(method) for method in methods if shapes(method)):
        how = said("shape= or train=", "--epochs", "[shape] or [train]")
        warn(
            f"{name} acts while the network trains, and no training was asked for: it decides at once, on the weights "
            f"as they are; give {how}, with data, to train",
            tell,
        )


def warn_of_seen(model: nn.Module, data: Data, tested: Quality | None, place: torch.device, tell: Tell) -> None:
    """Say so where a dense network does so much better on validation than on test images that it must know them.

    Published weights were trained on all training images, of which some are set aside here.

    Args:
        model: the dense network.
        data: whose first validation images are looked at, ``SEEN_IMAGES`` of them.
        tested: how well it does on the test images; None where there are none.
        place: where the network meets the images.
        tell: hears it.
    """
    if tested is None or not tested.examples or not data.size("val") or not data.task.metric_is_mean:
        return  # of other metrics nobody knows how far chance spreads them
    batches: Any = list(itertools.islice(data.batches("val", _BATCH), SEEN_IMAGES // _BATCH))
    held = quality_at(model, batches, data.task, place)
    whole = held.examples + tested.examples
    right = (held.value * held.examples + tested.value * tested.examples) / whole
    chance = math.sqrt(right * (1 - right) * (1 / held.examples + 1 / tested.examples))
    if held.value - tested.value > max(SEEN_GAP, 4 * chance):
        warn(
            f"the dense network gets {100 * held.value:.1f} % of {held.examples} validation images right and "
            f"{100 * tested.value:.1f} % of the test images, so it was trained on the former: what is chosen by them "
            "(masks, shares, budgets, epochs) is chosen by images that it knows; train it on the training images alone",
            tell,
        )


def _not_run(graph: Graph) -> str:
    names = [f"'{name}'" for name in dict.fromkeys(_whole(graph, layer) for layer in graph.unreached)]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    why = f" (training mode, which could, fails on them: {graph.untrained})" if graph.untrained else ""
    return f"the example inputs do not run {', '.join(names[:3])}{more}{why}"


def _whole(graph: Graph, layer: str) -> str:
    """Return the outermost module around a layer of which nothing runs."""
    parts = layer.split(".")
    around = [".".join(parts[:end]) for end in range(1, len(parts))]
    run = {name for name in map(layer_of, graph.roles) if name not in graph.unreached}
    return next((name for name in around if not any(each.startswith(f"{name}.") for each in run)), layer)


def check_goals(steps: Sequence[tuple[Method, Target | None]], *, told_later: bool) -> None:
    """Refuse methods that are not told how much is to go, or in a way that they cannot follow, before all work.

    Args:
        steps: the method and target of each stage.
        told_later: a budget decides what the first of them aims at.

    Raises:
        SecateurError: one of its kinds.
    """
    for method, target in steps[told_later:]:
        method.check(target)


def check_target(graph: Graph, method: Method, target: Target | None, limits: Limits) -> None:
    """Refuse a target that no choice of units can meet, whatever the number of rounds.

    Methods that do more than drop units, regroup layers for instance, know alone how far they can go.

    Raises:
        TargetError: with the smallest fraction that can be reached.
    """
    if target is None or not isinstance(method, ScoreMethod):
        return
    check_reach(graph, target, limits)


def check_weights(model: nn.Module) -> None:
    """Refuse a network that a failed training left behind.

    Raises:
        ModelError: naming the tensor; infinite values are allowed in buffers, where attention masks have them.
    """
    for name, tensor in model.named_parameters():
        if tensor.is_floating_point() and not _is_finite(tensor):
            raise ModelError(f"'{name}' contains NaN or infinite values; load sound weights before pruning")
    for name, tensor in model.named_buffers():
        if tensor.is_floating_point() and bool(torch.isnan(tensor).any()):
            raise ModelError(f"'{name}' contains NaN; load sound weights before pruning")


def _is_finite(tensor: Tensor) -> bool:
    """Tell whether all numbers are finite: as they are if their sum is, which is found faster, but may overflow."""
    with torch.no_grad():
        return bool(tensor.sum().isfinite()) or bool(torch.isfinite(tensor).all())
