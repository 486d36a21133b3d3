"""What a recipe names and does not hold: the content of files that may change while their names stay the same."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import json
import os
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from secateur import reading
from secateur.artifact.bounded_reading import MOST
from secateur.data.listing import pictures_below
from secateur.data.named import KNOWN
from secateur.errors import ArtifactError
from secateur.models.onnx_files import files_of, is_onnx
from secateur.models.published import PRETRAINED
from secateur.models.sources import own_code
from secateur.outcome import Source
from secateur.recipe import Recipe
from secateur.run.work_folder import keep, unwritable
from secateur.spelling import said

RECORD = "sources.json"


def sources(recipe: Recipe) -> tuple[Source, ...]:
    """Return the files that a recipe names, as they are now; what is not there, or cannot be read, is left out."""
    found: list[Source] = []
    for setting, look in (("model", _code), ("weights", _weights), ("data", _data), ("calibrate", _images)):
        named = str(getattr(recipe, setting))
        with contextlib.suppress(OSError, ValueError):
            parts = dict(look(named)) if named else {}
            if parts:
                found.append(Source(setting, named, len(parts), _digest(parts)))
    return tuple(found)


def noted(values: Any) -> tuple[Source, ...]:
    """Return what was noted in JSON values; nothing of what is no such note, as in what earlier versions have saved."""
    try:
        return tuple(Source(**each) for each in values)
    except TypeError:
        return ()


def change(before: Sequence[Source], recipe: Recipe) -> str:
    """Return a sentence about the first of the files that are not as they were; empty if all are.

    Files that are not there any more contradict nothing.
    """
    now = {(each.setting, each.named): each for each in sources(recipe)} if before else {}
    pairs = ((now.get((each.setting, each.named), each), each) for each in before)
    return next((new.since(old) for new, old in pairs if new.sha256 != old.sha256), "")


def recorded(folder: Path) -> tuple[Source, ...]:
    """Return what a folder of unfinished work was made from, as far as it says so."""
    try:
        return noted(reading.values(reading.text(folder / RECORD, MOST)))
    except (OSError, ValueError, RecursionError):
        return ()


def hold(folder: Path, recipe: Recipe) -> tuple[Source, ...]:
    """Return the files that a recipe names, and note them in a folder of work, where other ones must not meet them.

    Raises:
        ArtifactError: if the folder holds work of the same names with another content, or cannot be written.
    """
    before = recorded(folder)
    refuse(folder, change(before, recipe))
    now = sources(recipe)
    new = {(each.setting, each.named): each for each in (*before, *now)}
    if new.keys() - {(each.setting, each.named) for each in before} and os.environ.get("RANK", "0") == "0":
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from None
        keep(folder / RECORD, json.dumps([asdict(each) for each in new.values()]))
    return now


def refuse(folder: Path, what: str) -> None:
    """Refuse to go on in a folder of work where something has changed.

    Raises:
        ArtifactError: naming it.
    """
    if what:
        remedy = said("delete it, or name another folder", "choose another --out")
        raise ArtifactError(f"{folder} holds work of this recipe, but {what}, and old and new do not mix; {remedy}")


def _digest(parts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(parts.items())).encode()).hexdigest()


def _content(path: Path) -> str:
    reading.regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _weights(named: str) -> Iterator[tuple[str, str]]:
    if named != PRETRAINED:
        yield "", _content(Path(named))


def _data(named: str) -> Iterator[tuple[str, str]]:
    name, _, folder = named.partition(":")
    root = Path(folder).expanduser()
    if not folder:
        return
    if name in KNOWN:
        for part in KNOWN[name].files:
            yield from _sizes(root, _below(root / part))
    else:
        yield from _sizes(root, _pictures(root))


def _images(named: str) -> Iterator[tuple[str, str]]:
    path = Path(named).expanduser()
    if path.is_dir():
        yield from _sizes(path, _pictures(path))
    else:
        yield "", _content(path)


def _below(place: Path) -> Iterator[Path]:
    return iter([place]) if place.is_file() else (Path(here, it) for here, _, files in os.walk(place) for it in files)


def _pictures(root: Path) -> Iterator[Path]:
    if root.is_dir():
        yield from (Path(here, name) for here, names in pictures_below(root, hidden=True) for name in names)


def _sizes(root: Path, paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    for path in paths:
        yield path.relative_to(root).as_posix(), str(path.stat().st_size)


def _code(named: str) -> Iterator[tuple[str, str]]:
    """Yield the file that a network is built by, and those beside it that it needs; none of them is run."""
    if is_onnx(named):
        first, *others = files_of(named)
        yield from (("" if path == first else path.name, _content(path)) for path in (first, *others))
    if not own_code(named):
        return
    source = named.rpartition(":")[0]
    is_file = source.endswith(".py") or "/" in source or "\\" in source
    if is_file:
        first = Path(source).expanduser().absolute()
        root = first.parent
    else:
        root = Path.cwd()
        first = _module(root, source.split("."))
        if first is None and (elsewhere := _installed(source.partition(".")[0])) is not None:
            root, first = elsewhere, _module(elsewhere, source.split("."))
        if first is None:
            return
    seen, left = set[Path](), [first]
    fixed = [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib")]
    while left:
        path = left.pop()
        if path in seen or any(path.is_relative_to(place) for place in fixed):
            continue  # of an installed package, whose version the environment says
        seen.add(path)
        yield path.relative_to(root).as_posix(), _content(path)
        left += _imported(path, root)


def _installed(name: str) -> Path | None:
    """Return the folder in which Python would find a module or package."""
    with contextlib.suppress(ImportError, ValueError):
        found = importlib.util.find_spec(name)
        if found is not None and found.origin is not None:
            file = Path(found.origin)
            return file.parent.parent if file.name == "__init__.py" else file.parent
    return None


def _imported(path: Path, root: Path) -> Iterator[Path]:
    """Yield the files below a folder that a file imports."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        names: list[list[str]] = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            within = path.relative_to(root).parts
            place = within[: max(0, len(within) - node.level)] if node.level else ()
            module = [*place, *(node.module.split(".") if node.module else ())]
            names = [module, *([*module, alias.name] for alias in node.names)]
        for parts in names:
            for count in range(1, len(parts) + 1):  # packages run their own file first
                if (found := _module(root, parts[:count])) is not None:
                    yield found


def _module(root: Path, parts: Sequence[str]) -> Path | None:
    stem = root.joinpath(*parts)
    places = (stem.with_name(f"{stem.name}.py"), stem / "__init__.py")
    return next((place for place in places if parts and place.is_file()), None)
