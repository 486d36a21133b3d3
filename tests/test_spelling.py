"""Remedies are spelt for whoever reads them, and in one place."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import secateur
from secateur import prune
from secateur.errors import SecateurError
from secateur.spelling import said, setting, setting_as, spelt_for

SOURCES = Path(secateur.__file__).parent
FLAG = re.compile(r"(?<![\w-])--(?!upgrade)[a-z]")


def test_each_reader_gets_the_own_spelling():
    assert (setting("min_units"), said("a=True", "--a")) == ("min_units=", "a=True")
    with spelt_for("flags"):
        assert (setting("min_units"), said("a=True", "--a")) == ("--min-units", "--a")
        with spelt_for("recipe"):
            assert (setting("min_units"), said("a=True", "--a")) == ("'min_units' in the recipe", "--a")
            assert said("a=True", "--a", "a = true") == "a = true"
            assert setting_as("image_size", 8) == "image_size = 8"
        assert (setting("data"), setting_as("image_size", 8)) == ("--data", "--image-size 8")
    assert (setting("data"), setting_as("image_size", 8)) == ("data=", "image_size=8")


def test_in_python_nothing_speaks_of_flags():
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))
    with pytest.raises(SecateurError, match=r"give calibrate= or data=, or take fold alone") as refused:
        prune(net, torch.randn(1, 3, 8, 8), "magnitude", 0.5, repair=("reconstruct",))
    assert not FLAG.search(str(refused.value))


def written_flags(path: Path) -> list[str]:
    """Return the texts of a module that speak of flags, but for docstrings and what chooses between spellings."""
    source = path.read_text("utf-8")
    if not FLAG.search(source):
        return []
    tree = ast.parse(source)
    chosen = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _name(node.func) == "said"]
    fine = {id(each) for call in chosen for each in ast.walk(call)}
    fine |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in fine
        if FLAG.search(node.value)
    ]


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def test_flags_are_spelt_in_one_place_outside_of_the_command_line():
    found = {
        str(path.relative_to(SOURCES)): texts
        for path in SOURCES.rglob("*.py")
        if path.parent.name != "cli" and path.name != "spelling.py" and (texts := written_flags(path))
    }
    assert not found
