"""Turning the name of a network, wherever it comes from, into the network."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from secateur.arguments import checked
from secateur.errors import ModelError, SecateurError, nearest, reason_of
from secateur.events import Tell, ignore
from secateur.models.builtin import BUILDERS
from secateur.models.onnx_files import from_onnx, is_onnx, pictures_of
from secateur.reading import Foreign, shown
from secateur.rules import Channels, Classes, Count
from secateur.spelling import said

_SOURCES = ("secateur", "torchvision", "timm")
_CHANNELS: tuple[str, ...] = ("channels", "in_channels", "in_chans")


@checked
def build(
    spec: str,
    *,
    classes: Classes | None = None,
    channels: Channels = 3,
    image: Count | None = None,
    tell: Tell = ignore,
) -> nn.Module:
    """Build an untrained network from its name.

    Args:
        spec: one of

            - ``resnet20`` or ``secateur:resnet20``: a built-in network (see ``MODELS``);
            - ``torchvision:resnet18``: any network of torchvision;
            - ``timm:mobilenetv3_small_100``: any network of timm;
            - ``path/to/net.onnx``: the network in an ONNX file, see ``from_onnx``;
            - ``path/to/file.py:factory``: a function or class in a Python file, which is run;
            - ``package.module:factory``: the same in an importable module.

            A factory is given those of the arguments below that it names: ``classes`` or ``num_classes``,
            ``channels``, ``in_channels`` or ``in_chans``, and ``image``.
        classes: number of outputs; None leaves the network's own default.
        channels: of the input images: 3 for colour, 1 for grey.
        image: their height and width in pixels, where layers depend on it (``lenet5``); None for the network's own.
        tell: hears warnings of what is read.

    Returns:
        The network in training mode, on the CPU, with weights drawn from torch's global generator.

    Raises:
        ModelError: if there is no such network, or it cannot be imported or built.
        SettingError: if a number is not positive.

    Example:
        >>> model = build("resnet20", classes=100)
    """
    refuse_own_code(spec)
    if is_onnx(spec):
        return from_onnx(str(spec), image=image, tell=tell)
    source, colon, name = _parts(spec)
    if not colon and (spec.endswith(".py") or "/" in spec):
        raise ModelError(f"'{spec}' lacks the function that builds the network: write {spec}:FUNCTION")
    if not colon or source == "secateur":
        return _builtin(name, classes, channels, image)
    if source == "torchvision":
        return _torchvision(name, classes, channels)
    if source == "timm":
        return _timm(name, classes, channels)
    return _call(_factory(source, name), spec, _offered(classes, channels, image))


def own_code(spec: str) -> bool:
    """Tell whether building a network runs Python code that its name names, and not that of a library."""
    source, colon, _ = _parts(spec)
    return bool(colon) and source not in _SOURCES and not is_onnx(spec)


def _parts(spec: str) -> tuple[str, str, str]:
    """Return where a network comes from, the colon if there is one, and its name there."""
    parts = spec.partition(":")
    return parts if parts[0] in _SOURCES else spec.rpartition(":")


def refuse_own_code(spec: str, made: str = "network") -> None:
    """Refuse code that a file names to make something: whoever wrote the one may have written the other.

    Raises:
        ModelError: if that would run such code, and nobody has vouched for it.
    """
    if isinstance(spec, Foreign) and own_code(spec):
        raise ModelError(
            f"the {made} of the recipe comes from your own code, {shown(spec)}, which is not run unasked: look at "
            f"that code and trust it with {said('recipe.vouched()', '--trust')}"
        )


def side_of(spec: str) -> int:
    """Return the height and width of the images that a network is for, see ``images_for``."""
    return images_for(spec)[1]


def images_for(spec: str) -> tuple[int, int]:
    """Return the channels, and the height and width, of the images that a network is for where nothing says it.

    That is what the network takes by default: numbers after ``channels`` (or its other names) and ``image`` in the
    signature of what builds it, or those that timm's configuration names. Without them networks take 3 channels, and
    our own ones 32 pixels, others 224; so does a name that there is no network for, which ``build`` refuses.

    Raises:
        ModelError: if that would run code that a file names, see ``refuse_own_code``.
    """
    refuse_own_code(spec)
    if is_onnx(spec):
        return pictures_of(spec)
    source, _, name = _parts(spec)
    own = source in ("", "secateur")
    usual = 3, 32 if own else 224
    try:
        if source == "timm":
            size: Any = _optional("timm").get_pretrained_cfg(name).input_size
            return int(size[0]), int(size[-1])
        if source == "torchvision":
            return usual
        factory = BUILDERS[name] if own else _factory(source, name)
    except (ModelError, KeyError, AttributeError, RuntimeError):
        return usual
    channels = next((found for name in _CHANNELS if (found := _default_of(factory, name)) is not None), usual[0])
    return channels, _default_of(factory, "image") or usual[1]


def _default_of(factory: Callable[..., object], name: str) -> int | None:
    """Return a number that a function takes by default, None if it says nothing."""
    try:
        default: object = getattr(inspect.signature(factory).parameters.get(name), "default", None)
    except (TypeError, ValueError):  # some callables written in C have no signature
        return None
    return default if isinstance(default, int) and default > 0 else None


def _builtin(name: str, classes: int | None, channels: int, image: int | None) -> nn.Module:
    if name not in BUILDERS:
        raise ModelError(
            f"there is no built-in network '{name}'{nearest(name, BUILDERS)}: choose one of"
            f" {', '.join(BUILDERS)}, or write torchvision:NAME, timm:NAME or FILE.py:FUNCTION"
        )
    return _call(BUILDERS[name], f"secateur:{name}", _offered(classes, channels, image))


def _torchvision(name: str, classes: int | None, channels: int) -> nn.Module:
    models = _optional("torchvision.models")
    known = models.list_models()
    if name not in known:
        raise ModelError(f"torchvision has no network '{name}'{nearest(name, known)}")
    if channels != 3:
        raise ModelError(
            f"torchvision:{name} reads 3 channels but the images have {channels}: take a timm: or built-in"
            " network, or build your own"
        )
    offered: dict[str, Any] = {"weights": None}
    if classes is not None:
        offered["num_classes"] = classes
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        # Segmentation and detection networks download a pretrained backbone unless told not to.
        offered["weights_backbone"] = None
    with _building(f"torchvision:{name}"):
        return models.get_model(name, **offered)


def _timm(name: str, classes: int | None, channels: int) -> nn.Module:
    timm = _optional("timm")
    if not timm.is_model(name):
        raise ModelError(f"timm has no network '{name}'{nearest(name, timm.list_models())}")
    offered = {} if classes is None else {"num_classes": classes}
    with _building(f"timm:{name}"):
        return timm.create_model(name, pretrained=False, in_chans=channels, **offered)


def _optional(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise ModelError(
            f'networks of {library} need {library}, which cannot be imported: pip install "secateur[vision]"'
        ) from error


def own_result(spec: str, what: str) -> Any:
    """Return what a function of the user makes, as a ``"task"``, that ``my_code.py:make`` names; its file is run.

    Raises:
        ModelError: if there is no such file or function, or it fails.
    """
    source, _, name = spec.rpartition(":")
    function = _factory(source, name, what)
    with _building(f"the {what} of {shown(spec)}"):
        return function()


def _factory(source: str, name: str, what: str = "network") -> Callable[..., object]:
    """Return the user's own function ``name`` from the file or module ``source``, which is run."""
    is_file = source.endswith(".py") or "/" in source or "\\" in source
    module = _from_file(Path(source).expanduser(), what) if is_file else _from_module(source)
    factory = getattr(module, name, None)
    if not callable(factory):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ModelError(f"'{source}' has no function '{name}'{nearest(name, public)} to build the {what} with")
    return factory


