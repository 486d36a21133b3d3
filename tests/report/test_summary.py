# ruff: noqa: RUF001  (the signs that are printed)
from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from older import as_before
from secateur.measure import Latency, Quality, SpeedUp
from secateur.outcome.network_stages import measured as networks
from secateur.report import outcome, rows
from secateur.report.minutes import used
from secateur.report.summary import (
    calibration,
    milliseconds,
    percent,
    repairs,
    short,
    subject,
    target,
    timing,
    training,
    verification,
)
from secateur.report.zeros_and_bits import zeros
from secateur.tasks import Classification, Metric


def measured(params: int, macs: int, top1: float | None = None, milliseconds: float | None = None) -> dict[str, Any]:
    quality = None if top1 is None else Quality(Classification().metrics, (top1,), 1 - top1, 1000).to_dict()
    latency = None
    if milliseconds is not None:
        latency = {"milliseconds": milliseconds, "spread": 0.1, "runs": 9, "batch_size": 1, "threads": 2}
        latency |= {"device": "cpu", "runtime": "eager"}
    counts = {"params": params, "nonzero": params, "macs": macs, "activations": 10}
    return {"counts": counts, "quality": quality, "latency": latency}


@pytest.fixture
def document() -> dict[str, Any]:
    row = {"train_loss": 1.0, "val_loss": None, "train_metric": 0.5, "val_metric": None, "epoch": 1}
    return {
        "format": 1,
        "model": "secateur:resnet20",
        "data": "cifar10:/home/someone/data",
        "target": {"keep": 0.5, "of": "macs"},
        "method": {"name": "magnitude", "settings": {}, "card": "", "citation": "", "bibtex": ""},
        "before": measured(272_474, 40_813_184, 0.92, 12.0),
        "middle": measured(136_237, 20_000_000, 0.5),
        "after": measured(136_237, 20_000_000, 0.915, 8.0),
        "widths": [{"layer": "a", "before": 16, "after": 8}],
        "explanation": {"rows": [], "reachable": 0.01},
        "verification": {"difference": 3.14e-7, "exact": True},
        "training": {"pretrain": None, "rounds": [{"rows": [row] * 3}]},
        "seconds": {"measure": 1.5},
        "example": {"shape": [1, 3, 32, 32], "dtype": "float32", "output": [1, 10]},
    }


def test_rows_hold_the_numbers_with_both_shares(document):
    table = {row.label: row for row in rows(document)}
    assert list(table) == [
        "Accuracy",
        "Loss",
        "Parameters",
        "MACs",
        "Activations",
        "Latency in PyTorch eager (batch of 1, cpu, 2 threads)",
    ]
    accuracy, params, macs = table["Accuracy"], table["Parameters"], table["MACs"]
    assert accuracy.values == ("92.00 %", "50.00 %", "91.50 %")
    assert (accuracy.before, accuracy.after) == ("92.00 %", "91.50 %")
    assert accuracy.ratio == "−0.50 points"
    assert (params.before, params.after) == ("272.5 k", "136.2 k")
    assert (params.ratio, params.kept, params.removed) == ("2.00× fewer", "50.0 %", "50.0 %")
    assert (macs.before, macs.ratio, macs.kept, macs.removed) == ("40.81 M", "2.04× fewer", "49.0 %", "51.0 %")
    assert table["Activations"].ratio == "unchanged"
    latency = rows(document)[-1]
    assert (latency.values, latency.ratio) == (("12 ms", "—", "8 ms"), "1.50× faster")


def repaired(document: dict[str, Any], *, tuned: bool) -> dict[str, Any]:
    """Return the same with a repair from 10 to 80 %, which ends there or is fine-tuned."""
    cut, middle = measured(136_237, 20_000_000, 0.1), measured(136_237, 20_000_000, 0.8)
    done = {"step": "reconstruct", "layers": 9, "before": cut["quality"], "after": middle["quality"]}
    after = {} if tuned else {"after": middle, "training": {"pretrain": None, "rounds": []}}
    return document | {"cut": cut, "middle": middle if tuned else None, "repairs": [done], **after}


@pytest.mark.parametrize("exact", [True, False])
def test_where_no_layer_is_thinner_it_is_weights_that_went(document: dict[str, Any], exact: bool) -> None:
    """A measurement of the cut network is there only where a repair or a training follows."""
    document["widths"] = [width | {"after": width["before"]} for width in document["widths"]]
    document["verification"]["exact"] = exact
    thinned = measured(136_237, 20_000_000)
    thinned["counts"]["nonzero"] -= 100
    for parts in ({"cut": thinned}, {"after": thinned}):
        assert "with the removed weights set to zero" in verification(document | parts)


