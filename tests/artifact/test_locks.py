"""Work is claimed by one process at a time."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

import forked
from secateur.artifact import locks
from secateur.artifact.folder import replacing
from secateur.artifact.locks import claimed

pytest.importorskip("fcntl")
HOLD = (
    "import pathlib, sys\nfrom secateur.artifact.locks import claimed\n"
    "with claimed(pathlib.Path(sys.argv[1]), wait=sys.argv[2] == 'wait') as other:\n"
    "    print(other, flush=True)\n    sys.stdin.readline()\n"
)


def start(place: Path, *, wait: bool = False) -> forked.Running:
    return forked.start(["-c", HOLD, str(place), "wait" if wait else "go"])


def said(process: forked.Running) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_who_comes_second_hears_who_has_the_work(tmp_path: Path) -> None:
    place = tmp_path / "work.lock"
    with claimed(place) as holder:
        assert holder is None
        with start(place) as other:
            assert said(other) == str(os.getpid())
            other.communicate("\n")
    assert not place.exists()


def test_who_waits_gets_the_work_when_it_is_free(tmp_path: Path) -> None:
    place = tmp_path / "work.lock"
    with claimed(place):
        waiting = start(place, wait=True)
    with waiting:
        assert said(waiting) == "None"
        waiting.communicate("\n")


def test_a_lock_on_a_file_that_is_gone_is_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, locked, calls = tmp_path / "work.lock", locks._locked, list[bool]()

    def overtaken(file: Any, wait: bool) -> bool:  # who held it goes between our opening and our locking
        calls.append(wait)
        if len(calls) == 1:
            place.unlink()
        return locked(file, wait)

    monkeypatch.setattr(locks, "_locked", overtaken)
    with claimed(place, wait=True) as holder:
        assert holder is None
        assert place.read_text() == str(os.getpid())
    assert len(calls) == 2


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    place = tmp_path / "work.lock"
    with start(place) as other:
        assert said(other) == "None"
        with claimed(place) as holder:
            assert holder == str(other.pid)
        other.kill()
    with claimed(place) as holder:
        assert holder is None


def test_the_work_is_free_after_an_error(tmp_path: Path) -> None:
    place = tmp_path / "work.lock"
    with pytest.raises(ZeroDivisionError), claimed(place):
        _ = 1 / 0
    with claimed(place) as holder:
        assert holder is None


@pytest.mark.parametrize("trouble", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_work_is_done_where_the_file_system_knows_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: int
) -> None:
    def refused(*_: object) -> None:
        raise OSError(trouble, os.strerror(trouble))

    monkeypatch.setattr("fcntl.flock", refused)
    with claimed(tmp_path / "work.lock") as holder:
        assert holder is None


def test_folders_around_a_result_that_was_not_saved_are_gone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="not today"), replacing(tmp_path / "mine" / "a" / "b" / "new", force=False):
        raise ValueError("not today")
    assert list((tmp_path / "mine").iterdir()) == []
    with replacing(tmp_path / "mine" / "a" / "b" / "new", force=False) as new:
        (new / "file").touch()
    assert (tmp_path / "mine" / "a" / "b" / "new" / "file").is_file()