def _from_file(path: Path, what: str) -> ModuleType:
    path = path.absolute()
    if not path.is_file():
        raise ModelError(f"there is no Python file {path} to take the {what} from")
    # The name is unique to the path, so that two files called net.py do not replace each other.
    name = f"secateur_own_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ModelError(f"{path} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(found)
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        with _importable(path.parent):
            found.loader.exec_module(module)
    except Exception as error:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        raise ModelError(f"{path} cannot be run: {reason_of(error)}") from error
    return module


def _from_module(name: str) -> ModuleType:
    try:
        with _importable(Path.cwd()):
            return importlib.import_module(name)
    except Exception as error:
        raise ModelError(f"'{name}'{nearest(name, _SOURCES)} cannot be imported: {reason_of(error)}") from error


@contextmanager
def _importable(folder: Path) -> Generator[None]:
    """Let modules in ``folder`` be imported, as if the program had been started there."""
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


def _offered(classes: int | None, channels: int, image: int | None) -> dict[str, int]:
    """Return what a factory may be given, under all the names that it may have."""
    offered = dict.fromkeys(_CHANNELS, channels)
    if classes is not None:
        offered |= {"classes": classes, "num_classes": classes}
    if image is not None:
        offered |= {"image": image}
    return offered


def _call(factory: Callable[..., object], spec: str, offered: Mapping[str, int]) -> nn.Module:
    """Call ``factory`` with what it takes of ``offered``, and insist on a network."""
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        takes = {key for key, value in inspect.signature(factory).parameters.items() if value.kind in named}
    except (TypeError, ValueError):  # some callables written in C have no signature
        takes = set[str]()
    with _building(spec):
        model = factory(**{key: value for key, value in offered.items() if key in takes})
    if not isinstance(model, nn.Module):
        raise ModelError(f"{spec} returned {type(model).__name__} where a torch.nn.Module was expected")
    return model


@contextmanager
def _building(spec: str) -> Generator[None]:
    """Turn any trouble of foreign code into one sentence."""
    try:
        yield
    except SecateurError:
        raise
    except Exception as error:
        raise ModelError(f"{spec} cannot be built: {reason_of(error)}") from error
