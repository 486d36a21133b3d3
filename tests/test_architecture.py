"""The picture of the parts is that of the code, and the files that the page names are there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_picture_is_that_of_the_imports() -> None:
    program = [sys.executable, "scripts/architecture.py", "--check"]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_answers_are_files() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    named = re.findall(r"`([a-z_]+(?:/[a-z_]+)+(?:\.py)?)`", page)
    assert len(named) > 20
    assert [name for name in named if not (ROOT / "src" / "secateur" / name).exists()] == [
        name for name in named if name.startswith("scripts/")
    ]
