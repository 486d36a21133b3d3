from __future__ import annotations

import pickle
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from secateur import Recipe, run_recipe
from secateur.errors import ModelError, SettingError
from secateur.models import build
from secateur.models.resnet import ResNet
from secateur.models.sources import images_for, side_of
from secateur.reading import Foreign

FACTORY = """
import torch
from torch import nn

def net(num_classes=5, in_channels=3):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.Flatten(), nn.LazyLinear(num_classes))

def plain():
    return nn.Linear(2, 2)

def sized(classes, *, channels, image=8):
    return nn.Linear(channels * image * image, classes)

def number(classes=1):
    return classes

def broken():
    raise RuntimeError("out of ideas\\nand more lines")

class Own(nn.Module):
    pass
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own nets.py"
    path.write_text(FACTORY)
    return path


def test_bare_names_are_built_in() -> None:
    model = build("resnet20", classes=100)
    assert isinstance(model, ResNet)
    assert model.linear.out_features == 100
    assert isinstance(build("secateur:resnet20"), ResNet)


@pytest.mark.parametrize("spec", ["vgg16-bn", "secateur:vgg16-bn"])
def test_unknown_built_in_name_gets_a_suggestion(spec: str) -> None:
    with pytest.raises(ModelError, match=r"no built-in network 'vgg16-bn' \(did you mean 'vgg16_bn'\?\)"):
        build(spec)


@pytest.mark.parametrize(("name", "value"), [("classes", 0), ("channels", -1), ("image", 0)])
def test_numbers_must_be_positive(name: str, value: int) -> None:
    with pytest.raises(SettingError, match=f"{name} must be a whole number of .*at least 1"):
        build("resnet20", **{name: value})  # type: ignore[arg-type]


def test_torchvision_network() -> None:
    pytest.importorskip("torchvision")
    model = build("torchvision:squeezenet1_1", classes=7)
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 7)
    with pytest.raises(ModelError, match="did you mean 'resnet18'"):
        build("torchvision:resnet-18")
    with pytest.raises(ModelError, match="reads 3 channels but the images have 1"):
        build("torchvision:squeezenet1_1", channels=1)


def test_torchvision_downloads_no_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")

    def download(*args: object, **kwargs: object) -> None:
        raise AssertionError("tried to download")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    with torch.device("meta"):
        model = build("torchvision:lraspp_mobilenet_v3_large", classes=4)
    assert isinstance(model, nn.Module)


def test_timm_network() -> None:
    pytest.importorskip("timm")
    model = build("timm:mobilenetv3_small_050", classes=7, channels=1).eval()
    assert model(torch.randn(1, 1, 32, 32)).shape == (1, 7)
    with pytest.raises(ModelError, match=r"timm has no network 'resnet1818'.*did you mean"):
        build("timm:resnet1818")
    with pytest.raises(ModelError, match="timm has no network 'hf-hub:some/net'"):
        build("timm:hf-hub:some/net")


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_missing_library_names_the_extra(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ModelError, match=r'pip install "secateur\[vision\]"'):
        build(f"{library}:resnet18")


def test_own_file_gets_only_the_arguments_it_names(own: Path) -> None:
    model = build(f"{own}:net", classes=9, channels=1, image=8)
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 9)
    assert build(f"{own}:net")(torch.randn(2, 3, 8, 8)).shape == (2, 5)
    assert isinstance(build(f"{own}:plain", classes=9), nn.Linear)
    assert build(f"{own}:sized", classes=9, channels=2, image=4).in_features == 32  # type: ignore[union-attr]
    assert type(build(f"{own}:Own")).__name__ == "Own"


def test_own_file_may_import_its_neighbours_and_leaves_the_path_alone(tmp_path: Path) -> None:
    (tmp_path / "secateur_test_blocks.py").write_text("WIDTH = 6\n")
    (tmp_path / "net.py").write_text(
        "from secateur_test_blocks import WIDTH\nfrom torch import nn\ndef net(): return nn.Linear(WIDTH, 1)\n"
    )
    before = list(sys.path)
    assert build(f"{tmp_path}/net.py:net").in_features == 6  # type: ignore[union-attr]
    assert sys.path == before


def test_own_files_of_one_name_do_not_mix(tmp_path: Path) -> None:
    for width in (1, 2):
        folder = tmp_path / str(width)
        folder.mkdir()
        (folder / "net.py").write_text(f"from torch import nn\ndef net(): return nn.Linear({width}, 1)\n")
    widths = [build(f"{tmp_path}/{width}/net.py:net").in_features for width in (1, 2, 1)]  # type: ignore[union-attr]
    assert widths == [1, 2, 1]


def test_own_file_may_hold_dataclasses(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom torch import nn\n"
        "@dataclass\nclass Config:\n    width: int = 3\n"
        "def net(): return nn.Linear(Config().width, 1)\n"
    )
    assert build(f"{tmp_path}/net.py:net").in_features == 3  # type: ignore[union-attr]


def test_importable_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secateur_test_package.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    assert isinstance(build("secateur_test_package:plain"), nn.Linear)
    assert isinstance(build("torch.nn:Flatten"), nn.Flatten)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("nett", r"has no function 'nett' \(did you mean 'net'\?\)"),
        ("number", "returned int where a torch.nn.Module was expected"),
        ("broken", "cannot be built: RuntimeError: out of ideas$"),
        ("", "has no function ''"),
    ],
)
def test_bad_factories(own: Path, factory: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(f"{own}:{factory}", classes=3)


def test_bad_files_and_modules(own: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no Python file .*none\.py"):
        build(f"{tmp_path}/none.py:net")
    with pytest.raises(ModelError, match=r"own nets\.py:FUNCTION"):
        build(str(own))
    (tmp_path / "bad.py").write_text("import secateur_no_such_module\n")
    with pytest.raises(ModelError, match=r"bad\.py cannot be run: ModuleNotFoundError: .*no_such_module"):
        build(f"{tmp_path}/bad.py:net")
    assert not any(name.startswith("secateur_own_bad") for name in sys.modules)
    with pytest.raises(ModelError, match=r"'torchvison' \(did you mean 'torchvision'\?\) cannot be imported"):
        build("torchvison:resnet18")
    (tmp_path / "net.txt").write_text(FACTORY)
    with pytest.raises(ModelError, match=r"its name must end in \.py"):
        build(f"{tmp_path}/net.txt:plain")


def test_a_network_says_itself_which_images_it_is_for(own: Path) -> None:
    assert [side_of(name) for name in ("lenet5", "secateur:lenet5", "resnet20", "torchvision:resnet18")] == [
        28,
        28,
        32,
        224,
    ]
    assert [side_of(f"{own}:{name}") for name in ("sized", "net", "missing")] == [8, 224, 224]
    assert [side_of(name) for name in ("nothing", "torchvision:nothing", "timm:nothing", "none.py:net")] == [
        32,
        224,
        224,
        224,
    ]
    pytest.importorskip("timm")
    assert side_of("timm:efficientnet_b1") == 240
    assert side_of("timm:vit_base_patch16_384") == 384


def test_code_that_a_file_names_is_not_run_before_somebody_vouches_for_it(tmp_path: Path):
    (tmp_path / "net.py").write_text("raise SystemExit('executed')")
    (tmp_path / "recipe.toml").write_text(f'model = "{tmp_path}/net.py:net"\n[method]\nname = "magnitude"\n')
    recipe = Recipe.read(tmp_path / "recipe.toml")
    for named in (recipe, replace(recipe, seed=1), pickle.loads(pickle.dumps(recipe))):
        with pytest.raises(ModelError, match="not run unasked"):
            build(named.model)
        with pytest.raises(ModelError, match="not run unasked"):
            side_of(named.model)
        with pytest.raises(ModelError, match="not run unasked"):
            run_recipe(named)
    with pytest.raises(SystemExit, match="executed"):
        build(recipe.vouched().model)
    assert recipe == recipe.vouched() == Recipe.from_toml(recipe.to_toml())
    (tmp_path / "recipe.toml").write_text('model = "lenet5"\n[method]\nname = "magnitude"\n')
    assert build(Recipe.read(tmp_path / "recipe.toml").model)


@pytest.mark.parametrize("source", ["secateur", "torchvision", "timm"])
def test_the_name_of_a_library_opens_no_file(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path(f"{source}:net.py").write_text("raise SystemExit('executed')")
    for spec in (f"{source}:net.py:net", Foreign(f"{source}:net.py:net")):
        assert side_of(spec) in (32, 224)
        with pytest.raises(ModelError, match=r"no (built-in )?network 'net\.py:net'"):
            build(spec)


def test_the_channels_of_a_network_are_those_that_it_takes_by_default(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def grey(in_channels=1, image=20): ...\ndef net(image=None): ...\n")
    assert [images_for(name) for name in ("lenet5", "resnet20", "anwar_mnist1", "torchvision:resnet18")] == [
        (1, 28),
        (3, 32),
        (1, 28),
        (3, 224),
    ]
    assert [images_for(f"{tmp_path}/own.py:{name}") for name in ("grey", "net", "none")] == [
        (1, 20),
        (3, 224),
        (3, 224),
    ]
