"""What the rows of the zoo come to, and why networks are not in the first column."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from typing import Any

LARGE = 100  # MiB, beside which what every run loads is little
Row = dict[str, Any]
OURS = (
    ("exact at half the MACs", ("exact",)), ("exact with less", ("less",)), ("exact, in coarse steps", ("coarse",)),
    ("refused", ("refused", "size")), ("undecided", ("undecided",)), ("wrong", ("WRONG",)),
    ("failed", ("error", "time")),
)  # fmt: skip


def line(found: Row) -> str:
    """Say in a line what came of a network."""
    if "seconds" not in found:
        return f"{found.get('outcome', '')} {found.get('error', '')[:150]}"
    broken = [f"{name}: {why[:60]}" for name, why in found.get("checks", {}).items() if why not in ("ok", "none")]
    return (
        f"{found['outcome']:9s} keep {found.get('keep', 0):.3f} diff {found.get('difference', 0):.0e} "
        f"{found['seconds']:.2f} s {found['peak']:.0f} of {found['forward']:.0f} MiB {'; '.join(broken)}"
    )


def tables(rows: list[Row]) -> str:
    """Return the totals by kind, seconds and memory, and one line for each network that is not exact at half."""
    if not rows:
        return "nothing was run"
    return "\n".join([*_totals(rows), "", *_figures(rows), "", *_exceptions(rows)]).rstrip()


def _totals(rows: list[Row]) -> list[str]:
    rival = any("torch_pruning" in row for row in rows)
    checks = list(dict.fromkeys(name for row in rows for name in row["secateur"].get("checks", {})))
    heads = ["kind", "networks", *(head for head, _ in OURS), *(f"fails: {name}" for name in checks)]
    heads += ["seconds, median", "at most", *(["Torch-Pruning: exact", "out of time"] if rival else [])]
    lines = [_line(heads), _line(["---"] * len(heads))]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    for kind in (*kinds, *(["all"] if len(kinds) > 1 else [])):
        some = [row for row in rows if kind in ("all", row["kind"])]
        ours = [row["secateur"] for row in some]
        cells = [kind, len(some), *(sum(each["outcome"] in names for each in ours) for _, names in OURS)]
        for name in checks:
            said = [each["checks"][name] for each in ours if name in each.get("checks", {})]
            cells.append(f"{sum(why not in ('ok', 'none') for why in said)} of {sum(why != 'none' for why in said)}")
        times = [each["seconds"] for each in ours if "seconds" in each]
        cells += [f"{statistics.median(times):.2f}", f"{max(times):.1f}"] if times else ["", ""]
        theirs = [row["torch_pruning"]["outcome"] for row in some if "torch_pruning" in row]
        cells += [f"{theirs.count('exact')} of {len(theirs)}", theirs.count("time")] if rival else []
        lines.append(_line(cells))
    return lines


def _line(cells: list[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _figures(rows: list[Row]) -> list[str]:
    ran = [row["secateur"] for row in rows if "seconds" in row["secateur"]]
    lines = [f"Secateur, {len(ran)} networks: {_seconds(ran)}; {_over(ran)}."] if ran else []
    both = [row for row in rows if row["secateur"]["outcome"] == row.get("torch_pruning", {}).get("outcome") == "exact"]
    if both:
        lines.append(
            f"Where both are exact ({len(both)} networks): Secateur {_seconds([r['secateur'] for r in both])}; "
            f"Torch-Pruning {_seconds([r['torch_pruning'] for r in both])}."
        )
    means = [row["network"] for row in rows if row["secateur"].get("zeroed") == "means" and row["secateur"]["exact"]]
    if means:
        lines.append(
            f"Exact with means that the code takes itself over the channels that are left: {', '.join(means)}."
        )
    blind = [row["network"] for row in rows if row["secateur"].get("effect", 1.0) < 1e-3]
    if blind:
        lines.append(f"What was removed changes hardly anything, so that little is judged, in {', '.join(blind)}.")
    for about in dict.fromkeys(_about(row) for row in rows if "machine" in row):
        lines.append(about)
    return lines


def _about(row: Row) -> str:
    return f"{row['machine']}: {', '.join(f'{name} {version}' for name, version in row['versions'].items())}"


def _seconds(found: list[Row]) -> str:
    times = [row["seconds"] for row in found]
    return f"{statistics.median(times):.2f} s in the median, {max(times):.1f} s at most"


def _over(found: list[Row]) -> str:
    """Say how much memory they need, and how many times the model and one forward pass where models are large."""
    most = max(row["peak"] for row in found)
    times = [row["peak"] / (row["model"] + row["forward"]) for row in found if row["model"] > LARGE]
    more = f", {statistics.median(times):.1f} times the model and one forward pass in the median" if times else ""
    more += f" and {max(times):.1f} times at most, of models of more than {LARGE} MiB" if times else ""
    return f"{most:.0f} MiB at most{more}"


def _exceptions(rows: list[Row]) -> list[str]:
    """Say of each network that is not exact at half why, and count the reasons of those that are refused."""
    reasons = Counter(
        re.sub(r"'[^']*'|\d[\d.e+-]*", "…", row["secateur"].get("error", "verification"))[:110]
        for row in rows
        if row["secateur"]["outcome"] in ("refused", "size")
    )
    lines = [f"refused, {count} times: {reason}" for reason, count in reasons.most_common()]
    for row in rows:
        found = row["secateur"]
        where = f"{row['kind']} {row['network']}"
        if found["outcome"] != "exact":
            lines.append(f"{where}: {found['outcome']}: {found.get('error') or _numbers(found)}")
        for name, why in found.get("checks", {}).items():
            if why not in ("ok", "none"):
                lines.append(f"{where}: fails {name}: {why}")
    return lines


def _numbers(found: Row) -> str:
    judged = f", judged {found['difference']:.1e}" if "difference" in found else ""
    verified = f", verified {found['verify']:.1e} {found.get('layer', '')}" if "verify" in found else ""
    return f"keeps {found.get('keep', 0):.3f} of {found.get('asked', 0.5):.3f} asked{judged}{verified}".rstrip()