def test_dense_cut_repaired_and_tuned_network_are_shown_side_by_side(document):
    tuned, plain = repaired(document, tuned=True), repaired(document, tuned=False)
    assert list(networks(tuned)) == ["dense", "cut", "repaired", "fine-tuned"]
    assert rows(tuned)[0].values == ("92.00 %", "10.00 %", "80.00 %", "91.50 %")
    assert rows(tuned)[-1].values == ("12 ms", "—", "—", "8 ms")
    assert "from 92.00 % to 10.00 % cut, 80.00 % repaired and 91.50 % fine-tuned (−0.50 points)" in outcome(tuned)
    assert verification(tuned).startswith("Before its repair and fine-tuning, the pruned network")
    taught = tuned | {"minutes": {"way": "distillation", "gained": True, "training": 1.0}}
    assert verification(taught).startswith("Before its repair and distillation, the pruned network")
    assert list(networks(plain)) == ["dense", "cut", "repaired"]
    assert "from 92.00 % to 10.00 % cut and 80.00 % repaired (−12.00 points)" in outcome(plain)
    assert verification(plain).startswith("Before its repair, the pruned network")


def test_results_of_earlier_versions_tell_what_they_know(document):
    """They have no measurement of the cut network where it was repaired, and the oldest know of no repairs."""
    assert list(networks(document)) == ["dense", "cut", "fine-tuned"]
    old = repaired(document, tuned=True)
    del old["cut"]
    assert list(networks(old)) == ["dense", "repaired", "fine-tuned"]
    assert "from 92.00 % to 80.00 % repaired and 91.50 % fine-tuned" in outcome(old)


def test_networks_of_which_the_size_alone_is_known_are_not_repeated(document):
    plain = repaired(document, tuned=False)
    for part in ("before", "cut", "after"):
        plain[part] = plain[part] | {"quality": None}
    assert list(networks(plain)) == ["dense", "repaired"]


def test_what_was_not_measured_is_left_out_or_dashed(document):
    for when in ("before", "after"):
        document[when]["quality"] = document[when]["latency"] = None
    document["middle"] = None
    assert [row.label for row in rows(document)] == ["Parameters", "MACs", "Activations"]
    assert all(len(row.values) == 2 for row in rows(document))
    assert (
        outcome(document) == "resnet20 on cifar10 keeps 49.0 % of its MACs (2.04× fewer) and 50.0 % of its parameters."
    )
    document["after"]["quality"] = Quality(Classification().metrics, (0.5,), None, 3).to_dict()
    accuracy = rows(document)[0]
    assert (accuracy.before, accuracy.after, accuracy.ratio) == ("—", "50.00 %", "")
    assert [row.label for row in rows(document)] == ["Accuracy", "Parameters", "MACs", "Activations"]


def test_zeroed_weights_get_a_row_of_their_own(document):
    document["after"]["counts"]["nonzero"] = 27_247
    row = next(row for row in rows(document) if row.label == "Nonzero parameters")
    assert (row.after, row.ratio) == ("27.25 k", "10.00× fewer")
    share = 100 * 27_247 / document["after"]["counts"]["params"]
    assert f"of its parameters, {share:.1f} % of which are not zero" in outcome(document)


def test_slower_and_larger_are_said_plainly(document):
    document["after"]["latency"]["milliseconds"] = 24.0
    document["after"]["counts"]["macs"] *= 4
    table = {row.label: row for row in rows(document)}
    assert rows(document)[-1].ratio == "2.00× slower"
    assert table["MACs"].ratio == "1.96× more"
    assert table["MACs"].removed == "−96.0 %"


def test_outcome_is_one_sentence_with_the_same_numbers(document):
    text = outcome(document)
    assert text.startswith("resnet20 on cifar10 keeps 49.0 % of its MACs (2.04× fewer)")
    assert "from 92.00 % to 50.00 % cut and 91.50 % fine-tuned (−0.50 points)" in text
    assert "1.50× faster (12 ms before, 8 ms after)" in text
    assert "someone" not in text


def speed_of(ratio: float, low: float, high: float, *, runtime: str = "onnxruntime") -> dict[str, Any]:
    """Return what a measurement in turns leaves in a document."""
    dense, pruned = (
        Latency(2 * time, 0.1, 99, 1, 1, "cpu", runtime) for time in (12.1, 12.1 / ratio)
    )  # on the wall, of a busy machine
    found = SpeedUp(dense, pruned, 12.1, 12.1 / ratio, "processor", ratio, low, high, 0.95, 1.9, ratio, 11)
    return found.to_dict()


