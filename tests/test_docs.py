"""The documents tell the truth: their code runs, their links lead somewhere, their commands exist."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import shlex
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import forked
from commands import run
from secateur.measure import count
from secateur.methods import METHODS
from secateur.models import MODELS
from secateur.recipe import Recipe
from secateur.training import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def where(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(language: str, document: Path = ROOT / "README.md") -> list[tuple[int, str]]:
    """Return line number and text of every fenced block of a document in this language."""
    text = document.read_text("utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start(1)) + 1, match[1]) for match in found]


def run_blocks(document: Path, folder: Path) -> types.ModuleType:
    """Run the Python of a document from top to bottom, as a reader would, and return what it leaves behind."""
    module = types.ModuleType(f"page_{document.stem.replace('-', '_')}")  # no library's name
    before, threads = Path.cwd(), torch.get_num_threads()
    torch.set_num_threads(1)  # small networks, and the machine may be busy
    sys.modules[module.__name__] = module  # dataclasses look their module up
    os.chdir(folder)
    try:
        torch.manual_seed(0)
        for line, text in blocks("python", document):
            code = compile("\n" * (line - 1) + text, str(document), "exec", dont_inherit=True)
            exec(code, module.__dict__)
    finally:
        os.chdir(before)
        torch.set_num_threads(threads)
        del sys.modules[module.__name__]
    return module


def shape(printed: str) -> list[str]:
    """Return the lines of an output with its numbers alike, for they differ from machine to machine."""
    return [re.sub(r"\d(?:[\d.,]*\d)?", "0", line) for line in printed.strip().splitlines()]


GALLERY = sorted(path for path in (ROOT / "docs" / "gallery").glob("*.md") if path.name != "index.md")
PAGES = [path for path in DOCUMENTS if path.name != "README.md" and "decisions" not in path.parts]


@pytest.mark.parametrize("page", [path for path in PAGES if blocks("python", path)], ids=where)
def test_the_python_of_every_page_runs(page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run_blocks(page, tmp_path)
    if page in GALLERY:
        ((_, expected),) = blocks("text", page)
        assert shape(capsys.readouterr().out) == shape(expected)


def test_the_gallery_is_listed_and_each_of_its_pages_is_one_program():
    index, navigation = (ROOT / "docs" / "gallery" / "index.md").read_text("utf-8"), (ROOT / "mkdocs.yml").read_text()
    for page in GALLERY:
        assert f"]({page.name})" in index
        assert f" gallery/{page.name}\n" in navigation
        assert len(blocks("python", page)) == 1
    assert shape("mAP 76.20 %, cut 1,559") == ["mAP 0 %, cut 0"] != shape("mAP 76.20 %, cut away")


def test_the_readme_has_python_and_commands():
    assert len(blocks("python")) >= 3
    assert commands()


def test_the_python_of_the_readme_runs_and_does_what_it_says(tmp_path: Path):
    """In one test, so that no two processes run the page."""
    readme = vars(run_blocks(ROOT / "README.md", tmp_path))
    assert (tmp_path / "out" / "lenet5" / "weights.safetensors").is_file()
    is_half_as_large_and_has_learnt(readme)
    asks_for_the_same_in_its_recipe(readme["brief"])


def is_half_as_large_and_has_learnt(readme: Mapping[str, Any]) -> None:
    before, data, thin = readme["result"].before, readme["data"], readme["thin"]  # what was measured: it is cut by now
    assert isinstance(thin, torch.nn.Module)
    assert count(thin, data.example()).macs <= 0.5 * before.counts.macs
    assert before.quality.value > 0.85  # ten times better than chance, which is what the epoch gives with room to spare
    assert count(readme["model"], data.example()).macs <= 0.5 * before.counts.macs  # by the session


def asks_for_the_same_in_its_recipe(brief: Settings) -> None:
    ((_, text),) = blocks("toml")
    expected = Recipe(model="lenet5", data="mnist5k", method="reconstruction", keep=0.5, pretrain=brief, train=brief)
    assert Recipe.from_toml(text) == expected


def test_the_table_of_methods_is_complete():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", README, re.MULTILINE))
    assert sorted(rows) == sorted(name for name in METHODS if METHODS[name].__module__.startswith("secateur.methods"))
    for name, paper in rows.items():
        assert paper.endswith(f", {METHODS[name].paper.year}")
        assert METHODS[name].paper.authors.split(",")[0].split()[-1] in paper


def test_the_readme_is_read_in_a_few_minutes():
    assert len(README.split()) <= 1200


@pytest.mark.parametrize("document", DOCUMENTS, ids=where)
def test_links_between_documents_resolve(document: Path):
    text = re.sub(r"^```.*?^```$", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`]*`", "", text)
    targets = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    made = {f"methods/{page}.md" for page in ("index", *METHODS)}  # when the site is built
    assert [link for link in targets if link and link not in made and not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if path.name != "CHANGELOG.md"], ids=where)
def test_files_that_documents_name_exist(document: Path):
    """Names with a slash or of a source file, in code font, relative to the repository or to the package."""
    text = re.sub(r"^```.*?^```$", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    named = [name for name in re.findall(r"`([\w./]+)`", text) if "/" in name or name.endswith((".py", ".toml"))]
    written = {
        "out/",
        "least_read.py",
        "recipe.toml",
        "model.py",
        "flowers/train/rose/",
        "annotations/instances_train.json",
        "input/a.png",
    }  # what a user makes
    homes = [ROOT, ROOT / "src" / "secateur", ROOT / "src" / "secateur" / "core" / "trace"]
    homes.append(ROOT / "src" / "secateur" / "methods")
    named = [name for name in named if not name.startswith("train/")]  # in the folders of images of a user
    assert [name for name in named if name not in written and not any((home / name).exists() for home in homes)] == []


def test_decisions_are_numbered_without_gaps_and_told_in_three_parts():
    files = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(path.name[:4]) for path in files] == list(range(1, len(files) + 1))
    for path in files:
        text = path.read_text("utf-8")
        assert text.startswith(f"# {int(path.name[:4])}. ")
        assert re.findall(r"^\*\*(Context|Choice|Price)\.\*\*", text, re.MULTILINE) == ["Context", "Choice", "Price"]


def commands() -> list[list[str]]:
    """Return the words of every ``secateur`` command of the documents, each once."""
    found: list[list[str]] = []
    for document in DOCUMENTS:
        texts = [block for language in ("bash", "console") for _, block in blocks(language, document)]
        lines = "".join(texts).replace("\\\n", " ").splitlines()
        asked = [shlex.split(line.removeprefix("$ ")) for line in lines]
        found += [words[1:] for words in asked if words and words[0] == "secateur"]
    return [list(words) for words in dict.fromkeys(map(tuple, found))]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_of_the_documents_exist_with_their_options(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    for name, value in (("COLUMNS", "250"), ("TERM", "dumb"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    asked = [] if words[0].startswith("-") else words[:1]
    method = dict(itertools.pairwise(words)).get("--method")
    ended = run(capsys, *asked, "--help", *(["--method", method] if method else []))  # with the method's settings
    assert ended.status == 0, ended
    text = ended.out
    for option in (word.partition("=")[0] for word in words if word.startswith("--")):
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", text), f"{words[0]} has no option {option}"


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_of_the_documents_name_methods_and_networks_that_exist(words: list[str]):
    given = dict(itertools.pairwise(words))
    if "--method" in given:
        assert given["--method"] in METHODS
    if "--model" in given and ":" not in given["--model"] and not given["--model"].endswith(".onnx"):
        assert given["--model"] in MODELS


def test_make_knows_the_targets_that_the_documents_name():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {name for path in DOCUMENTS for name in re.findall(r"(?:`|^)make ([a-z-]+)", path.read_text("utf-8"), re.M)}
    assert {"demo", "test"} <= named
    assert named <= targets


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed")
def test_the_site_is_built_without_a_warning_and_has_a_page_for_every_method(tmp_path: Path):
    asked = ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = forked.run(asked, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stderr
    for name, method in METHODS.items():
        if method.__module__.startswith("secateur.methods"):
            page = (tmp_path / "site" / "methods" / name / "index.html").read_text("utf-8")
            assert method.paper.title.replace("&", "&amp;") in page
            assert f"--method {name}" in re.sub(r"<[^>]+>", "", page)
    assert "secateur.run.prune" in (tmp_path / "site" / "reference" / "index.html").read_text("utf-8")


def test_the_tests_that_catch_mutants_are_there() -> None:
    page = (ROOT / "docs" / "decisions" / "0007-mutants.md").read_text("utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)`: `(test_\w+)`", page)
    assert len(named) > 30
    assert [it for it in named if f"def {it[1]}(" not in (ROOT / it[0]).read_text("utf-8")] == []
