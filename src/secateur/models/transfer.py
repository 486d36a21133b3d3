"""Moving a trained network to another data set: all its weights but those that belong to the old classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur.arguments import checked
from secateur.core.graph.outputs import scores_in
from secateur.errors import ModelError
from secateur.measure.forward import ExampleInputs, call, device_of, evaluating, moved
from secateur.models.head import heads_of, replace_head
from secateur.models.published import PRETRAINED, published
from secateur.models.weights import load_weights, put_weights, read_weights, shorten
from secateur.typed import check_types


@dataclass(frozen=True)
class Transferred:
    """What did not come over unchanged.

    Attributes:
        fresh: tensors of the network that keep the weights drawn at random: those of the classifier.
        stem: the weight of the first convolution, if its input channels were adapted; else empty.
    """

    fresh: tuple[str, ...]
    stem: str = ""

    def __post_init__(self) -> None:
        check_types(self)


@checked
def transfer_weights(
    model: nn.Module, weights: str | Path, example_inputs: ExampleInputs, *, name: str = ""
) -> Transferred:
    """Read weights that were trained for other classes into a network, in place.

    All weights come over but those of the classifier (found by what it does, see ``secateur.models.head_of``) and of
    auxiliary classifiers beside it. Where the first convolution was trained for colour and the network reads grey
    images, or the other way round, its weights are summed over the colours, or shared out among them: it then
    computes on a grey image what it computed on the same image in colour.

    Networks that give less than two class scores, as detectors and those for segmentation do, keep the weights they
    have in all tensors whose first dimension alone is another one than in the file, which it must be by one factor.

    Args:
        model: built for the new data set; its classifier keeps the weights it has.
        weights: a file as for ``load_weights``, with or without a classifier; or ``"pretrained"`` for those that the
            network's library publishes.
        example_inputs: what the network runs on.
        name: the name that the network was built from; only ``"pretrained"`` needs it.

    Raises:
        ModelError: if the classifier is not found, or the weights do not fit elsewhere; the network is as before then.
    """
    found = published(name) if str(weights) == PRETRAINED else read_weights(weights)
    source = f"the published weights of {name}" if str(weights) == PRETRAINED else str(weights)
    scores = _scores(model, example_inputs)
    if scores < 2:
        fresh = _of_other_classes(model, found)
        left_out = {key for short, key in shorten(found).items() if short in fresh}
        put_weights(model, {k: v for k, v in found.items() if k not in left_out}, source, without=fresh.values())
        return Transferred(tuple(fresh.values()))
    heads = heads_of(model, example_inputs)
    if not heads:
        raise ModelError(
            f"no layer of {type(model).__name__} puts out the class scores one by one, so its classifier is not known: "
            "end the network in a linear layer or a convolution"
        )
    own: Mapping[str, Tensor] = model.state_dict()
    fresh = [name for name in own if name.rpartition(".")[0] in heads]
    short, theirs = shorten(own), shorten(found)
    fitted = {key: found[key] for key in theirs.values()}
    classes, stem = own[fresh[0]].shape[0], ""
    for key, entry in short.items():
        there, here = found.get(theirs.get(key, "")), own[entry]
        if entry in fresh or there is None or there.shape == here.shape:
            continue
        if here.dim() and there.dim() and here.shape[0] == classes and here.shape[1:] == there.shape[1:]:
            fresh.append(entry)  # an auxiliary classifier, in use only while training
        elif not stem and (adapted := _recoloured(there, here)) is not None:
            stem, fitted[theirs[key]] = entry, adapted
    layers = {key.rpartition(".")[0] for key, entry in short.items() if entry.rpartition(".")[0] in heads}
    left_out = {theirs[key] for key in theirs if short.get(key) in fresh or key.rpartition(".")[0] in layers}
    put_weights(model, {key: value for key, value in fitted.items() if key not in left_out}, source, without=fresh)
    return Transferred(tuple(fresh), stem)


@checked
def give_weights(
    model: nn.Module,
    weights: str,
    example_inputs: ExampleInputs,
    *,
    name: str,
    classes: int | None = None,
    transfer: bool = False,
) -> None:
    """Give a network the weights that a recipe names, in place.

    Args:
        model: as it was built.
        weights: a file, or ``"pretrained"`` for those that the network's library publishes.
        example_inputs: what the network runs on.
        name: the name that the network was built from.
        classes: number of classes wanted, for ``transfer``; None for those that the network has.
        transfer: leave out the classifier's weights, see ``transfer_weights``; a network that was built for other
            classes, since its builder knows only one number, gets a fresh classifier first.

    Raises:
        ModelError: if the weights cannot be had or do not fit.
    """
    if transfer:
        fit_classes(model, classes, example_inputs)
        transfer_weights(model, weights, example_inputs, name=name)
    elif weights == PRETRAINED:
        put_weights(model, published(name), f"the published weights of {name}")
    else:
        load_weights(model, weights)


@checked
def classes_in(weights: str, model: nn.Module, example_inputs: ExampleInputs) -> int | None:
    """Return for how many classes a file of weights was trained if those are not the network's; None if they are.

    Args:
        weights: a file as for ``load_weights``; anything else says nothing.
        model: as it was built.
        example_inputs: what the network runs on.
    """
    try:
        found = {} if weights == PRETRAINED else read_weights(weights)
        theirs = shorten(found)
        heads = heads_of(model, example_inputs) if found else ()
    except ModelError:  # said when the weights are read, or the network is run
        return None
    own = model.state_dict()
    for entry in (f"{head}.weight" for head in heads):
        tensor = found.get(theirs.get(entry, ""))
        if tensor is not None and entry in own and tensor.dim() and tensor.shape[0] != own[entry].shape[0]:
            return tensor.shape[0]
    return None


@checked
def fit_classes(model: nn.Module, classes: int | None, example_inputs: ExampleInputs) -> None:
    """Give a network a fresh classifier unless it has the number of classes wanted already, or gives no class scores.

    Raises:
        ModelError: if the classifier is not found or cannot be replaced.
    """
    if classes is not None and _scores(model, example_inputs) not in (0, classes):
        replace_head(model, classes, example_inputs)


def _scores(model: nn.Module, example_inputs: ExampleInputs) -> int:
    """Return how many class scores a network gives, 0 if it returns something else."""
    with evaluating(model), torch.no_grad():
        found = scores_in(call(model, moved(example_inputs, device_of(model))))
    return found.shape[1] if isinstance(found, Tensor) and found.ndim == 2 else 0


def _of_other_classes(model: nn.Module, found: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the tensors of a network that have other first dimensions than in a file, by their short names.

    None where those differ by several factors: then it is not the number of classes that differs.
    """
    own: Mapping[str, Tensor] = model.state_dict()
    theirs, fresh, factors = shorten(found), dict[str, str](), set[Fraction]()
    for key, entry in shorten(own).items():
        here, there = own[entry], found.get(theirs.get(key, ""))
        if there is None or there.shape == here.shape or not (here.dim() and there.dim() and len(here)):
            continue
        if here.shape[1:] == there.shape[1:]:
            fresh[key] = entry
            factors.add(Fraction(len(there), len(here)))
    return fresh if len(factors) == 1 else {}


def _recoloured(there: Tensor, here: Tensor) -> Tensor | None:
    """Return the weight of a first convolution for grey instead of colour or the reverse; None if it is none."""
    if here.dim() != 4 or there.dim() != 4 or {here.shape[1], there.shape[1]} != {1, 3}:
        return None
    if (here.shape[0], *here.shape[2:]) != (there.shape[0], *there.shape[2:]):
        return None
    return there.sum(1, keepdim=True) if here.shape[1] == 1 else there.expand(here.shape) / 3
