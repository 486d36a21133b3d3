"""Artifacts as an attacker would make them: one thing is wrong, and all sizes and hashes are right."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, -1, 0, 3, 2**31, 2**63, 10**40, -(10**40), 1.5, 1e308, "", "x", "../../x", "\x00", "\ud800",
    "\n\x1b[2J", "a" * 5000, "0-99999999999", "9-0", "0-3,2", [], [[]], [1, 1, 28, 28], [10**6, 1, 10**3, 10**3],
    [0, 0, 0, 0], [2, 1, 28, 28, 1], {}, {"shape": [10**9, 10**9]}, {"": None},
)  # fmt: skip
"""Values that stand where others are wanted."""

Forge = Callable[[Path, random.Random], str]


def write(folder: Path, name: str, content: bytes) -> None:
    """Replace or add a file of an artifact, and note its size and hash in the manifest."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")


def copy_of(artifact: Path, folder: Path) -> Path:
    """Return a fresh copy of an artifact in the place of whatever is there."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(artifact, folder)
    return folder


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value in a document, the whole one included."""
    yield at
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*at, key))


def changed(document: Any, at: tuple[Any, ...], new: Any, *, gone: bool = False) -> Any:
    """Return a document with another value in one place, or without it."""
    if not at:
        return new
    whole = json.loads(json.dumps(document))
    inner = whole
    for key in at[:-1]:
        inner = inner[key]
    if gone:
        del inner[at[-1]]
    else:
        inner[at[-1]] = new
    return whole


def document(name: str) -> Forge:
    """Return what puts an odd value somewhere into a JSON document, or takes one out."""

    def forge(folder: Path, rng: random.Random) -> str:
        old = json.loads((folder / name).read_text("utf-8"))
        top = rng.choice(list(old))  # each part of the document as often as any other
        at = rng.choice([it for it in places(old) if it and it[0] == top])
        gone, new = rng.random() < 0.2, rng.choice(ODD)
        write(folder, name, json.dumps(changed(old, at, new, gone=gone)).encode())
        return f"{name}: {at} {'gone' if gone else repr(new)[:60]}"

    return forge


def cut_short(name: str) -> Forge:
    """Return what cuts a file off, or changes one of its bytes."""

    def forge(folder: Path, rng: random.Random) -> str:
        data = bytearray((folder / name).read_bytes())
        at = rng.randrange(min(len(data), 2000))
        if rng.random() < 0.5:
            data = data[:at]
        else:
            data[at] ^= 1 << rng.randrange(8)
        write(folder, name, bytes(data))
        return f"{name}: byte {at}"

    return forge


def recipe(folder: Path, rng: random.Random) -> str:
    """Put an odd value into the recipe."""
    lines = (folder / "recipe.toml").read_text("utf-8").splitlines()
    settings = [number for number, line in enumerate(lines) if " = " in line]
    number = rng.choice(settings)
    key = lines[number].partition(" = ")[0]
    odd = rng.choice(
        ["true", "-1", "0", "9" * 5000, "0x" + "f" * 5000, "nan", "inf", '"x"', '""', "[]", "[[1]]", "{a = 1}", "2**3",
         '"torchvision:vgg19"', '"resnet20"', '"net.py:f"', '"timm:x"', "999999999999", "[" * 3000,
         '"' + "a" * 5000 + '"', '"\\u0000"', "1979-05-27", "1e999"]
    )  # fmt: skip
    lines[number] = f"{key} = {odd}"
    write(folder, "recipe.toml", "\n".join(lines).encode())
    return f"recipe.toml: {key} = {odd[:60]}"


