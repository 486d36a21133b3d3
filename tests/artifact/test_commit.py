"""The commit of a folder, read without git."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from secateur.artifact.commit import commit
from secateur.artifact.environment import environment

HASH, OTHER = "0123456789abcdef" * 2 + "01234567", "f" * 40


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a working tree at a branch, as git lays it out."""
    (tmp_path / ".git/refs/heads").mkdir(parents=True)
    (tmp_path / ".git/HEAD").write_text("ref: refs/heads/main\n")
    (tmp_path / ".git/refs/heads/main").write_text(f"{HASH}\n")
    return tmp_path


def test_the_commit_of_a_branch_is_found_from_any_depth(repository: Path):
    (repository / "a/b").mkdir(parents=True)
    assert commit(repository) == HASH
    assert commit(repository / "a/b") == HASH


def test_a_detached_head_and_a_packed_branch_are_read(repository: Path):
    (repository / ".git/refs/heads/main").unlink()
    (repository / ".git/packed-refs").write_text(
        f"# pack-refs with: peeled\n{OTHER} refs/heads/x\n{HASH} refs/heads/main\n"
    )
    assert commit(repository) == HASH
    (repository / ".git/HEAD").write_text(f"{OTHER}\n")
    assert commit(repository) == OTHER


def test_a_worktree_has_the_branches_of_its_repository(repository: Path, tmp_path_factory: pytest.TempPathFactory):
    tree, own = tmp_path_factory.mktemp("tree"), repository / ".git/worktrees/tree"
    own.mkdir(parents=True)
    (tree / ".git").write_text(f"gitdir: {own}\n")
    (own / "HEAD").write_text("ref: refs/heads/side/way\n")
    (own / "commondir").write_text("../..\n")
    (repository / ".git/refs/heads/side").mkdir()
    (repository / ".git/refs/heads/side/way").write_text(f"{OTHER}\n")
    assert commit(tree) == OTHER


@pytest.mark.parametrize(
    "head",
    ["", "ref: refs/heads/none\n", "ref: refs/../../secret\n", "ref: /etc/passwd\n", "x" * 10**6, "\x00", "0" * 39],
)
def test_anything_else_is_no_commit(repository: Path, head: str):
    (repository / "secret").write_text(HASH)
    (repository / ".git/HEAD").write_text(head)
    assert commit(repository) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_not_waited_for(repository: Path):
    (repository / ".git/HEAD").unlink()
    os.mkfifo(repository / ".git/HEAD")
    assert commit(repository) is None


def test_a_folder_outside_of_any_repository_has_none(tmp_path: Path):
    assert commit(tmp_path) is None


def test_no_program_is_started_to_describe_the_machine(repository: Path, monkeypatch: pytest.MonkeyPatch):
    """Git would: ``core.fsmonitor`` of the folder's own configuration names a program that ``git status`` runs."""

    def refuse(*words: object, **_: object) -> None:
        raise AssertionError(f"{words} was started")

    (repository / ".git/config").write_text("[core]\n\tfsmonitor = touch ran; false\n")
    monkeypatch.chdir(repository)
    for name in ("Popen", "run"):
        monkeypatch.setattr(subprocess, name, refuse)
    monkeypatch.setattr(os, "system", refuse)
    assert environment(None, None)["git"] == HASH
