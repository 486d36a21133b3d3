from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from secateur.data import from_loaders, load_data
from secateur.errors import DataError
from secateur.events import Event
from secateur.tasks import Classification, Retrieval, Segmentation, Task
from secateur.training import fit
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


IMAGES = torch.rand(4, 3, 8, 8)
IGNORED = torch.full((4, 8, 8), 255)


@pytest.mark.parametrize(
    ("task", "vain", "sound", "said"),
    [
        (
            Segmentation(),
            IGNORED,
            IGNORED.clone().index_fill_(0, torch.tensor(2), 1),
            "every pixel is of the class 255, which is ignored",
        ),
        (Retrieval(), torch.zeros(4).long(), torch.tensor([0, 0, 1, 2]), "no image has both another one of its class"),
        (Retrieval(), torch.arange(4), torch.tensor([0, 0, 1, 2]), "no image has both another one of its class"),
    ],
)
def test_examples_that_teach_nothing_are_said(task: Task, vain: Tensor, sound: Tensor, said: str) -> None:
    torch.manual_seed(0)
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if isinstance(task, Retrieval) else []
    network, brief = nn.Sequential(nn.Conv2d(3, 3, 1), *pooled), Settings(epochs=2, batch_size=4, select="last")
    empty, full = [(IMAGES, vain)] * 2, [(IMAGES, vain), (IMAGES, sound)]
    with pytest.raises(DataError, match=f"nothing can be learned from any of the training batches: in .* {said}"):
        fit(network, from_loaders(empty, full, full, task=task), brief)
    told = list[str]()

    def tell(event: Event) -> None:
        if event.stage == "warning":
            told.append(event.text)

    # of what is not at hand only the training says it
    streams = (DataLoader(batches, batch_size=None) for batches in (empty, full, full))  # type: ignore[arg-type]
    fit(network, from_loaders(*streams, task=task), brief, tell=tell)
    assert [text for text in told if "the loss was 0 on every training image" in text] == told[:1] != []
    told.clear()
    fit(network, from_loaders(full, full, full, task=task), brief, tell=tell)
    assert not told
