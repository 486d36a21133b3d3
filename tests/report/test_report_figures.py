"""Charts that everybody can read: in colours that stand out on either page, and with words for who hears the page."""

from __future__ import annotations

import re

import pytest

from secateur.compare import figures as compared
from secateur.report import curves, figures, tuning

WHITE, DARK = "#ffffff", "#12171c"
COLOURS = {
    *(figures.BEFORE, figures.AFTER, figures.TRAIN, figures.VALIDATION),
    *curves._RAMP,
    *compared.COLORS,
    *compared.CONTROL_COLORS,
}


def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2.2."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colour", sorted(COLOURS))
def test_what_is_drawn_stands_out_on_the_light_and_on_the_dark_page(colour: str) -> None:
    assert contrast(WHITE, "#000000") == pytest.approx(21)
    assert min(contrast(colour, WHITE), contrast(colour, DARK)) >= 3


def test_every_chart_says_what_it_shows_and_can_be_reached_with_the_keyboard() -> None:
    search = {"tuning": {"names": ["<a>"], "points": [[0.5]], "values": [0.1], "goal": None, "of": "x"}, "best": 0}
    for chart in (
        figures.widths([{"layer": "conv1", "before": 2, "after": 1}]),
        figures.search([0.5, 0.25], [True, True], 1),
        tuning.objectives(search, 1),
        tuning.parameters([search]),
    ):
        [opening] = re.findall(r'<div class="plot"[^>]*>', chart)
        assert 'tabindex="0"' in opening
        assert re.search(r'role="figure".*aria-label="[A-Z][^"<>]{20,}"', opening)
