from __future__ import annotations

import pytest
import torch

import secateur
from secateur import artifact, report
from secateur.events import Event
from secateur.run import shown_answers


def pruned(trained, data, **more):
    heard = list[Event]()
    result = secateur.prune(
        trained, torch.randn(1, 3, 8, 8), "magnitude", 0.5, data, latency=False, repair=(), tell=heard.append, **more
    )
    return result, [event.text for event in heard if event.stage == "warning"]


def test_a_result_keeps_what_both_networks_make_of_test_images(trained, data, tmp_path):
    result, _ = pruned(trained, data)
    found = result.predictions
    assert found["looked_at"] == data.size("test")
    assert len(found["examples"]) == 12
    assert "answers" in result.seconds
    folder = result.save(tmp_path / "art")
    artifact.check(folder, ["predictions.json"])
    assert 'class="predictions"' in report.write(folder).read_text("utf-8")
    again, _ = pruned(trained, data)
    assert again.predictions == found


def test_without_data_nothing_is_looked_at(trained, tmp_path):
    result, _ = pruned(trained, None)
    assert result.predictions == {}
    assert "answers" not in result.seconds
    folder = result.save(tmp_path / "art")
    assert not (folder / "predictions.json").exists()
    assert 'class="predictions"' not in report.write(folder).read_text("utf-8")


def test_answers_that_nobody_wants_are_not_computed(trained, data, monkeypatch):
    monkeypatch.setattr(shown_answers, "some_batches", lambda data: pytest.fail("they were"))
    result, warnings = pruned(trained, data, answers=False)
    assert (result.predictions, [text for text in warnings if "will not show" in text]) == ({}, [])
    assert "answers" not in result.seconds


@pytest.mark.parametrize("error", [RuntimeError("the disk is gone"), MemoryError("too large"), ValueError("\x1b[2J")])
def test_pictures_that_fail_cost_one_warning_and_no_run(trained, data, monkeypatch, error):
    def fail(*given, **named):
        raise error

    monkeypatch.setattr(shown_answers, "drawn", fail)
    result, warnings = pruned(trained, data)
    assert result.predictions == {}
    assert result.after.quality is not None
    assert len([text for text in warnings if "will not show" in text]) == 1


def test_an_interruption_is_no_failure_of_pictures(trained, data, monkeypatch):
    def stop(*given, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(shown_answers, "drawn", stop)
    with pytest.raises(KeyboardInterrupt):
        pruned(trained, data)
