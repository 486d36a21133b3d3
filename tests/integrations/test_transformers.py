"""A trainer of Hugging Face prunes its network, and goes on after a kill as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

transformers = pytest.importorskip("transformers")

import secateur  # noqa: E402
from nets import Head, conv, lived_in  # noqa: E402
from secateur.errors import ArtifactError, SettingError  # noqa: E402
from secateur.integrations.transformers import FILE, PruningCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


class Classifier(nn.Module):
    """Takes and gives what networks of that library do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = lived_in(nn.Sequential(conv(3, 16), conv(16, 24), conv(24, 16), Head(16))).train()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(pixel_values)
        found = {} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)}
        return {**found, "logits": logits}


class Pictures(Dataset[Any]):
    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(1)
        self.images = torch.randn(12, 3, 8, 8, generator=draw)
        self.labels = torch.randint(0, 5, (12,), generator=draw)

    def __len__(self) -> int:
        return 12

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return {"pixel_values": self.images[number], "labels": self.labels[number]}


def image() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(9))


def made(folder: Path, epochs: int = 5, **more: Any) -> tuple[Any, PruningCallback]:
    callback = PruningCallback({"pixel_values": image()}, "magnitude", 0.5, steps=3, limits=secateur.Limits(multiple=1))
    args = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=6,
        save_strategy="steps",
        save_steps=1,
        lr_scheduler_type="constant",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        **more,
    )
    return transformers.Trainer(
        Classifier(), args, train_dataset=Pictures(), eval_dataset=Pictures(), callbacks=[callback]
    ), callback


@pytest.mark.parametrize("step", [6, 5], ids=["between epochs", "within an epoch"])
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path, step: int) -> None:
    trainer, callback = made(tmp_path / "whole")
    trainer.train()
    assert callback.session.finished
    folder = tmp_path / "whole" / f"checkpoint-{step}"
    assert len(json.loads((folder / FILE).read_text())["plans"]) == 2
    again, late = made(tmp_path / "again")
    late.resume(folder)
    again.train(resume_from_checkpoint=str(folder))
    assert late.session.finished
    assert again.model.net[0][0].out_channels < 16
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])


def test_the_result_is_saved_and_read(tmp_path: Path) -> None:
    trainer, callback = made(tmp_path, 4)
    trainer.train()
    folder = callback.finish(latency=False).save(tmp_path / "result")
    loaded = secateur.load(folder, dense=Classifier())
    assert torch.equal(loaded.model(image())["logits"], trainer.model.eval()(image())["logits"])


def test_what_goes_wrong_is_said(tmp_path: Path) -> None:
    _, callback = made(tmp_path, 1)
    with pytest.raises(ArtifactError, match="take a checkpoint that was written with this callback"):
        callback.resume(tmp_path / "nowhere")
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(ArtifactError, match="not the state of a session"):
        callback.resume(tmp_path)
    with pytest.raises(SettingError, match="make a trainer"):
        PruningCallback().finish()
    with pytest.warns(UserWarning, match="load_best_model_at_end"):
        made(
            tmp_path, 1, load_best_model_at_end=True, eval_strategy="steps", eval_steps=1, metric_for_best_model="loss"
        )
