"""The networks of the zoo: those that the reading of networks was written on, and those of libraries that it was not.

``zoo.toml`` names the known ones by kind, of torchvision and timm. ``zoo_unseen.toml`` says by library how each unseen
one is made: an entry is a table with a ``name`` or some ``names``, or a name alone where the library's says the rest.

- ``make`` is what makes it, ``module:name``; ``with`` are its arguments, the library's and the entry's.
- ``config`` is what makes its first argument (``module:name``); then the arguments go there.
- ``inputs`` are shapes, in order or by the names of the arguments; ``{shape = [...], below = 10}`` are whole numbers,
  and what is no shape is handed over as it is. ``{0}`` and ``{1}`` in a text are the parts of the name between slashes.
- ``"@module:name"`` in an argument stands for an object, ``"@none"`` for None, ``"@module:name()"`` for what it makes.
"""

from __future__ import annotations

import importlib
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.surgery.forward import forward

HERE = Path(__file__).parent
Made = tuple[nn.Module, Any]  # a network in evaluation mode, and inputs by position or by name


class Missing(Exception):
    """A library that is not installed; the message says what to install."""


def known() -> dict[str, list[str]]:
    """Return the names of the known networks by kind."""
    return tomllib.loads((HERE / "zoo.toml").read_text())


def unseen() -> dict[str, dict[str, Any]]:
    """Return what makes the unseen networks of each library, by name."""
    found: dict[str, dict[str, Any]] = {}
    for library, about in tomllib.loads((HERE / "zoo_unseen.toml").read_text()).items():
        for each in about.pop("networks"):
            entry = {"name": each} if isinstance(each, str) else each
            arguments = about.get("with", {}) | entry.get("with", {})
            for name in entry.get("names") or [entry["name"]]:
                found.setdefault(library, {})[name] = about | entry | {"name": name, "with": arguments}
    return found


def load(library: str, entries: dict[str, Any]) -> None:
    """Import a library, so that the processes that are forked need not.

    Raises:
        Missing: if it is not installed.
    """
    about = next(iter(entries.values()))
    for module in about["modules"]:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise Missing(f"{library} is left out: {error}; pip install {about['install']}") from None
    for entry in entries.values():  # libraries load their parts when these are asked for
        for place in (entry["make"], *([entry["config"]] if "config" in entry else [])):
            with suppress(AttributeError, ImportError):  # whoever builds it will say so
                _object(place.format(*entry["name"].split("/")))


def network(kind: str, name: str) -> Made:
    """Build a network with lived-in batch-norm statistics and no two values alike where few stand beside each other."""
    torch.manual_seed(0)
    libraries = unseen()
    model, inputs = _described(libraries[kind][name]) if kind in libraries else _known(kind, name)
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():  # zeros and tiny constants of the initialisation would hide errors
            if parameter.is_floating_point() and parameter.numel() and (parameter == parameter.flatten()[0]).all():
                parameter.copy_(parameter.clamp(min=0.1) + 0.1 * torch.randn_like(parameter))
    live_in(model, inputs)
    tell_apart(model)
    return model, inputs


def live_in(model: nn.Module, inputs: Any) -> None:
    """Give every batch norm statistics near those of the activations, but not theirs, so that none collapses."""

    def draw(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        x = given[0].transpose(0, 1).flatten(1)
        module.running_mean.copy_(x.mean(1) + 0.1 * x.std(1, correction=0) * torch.randn(len(x)))
        variance = x.var(1, correction=0).clamp(min=1e-6) if x.shape[1] > 1 else torch.ones(len(x))
        module.running_var.copy_(variance * torch.empty(len(x)).uniform_(0.5, 2))

    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    hooks = [norm.register_forward_pre_hook(draw) for norm in norms]
    forward(model, inputs)  # which leaves what it changes
    for hook in hooks:
        hook.remove()


def tell_apart(model: nn.Module) -> None:
    """Change equal values of biases, norms and statistics by a thousandth, so that each is known by its value."""
    buffers = [t for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase) for t in m.buffers()]
    with torch.no_grad():
        for tensor in (*model.parameters(), *buffers):
            if not tensor.is_floating_point() or not 1 < tensor.numel() <= 2**16:
                continue
            flat = tensor.flatten()
            for _ in range(20):
                values, order = flat.sort(stable=True)
                again = order[1:][values[1:] == values[:-1]]
                if not len(again):
                    break
                flat[again] += 1e-3 * (1 + flat[again].abs()) * torch.rand(len(again), dtype=flat.dtype)
            tensor.copy_(flat.view(tensor.shape))


# -- the unseen ------------------------------------------------------------------------------------------------


def _described(entry: dict[str, Any]) -> Made:
    parts = entry["name"].split("/")
    arguments = {name: _value(value, parts) for name, value in entry["with"].items()}
    make = _object(entry["make"].format(*parts))
    if "config" in entry:
        arguments = {"config": _object(entry["config"].format(*parts))(**arguments)}
    model = make(**arguments)
    inputs = entry["inputs"]
    if isinstance(inputs, dict):
        return model, {name: _input(value) for name, value in inputs.items()}
    return model, tuple(_input(value) for value in inputs)


def _value(value: Any, parts: list[str]) -> Any:
    if isinstance(value, list):
        return [_value(each, parts) for each in value]
    if isinstance(value, dict):
        return {name: _value(each, parts) for name, each in value.items()}
    if not isinstance(value, str):
        return value
    if value == "@none":
        return None
    if value.startswith("@"):
        return _object(value[1:-2])() if value.endswith("()") else _object(value[1:])
    return value.format(*parts)


def _object(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _input(value: Any) -> Any:
    if isinstance(value, list):
        return torch.randn(value)
    if isinstance(value, dict):
        return torch.randint(value["below"], value["shape"])
    return value


# -- the known -------------------------------------------------------------------------------------------------


def _known(kind: str, name: str) -> Made:
    source, _, short = name.partition(":")
    if source == "timm":
        import timm

        model = timm.create_model(short, pretrained=False)
        config = model.default_cfg
        fixed = config.get("fixed_input_size") or short.startswith(("bat_", "lambda_"))
        whole = kind == "hybrid" or fixed
        return model, _example(kind, short, config["input_size"][1] if whole else 128)
    import torchvision

    side = {"hybrid": 224, "detection": 320}.get(kind, 128)
    bare: dict[str, Any] = {"weights_backbone": None} if kind in ("segmentation", "detection") else {}
    if kind == "detection":  # or nothing would be left to compare
        bare |= {"box_score_thresh" if "rcnn" in short else "score_thresh": 0.0}
        bare |= {"box_detections_per_img": 20} if "rcnn" in short else {}
        bare |= {} if short.startswith("ssd") else {"min_size": side, "max_size": side}
    return torchvision.models.get_model(short, weights=None, **bare), _example(kind, short, side)


def _example(kind: str, short: str, side: int) -> tuple[Any, ...]:
    if kind == "detection":
        return ([torch.rand(3, side, side)],)
    if kind == "flow":
        return (torch.rand(1, 3, 128, 128), torch.rand(1, 3, 128, 128))
    if kind == "video" or short.startswith(("swin3d", "mvit_v")):
        frames, side = {"s3d": (16, 224), "mvit_v1_b": (16, 224), "mvit_v2_s": (16, 224)}.get(short, (8, 64))
        return (torch.randn(1, 3, frames, side, side),)
    return (torch.randn(1, 3, side, side),)
