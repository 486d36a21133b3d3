"""The front door: every public name is there, and opening it is cheap."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import secateur
from secateur.errors import SecateurError

HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "plotly",
    "accelerate",
    "onnx",
    "onnxruntime",
    "torchmetrics",
    "jinja2",
    "scipy",
)
OPTIONAL = (
    "torchvision",
    "timm",
    "plotly",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnx2torch",
    "openvino",
    "nncf",
    "jinja2",
)


def loaded_by(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after some code."""
    program = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{n.partition('.')[0] for n in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("name", secateur.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(secateur, name)
    assert name == "METHODS" or value.__doc__
    assert getattr(secateur, name) is value


def test_names_are_sorted_distinct_and_all_have_a_home() -> None:
    assert len(set(secateur.__all__)) == len(secateur.__all__)
    assert sorted(secateur.__all__, key=str.lower) == sorted(secateur._HOMES, key=str.lower)
    for name, home in secateur._HOMES.items():
        module = importlib.import_module(f"secateur.{home}")
        assert name in getattr(module, "__all__", [name])


def test_the_reference_has_every_public_name() -> None:
    page = (Path(__file__).parents[1] / "docs" / "reference.md").read_text("utf-8")
    listed = [it.rpartition(".") for it in re.findall(r"^::: (secateur[.\w]+)", page, re.MULTILINE)]
    shown = [getattr(importlib.import_module(home), name) for home, _, name in listed if home != "secateur"]
    missing = [it for it in set(secateur.__all__) - {"METHODS", "SecateurError"} if getattr(secateur, it) not in shown]
    assert not missing  # methods have pages of their own, errors are listed as a module
    assert "::: secateur.errors" in page


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(secateur.__file__).read_text("utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    homes = {name: f"secateur.{home}" for name, home in secateur._HOMES.items()}
    assert seen == homes | dict.fromkeys(secateur._MODULES, "secateur")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'secateur' has no attribute 'prun'"):
        secateur.prun  # noqa: B018  # type: ignore[attr-defined]


@pytest.mark.parametrize("asked", ["secateur", "secateur.methods"])
@pytest.mark.parametrize("method", [*secateur.METHODS])
def test_the_class_of_a_method_is_answered_with_where_it_is(asked: str, method: str) -> None:
    name = secateur.METHODS[method].__name__
    home = f"secateur.methods.{method}.{name}"
    with pytest.raises(ImportError, match=rf"^{asked} has no '{name}'; it is {home}, or method=\"{method}\"$"):
        exec(f"from {asked} import {name}")
    assert getattr(importlib.import_module(home.rpartition(".")[0]), name) is secateur.METHODS[method]


def test_an_unknown_class_is_an_attribute_error() -> None:
    assert not hasattr(secateur, "Magnitud")
    assert not hasattr(secateur.methods, "Magnitud")


def test_the_version_is_that_of_the_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert secateur.__version__ == importlib.metadata.version("secateur")

    def nowhere(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", nowhere)
    assert not hasattr(secateur, "__version__")


def test_the_errors_of_the_library_have_one_base() -> None:
    errors = importlib.import_module("secateur.errors")
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 10
    assert all(issubclass(kind, SecateurError) and kind.__doc__ for kind in kinds)


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("import secateur").isdisjoint(HEAVY)


def test_no_public_name_loads_an_optional_library() -> None:
    loaded = loaded_by("import secateur\nfor name in secateur.__all__:\n    getattr(secateur, name)")
    assert "torch" in loaded
    assert loaded.isdisjoint(OPTIONAL)


def test_names_are_listed_before_they_are_loaded() -> None:
    program = "import secateur; print(set(secateur.__all__) <= set(dir(secateur)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "True\n"
