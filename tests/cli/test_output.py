"""What a command prints reaches standard output alone, and no stream ends its work."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

import forked
from commands import PRUNED, Call

LOUD = """
import os
from torch import nn

def small():
    print("python prints")
    os.write(1, b"a library prints\\n")
    os.system("echo a child prints")
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(4608, 10))
"""
CUT = (*PRUNED, "--repair", "none")
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


class Broken(io.StringIO):
    """A stream whose disk is full, or whose reader has gone away."""

    def __init__(self, number: int, after: int = 0) -> None:
        super().__init__()
        self.number, self.left = number, after

    def write(self, text: str) -> int:
        self.left -= 1
        if self.left < 0:
            raise OSError(self.number, os.strerror(self.number))
        return len(text)


def program(*words: str, **streams: IO[str]) -> subprocess.CompletedProcess[str]:
    """Run the program as it is installed, in a process of its own."""
    env = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return forked.run(["-m", "secateur", *words], env=env, **streams)


@pytest.fixture
def loud(tmp_path: Path) -> str:
    (tmp_path / "loud.py").write_text(LOUD)
    return f"{tmp_path / 'loud.py'}:small"


def test_what_libraries_print_is_no_output_of_the_program(loud: str) -> None:
    ended = program("explain", "--model", loud, "--image", "1x28x28", "--json", "--quiet")
    assert ended.returncode == 0, ended.stderr
    assert {row["layer"] for row in json.loads(ended.stdout)["rows"]} == {"0", "2", "4"}
    for who in ("python", "a library", "a child"):
        assert f"{who} prints\n" in ended.stderr


def test_what_python_code_prints_is_no_output_of_a_command_either(secateur: Call, loud: str) -> None:
    ended = secateur("explain", "--model", loud, "--image", "1x28x28", "--json", "--quiet")
    assert json.loads(ended.out)["rows"]
    assert "python prints\n" in ended.err


@needs_full
@pytest.mark.parametrize("words", [("--help",), ("methods",)])
def test_a_full_disk_is_a_sentence_for_short_answers_too(words: tuple[str, ...]) -> None:
    with FULL.open("w") as full:
        ended = program(*words, stdout=full)
    assert ended.returncode == 1
    assert ended.stderr == "error: cannot write to standard output: No space left on device\n"
    with FULL.open("w") as full:
        assert program(*words, stderr=full).returncode == 0


def test_a_reader_that_has_gone_away_is_no_news() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    with open(writes, "w") as stdout:
        ended = program("methods", stdout=stdout)
    assert (ended.returncode, ended.stderr) == (1, "")


@pytest.mark.skipif(os.name != "posix", reason="descriptors are inherited")
def test_no_file_is_taken_for_a_standard_output_that_is_closed(tmp_path: Path, loud: str) -> None:
    shell = f"exec {sys.executable} -m secateur plan --model {loud} --image 1x28x28 --keep 0.5 -q --out {{}} >&-"
    ended = subprocess.run(["sh", "-c", shell.format(tmp_path / "plan.json")], stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 0, ended.stderr
    assert json.loads((tmp_path / "plan.json").read_text())["edits"]


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.EPIPE, ""), (errno.ENOSPC, "error: cannot write to standard output: {}; the result is in out/small\n")],
)
def test_a_result_that_cannot_be_printed_is_saved(
    number: int, said: str, secateur: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(number))
    ended = secateur("prune", *CUT, "--out", "out/small", "--quiet")
    assert ended.status == 1
    assert ended.err.rpartition("(--weights)\n")[2] == said.format(os.strerror(number))
    assert (tmp_path / "out" / "small" / "report.html").is_file()
    assert not (tmp_path / "out" / "small.work").exists()


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC])
def test_progress_that_nobody_can_read_ends_nothing(
    number: int, after: int, secateur: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stderr", Broken(number, after))
    ended = secateur("prune", *CUT, "--out", "out/small")
    assert ended.status == 0
    assert "Result: out/small" in ended.out
    assert (tmp_path / "out" / "small" / "report.html").is_file()


def test_an_error_that_cannot_be_said_has_its_status(secateur: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Broken(errno.ENOSPC))
    assert secateur("explain", "--model", "nets.py:number", "--image", "1x28x28").status == 1
