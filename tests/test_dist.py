"""What is built holds the package whole and nothing else, and works where it is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling")

ROOT = Path(__file__).parents[1]


def run(*words: str, **environment: str) -> str:
    command = [sys.executable, *words]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=240, cwd=ROOT, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run("-m", "hatchling", "build", "--directory", str(folder))
    return folder


def test_the_wheel_holds_the_package_and_nothing_else(built: Path):
    (wheel,) = built.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    source = ROOT / "src"
    written = {path.relative_to(source).as_posix() for path in (source / "secateur").rglob("*") if path.is_file()}
    assert held == {name for name in written if "__pycache__" not in name}
    assert {"secateur/py.typed", "secateur/cli/demo.toml", "secateur/report/templates/report.html.j2"} <= held


def test_the_source_distribution_can_be_built_and_tested(built: Path):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        held = {name.partition("/")[2] for name in opened.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "src/secateur/py.typed", "tests/test_dist.py"} <= held
    assert not any(name.startswith((".github", "benchmarks/results", "out/", ".venv")) for name in held)


def test_the_wheel_works_where_it_is_installed(built: Path, tmp_path: Path):
    (wheel,) = built.glob("*.whl")
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(tmp_path), str(wheel))
    print_it = "import secateur; print(secateur.__file__, secateur.Recipe(model='a', method='b', keep=0.5).keep)"
    where, keep = run("-c", print_it, PYTHONPATH=str(tmp_path)).rsplit(maxsplit=1)
    assert Path(where).parent == tmp_path / "secateur"
    assert keep == "0.5"
