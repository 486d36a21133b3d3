from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from browser import click, column, needs_browser, opened
from secateur.compare import Comparison, Run, requests, write
from secateur.report.numbers import MINUS

TEXT = """
model = "secateur:lenet5"
data = "mnist5k"
seeds = [0, 1]
latency = true
[target]
keeps = [0.5, 0.25]
[[method]]
name = "magnitude"
label = "<script>alert(1)</script>"
scope = "global"
[[method]]
name = "filter_std"
[train]
epochs = 1
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    comparison = Comparison.from_toml(TEXT)
    done = [
        (
            request,
            Run(
                name=request.name,
                method=request.recipe.method,
                keep=request.keep,
                seed=request.seed,
                dense=0.95,
                cut=None if request.kind != "prune" else 0.2,
                test=0.9 - 0.1 / request.keep + 0.01 * request.seed + 0.002 * number,
                val=0.8,
                test_images=1000,
                macs=int(100 * request.keep),
                params=int(80 * request.keep),
                dense_macs=100,
                dense_params=80,
                latency=2.0 * request.keep,
                dense_latency=2.0,
                epochs=1,
                environment={"torch": "2.9", "processor": "<b>fast</b>"},
            ),
        )
        for number, request in enumerate(requests(comparison))
    ]
    return write(comparison, done, tmp_path)[1].page


class Fetched(HTMLParser):
    """Everything that a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str | None] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("src", "href", "action", "data")]


def test_the_page_needs_nothing_else_and_runs_no_foreign_code(page: Path) -> None:
    text = page.read_text("utf-8")
    assert Fetched(text).found == []
    assert "<script>alert(1)" not in text
    assert "<b>fast" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert re.findall(r'id="(chart-[\w-]+)"', text) == [f"chart-trade-off-{n}" for n in ("macs", "params", "latency")]


@needs_browser
def test_a_browser_draws_the_charts_and_sorts_the_table(page: Path, tmp_path: Path) -> None:
    script = "".join(
        f"{clicks}document.body.dataset.{name} = {column(0, number)};"
        for name, clicks, number in (
            ("up", click(0, 2), 2),
            ("down", click(0, 2), 2),
            ("names", click(0, 0), 0),
            ("change", click(0, 4), 4),
        )
    )
    body, said = opened(page, tmp_path, script)
    assert said == []
    assert body.count('class="main-svg"') >= 3
    assert len(re.findall(r'class="errorbar"', body)) >= 10
    found = {name: value.split("|") for name, value in re.findall(r'data-(\w+)="([^"]*)"', body[: body.index(">")])}
    assert found["up"] == ["0.25"] * 5 + ["0.5"] * 5 + ["—"]
    assert found["down"] == ["0.5"] * 5 + ["0.25"] * 5 + ["—"]  # what is no number stays last
    assert found["names"] == sorted(found["names"], key=str.casefold)
    values = [float(text.replace(MINUS, "-")) for text in found["change"]]
    assert values == sorted(values)
