"""Every table can be read on a narrow terminal, its labels whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.cells import cell_len

from commands import PRUNED, Call
from secateur.cli.tables import say, table
from secateur.methods import methods

LABELS = {
    "prune": ("Accuracy", "Loss", "Parameters", "MACs", "Activations"),
    "explain": ("conv1", "conv2", "fc1", "fc2"),
    "measure": ("Parameters", "MACs", "Activations"),
    "methods": tuple(methods()),
    "show": ("Idea", "Rule", "Needs", "Cost", "norm = l1"),
    "plan": ("conv1", "conv2", "fc1", "Parameters", "MACs", "Units"),
}
VALUES = {
    "prune": ("10.50 %", "Change"),
    "explain": ("output", "Prunable"),
    "methods": ("2020",),
    "plan": ("500", "Kept"),
}


@pytest.mark.parametrize("columns", [30, 40, 80])
@pytest.mark.parametrize("command", LABELS)
def test_labels_are_whole_however_narrow_the_terminal_is(
    command: str, columns: int, secateur: Call, pruned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    words = {
        "prune": ("prune", *PRUNED, "--out", pruned, "--quiet"),
        "explain": ("explain", pruned, "--quiet"),
        "measure": ("measure", pruned, "--no-latency", "--quiet"),
        "methods": ("methods",),
        "show": ("show", "magnitude"),
        "plan": ("plan", "--model", "lenet5", "--method", "magnitude", "--keep", "0.5", "--quiet"),
    }[command]
    ended = secateur(*words)
    assert ended.status == 0, ended.err
    lines = [line.rstrip() for line in ended.out.splitlines()]
    for label in LABELS[command]:
        assert any(line == label or line.startswith(f"{label} ") for line in lines), label
    for value in VALUES.get(command, ()):
        assert any(value in line for line in lines), value
    known = [line for line in lines if "/" not in line and "@" not in line and "{" not in line]  # paths, BibTeX
    assert all(cell_len(line) <= columns for line in known), max(known, key=cell_len)


def test_a_table_becomes_paragraphs_only_where_it_must(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = table(("Layer", "Width", "Why"), [("a.long.name", "1,024", "an output"), ("b", "8", "")], numbers=(1,))
    assert made.narrowest() == len("a.long.name") + 3 + len("1,024") + 3 + len("output")
    monkeypatch.setenv("COLUMNS", str(made.narrowest()))
    say(made)
    whole = capsys.readouterr().out.splitlines()
    assert whole[0].split() == ["Layer", "Width", "Why"]
    assert whole[2].split() == ["a.long.name", "1,024", "an"]
    monkeypatch.setenv("COLUMNS", str(made.narrowest() - 1))
    say(made)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["a.long.name", "  Width: 1,024", "  Why: an output", "b", "  Width: 8"]
