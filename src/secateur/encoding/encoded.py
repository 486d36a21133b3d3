"""A network into one small file, and out of it again."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur.arguments import checked
from secateur.artifact import weights, write_file
from secateur.artifact.bounded_reading import naming
from secateur.atomic import refuse_special
from secateur.core.surgery.private_copies import apart, private
from secateur.data import Data
from secateur.encoding import file
from secateur.encoding.on_grids import grids_in
from secateur.encoding.rates import FLOAT, EncodedLayer
from secateur.encoding.settings import Encoding
from secateur.encoding.shared_values import SharedValues, share_all
from secateur.errors import ArtifactError, DataError
from secateur.events import Event, Tell, ignore, warn
from secateur.measure.forward import device_of
from secateur.progress import shown
from secateur.rules import AnySeed
from secateur.spelling import said
from secateur.training import Settings, fit

USUAL = Encoding()
_ADVICE = "it is not of the network that was encoded; give decode a network of the same architecture and types"


@dataclass(frozen=True)
class Encoded:
    """A network that was encoded.

    Attributes:
        path: the file.
        model: the network that it holds, bit for bit, in evaluation mode.
        size: bytes of the file.
        numbers: how many numbers the network's state has.
        layers: what became of each weight that shares values.
    """

    path: Path
    model: nn.Module
    size: int
    numbers: int
    layers: tuple[EncodedLayer, ...]

    @property
    def dense_size(self) -> int:
        """Bytes of all numbers in float32."""
        return self.numbers * FLOAT // 8

    @property
    def rate(self) -> float:
        """How many times smaller the file is than all numbers in float32."""
        return self.dense_size / self.size

    @property
    def shared_rate(self) -> float:
        """The same before Huffman coding, on paper."""
        rest = self.numbers - sum(layer.weights for layer in self.layers)
        bits = rest * FLOAT + sum(layer.shared for layer in self.layers)
        return self.numbers * FLOAT / max(bits, 1)  # what is all zero takes none


@checked
@shown
@apart("model")
def encode(
    model: nn.Module,
    path: str | Path,
    settings: Encoding = USUAL,
    *,
    data: Data | None = None,
    train: Settings | None = None,
    seed: AnySeed = 0,
    force: bool = False,
    progress: bool | None = None,
    tell: Tell = ignore,
) -> Encoded:
    """Write a network as one file in which its weights share few values, without those that are zero.

    Prune it first: what is zero costs next to nothing. The given network is left as it is; that in the file differs
    from it by the sharing, and is returned.

    Args:
        model: any network.
        path: the file; its folder must be there.
        settings: how many bits are used for what.
        data: where shared values train on.
        train: how; a tenth of the rate of the training before, for an epoch, is usual. None: they stay means. What lies
            on a grid is never trained, and nothing is where all weights do.
        seed: of that training.
        force: replace a file that is there.
        progress: whether to show on standard error what goes on; None: in a terminal and in a notebook.
        tell: instead of a display, hears the progress.

    Raises:
        ArtifactError: if a file is there, or cannot be written, or does not read back as it was; an old one stays.
        DataError: if there are settings for a training and no data.
        SettingError: if a pattern names no layer, or a weight is not finite.
    """
    place = Path(path)
    if place.exists() and not force:
        raise ArtifactError(f"{place} exists already; give another path, or replace it with force")
    with _writing(place):
        refuse_special(place)
    if train is not None and data is None:
        raise DataError("training shared values needs data; give it, or leave train out")
    thin = private(model)
    tell(Event("encode", "finding shared values"))
    own = {name: parameter for name, parameter in thin.named_parameters() if parameter.is_floating_point()}
    grids = {name: grid for name, grid in grids_in(thin).items() if name in own}
    bits = settings.bits_of(
        {name: tuple(parameter.shape) for name, parameter in own.items()},
        {name: grid.bits for name, grid in grids.items()},
    )
    sharings = share_all(thin, bits, grids)
    if left := [name for name in grids if name in sharings and sharings[name].grid is None]:
        warn(_leaving(left[0], len(left) - 1, grids[left[0]].bits, bits[left[0]]), tell)
    if sharings and all(sharing.grid is not None for sharing in sharings.values()):
        train = None  # nothing has moved that a training could make good
    if train is not None and data is not None:
        values = SharedValues(thin, sharings)
        with values.attached():
            fit(thin, data, train, shaper=values, seed=seed, tell=tell)
    tensors, tied = weights.tensors_of(thin)
    tell(Event("encode", "writing codes"))
    content, layers = file.to_bytes(
        tensors, tied, {name: it for name, it in sharings.items() if name in tensors}, settings.gap_bits
    )
    with _writing(place):
        write_file(place, content, lambda written: _check(written, place, tensors))
    numbers = sum(tensor.numel() for tensor in tensors.values())
    return Encoded(place, thin.eval(), len(content), numbers, layers)


@checked
@apart("network")
def decode(path: str | Path, network: nn.Module) -> nn.Module:
    """Return a network with the weights of an encoded file, in evaluation mode; nothing in the file is executed.

    Args:
        path: the file.
        network: of the architecture that was encoded, as ``build`` or ``load`` make it, and of the same types of
            numbers, for what was encoded comes back bit for bit or not at all; left as it is.

    Raises:
        ArtifactError: if the file is missing, foreign, damaged, newer, or of another network.
    """
    place = Path(path)
    tensors, tied = file.read(place)
    whole = tensors | {name: tensors[first] for name, first in tied.items()}
    found = {name: (_kind(tensor), tuple(tensor.shape)) for name, tensor in whole.items()}
    weights.check_fit(network, found, place, _ADVICE)
    own: dict[str, Tensor] = network.state_dict()
    for name, tensor in whole.items():
        if own[name].dtype != tensor.dtype:
            raise ArtifactError(
                f"'{name}' has numbers of {tensor.dtype} in {place} and of {own[name].dtype} in the network: {_ADVICE}"
            )
    made = private(network)
    with naming(place):
        device = device_of(made)
        weights.put_into(made, {name: tensor.to(device) for name, tensor in whole.items()})
    return made.eval()


def to_safetensors(path: Path) -> bytes:
    """Return the weights of an encoded file as an ordinary safetensors file.

    Raises:
        ArtifactError: as ``decode``.
    """
    return weights.as_file(*file.read(path))


def _leaving(name: str, others: int, own: int, bits: int) -> str:
    who = f"'{name}' and {others} others leave the grids" if others else f"'{name}' leaves the grid"
    they = "they lie" if others else "it lies"
    return (
        f"{who} of {own} bits that {they} on, as {bits} bits stand for a number in the file; 0 bits would store all as "
        "it is"
    )


@contextmanager
def _writing(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        remedy = said("give another path", "name another with --out")
        raise ArtifactError(f"cannot write {path}: {error.strerror or error}; {remedy}") from error


def _check(written: Path, path: Path, expected: dict[str, Tensor]) -> None:
    """Read what was written, and compare every bit of it, before it takes the place of an older file."""
    found, _ = file.read(written)
    for name, tensor in expected.items():
        again = found.get(name)
        if again is None or again.dtype != tensor.dtype or again.shape != tensor.shape or not _same(again, tensor):
            raise ArtifactError(f"'{name}' does not come back from {path} as it was; please report this network")


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


def _kind(tensor: Tensor) -> str:
    return ("F" if tensor.is_floating_point() else "I") + str(8 * tensor.element_size())
