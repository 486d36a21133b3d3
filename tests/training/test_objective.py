from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from secateur.data import load_data
from secateur.tasks import Classification
from secateur.training.objective import first_not_finite, loss_of, warn_of_numbers
from secateur.training.settings import Settings


def test_labels_alone() -> None:
    scores, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    expected = F.cross_entropy(scores, labels, label_smoothing=0.1)
    task = Classification().smoothed(0.1)
    assert loss_of(task, scores, (None, labels), None, Settings(label_smoothing=0.1)) == expected


def test_distillation_by_hand() -> None:
    scores, taught = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    found = loss_of(
        Classification(), scores, (None, torch.tensor([0])), taught, Settings(distill=0.25, temperature=2.0)
    )
    p = torch.tensor([[0.0, 2.0]]).softmax(1)
    q = torch.tensor([[1.0, 0.0]]).softmax(1)
    soft = (p * (p.log() - q.log())).sum() * 4
    hard = -torch.tensor([[2.0, 0.0]]).softmax(1)[0, 0].log()
    assert found.item() == pytest.approx((0.75 * hard + 0.25 * soft).item(), rel=1e-6)


def test_a_perfect_pupil_has_nothing_to_learn() -> None:
    scores = torch.randn(4, 3, requires_grad=True)
    batch = None, torch.tensor([0, 1, 2, 0])
    loss = loss_of(Classification(), scores, batch, scores.detach(), Settings(distill=1.0))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(scores.grad, torch.zeros(4, 3), atol=1e-6, rtol=0)


def test_the_first_bad_loss_is_found() -> None:
    assert first_not_finite(torch.tensor([1.0, 2.0])) == -1
    assert first_not_finite(torch.tensor([1.0, float("inf"), float("nan")])) == 1
    assert first_not_finite(torch.tensor([float("nan"), 0.0])) == 0


def test_numbers_that_stay_while_their_pictures_move_are_said_once(tmp_path: Path) -> None:
    for number in range(12):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "targets.csv").write_text("".join(f"{number}.png,{number}\n" for number in range(12)))
    data, heard = load_data(f"pairs:{tmp_path}", image_size=8, workers=0), list[str]()
    warn_of_numbers(data, Settings(augment="none"), lambda event: heard.append(event.text))
    assert heard == []
    with pytest.warns(UserWarning, match=r"are moved at random \(augment=flip\) and their numbers are not"):
        warn_of_numbers(data, Settings(augment="flip"), lambda event: heard.append(event.text))
    warn_of_numbers(data, Settings(augment="flip"), lambda event: heard.append(event.text))
    assert len(heard) == 1
