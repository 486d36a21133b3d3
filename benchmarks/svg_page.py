"""The frame of a picture: an SVG that brings its own ground and colours for light and for dark pages."""

from __future__ import annotations

from collections.abc import Iterable


def svg_page(title: str, width: int, height: int, style: str, parts: Iterable[str]) -> str:
    """Return the document.

    Args:
        title: what it shows, for readers who hear the page.
        width: in pixels.
        height: in pixels.
        style: CSS; its class ``page`` is the ground.
        parts: the elements.
    """
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
        'font-family="system-ui, sans-serif" font-size="14">',
        f"<title>{title}</title>",
        f"<style>{style}</style>",
        f'<rect class="page" width="{width}" height="{height}" rx="6"/>',
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"
