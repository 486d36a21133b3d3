"""Which criteria still matter once a network is fitted anew? Tables and a picture of two comparisons.

    secateur compare recipes/compare-kinds-digits.toml --out DIGITS
    secateur compare recipes/compare-criteria-resnet20.toml --out CRITERIA
    python benchmarks/criteria_study.py --digits DIGITS --criteria CRITERIA   # takes over what is there, prints tables
    python benchmarks/criteria_study.py --figure FILE                         # draws those of the criteria as SVG

What is taken over from a folder is its table, its runs and its recipe.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from criteria_study_figure import Pair, figure
from markdown_tables import head, line

RESULTS = Path(__file__).parent / "results" / "criteria_study"
TAKEN = ("table.csv", "runs.csv", "recipe.toml")
FITTED = "reconstruct"
Row = Mapping[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("digits", "criteria"):
        parser.add_argument(f"--{name}", type=Path, help="folder of the comparison")
    parser.add_argument("--figure", type=Path, help="file to draw")
    arguments = vars(parser.parse_args())
    for name in ("digits", "criteria"):
        if folder := arguments[name]:
            (RESULTS / name).mkdir(parents=True, exist_ok=True)
            for file in TAKEN:
                shutil.copyfile(folder / file, RESULTS / name / file)
    criteria, digits = rows("criteria"), rows("digits")
    print(*criteria_table(criteria), "", *digits_table(digits), sep="\n")
    if arguments["figure"]:
        panels = {f"{100 * keep:.0f} % of the MACs": pairs(criteria, keep) for keep in keeps(criteria)}
        arguments["figure"].write_text(figure(panels), "utf-8")


def rows(name: str) -> list[Row]:
    """Return the lines of a comparison's table; none where it was not taken over yet."""
    if not (RESULTS / name / "table.csv").is_file():
        return []
    with (RESULTS / name / "table.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def keeps(found: Sequence[Row]) -> list[float]:
    """Return the sizes, the largest first."""
    return sorted({float(row["keep"]) for row in found if row["keep"]}, reverse=True)


def pairs(found: Sequence[Row], keep: float) -> list[Pair]:
    """Return each method's accuracy after the bare cut and after the fit at one size, the best fit first."""
    mine = [row for row in found if row["keep"] and float(row["keep"]) == keep]
    bare = {row["label"]: row for row in mine if row["repair"] != FITTED}
    both = [
        Pair(
            row["label"], percent(bare[row["label"]]["test_mean"]), percent(row["test_mean"]), row["control"] == "True"
        )
        for row in mine
        if row["repair"] == FITTED and row["label"] in bare
    ]
    return sorted(both, key=lambda pair: -pair.fitted)


def criteria_table(found: Sequence[Row]) -> list[str]:
    """Return one line for each method: bare cuts and fits at each size, with their spread over the seeds."""
    sizes = keeps(found)
    if not sizes:
        return []
    cell = {(row["label"], float(row["keep"]), row["repair"] == FITTED): row for row in found if row["keep"]}
    names = [pair.label for pair in pairs(found, min(sizes))]
    titles = [f"{words}, {100 * size:.0f} %" for size in sizes for words in ("cut", "fitted")]
    lines = [head("method", *titles)]
    for name in names:
        cells = [spread(cell.get((name, size, fitted)), "test") for size in sizes for fitted in (False, True)]
        lines.append(line(name, *cells))
    return lines


def digits_table(found: Sequence[Row]) -> list[str]:
    """Return one line for each method: right after the cut, after the fit, and both trained on."""
    mine = [row for row in found if row["keep"]]
    cell = {(row["label"], row["repair"] == FITTED): row for row in mine}
    order = sorted({row["label"] for row in mine}, key=lambda name: -best(cell, name))
    lines = [head("method", "MACs left", "cut", "fitted", "cut, trained", "fitted, trained")]
    for name in order:
        bare, fitted = cell.get((name, False)), cell.get((name, True))
        one = bare or fitted
        assert one is not None
        lines.append(
            line(
                name,
                f"{float(one['macs_left']):.2f}",
                spread(bare, "cut"),
                spread(fitted, "repaired"),
                spread(bare, "test"),
                spread(fitted, "test"),
            )
        )
    return lines


def best(cell: Mapping[tuple[str, bool], Row], name: str) -> float:
    """Return the better of a method's two accuracies after training."""
    return max(float(cell[name, fitted]["test_mean"]) for fitted in (False, True) if (name, fitted) in cell)


def spread(row: Row | None, of: str) -> str:
    """Return mean and standard deviation in per cent; a dash where there is none."""
    if row is None or not row[f"{of}_mean"]:
        return "\N{EN DASH}"
    mean = f"{percent(row[f'{of}_mean']):.1f}"
    return f"{mean} ± {percent(row[f'{of}_std']):.1f}" if row[f"{of}_std"] else mean


def percent(share: str) -> float:
    return 100 * float(share)


if __name__ == "__main__":
    main()