def timed(document: dict[str, Any], speed: dict[str, Any]) -> dict[str, Any]:
    before, after = document["before"] | {"latency": speed["dense"]}, document["after"] | {"latency": speed["pruned"]}
    return document | {"before": before, "after": after, "speed": speed}


def test_a_speed_up_is_told_with_its_interval_and_runtime(document):
    told = timed(document, speed_of(2.0, 1.96, 2.03))
    assert outcome(told).endswith(
        "; a forward pass in ONNX Runtime is 2.00× faster (95 % interval 1.96 to 2.03; 12.1 ms before, 6.05 ms after)."
    )
    row = rows(told)[-1]
    assert row.label == "Latency in ONNX Runtime (batch of 1, cpu, 1 thread, processor time)"
    assert (row.before, row.after) == ("12.1 ms", "6.05 ms")  # by the clock that decides
    assert (row.ratio, row.interval) == ("2.00× faster", "95 % interval 1.96 to 2.03")
    assert "timed in 11 turns when all else was done" in timing(told)
    assert "(by the wall clock it was 1.90×)" in timing(told)
    slower = rows(timed(document, speed_of(0.8, 0.76, 0.85)))[-1]
    assert (slower.ratio, slower.interval) == ("1.25× slower", "95 % interval 1.18 to 1.32")


@pytest.mark.parametrize(("ratio", "low", "high"), [(1.2, 0.98, 1.4), (0.9, 0.8, 1.1), (1.004, 1.003, 1.005)])
def test_what_is_inside_the_noise_is_no_factor(document, ratio: float, low: float, high: float):
    told = timed(document, speed_of(ratio, low, high, runtime="channels_last"))
    row = rows(told)[-1]
    assert (row.ratio, row.interval) == ("no measurable difference", "")
    assert "; a forward pass in PyTorch channels-last shows no measurable difference (12.1 ms before, " in outcome(told)
    for text in (row.ratio, outcome(told).partition("forward pass")[2], timing(told)):
        assert "×" not in text


def test_latencies_of_earlier_versions_are_told_as_they_were(document):
    assert "; a forward pass in PyTorch eager is 1.50× faster (12 ms before, 8 ms after)." in outcome(document)
    assert timing(document) == "Latency is the median of 9 runs; half of them lie within 0.1 ms."
    document["after"]["latency"] = None
    assert timing(document) == ""


def test_target_says_what_was_asked_and_reached(document):
    assert target(document) == "Asked: keep at most 50.0 % of the MACs. Reached: 49.0 %."
    assert target(document | {"target": {"keep": 0.5, "of": "units"}}) == "Asked: keep at most 50.0 % of the units."
    assert "own settings" in target(document | {"target": {"keep": None, "of": None}})


def test_verification_and_training_are_honest(document):
    assert "3.1e-07" in verification(document)
    assert "rounding" in verification(document)
    assert "more than rounding" in verification(document | {"verification": {"difference": 0.2, "exact": False}})
    assert "with the removed channels silenced" in verification(document)
    assert "3 more epochs" in training(document)
    assert training(document | {"training": {"pretrain": None, "rounds": []}}) == ""


def test_names_of_files_are_shown_without_folders(document):
    net = document | {"model": "/home/me/nets/net.py:build"}
    assert subject(net | {"data": ""}) == "net.py:build"
    assert subject(net | {"data": "cifar10:/home/me/pictures"}) == "net.py:build on cifar10"
    assert subject(net | {"data": "coco:/home/me/blood cells/"}) == "net.py:build on blood cells"
    assert subject(net | {"data": "coco:."}) == "net.py:build on coco"
    assert subject(net | {"data": "superresolution:C:\\me\\streets?scale=2"}) == "net.py:build on streets"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1 k"),
        (999_940, "999.9 k"),
        (999_960, "1 M"),
        (1.2345e9, "1.234 G"),
        (4e15, "4000 T"),
    ],
)
def test_short_numbers(number, text):
    assert short(number) == text


@given(st.integers(0, 10**14))
def test_short_numbers_are_right_to_four_digits(number):
    value, _, prefix = short(number).partition(" ")
    factor = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[prefix]
    assert float(value) * factor == pytest.approx(number, rel=6e-4)


def test_small_shares_do_not_vanish():
    assert percent(0.00042) == "0.042 %"
    assert percent(0.0) == "0.0 %"
    assert percent(1.0) == "100.0 %"


