from __future__ import annotations

import dataclasses
import re

import pytest

from commands import Call
from secateur.cli.app import app
from secateur.recipe import Recipe
from secateur.training import Settings

COMMANDS = (
    "prune",
    "run",
    "demo",
    "plan",
    "explain",
    "evaluate",
    "measure",
    "bench",
    "export",
    "encode",
    "decode",
    "methods",
    "show",
    "compare",
    "sensitivity",
)


@pytest.fixture
def narrow(secateur: Call, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setenv("COLUMNS", "50")
    return secateur


def words(text: str) -> list[str]:
    return re.sub(r"-\s+", "-", text).split()


def test_all_commands_are_known():
    assert {command.name for command in app.registered_commands} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_fifty_columns_and_speaks_no_python(narrow: Call, command: str, monkeypatch: pytest.MonkeyPatch):
    ended = narrow(command, "--help")
    assert ended.status == 0
    assert ended.err == ""
    assert max(map(len, ended.out.splitlines())) <= 50
    monkeypatch.setenv("COLUMNS", "80")
    assert words(ended.out) == words(narrow(command, "--help").out)  # none is split, but after a hyphen
    assert not re.search(r"\bNone\b|``|\{|<path>|<str>", ended.out)


def test_the_program_lists_every_command_with_its_first_sentence(narrow: Call):
    ended = narrow("--help")
    assert ended.status == 0
    assert max(map(len, ended.out.splitlines())) <= 50
    text = " ".join(ended.out.split())
    for command in COMMANDS:
        first = " ".join(narrow(command, "--help").out.split("\n\n")[1].split())
        assert f"{command} {first}" in text


@pytest.mark.parametrize("kind", [Recipe, Settings])
def test_prune_has_a_flag_with_a_text_for_every_setting(secateur: Call, kind: type):
    text = " ".join(secateur("prune", "--help").out.split())
    for field in dataclasses.fields(kind):
        if field.name in ("options", "train", "pretrain", "shape", "then", "budget", "chosen"):  # tables, not values
            continue
        assert re.search(rf" --{field.name.replace('_', '-')}[ /][^.]*[.]", text), field.name


def test_the_settings_of_a_method_are_shown_with_it(secateur: Call):
    assert "--selection" not in secateur("prune", "--help").out
    for words in (["--method", "magnitude"], ["--method=magnitude"]):
        text = secateur("prune", *words, "--help").out
        assert "Settings of magnitude" in text
        assert re.search(r"--norm l1\|l2 .*l1", text)


def test_the_flags_are_those_of_the_method_that_is_taken(secateur: Call):
    network = ("--model", "resnet20", "--keep", "0.5", "--json")
    assert secateur("plan", *network, "--norm", "l2").status == 0
    refused = secateur("plan", *network, "--calibrate=nowhere", "--shares", "uniform").err
    assert refused.lstrip().startswith("error: there is no")  # rich before 15 ends its display with an empty line
    assert "add --method magnitude" in secateur("plan", *network, "--data", "mnist5k", "--norm", "l2").err


@pytest.mark.parametrize(("word", "hint"), [("prun", "prune"), ("exprot", "export")])
def test_a_mistyped_command_names_the_nearest(secateur: Call, word: str, hint: str):
    ended = secateur(word)
    assert ended.status == 2
    assert hint in ended.err


def test_version_is_one_line(secateur: Call):
    ended = secateur("--version")
    assert ended.status == 0
    assert re.fullmatch(r"secateur \S.*\n", ended.out)
