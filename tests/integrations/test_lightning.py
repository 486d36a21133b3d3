"""A Lightning trainer prunes its network, and goes on after a kill as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
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

    def test_step(self, batch: Any, number: int) -> None:
        self.validation_step(batch, number)

    def predict_step(self, batch: Any, number: int) -> torch.Tensor:
        return self.net(batch[0])

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
    if how.pop("plain_average", False):  # which takes as many epochs as the whole training has, and one more
        more = [pl.callbacks.StochasticWeightAveraging(0.01, swa_epoch_start=2)]
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


def test_an_average_in_a_plain_copy_follows(tmp_path: Path) -> None:
    module, callback = fit(tmp_path / "whole", 5, plain_average=True, save_top_k=-1)
    assert callback.session.finished
    assert module.net[0][0].out_channels < 16
    early = next((tmp_path / "whole").glob("epoch=2-*.ckpt"))  # between the first average and the last cut
    again, late = fit(tmp_path / "again", 5, early, plain_average=True)
    assert late.session.finished
    for name, value in module.net.state_dict().items():
        assert torch.equal(value, again.net.state_dict()[name])


class Averaging(Module):
    """Keeps averages itself: of its network, and of another part that has nothing to do with it."""

    def __init__(self) -> None:
        super().__init__()
        self.average = AveragedModel(self.net)
        self.other = AveragedModel(nn.Linear(2, 2))
        self.first = pytest.importorskip("timm.utils").ModelEma(self.net)

    def on_train_batch_end(self, *_: Any) -> None:
        self.average.update_parameters(self.net)
        self.first.update(self.net)


def test_averages_in_the_module_follow(tmp_path: Path) -> None:
    def trained(epochs: int, ckpt: Path | None = None) -> Averaging:
        module = Averaging()
        trainer(tmp_path, epochs, pruning(), saving(tmp_path)).fit(module, loader(), ckpt_path=ckpt)
        return module

    whole = trained(5)
    for kept in (whole.average.module, whole.first.ema):
        assert [p.shape for p in kept.parameters()] == [p.shape for p in whole.net.parameters()]
        assert not torch.equal(kept[0][0].weight, whole.net[0][0].weight)
    trained(3)
    again = trained(5, tmp_path / "last-v1.ckpt")
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, again.average.state_dict()[name])


def test_a_checkpoint_of_a_cut_network_is_tested_without_training(tmp_path: Path) -> None:
    module, _ = fit(tmp_path, 5)
    module.net.eval()
    expected = torch.cat([module.net(x) for x, _ in loader()])
    stages = {"validate": True, "test": True, "predict": False}
    for stage, says in stages.items():
        fresh, callback = Module(), pruning()
        working = trainer(tmp_path, 1, callback, enable_checkpointing=False)
        found = getattr(working, stage)(fresh, loader(), ckpt_path=tmp_path / "last.ckpt")
        assert fresh.net[0][0].out_channels == module.net[0][0].out_channels
        assert callback.session.finished
        assert says or torch.equal(torch.cat(found), expected)
        assert "on_load_checkpoint" not in vars(fresh)
    whole, callback = Module(), pruning()
    trainer(tmp_path, 1, callback, enable_checkpointing=False).test(whole, loader())
    assert whole.net[0][0].out_channels == 16
    with pytest.raises(SettingError, match=r"call trainer.fit with this callback first"):
        callback.finish()  # nothing was to be read


def test_a_checkpoint_of_a_wider_network_is_refused_in_one_sentence(tmp_path: Path) -> None:
    module, callback = Module(), pruning()
    saving_all = saving(tmp_path, save_top_k=-1)
    working = trainer(tmp_path, 5, callback, saving_all)
    working.fit(module, loader())
    early = next(tmp_path.glob("epoch=1-*.ckpt"))
    with pytest.raises(SettingError, match="this session has cut already: build the original network again"):
        working.test(module, loader(), ckpt_path=early)
    working.test(module, loader(), ckpt_path=tmp_path / "last.ckpt")


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
