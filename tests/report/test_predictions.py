from __future__ import annotations

import functools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from test_page import ENVIRONMENT, document

from answering import TASKS, compared, data_of, network_of, right
from browser import needs_browser, opened
from secateur import artifact, report
from secateur.artifact.folder import replacing
from secateur.errors import ArtifactError
from secateur.predictions import SHOWN
from secateur.tasks import Classification, Detection, Regression, Retrieval, Segmentation

NASTY = "\"'><script>alert('x')</script>&"
GROWTH = 400_000


def named(task):
    return f"{task.name}{'-labels' if getattr(task, 'multi_label', False) else ''}"


@functools.cache
def drawn(task, side=32):
    data = replace(
        data_of(task, 16, side), names=(*["background"] * isinstance(task, Detection), NASTY, "road", "a" * 40)
    )
    return json.dumps(compared(data, network_of(task, right), network_of(task, lambda levels: levels)))


def saved(folder, answers, **changes):
    with replacing(folder, force=True) as new:
        (new / "measurement.json").write_text(json.dumps(document(**changes)))
        (new / "environment.json").write_text(json.dumps(ENVIRONMENT))
        if answers:
            (new / "predictions.json").write_text(answers)
    return folder


class Section(HTMLParser):
    """What stands in the section, and whether every element is closed."""

    EMPTY = ("use", "rect", "image")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.found, self.text = [], [], ""
        start = page.index('<section class="predictions">')
        self.feed(page[start : page.index("</section>", start) + 10])

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.found.append((tag, dict(attrs)))

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


@pytest.mark.parametrize("task", TASKS, ids=named)
def test_the_page_shows_what_both_networks_make_of_test_examples(tmp_path, task):
    page = report.write(saved(tmp_path / "art", drawn(task))).read_text("utf-8")
    section, content = Section(page), json.loads(drawn(task))
    assert section.open == []
    assert section.all("script") == []
    ids = {attributes["id"] for attributes in section.all("image")}
    assert all(attributes["href"].startswith("data:image/") for attributes in section.all("image"))
    assert {attributes["href"] for attributes in section.all("use")} <= {f"#{name}" for name in ids}
    pictured = [each for each in section.all("svg") if each.get("role") == "img"]
    tiles = [tile for each in content["examples"] for strip in each["strips"] for tile in strip["tiles"]]
    assert [each["aria-label"] for each in pictured] == [tile["alt"] for tile in tiles]
    assert all(each["aria-label"] for each in pictured)
    assert f"{SHOWN} of 16 test examples" in section.text
    for example in content["examples"]:
        assert example["title"] in section.text
        assert all(fact["text"] in section.text for fact in example["facts"])
    assert page.index('class="predictions"') < page.index(" against size</h2>")


@pytest.mark.parametrize("task", TASKS, ids=named)
def test_the_page_grows_by_less_than_was_promised(tmp_path, task):
    with_it = report.write(saved(tmp_path / "a", drawn(task, 250))).stat().st_size
    assert with_it - report.write(saved(tmp_path / "b", "")).stat().st_size < GROWTH


def test_what_others_call_their_classes_cannot_become_code(tmp_path):
    for task in (Classification(), Detection(), Retrieval(), Segmentation()):
        page = report.write(saved(tmp_path / task.name, drawn(task))).read_text("utf-8")
        assert NASTY in json.loads(drawn(task))["examples"][0]["title"] or NASTY in Section(page).text
        assert NASTY not in page
        assert "<script>alert" not in page


def test_results_without_predictions_have_a_page(tmp_path):
    page = report.write(saved(tmp_path / "art", "")).read_text("utf-8")
    assert 'class="predictions"' not in page
    assert "Where the networks disagree" not in page


def test_what_is_in_no_manifest_is_not_shown(tmp_path):
    folder = saved(tmp_path / "art", "")
    (folder / "predictions.json").write_text(drawn(Classification()))
    assert 'class="predictions"' not in report.write(folder).read_text("utf-8")


def test_changed_predictions_are_refused(tmp_path):
    folder = saved(tmp_path / "art", drawn(Classification()))
    artifact.check(folder)
    path = folder / "predictions.json"
    path.write_text(path.read_text().replace("Same", "Some"))
    with pytest.raises(ArtifactError, match=r"predictions\.json is damaged: its content has changed"):
        report.write(folder)
    path.unlink()
    with pytest.raises(ArtifactError, match=r"predictions\.json is missing"):
        report.write(folder)


def forged(change):
    content = json.loads(drawn(Detection()))
    change(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found["pictures"][0].update(type="svg+xml"), "one of its pictures is none"),
        (lambda found: found["pictures"][0].update(data='x" onload="alert(1)'), "one of its pictures is none"),
        (lambda found: found["pictures"][0].update(width="1"), "'width' is '1' and not a whole number"),
        (lambda found: found["pictures"].clear(), "it names a picture that is not there"),
        (
            lambda found: found["examples"][0]["strips"][0]["tiles"][0]["boxes"][0].update(colour="red;x:url(y)"),
            "is no colour",
        ),
        (lambda found: found.pop("note"), "'note' is undefined"),
        (lambda found: found.update(format=2), "newer version"),
        (lambda found: found.update(examples=3), "it holds something impossible"),
    ],
)
def test_forged_predictions_are_refused_in_one_sentence(tmp_path, change, said):
    folder = saved(tmp_path / "art", forged(change))
    with pytest.raises(ArtifactError) as caught:
        report.write(folder)
    assert said in str(caught.value)
    assert "predictions.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_changes_for_the_worse_are_coloured_whatever_the_metric(tmp_path):
    def page(name, before, after, *, better):
        entry = {"name": "error", "unit": "", "higher_is_better": better, "digits": 2}
        content = document()
        for when, value in (("before", before), ("middle", before), ("after", after)):
            quality = {"metrics": [{**entry, "value": value}], "loss": None, "examples": 9}
            content[when] = content[when] | {"quality": quality}
        text = report.write(saved(tmp_path / name, "", **content)).read_text("utf-8")
        return re.findall(r"<span>Error</span><b( class=\"down\")?>", text)

    assert page("a", 1.0, 2.0, better=False) == [' class="down"']
    assert page("b", 2.0, 1.0, better=False) == [""]
    assert page("c", 2.0, 1.0, better=True) == [' class="down"']
    assert page("d", 1.0, 1.001, better=False) == [""]


@needs_browser
def test_nothing_is_cut_off_on_a_phone_and_the_keyboard_reaches_everything(tmp_path):
    asks = (
        "document.querySelector('main').style.width='390px';"
        "document.querySelectorAll('.predictions details').forEach((it) => { it.open = true; });"
        "const edge = document.querySelector('main').getBoundingClientRect().right;"
        "const out = [...document.querySelectorAll('.predictions *:not(.scroll *)')]"
        ".filter((it) => it.getBoundingClientRect().right > edge + 1 && !it.closest('svg svg, defs, svg *'));"
        "const use = document.querySelector('.predictions figure use').getBoundingClientRect();"
        "const focus = [...document.querySelectorAll('.predictions .scroll')].every((it) => it.tabIndex === 0);"
        "document.body.setAttribute('data-said', [out.length, use.width > 40, focus].join());"
    )
    for task in (Classification(), Regression(), Retrieval(), Segmentation()):
        page = report.write(saved(tmp_path / named(task), drawn(task)))
        body, said = opened(page, tmp_path, asks)
        assert said == []
        assert re.findall(r'data-said="(.*?)"', body) == ["0,true,true"], task.name