def test_the_document_is_not_changed(document):
    before = copy.deepcopy(document)
    rows(document)
    outcome(document)
    assert document == before


@pytest.mark.parametrize(
    ("time", "digits", "text"),
    [
        (0.01234, 3, "0.0123 ms"),
        (243.4, 3, "243 ms"),
        (999.4, 3, "999 ms"),
        (999.6, 3, "1,000 ms"),
        (1560.2, 3, "1,560 ms"),
        (158.0, 2, "158 ms"),
    ],
)
def test_times_are_written_without_exponents(time: float, digits: int, text: str):
    assert milliseconds(time, digits) == text


def test_zeros_are_worth_a_sentence_that_promises_no_speed(document):
    assert zeros(document) == ""
    counts = document["after"]["counts"]
    counts["nonzero"] = counts["params"] // 4
    text = zeros(document)
    assert text.startswith("75.0 % of the parameters that stay are zero: less to store in a sparse format")
    assert "dense runtimes compute with zeros as with any number" in text
    assert "only where 84 to 97 %" in text
    document["execution"] = {"a": "strided", "b": "dense"}
    assert "1 layer whose zeros follow a regular pattern runs as a smaller dense product" in zeros(document)
    document["execution"]["b"] = "strided"
    assert "2 layers whose zeros follow a regular pattern run as" in zeros(document)


def test_repairs_say_what_they_brought_if_that_is_known(document):
    assert repairs(document) == calibration(document) == []
    half, more = (measured(1, 1, share)["quality"] for share in (0.5, 0.75))
    scored = {"step": "reconstruct", "layers": 2, "before": half, "after": more}
    document["repairs"] = [scored, {"step": "recalibrate", "layers": 1, "before": None, "after": None}]
    document["calibration"] = "70 unlabelled images (arrays): up to 1,000 win a little more"
    assert repairs(document) == [
        "reconstruct (2 layers): validation accuracy from 50.0 % to 75.0 %.",
        "recalibrate (1 layer); what it brought is not known without labelled images.",
    ]
    assert "of its parameters, repaired from 70 unlabelled images; its test accuracy goes from" in outcome(document)
    unchanged = document | {"repairs": [each | {"layers": 0} for each in document["repairs"]]}
    assert "repaired from" not in outcome(unchanged)
    assert repairs(unchanged) == ["reconstruct found nothing to mend.", "recalibrate found nothing to mend."]
    blind = document | {"repairs": [scored | {"step": "fold"}]}
    assert "repaired without images (fold)" in outcome(blind)
    assert "repaired from" not in outcome(blind)
    assert calibration(document) == ["70 unlabelled images (arrays): up to 1,000 win a little more."]


def test_accuracies_of_earlier_versions_are_told_as_they_were(document):
    told = repaired(document, tuned=True)
    old = as_before(told)
    assert "quality" not in str(old)
    assert rows(old) == rows(told)
    assert outcome(old) == outcome(told)
    assert repairs(old) == repairs(told) == ["reconstruct (9 layers): validation accuracy from 10.0 % to 80.0 %."]
    assert training(old) == training(told)
    minutes = {"minutes": 1, "repair": 1.0, "training": 2.0, "way": "fine-tuning", "steps": 3, "held_out": 20}
    minutes |= {"before": 1.0, "after": 0.5, "gained": True, "ended": "the time was up"}
    new, older = ({f"{name}_before": 0.5, f"{name}_after": 0.75} for name in ("metric", "accuracy"))
    sentence = "On 20 validation images accuracy went from 50.00 % to 75.00 %, and the loss from 1.000 to 0.500."
    assert used(told | {"minutes": minutes | new})[1] == used(old | {"minutes": minutes | older})[1] == sentence


def test_metrics_of_other_tasks_are_told_in_their_units(document):
    error = Metric("RMSE", "m", higher_is_better=False)
    for when, value in (("before", 1.5), ("middle", math.nan), ("after", 1.75)):
        document[when]["quality"] = Quality((error, Metric("R²")), (value, 0.5), None, 40).to_dict()
    first, second = rows(document)[:2]
    assert (first.label, first.values, first.ratio) == ("RMSE", ("1.500 m", "—", "1.750 m"), "+0.250 m")
    assert (second.label, second.ratio) == ("R²", "±0.000")
    assert "its test RMSE goes from 1.500 m to 1.750 m fine-tuned (+0.250 m)" in outcome(document)
    assert training(document).endswith("is part of the difference in RMSE.")
