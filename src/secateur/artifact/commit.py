"""Which commit a folder is at, from git's own files: the program git obeys a folder's configuration, which names
programs to run, and a folder may have come from anybody.
"""

from __future__ import annotations

import re
from pathlib import Path

from secateur import reading

_SMALL = 4096  # bytes of HEAD, of a branch and of the files that say where a worktree's repository is
_PACKED = 16 * reading.MIB
_HASH = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_BRANCH = re.compile(r"ref: (refs/(?!.*\.\.)[^\x00-\x20\x7f~^:?*\\\[]+)")


def commit(folder: Path) -> str | None:
    """Return the hash of the commit that a folder is checked out at; None if it is in no repository.

    No program is run, so whether files differ from the commit is not known.

    Args:
        folder: in a working tree at any depth.
    """
    try:
        absolute = folder.absolute()
        place = next((it / ".git" for it in (absolute, *absolute.parents) if (it / ".git").exists()), None)
        return None if place is None else _head(_repository(place))
    except (OSError, ValueError):
        return None


def _repository(place: Path) -> Path:
    """Return the folder that holds HEAD: ``.git``, or the one that it names in a worktree or submodule."""
    return place if place.is_dir() else _named(place, place.parent, "gitdir: ")


def _named(file: Path, start: Path, prefix: str = "") -> Path:
    return start / reading.text(file, _SMALL).strip().removeprefix(prefix)


def _head(repository: Path) -> str | None:
    said = reading.text(repository / "HEAD", _SMALL).strip()
    if _HASH.fullmatch(said):
        return said
    branch = _BRANCH.fullmatch(said)
    if branch is None:
        return None
    shared = repository / "commondir"  # of a worktree, whose branches are those of the repository
    places = [repository, _named(shared, repository)] if shared.exists() else [repository]
    for place in places:
        found = _branch(place, branch[1])
        if found is not None:
            return found
    return None


def _branch(repository: Path, name: str) -> str | None:
    if (repository / name).exists():
        said = reading.text(repository / name, _SMALL).strip()
        return said if _HASH.fullmatch(said) else None
    packed = repository / "packed-refs"
    lines = reading.text(packed, _PACKED).splitlines() if packed.exists() else []
    pairs = (line.split(" ", 1) for line in lines if _HASH.match(line))
    return next((pair[0] for pair in pairs if len(pair) == 2 and pair[1] == name and _HASH.fullmatch(pair[0])), None)
