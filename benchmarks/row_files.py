"""Files of measurements, one JSON object a line, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any


def append(file: Path, row: dict[str, Any]) -> None:
    """Add one line, in one write."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab", buffering=0) as stream:
        stream.write((json.dumps(row) + "\n").encode())


def read(file: Path, key: Callable[[dict[str, Any]], Hashable]) -> list[dict[str, Any]]:
    """Return the last row of each kind; none where there is no file."""
    if not file.is_file():
        return []
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines() if line]
    return list({key(row): row for row in rows}.values())
