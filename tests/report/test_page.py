from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from browser import click, column, needs_browser, opened
from older import as_before
from secateur import artifact, report
from secateur.artifact.folder import replacing
from secateur.errors import ArtifactError
from secateur.measure import Quality
from secateur.report import summary
from secateur.report.page import sections
from secateur.tasks import Classification

NASTY = "<script>alert('x')</script>"
RECIPE = 'model = "secateur:resnet20"\n\n[method]\nname = "magnitude"\n'
CARD = "Drop small filters.\n\nIdea.         Small is\n              ``weak``.\nNeeds.        Weights only.\n"


def scored(top1: float, loss: float) -> dict[str, Any]:
    return Quality(Classification().metrics, (top1,), loss, 1000).to_dict()


def document(**changes: Any) -> dict[str, Any]:
    def measured(macs: int, top1: float, milliseconds: float | None) -> dict[str, Any]:
        latency = {"milliseconds": milliseconds, "spread": 0.1, "runs": 9, "batch_size": 1, "threads": 1}
        return {
            "counts": {"params": macs // 10, "nonzero": macs // 10, "macs": macs, "activations": 500},
            "quality": scored(top1, 0.4),
            "latency": latency | {"device": "cpu", "runtime": "eager"} if milliseconds else None,
        }

    layer = {
        "layer": "conv1",
        "width": 16,
        "prunable": 16,
        "group": "conv1",
        "with": ["conv2"],
        "reason": "",
        "remedy": "",
    }
    pinned = layer | {
        "layer": "fc",
        "group": "",
        "with": [],
        "prunable": 0,
        "reason": "an output of the network",
        "remedy": "nothing to do",
    }
    epoch = {"epoch": 1, "train_loss": 0.5, "train_metric": 0.8, "val_loss": 0.6, "val_metric": 0.7, "lr": 0.1}
    return {
        "format": 1,
        "model": "secateur:resnet20",
        "data": "mnist5k",
        "target": {"keep": 0.5, "of": "macs"},
        "method": {
            "name": "magnitude",
            "settings": {"norm": "l1", "keeps": [["fc", 0.5]], "fast": True},
            "card": CARD,
            "citation": "Li. Pruning. ICLR, 2017.",
            "bibtex": "@inproceedings{li2017}",
        },
        "before": measured(2_000_000, 0.92, 4.0),
        "middle": measured(1_000_000, 0.55, None),
        "after": measured(1_000_000, 0.91, 2.5),
        "widths": [{"layer": "conv1", "before": 16, "after": 8}, {"layer": "fc", "before": 10, "after": 10}],
        "explanation": {"rows": [layer, pinned], "reachable": 0.03},
        "verification": {"difference": 2e-7, "exact": True},
        "training": {
            "pretrain": {"rows": [epoch, epoch]},
            "rounds": [{"rows": [epoch]}, {"rows": [epoch | {"val_loss": None}]}],
        },
        "seconds": {"fine-tune": 12.34},
        "example": {"shape": [1, 3, 32, 32], "dtype": "float32", "output": [1, 10]},
        **changes,
    }


CURVES = [
    {
        "group": "conv1",
        "layers": ["conv1"],
        "size": 16,
        "kept": [16, 8, 4],
        "loss": [0.5, 0.7, None],
        "values": [0.9, 0.8, 0.2],
    },
    {"group": "conv2", "layers": ["conv2"], "size": 4, "kept": [4, 2], "loss": [0.5, 0.6], "values": [0.9, 0.85]},
]
ENVIRONMENT = {
    "python": "3.11",
    "secateur": "0.1.0",
    "time": "2026-01-01T00:00:00+00:00",
    "git": None,
    "method": "class A: pass",
}


def make(folder: Path, content: dict[str, Any], recipe: str = RECIPE) -> Path:
    with replacing(folder, force=True) as new:
        (new / "measurement.json").write_text(json.dumps(content))
        (new / "environment.json").write_text(json.dumps(ENVIRONMENT))
        if recipe:
            (new / "recipe.toml").write_text(recipe)
    return folder


class Page(HTMLParser):
    """The visible text, table rows and everything that a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.fetched, self.open, self.rows = "", [], [], []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        self.fetched += [value for name, value in attrs if name in ("src", "href", "action", "data")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data
            if {"td", "th"} & set(self.open):
                self.rows[-1][-1] += data


def test_the_page_holds_the_whole_story_and_fetches_nothing(tmp_path):
    folder = make(tmp_path / "art", document())
    path = report.write(folder)
    assert path == folder / "report.html"
    page = Page(path.read_text("utf-8"))
    assert page.open == []
    assert page.fetched == []
    for row in summary.rows(document()):
        label, _, note = row.label.partition(" (")
        cells = [label + note.rstrip(")"), *row.values, row.ratio, row.kept, row.removed]
        assert cells in page.rows
    for text in (
        summary.outcome(document()),
        summary.verification(document()),
        "an output of the network",
        "nothing to do",
        "1 MAC (multiply-accumulate) = 2 FLOPs",
        "@inproceedings{li2017}",
        "Li. Pruning. ICLR, 2017.",
        RECIPE.strip(),
        "Drop small filters.",
        "class A: pass",
    ):
        assert text in page.text
    assert ["conv1", "16", "8", "50.0 %"] in page.rows
    assert ["keeps", '["fc", 0.5]'] in page.rows
    assert ["fine-tuning", "12.3"] in page.rows
    assert ["python", "3.11"] in page.rows


def test_the_cut_and_the_repaired_network_have_columns_and_marks_of_their_own(tmp_path):
    middle = document()["middle"]
    cut = middle | {"quality": scored(0.12, 2.0)}
    done = {"step": "reconstruct", "layers": 7, "before": cut["quality"], "after": middle["quality"]}
    content = document(cut=cut, repairs=[done])
    text = report.write(make(tmp_path / "art", content)).read_text("utf-8")
    page = Page(text)
    assert ["", "dense", "cut", "repaired", "fine-tuned", "change", "kept", "removed"] in page.rows
    assert summary.repairs(content) == ["reconstruct (7 layers): validation accuracy from 12.0 % to 55.0 %."]
    assert summary.repairs(content)[0] in page.text
    assert "open marks are on the way: cut, then repaired" in page.text
    chart = text[text.index('id="chart-trade-off"') : text.index('id="chart-widths"')]
    assert re.findall(r'"x":(\[.*?\])', chart)[0] == "[100.0,50.0,50.0,50.0]"


def test_plotly_is_embedded_once_and_draws_five_charts(tmp_path):
    text = report.write(make(tmp_path / "art", document())).read_text("utf-8")
    assert len(re.findall(r"Plotly\.newPlot\(", text)) >= 3
    assert text.count("* plotly.js (basic - minified) v") == 1
    assert len(text) < 1_500_000
    assert set(re.findall(r'"type":"(\w+)"', text.partition('id="chart-')[2])) <= {
        "bar",
        "scatter",
        "linear",
        "log",
        "category",
        "line",
    }
    charts = ["chart-trade-off", "chart-widths", "chart-groups", "chart-loss", "chart-metric"]
    assert re.findall(r'id="(chart-[\w-]+)"', text) == charts


def test_groups_are_lines_and_searches_show_their_candidates(tmp_path):
    trials = [{"key": "a", "errors": 30, "images": 100}, {"key": "b", "errors": 20, "images": 40}]
    trials += [{"key": "c", "errors": 10, "images": 100}]
    found = {"best": 2, "images": 100, "exact": True, "trials": trials}
    text = report.write(make(tmp_path / "art", document(searches=[found]))).read_text()
    assert "chart-search-1" in text
    chart = text[text.index('id="chart-search-1"') :]
    assert '"y":[30.0,50.0,10.0]' in chart
    assert '"y":[30.0,30.0,10.0]' in chart
    assert '"type":"histogram"' not in chart  # which the part of plotly.js on the page does not draw
    assert re.search(r'"orientation":"h",.*?"x":\[1,1,1\]', chart)  # three candidates, far apart
    tied = text[text.index('id="chart-groups"') : text.index('id="chart-search-1"')]
    assert '"y":["conv1"]' in tied
    assert '"y":["stays"]' in tied


def test_accuracy_is_drawn_against_what_is_left(tmp_path):
    text = report.write(make(tmp_path / "art", document())).read_text()
    chart = text[text.index('id="chart-trade-off"') : text.index('id="chart-widths"')]
    assert re.findall(r'"x":(\[.*?\])', chart) == ["[100.0,50.0,50.0]", "[100.0,50.0,50.0]", "[100.0,62.5,62.5]"]
    assert re.findall(r'"y":(\[.*?\])', chart) == ["[92.0,55.00000000000001,91.0]"] * 3


def test_a_result_of_an_earlier_version_gives_the_same_page(tmp_path):
    content = document(sensitivity=[CURVES], repairs=[])
    old = as_before(content)
    assert "quality" not in str(old)
    assert "metric" not in str(old)
    new, older = (report.write(make(tmp_path / name, each)).read_text() for name, each in (("a", content), ("b", old)))
    assert older == new


def test_the_curves_of_a_training_without_validation_examples_are_drawn(tmp_path):
    epoch = document()["training"]["pretrain"]["rows"][0] | {"val_loss": None, "val_metric": None}
    content = document(training={"pretrain": None, "rounds": [{"rows": [epoch] * 3}]})
    text = report.write(make(tmp_path / "art", content)).read_text("utf-8")
    assert '"y":[80.0,80.0,80.0]' in text[text.index('id="chart-metric"') :]
    unknown = epoch | {"train_metric": None}
    content["training"]["rounds"] = [{"rows": [unknown] * 3}]
    assert "chart-metric" not in report.write(make(tmp_path / "b", content)).read_text("utf-8")


def test_sensitivity_is_drawn_and_tabled(tmp_path):
    text = report.write(make(tmp_path / "art", document(sensitivity=[CURVES]))).read_text()
    chart = text[text.index('id="chart-sensitivity-1"') :]
    assert '"x":[100.0,50.0,25.0]' in chart
    assert '"y":[90.0,80.0,20.0]' in chart
    rows = Page(text).rows
    assert "Validation accuracy with this share" in text
    assert ["conv1", "16", "~88.00 %", "~85.00 %", "80.00 %", "20.00 %", "—"] in rows
    assert ["conv2", "4", "~89.00 %", "~87.50 %", "85.00 %", "—", "—"] in rows


def test_what_others_wrote_cannot_become_code(tmp_path):
    content = document(model=NASTY, data=NASTY)
    content["method"] |= {
        "card": f"{NASTY}\n\nIdea.   {NASTY} `{NASTY}`\n",
        "settings": {NASTY: NASTY},
        "bibtex": NASTY,
    }
    content["explanation"]["rows"][1] |= {"layer": NASTY, "reason": NASTY, "remedy": NASTY}
    content["widths"][0]["layer"] = NASTY
    plain = report.write(make(tmp_path / "a", document())).read_text("utf-8")
    nasty = report.write(make(tmp_path / "b", content, NASTY)).read_text("utf-8")
    assert nasty.count("<script") == plain.count("<script")
    assert NASTY not in nasty
    assert NASTY in Page(nasty).text


def test_the_page_says_how_sure_a_speed_up_is_and_where(tmp_path):
    content = document()
    before, after = (content[when]["latency"] for when in ("before", "after"))
    speed = {"dense": before, "pruned": after, "milliseconds": [10.0, 5.0], "ratio": 2.0, "low": 1.96, "high": 2.03}
    speed |= {"confidence": 0.95, "clock": "wall", "wall_ratio": 2.0, "rounds": 11, "differs": True}
    content["speed"] = speed
    text = Page(report.write(make(tmp_path / "a", content)).read_text("utf-8")).text
    assert "Latency in PyTorch eager" in text
    assert "faster (95 % interval 1.96 to 2.03; 10 ms before, 5 ms after)" in text
    assert "timed in 11 turns when all else was done" in text
    content["speed"] = speed | {"differs": False, "low": 0.9}
    text = Page(report.write(make(tmp_path / "b", content)).read_text("utf-8")).text
    assert text.count("no measurable difference") == 3  # sentence, tile and table
    assert "95 % interval" not in text


def test_little_is_shown_where_little_was_measured(tmp_path):
    content = document(middle=None, widths=[], training={"pretrain": None, "rounds": []}, seconds={})
    content["target"] = {"keep": None, "of": None}
    for when in ("before", "after"):
        content[when]["quality"] = content[when]["latency"] = None
    content["explanation"]["rows"].pop()
    page = Page(report.write(make(tmp_path / "art", content, recipe="")).read_text("utf-8"))
    assert "fine-tuned" not in page.text
    assert "repaired" not in page.text
    assert "Every layer can be pruned" in page.text
    assert "no recipe" in page.text
    assert "Training" not in page.text


def test_the_same_folder_gives_the_same_page(tmp_path):
    folder = make(tmp_path / "art", document())
    assert report.write(folder, out=tmp_path / "a.html").read_bytes() == report.write(folder).read_bytes()


def test_the_page_joins_the_manifest_unless_it_goes_elsewhere(tmp_path):
    folder = make(tmp_path / "art", document())
    manifest = (folder / "manifest.json").read_text()
    out = report.write(folder, out=tmp_path / "new" / "page.html")
    assert out == tmp_path / "new" / "page.html"
    assert (folder / "manifest.json").read_text() == manifest
    report.write(folder)
    artifact.check(folder)
    assert "report.html" in json.loads((folder / "manifest.json").read_text())["files"]


def test_unusable_folders_are_explained(tmp_path):
    with pytest.raises(ArtifactError, match=r"no measurement\.json"):
        report.write(tmp_path)
    folder = make(tmp_path / "art", document())
    content = document()
    del content["after"]["counts"]["macs"]
    (folder / "measurement.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"incomplete.*'macs'"):
        report.write(folder)
    (folder / "measurement.json").write_text(json.dumps(document(format=2)))
    with pytest.raises(ArtifactError, match="newer version"):
        report.write(folder)
    (folder / "measurement.json").write_text("{")
    with pytest.raises(ArtifactError, match="damaged"):
        report.write(folder)
    assert not (folder / "report.html").exists()


def test_a_run_that_is_still_going_has_no_report(tmp_path):
    (tmp_path / "small.work").mkdir()
    with pytest.raises(ArtifactError, match=r"the run of .*small is still going, or was interrupted: wait"):
        report.write(tmp_path / "small")


def test_cards_are_split_into_their_parts():
    assert sections(CARD) == ("Drop small filters.", [("Idea", "Small is ``weak``."), ("Needs", "Weights only.")])
    assert sections("Only a sentence. And more.") == ("Only a sentence. And more.", [])
    assert sections("") == ("", [])


@needs_browser
def test_a_browser_draws_the_charts_without_complaint_and_sorts_tables(tmp_path):
    script = f"{click(0, 1)}document.body.dataset.up = {column(0, 1)};"
    script += f"{click(0, 1)}document.body.dataset.down = {column(0, 1)};"
    script += f"{click(0, 0)}document.body.dataset.again = {column(0, 0)};"
    script += "const bars = document.getElementById('chart-widths').closest('.plot'), heard = [];"
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowLeft"):
        script += f"bars.dispatchEvent(new KeyboardEvent('keydown', {{ key: '{key}' }}));"
        script += "heard.push(bars.querySelector('.heard').textContent);"
    script += "document.body.dataset.heard = heard.join('|');"
    content = document(sensitivity=[CURVES])
    content["widths"].append({"layer": "a9", "before": 9, "after": 9})
    body, said = opened(report.write(make(tmp_path / "art", content)), tmp_path, script)
    assert said == []
    assert body.count('class="main-svg"') >= 6
    found = dict(re.findall(r'data-(\w+)="([^"]*)"', body[: body.index(">")]))
    first, second, again, last = found.pop("heard").split("|")
    assert (first, again) == ("before: conv1, output channels 16",) * 2
    assert (second, last) == ("before: fc, output channels 10", "after: a9, output channels 9")
    assert found == {"up": "9|10|16", "down": "16|10|9", "again": "conv1|fc|a9"}  # layers in the order of the network
    bars = body[body.index('id="chart-widths"') : body.index('id="chart-groups"')]
    assert len(re.findall(r'class="point"', bars)) == 6  # three layers, before and after
    curves = body[body.index('id="chart-loss"') :]
    assert len(re.findall(r'class="trace scatter', curves)) == 12  # three trainings, two lines, two charts
