"""Type checkers of users see the types of the package: right code passes, mistakes are found."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import venv
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
CHECKERS = {
    "mypy": (
        "--config-file",
        str(FOLDER / "mypy.ini"),
        "--cache-dir",
        str(ROOT / ".mypy_cache"),
        "--python-executable",
    ),
    "pyright": ("--project", str(FOLDER), "--pythonpath"),
}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an environment where this tree is an installed package, so that ``py.typed`` decides what is believed."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=sys.platform != "win32")
    (packages,) = [*folder.glob("lib/python*/site-packages"), *folder.glob("Lib/site-packages")]
    installed = importlib.metadata.distribution("torch").locate_file("")
    (packages / "tree.pth").write_text(f"{ROOT / 'src'}\n{installed}\n", "utf-8")
    return folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"


@pytest.mark.parametrize("name", CHECKERS)
def test_a_type_checker_accepts_what_is_right_and_finds_every_mistake(name: str, python: Path) -> None:
    """A mistake that is not found is an error as well: the comment that excuses it would be unused."""
    pytest.importorskip(name)
    command = [sys.executable, "-m", name, *CHECKERS[name], str(python)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280, cwd=FOLDER)
    assert done.returncode == 0, done.stdout + done.stderr
