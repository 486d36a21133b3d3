from __future__ import annotations

from secateur.compare import figures


def test_no_two_methods_look_alike() -> None:
    """There are more methods than colours; all of them stay apart, and from the controls."""
    styles = [figures._style(number, number >= 24, 24) for number in range(27)]
    assert len({tuple(style.values()) for style in styles}) == len(styles)
    assert len({(style["color"], style["symbol"]) for style in styles}) == len(styles)
