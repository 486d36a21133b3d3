"""A page in headless Chromium: what it says on the console, and its elements after some clicks."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


def opened(page: Path, folder: Path, then: str = "") -> tuple[str, list[str]]:
    """Open a page and return its body afterwards, and what was said on the console.

    Args:
        page: the file.
        folder: for the browser's profile and a copy of the page.
        then: JavaScript to run at the end, as a reader's clicks would.
    """
    copy = folder / f"opened-{page.name}"
    text = page.read_text("utf-8")
    copy.write_text(text.replace("</body>", f"<script>{then}</script></body>") if then else text, encoding="utf-8")
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={folder / 'profile'}",
        "--enable-logging=stderr",
        "--v=0",
        "--virtual-time-budget=5000",
        "--dump-dom",
        f"file://{copy}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout[done.stdout.index("<body") :], said


def column(table: int, number: int) -> str:
    """Return JavaScript for the texts of a column of the n-th sortable table, first rows first."""
    return (
        f'[...document.querySelectorAll("table.sortable")[{table}].tBodies[0].rows]'
        f'.map((row) => row.cells[{number}].textContent.trim()).join("|")'
    )


def click(table: int, number: int) -> str:
    """Return JavaScript that clicks on the heading of a column."""
    head = f'document.querySelectorAll("table.sortable")[{table}].tHead.rows[0].cells[{number}]'
    return f'{head}.querySelector("button").click();'
