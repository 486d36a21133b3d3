"""What both networks made of test examples, as a part of the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from markupsafe import Markup

from secateur import reading
from secateur.artifact import check
from secateur.artifact.bounded_reading import MOST_PREDICTIONS, naming, table_of, whole_number
from secateur.artifact.manifest import MANIFEST, PREDICTIONS, manifest
from secateur.errors import ArtifactError
from secateur.predictions.content import FORMAT
from secateur.report.templating import pages

OPEN = 4
"""Rows of pictures that are seen at once; the others are folded away."""

_DATA = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_COLOUR = re.compile(r"#[0-9a-f]{6}")


def section(folder: Path) -> Markup:
    """Return the part of the page, empty where a run has drawn nothing.

    Raises:
        ArtifactError: if the file is damaged, or has changed since it was saved.
    """
    if not (folder / MANIFEST).is_file() or PREDICTIONS not in manifest(folder)["files"]:
        return Markup()
    check(folder, [PREDICTIONS])
    path = folder / PREDICTIONS
    content = table_of(path, MOST_PREDICTIONS)
    with naming(path):
        if whole_number(content, "format") > FORMAT:
            raise ArtifactError(f"{path} is of a newer version; run: pip install --upgrade secateur")
        _check_pictures(content)
        return Markup(pages("report").get_template("predictions.html.j2").render(**content, opened=OPEN))


def _check_pictures(content: dict[str, Any]) -> None:
    """Refuse what could be anything but a picture or a colour.

    Raises:
        reading.Unfit: if something is.
    """
    for picture in content["pictures"]:
        whole_number(picture, "width")
        whole_number(picture, "height")
        if picture["type"] not in ("jpeg", "png") or not _DATA.fullmatch(picture["data"]):
            raise reading.Unfit("one of its pictures is none")
    drawn = [tile for each in content["examples"] for strip in each["strips"] for tile in strip["tiles"]]
    for tile in drawn:
        if not all(type(at) is int and 0 <= at < len(content["pictures"]) for at in tile["layers"]):
            raise reading.Unfit("it names a picture that is not there")
    for entry in [*content["legend"], *(box for tile in drawn for box in tile["boxes"])]:
        if not _COLOUR.fullmatch(entry["colour"]):
            raise reading.Unfit(f"{reading.written(entry['colour'])} is no colour")
