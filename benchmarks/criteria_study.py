"""Which criteria still matter once a network is fitted anew? Tables and a picture of two comparisons.

    secateur compare recipes/compare-kinds-digits.toml --out DIGITS
    secateur compare recipes/compare-criteria-resnet20.toml --out CRITERIA
    python benchmarks/criteria_study.py --digits DIGITS --criteria CRITERIA   # takes over what is there, prints tables
    python benchmarks/criteria_study.py --figure docs/figures/criteria_study.svg --docs docs/study.md

The last line draws the criteria as SVG and puts the tables into the page, between its comments.

What is taken over from a folder is its table and its runs. Settings of methods are left out of their labels: they are
in the recipes.
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from scipy.stats import spearmanr

from criteria_study_figure import Pair, figure
from markdown_tables import head, line

RESULTS = Path(__file__).parent / "results" / "criteria_study"
TAKEN = ("table.csv", "runs.csv")
FITTED = "reconstruct"
SAME = "uniform width"  # a control that is the same network as that of magnitude
Row = Mapping[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("digits", "criteria"):
        parser.add_argument(f"--{name}", type=Path, help="folder of the comparison")
    parser.add_argument("--figure", type=Path, help="file to draw")
    parser.add_argument("--docs", type=Path, help="page to put the tables into")
    arguments = vars(parser.parse_args())
    for name in ("digits", "criteria"):
        if folder := arguments[name]:
            (RESULTS / name).mkdir(parents=True, exist_ok=True)
            for file in TAKEN:
                shutil.copyfile(folder / file, RESULTS / name / file)
    criteria, digits = rows("criteria"), rows("digits")
    tables = {
        "criteria": "\n".join([*criteria_table(criteria), "", *agreement(criteria)]),
        "digits": "\n".join(digits_table(digits)),
    }
    print(*tables.values(), sep="\n\n")
    if page := arguments["docs"]:
        page.write_text(filled(page.read_text("utf-8"), tables), "utf-8")
    if arguments["figure"]:
        panels = {f"{100 * keep:.0f} % of the MACs": pairs(criteria, keep) for keep in keeps(criteria)}
        arguments["figure"].write_text(figure(panels), "utf-8")


def rows(name: str) -> list[Row]:
    """Return the lines of a comparison's table; none where it was not taken over yet."""
    if not (RESULTS / name / "table.csv").is_file():
        return []
    with (RESULTS / name / "table.csv").open(newline="", encoding="utf-8") as file:
        return [row | {"label": re.sub(r" \([^)]*=.*\)", "", row["label"])} for row in csv.DictReader(file)]


def filled(page: str, tables: Mapping[str, str]) -> str:
    """Return a page with each table between the two comments that name it."""
    for name, table in tables.items():
        before, begin, rest = page.partition(f"<!-- {name}: made by benchmarks/criteria_study.py -->")
        _, end, after = rest.partition(f"<!-- {name}: end -->")
        if not end:
            raise SystemExit(f"the page has no two comments for the table '{name}'")
        page = f"{before}{begin}\n\n{table}\n\n{end}{after}"
    return page


def agreement(found: Sequence[Row]) -> list[str]:
    """Say for each size how far apart methods are before and after the fit, and whether their order stays."""
    lines: list[str] = []
    for keep in keeps(found):
        both = pairs(found, keep)
        cut, fitted = [pair.cut for pair in both], [pair.fitted for pair in both]
        rank = cast("float", spearmanr(cut, fitted)[0])
        lines.append(
            f"At {100 * keep:.0f} % of the MACs the {len(both)} networks have {min(cut):.1f} to {max(cut):.1f} % right "
            f"after the cut and {min(fitted):.1f} to {max(fitted):.1f} % after the fit; Spearman's rank correlation "
            f"between the two orders is {rank:.2f}."
        )
    return lines


def keeps(found: Sequence[Row]) -> list[float]:
    """Return the sizes, the largest first."""
    return sorted({float(row["keep"]) for row in found if row["keep"]}, reverse=True)


def pairs(found: Sequence[Row], keep: float) -> list[Pair]:
    """Return each method's accuracy after the bare cut and after the fit at one size, the best fit first."""
    mine = [row for row in found if row["keep"] and float(row["keep"]) == keep and row["label"] != SAME]
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
    mine = [row for row in found if row["label"] != SAME]
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