def header(folder: Path, rng: random.Random) -> str:
    """Put an odd value into the header of the weights."""
    data = (folder / "weights.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    old = json.loads(data[8 : 8 + size])
    at = rng.choice([it for it in places(old) if it])
    new = rng.choice([*ODD, "F64", "I64", "BOOL", "F8_E4M3", "BF16", [1], [0, 4]])
    if rng.random() < 0.2:
        changed_header = {**old, "__metadata__": {"shared": rng.choice(['{"a": "b"}', "[", "[]", '{"x": 3}', "3"])}}
    else:
        changed_header = changed(old, at, new, gone=rng.random() < 0.2)
    text = json.dumps(changed_header).encode()
    length = rng.choice([len(text)] * 8 + [2**40, 0])
    write(folder, "weights.safetensors", struct.pack("<Q", length) + text + data[8 + size :])
    return f"weights.safetensors: {at} {repr(new)[:60]}, header of {length}"


def manifest(folder: Path, rng: random.Random) -> str:
    """Put an odd name or entry into the manifest."""
    path = folder / "manifest.json"
    old = json.loads(path.read_text("utf-8"))
    if rng.random() < 0.5:
        name = rng.choice(
            ["../x", "/etc/passwd", "plans/" + "9" * 5000 + ".json", "plans/٣.json", "a\x00b", "\ud800", "x" * 5000, "",
             "plans/2.json", "a/../../b", "a\\b"]
        )  # fmt: skip
        old["files"][name] = {"bytes": rng.choice([0, 10**30, -1]), "sha256": ""}
        what = name
    else:
        at = rng.choice([it for it in places(old) if it])
        old, what = changed(old, at, rng.choice(ODD), gone=rng.random() < 0.2), str(at)
    path.write_text(json.dumps(old), "utf-8")
    return f"manifest.json: {what[:60]!r}"


def bombs(folder: Path, rng: random.Random) -> str:
    """Let a few bytes stand for very much."""
    plan = {"format": 1, "edits": []}
    group = json.loads((folder / "plans/001.json").read_text())["edits"][0].get("drop", "")
    kind = rng.randrange(9)
    if kind == 0:
        plan["edits"] = [{"drop": group, "units": "0-9999999999"}]
    elif kind == 1:
        plan["edits"] = [{"drop": group, "units": ",".join(["0-1000000"] * 500)}]
    elif kind == 2:
        plan["edits"] = [{"drop": group, "units": ""}] * 300_000
    elif kind == 3:
        plan["edits"] = [{"zero": "x", "shape": [10**9] * 500, "keep": ""}]
    elif kind == 4:
        plan["edits"] = [[]] * 3_000_000
    if kind <= 4:
        write(folder, "plans/001.json", json.dumps(plan).encode())
    elif kind == 5:
        write(folder, "measurement.json", b'{"a":' * 100_000)
    elif kind == 6:
        old = json.loads((folder / "measurement.json").read_text())
        side = rng.choice([3000, 13000, 10**6])
        write(folder, "measurement.json", json.dumps(changed(old, ("example", "shape"), [1, 1, side, side])).encode())
    elif kind == 7:
        with (folder / "weights.safetensors").open("r+b") as file:
            file.truncate(10**12)
    else:
        text = (folder / "recipe.toml").read_text()
        write(folder, "recipe.toml", f"classes = {rng.choice([10**5, 10**6, 10**9])}\n{text}".encode())
    return f"bomb {kind}"


def link(folder: Path, rng: random.Random) -> str:
    """Put a link to a file outside of the folder, of the same or of other content, in the place of one of its own."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    name, same = rng.choice(names), rng.random() < 0.5
    outside = folder.with_name(f"{folder.name}.outside")
    outside.write_bytes((folder / name).read_bytes() if same else b"a secret")
    if name != "manifest.json":
        write(folder, name, outside.read_bytes())
    (folder / name).unlink()
    (folder / name).symlink_to(outside)
    return f"{name}: a link to {'its content' if same else 'a secret'}"


def normalisation(folder: Path, rng: random.Random) -> str:
    """Put an odd value in the place of what the images were normalised with, or into it."""
    good: dict[str, Any] = {"mean": [0.5], "std": [0.25]}
    new = rng.choice([rng.choice(ODD), {**good, rng.choice(["mean", "std", "data", "model"]): rng.choice(ODD)}])
    old = json.loads((folder / "measurement.json").read_text("utf-8"))
    write(folder, "measurement.json", json.dumps({**old, "normalisation": new}).encode())
    return f"normalisation: {repr(new)[:60]}"


FORGERS: tuple[Forge, ...] = (
    document("measurement.json"), document("plans/001.json"), document("environment.json"), recipe, header, manifest,
    cut_short("measurement.json"), cut_short("plans/001.json"), cut_short("recipe.toml"),
    cut_short("weights.safetensors"), bombs, document("bench.json"), cut_short("bench.json"), link, normalisation,
)  # fmt: skip
