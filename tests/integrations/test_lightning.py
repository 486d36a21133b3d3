"""A Lightning trainer prunes its network, and goes on after a kill as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pl = pytest.importorskip("pytorch_lightning")

import secateur  # noqa: E402
from nets import Head, conv, lived_in  # noqa: E402
from secateur.errors import SettingError  # noqa: E402
from secateur.integrations.lightning import PruningCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


class Module(pl.LightningModule):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = lived_in(nn.Sequential(conv(3, 16), conv(16, 24), conv(24, 16), Head(16))).train()

    def training_step(self, batch: Any, number: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, number: int) -> None:
        self.log("loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), 0.01)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)}


def image() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(9))


def loader() -> Any:
    draw = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(12, 3, 8, 8, generator=draw), torch.randint(0, 5, (12,), generator=draw))
    return DataLoader(data, batch_size=6)


def pruning(**more: Any) -> PruningCallback:
    asked: dict[str, Any] = {"keep": 0.5, "steps": 3, "limits": secateur.Limits(multiple=1), **more}
    return PruningCallback(image(), "magnitude", **asked)


def trainer(folder: Path, epochs: int, *callbacks: Any, **more: Any) -> Any:
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **more,
    )


def saving(folder: Path, **how: Any) -> Any:
    return pl.callbacks.ModelCheckpoint(folder, save_last=True, **how)


def fit(folder: Path, epochs: int, ckpt: Path | None = None, **how: Any) -> tuple[Module, PruningCallback]:
    module, callback = Module(), pruning()
    averaging = getattr(pl.callbacks, "EMAWeightAveraging", None)
    more = [averaging(decay=0.5)] if averaging is not None and how.pop("average", False) else []
    trainer(folder, epochs, callback, saving(folder, **how), *more).fit(module, loader(), loader(), ckpt_path=ckpt)
    return module, callback


@pytest.mark.parametrize(
    "how", [{}, {"save_on_train_epoch_end": True}, {"every_n_train_steps": 3}, {"average": True}], ids=str
)
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path, how: dict[str, Any]) -> None:
    module, callback = fit(tmp_path / "whole", 5, **how)
    assert callback.session.finished
    assert module.net[0][0].out_channels < 16
    half, early = fit(tmp_path / "half", 3, **how)
    assert early.session.cuts == 2
    again, late = fit(tmp_path / "again", 5, tmp_path / "half" / "last.ckpt", **how)
    assert late.session.finished
    for name, value in module.net.state_dict().items():
        assert torch.equal(value, again.net.state_dict()[name])
    assert [p.shape for p in half.net.parameters()] != [p.shape for p in again.net.parameters()]
    assert "on_load_checkpoint" not in vars(again)


def test_the_result_is_saved_and_read(tmp_path: Path) -> None:
    module, callback = fit(tmp_path, 4)
    folder = callback.finish(latency=False).save(tmp_path / "result")
    loaded = secateur.load(folder, dense=Module().net)
    assert torch.equal(loaded.model(image()), module.net.eval()(image()))


def test_a_wrapper_of_several_processes_follows(tmp_path: Path) -> None:
    bare, _ = fit(tmp_path / "bare", 4)
    module, callback = Module(), pruning()
    trainer(tmp_path, 4, callback, strategy="ddp", use_distributed_sampler=False).fit(module, loader(), loader())
    assert callback.session.finished
    for name, value in bare.net.named_parameters():
        assert torch.allclose(value, module.net.get_parameter(name), atol=1e-6)


def test_the_first_cut_comes_when_asked(tmp_path: Path) -> None:
    module, callback = Module(), pruning(start=0, every=2)
    trainer(tmp_path, 3, callback, enable_checkpointing=False).fit(module, loader())
    assert callback.session.cuts == 2


def test_a_network_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"Module has no network 'nett' \(did you mean 'net'\?\)"):
        trainer(tmp_path, 1, pruning(network="nett"), enable_checkpointing=False).fit(Module(), loader())
    with pytest.raises(SettingError, match=r"call trainer.fit with this callback first"):
        pruning().finish()
    with pytest.raises(SettingError, match="start must be a whole number of at least 0"):
        pruning(start=-1)
