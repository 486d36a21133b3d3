"""What a method says of its paper."""

from __future__ import annotations

from secateur.core.method import Paper


def test_an_article_is_cited_as_one() -> None:
    paper = Paper("On Pruning", "Ann Lee, Bo van Dyk", "Gardens 3:1-9", 2020, "doi:1/2", "article")
    assert paper.cite() == "Ann Lee, Bo van Dyk. On Pruning. Gardens 3:1-9, 2020. doi:1/2"
    assert paper.bibtex().splitlines() == [
        "@article{lee2020,",
        "  title = {On Pruning},",
        "  author = {Ann Lee and Bo van Dyk},",
        "  journal = {Gardens 3:1-9},",
        "  year = {2020},",
        "  note = {doi:1/2}",
        "}",
    ]


def test_a_conference_is_the_default() -> None:
    entry = Paper("On Pruning", "Ann Lee", "ICLR", 2020).bibtex()
    assert entry.startswith("@inproceedings{lee2020,")
    assert "booktitle = {ICLR}" in entry
    assert "note" not in entry
