#!/usr/bin/env python3
"""Draw which part of Secateur imports which: ``docs/figures/architecture.svg``, from the code as it is.

python scripts/architecture.py            write the picture
python scripts/architecture.py --check    fail if it is not that of the code
"""

from __future__ import annotations

import argparse
import ast
import sys
import tomllib
from pathlib import Path

import grimp
import networkx as nx

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "figures" / "architecture.svg"
WIDTH, ROW, BOX, GAP, MARGIN = 760, 56, 30, 14, 16
LETTER = 7.6  # width of one, in the font of the boxes


def layers() -> list[list[str]]:
    """Return the parts of the package, layer by layer from the top, as the linter of imports has them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    [contract] = [it for it in settings["contracts"] if it["type"] == "layers" and it["containers"] == ["secateur"]]
    return [[name.strip() for name in row.split("|")] for row in contract["layers"]]


def edges(names: list[str]) -> list[tuple[str, str]]:
    """Return which part imports which, without those imports that a longer way implies."""
    graph = grimp.build_graph("secateur", cache_dir=None)
    found = nx.DiGraph()
    found.add_nodes_from(names)
    for module in sorted(graph.modules):
        for other in graph.find_modules_directly_imported_by(module):
            one, two = (f"{name}.".split(".")[1] for name in (module, other))
            if one in names and two in names and one != two:
                found.add_edge(one, two)
    return sorted(nx.transitive_reduction(found).edges)


def said(name: str) -> str:
    """Return what a part is for: the first words of its docstring."""
    path = ROOT / "src" / "secateur" / name
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").split("\n\n")[0].replace("\n", " ")


def picture() -> str:
    """Return the SVG."""
    rows = layers()
    places: dict[str, tuple[float, float, float]] = {}
    for number, row in enumerate(rows):
        widths = [LETTER * len(name) + 22 for name in row]
        left = (WIDTH - sum(widths) - GAP * (len(row) - 1)) / 2
        for name, width in zip(row, widths, strict=True):
            places[name] = (left, MARGIN + number * ROW, width)
            left += width + GAP
    height = 2 * MARGIN + ROW * (len(rows) - 1) + BOX
    lines = [
        f'<path class="line" d="M{a[0] + a[2] / 2:.0f} {a[1] + BOX:.0f} C{a[0] + a[2] / 2:.0f} {a[1] + BOX + 14:.0f} '
        f'{b[0] + b[2] / 2:.0f} {b[1] - 14:.0f} {b[0] + b[2] / 2:.0f} {b[1]:.0f}">'
        f"<title>{one} imports {two}</title></path>"
        for one, two in edges([name for row in rows for name in row])
        for a, b in [(places[one], places[two])]
    ]
    boxes = [
        f'<g><title>{_escaped(said(name))}</title><rect class="box" x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" '
        f'height="{BOX}" rx="6"/><text x="{x + width / 2:.0f}" y="{y + BOX / 2 + 5:.0f}">{name}</text></g>'
        for name, (x, y, width) in places.items()
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
            'font-family="ui-monospace, monospace" font-size="13">',
            "<title>The parts of Secateur and what they import: always what lies below</title>",
            "<style>.box{fill:#fff;stroke:#57606a}.line{fill:none;stroke:#8c959f}text{text-anchor:middle;fill:#1f2328}"
            "@media(prefers-color-scheme:dark){.box{fill:#161b22;stroke:#8b949e}.line{stroke:#6e7681}text{fill:#e6edf3}}"
            "</style>",
            *lines,
            *boxes,
            "</svg>",
            "",
        ]
    )


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def main() -> int:
    """Write the picture, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the picture is another")
    drawn = picture()
    if not parser.parse_args().check:
        PICTURE.write_text(drawn, "utf-8")
        return 0
    if not PICTURE.exists() or PICTURE.read_text("utf-8") != drawn:
        print(f"{PICTURE} is not that of the code: run python scripts/architecture.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
