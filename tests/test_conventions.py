"""What the code base promises about itself, beyond what the linters see."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from secateur.methods import METHODS, card

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "secateur"
FILES = sorted(PACKAGE.rglob("*.py"))
METHOD_FILES = [path for path in sorted((PACKAGE / "methods").glob("*.py")) if not path.name.startswith("_")]
LONGEST = 300
CARD = ("Idea", "Rule", "Needs", "Cost", "Differences")


def where(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_package_was_found():
    assert len(FILES) > 20
    assert len(METHOD_FILES) >= 3


# All files in one test: one for each file would be a fifth of all tests, and each is scheduled and reported.


def test_no_file_is_too_long_to_read():
    assert [where(path) for path in FILES if len(path.read_text("utf-8").splitlines()) > LONGEST] == []


def test_every_module_says_why_it_exists():
    assert [where(path) for path in FILES if not ast.get_docstring(ast.parse(path.read_text("utf-8")))] == []


def test_only_the_command_line_prints():
    printing: list[str] = []
    for path in FILES:
        if (PACKAGE / "cli") not in path.parents:
            names = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Name)]
            printing += [f"{where(path)}, line {node.lineno}" for node in names if node.id == "print"]
    assert printing == []


def test_no_program_is_started():
    """Programs obey the configuration of folders and users; what is needed of them is read from files."""
    words = re.compile(
        r"\bsubprocess\b|\bos\.(?:system|popen|exec\w+|spawn\w+|posix_spawn\w*)\b|"
        r"[=:(] *platform\.(?:processor|platform|uname)\(\)"
    )
    assert {where(path): found for path in FILES if (found := words.findall(path.read_text("utf-8")))} == {}


def test_files_are_named_after_what_is_in_them():
    vague = {"utils", "util", "helpers", "helper", "misc", "common", "manager", "base"}
    assert [where(path) for path in FILES if path.stem in vague or path.parent.name in vague] == []


def test_every_folder_of_the_package_is_a_package():
    folders = {path.parent for path in FILES}
    assert [where(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_every_source_file_postpones_annotations_or_has_none():
    annotated = [
        path
        for path in FILES
        if any(isinstance(node, (ast.FunctionDef, ast.AnnAssign)) for node in ast.parse(path.read_text("utf-8")).body)
    ]
    assert annotated
    missing = [where(p) for p in annotated if "from __future__ import annotations" not in p.read_text("utf-8")]
    assert missing == []


@pytest.mark.parametrize("path", METHOD_FILES, ids=lambda path: path.stem)
def test_a_method_opens_with_its_card(path: Path):
    """All sections, in order, each on a line of its own and none empty."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    assert text.splitlines()[0].endswith(".")
    found = re.findall(r"^(\w+)\. +\S", text, re.MULTILINE)
    assert tuple(name for name in found if name in CARD) == CARD
    assert card(METHODS[path.stem]) == inspect.cleandoc(text)


@pytest.mark.parametrize("path", METHOD_FILES, ids=lambda path: path.stem)
def test_a_method_is_called_like_its_file(path: Path):
    assert METHODS[path.stem].__name__ == path.stem.title().replace("_", "")


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_knows_its_paper(name: str):
    paper = METHODS[name].paper
    assert paper.title
    assert paper.authors
    assert paper.venue
    assert 1980 <= paper.year <= 2100
    assert re.match(r"(doi:10\.|arXiv:\d{4}\.\d{4,5}|https://)", paper.link)
    assert str(paper.year) in paper.cite()
