"""The classifier of a network: which layer it is, and a fresh one for another number of classes."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from secateur.arguments import checked
from secateur.core.graph.outputs import scores_in
from secateur.core.surgery.private_copies import apart
from secateur.errors import ModelError, SettingError
from secateur.measure.forward import ExampleInputs, call, device_of, evaluating, moved

_COUNTS = ("num_classes", "classes", "n_classes")
_TOLERANCE = 1e-3  # of float32 gradients that went through a mean over a feature map


@checked
@apart("model")
def classes_of(model: nn.Module, example_inputs: ExampleInputs) -> int:
    """Return how many class scores a network gives.

    Args:
        model: a classifier; left as it is.
        example_inputs: what it runs on; moved to its device.

    Raises:
        ModelError: if it does not run on them or returns no class scores.
    """
    with evaluating(model), torch.no_grad():
        return _scores(call(model, moved(example_inputs, device_of(model)))).shape[1]


@apart("model")
def heads_of(model: nn.Module, example_inputs: ExampleInputs) -> tuple[str, ...]:
    """Return the names of all layers that put out the class scores one by one; usually there is one, the classifier.

    What a layer is called and where it stands does not count. Each output of each linear layer and convolution gets
    an offset of zero; in a classifier, and nowhere else, the offset of output j moves the score of class j and of no
    other. This also finds a classifier that a pooling (SqueezeNet), a softmax or a log-softmax follows, and two whose
    scores are averaged (distilled transformers).

    Args:
        model: a classifier with two classes or more; left as it is.
        example_inputs: what it runs on; moved to its device.

    Raises:
        ModelError: if it does not run on them, or gives less than two class scores.
    """
    offsets: dict[str, Tensor] = {}
    with evaluating(model), torch.enable_grad():
        hooks = _listen(model, offsets)
        try:
            scores = _scores(call(model, moved(example_inputs, device_of(model))))
        finally:
            for hook in hooks:
                hook.remove()
        classes = scores.shape[1]
        if classes < 2:
            raise ModelError(f"{type(model).__name__} gives {classes} score: a classifier needs two classes or more")
        candidates = {name: offset for name, offset in offsets.items() if len(offset) == classes}
        found = _one_by_one(scores, candidates, shared=False)
        if not found and classes > 2:  # a softmax adds the same to all scores, which weights of sum zero do not see
            found = _one_by_one(_without_softmax(scores), candidates, shared=True)
    return tuple(found)


@checked
def head_of(model: nn.Module, example_inputs: ExampleInputs) -> str:
    """Return the name of the classifier, the one layer that ``heads_of`` finds.

    Raises:
        ModelError: if no layer is a classifier, or several are.
    """
    found = heads_of(model, example_inputs)
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} layers ({', '.join(found)}) put" if found else "no convolution or linear layer puts"
    raise ModelError(
        f"{what} out the class scores of {type(model).__name__} one by one, where exactly one must: "
        "build the network with the classes wanted, or say which layer is its classifier"
    )


@checked
def replace_head(model: nn.Module, classes: int, example_inputs: ExampleInputs, *, head: str | None = None) -> str:
    """Give a network a fresh classifier for another number of classes, in place.

    Everything else, the mode and the device included, stays as it is. The new weights are drawn as PyTorch draws
    them for such a layer, from its global generator: seed that to repeat them.

    Args:
        model: the network.
        classes: number of outputs, at least 2.
        example_inputs: what the network runs on; moved to its device.
        head: name of the layer to replace; None finds it, see ``head_of``.

    Returns:
        The name of the replaced layer.

    Raises:
        SettingError: if there are fewer than two classes.
        ModelError: if the classifier cannot be found or replaced, or the network does not run with the new one; the
            network is as before then.
    """
    if classes < 2:
        raise SettingError(f"a classifier needs 2 classes or more, not {classes}")
    name = head_of(model, example_inputs) if head is None else head
    old = _layer(model, name)
    before = classes_of(model, example_inputs)
    counts = [(part, count) for part in (model, _parent(model, name)) for count in _COUNTS]
    counts = [(part, count) for part, count in counts if vars(part).get(count) == before]
    _put(model, name, _fresh(name, old, classes))
    for part, count in counts:
        setattr(part, count, classes)
    try:
        found = classes_of(model, example_inputs)
        problem = "" if found == classes else f"it still gives {found} scores"
    except ModelError as error:
        problem = str(error)
    if problem:
        _put(model, name, old)
        for part, count in counts:
            setattr(part, count, before)
        raise ModelError(f"'{name}' cannot be replaced by a classifier of {classes} classes: {problem}")
    return name


def _listen(model: nn.Module, offsets: dict[str, Tensor]) -> list[Any]:
    """Add a zero that wants a gradient to each output channel of each layer that could be the classifier."""
    hooks: list[Any] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue

        def add(module: nn.Module, _: Any, output: Tensor, name: str = name) -> Tensor:
            dim = output.dim() - (1 if isinstance(module, nn.Linear) else 3)
            zeros = offsets.setdefault(name, output.new_zeros(output.shape[dim]).requires_grad_())
            return output + zeros.reshape(-1, *[1] * (output.dim() - dim - 1))

        hooks.append(module.register_forward_hook(add))
    return hooks


def _without_softmax(scores: Tensor) -> Tensor:
    total = scores.detach().sum(1)
    probabilities = bool((scores >= 0).all()) and torch.allclose(total, torch.ones_like(total), atol=1e-4)
    return scores.clamp_min(torch.finfo(scores.dtype).tiny).log() if probabilities else scores


def _one_by_one(scores: Tensor, candidates: dict[str, Tensor], *, shared: bool) -> list[str]:
    """Return the candidates whose j-th offset moves the j-th score only.

    The gradient of the scores, weighted at random, is then the weights times what each score gains, twice alike.
    """
    names, own = list(candidates), list(candidates.values())
    if not names:
        return []
    generator = torch.Generator().manual_seed(0)
    gains: list[list[Tensor]] = [[] for _ in names]
    for _ in range(2):
        weights = (torch.rand(scores.shape[1], generator=generator) + 0.5).to(scores)
        weights[::2] *= -1
        if shared:
            weights -= weights.mean()
        loss = (scores * weights).sum()
        gradients: Any = torch.autograd.grad(loss, own, retain_graph=True, allow_unused=True)
        for gain, gradient in zip(gains, gradients, strict=True):
            gain.append(torch.zeros_like(weights) if gradient is None else gradient / weights)
    return [
        name
        for name, (one, two) in zip(names, gains, strict=True)
        if bool(one.abs().max() > 0) and bool((one - two).abs().max() <= _TOLERANCE * one.abs().max())
    ]


def _layer(model: nn.Module, name: str) -> nn.Linear | nn.Conv2d:
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        raise ModelError(f"{type(model).__name__} has no layer '{name}' to replace") from None
    if not isinstance(layer, nn.Linear | nn.Conv2d) or not name:
        raise ModelError(f"'{name}' is a {type(layer).__name__}, and only a linear layer or a convolution is replaced")
    if "weight" not in dict(layer.named_parameters(recurse=False)) or (
        isinstance(layer, nn.Conv2d) and layer.groups > 1
    ):
        raise ModelError(f"'{name}' cannot be replaced: its weight is computed, or it is a grouped convolution")
    return layer


def _fresh(name: str, old: nn.Linear | nn.Conv2d, classes: int) -> nn.Module:
    """Return a layer like ``old`` in all but its outputs, which are new."""
    new = copy.deepcopy(old)
    shape = (classes, *old.weight.shape[1:])
    new.weight = nn.Parameter(old.weight.new_empty(shape), requires_grad=old.weight.requires_grad)
    bias = dict(old.named_parameters(recurse=False)).get("bias")
    if bias is not None:
        new.bias = nn.Parameter(bias.new_empty(classes), requires_grad=bias.requires_grad)
    if isinstance(new, nn.Linear):
        new.out_features = classes
    else:
        new.out_channels = classes
    new.reset_parameters()
    return new


def _parent(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    setattr(_parent(model, name), name.rpartition(".")[2], layer)


def _scores(output: Any) -> Tensor:
    """Return the class scores (N, classes) in what a classifier returned.

    Args:
        output: a tensor; a tuple or list that starts with it; or a mapping or object with ``logits``.

    Raises:
        ModelError: if there is no such tensor.
    """
    logits = scores_in(output)
    if isinstance(logits, Tensor) and logits.ndim == 2:
        return logits
    found: str = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
    raise ModelError(f"the model must return class scores of shape (batch, classes), not {found}")
