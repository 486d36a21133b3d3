"""Generators of random numbers that a forward can draw from: found, read, set, and driven to their ends."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

_WORDS = 624  # of 32 bits in the state of a Mersenne twister, see Matsumoto and Nishimura 1998
_KINDS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)


@dataclass(frozen=True)
class Source:
    """A generator of random numbers.

    Attributes:
        get: returns its state.
        put: sets its state.
        extremes: returns states from which it first draws small numbers only, and large ones; none where unknown.
    """

    get: Callable[[], Any]
    put: Callable[[Any], object]
    extremes: Callable[[], Sequence[Any]] = tuple


def common() -> list[Source]:
    """Return the generators of the whole process that a forward may draw from."""
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_available() and torch.cuda.is_initialized() else ()
    everywhere = [_python(random), _numpy(np.random), _torch(torch.default_generator)]
    return everywhere + [_cuda(torch.device("cuda", index)) for index in cuda]


def held(modules: Iterable[nn.Module]) -> list[Source]:
    """Return the generators that the modules of a network, or the files of their classes, hold as attributes."""
    found: dict[int, Any] = {}
    for space in _namespaces(modules):
        values = list(space.values())
        if any(map(_is_generator, set(map(type, values)))):  # hardly any: a file has hundreds of values
            found |= {id(value): value for value in values if _is_generator(type(value))}
    return [_of(value) for value in found.values()]


def _namespaces(modules: Iterable[nn.Module]) -> Iterator[dict[str, Any]]:
    files: set[str] = set()
    for module in modules:
        yield vars(module)
        files.add(type(module).__module__)
    for name in sorted(files):
        if name in sys.modules and not name.startswith("torch."):
            yield vars(sys.modules[name])


def _is_generator(kind: type) -> bool:
    """Tell it of a class, for ``isinstance`` would wake lazy objects."""
    return issubclass(kind, _KINDS) and not issubclass(kind, random.SystemRandom)  # which has no state


def _of(generator: Any) -> Source:
    if isinstance(generator, torch.Generator):
        return _torch(generator)
    if isinstance(generator, np.random.RandomState):
        return _numpy(generator)
    if isinstance(generator, np.random.Generator):
        bits: Any = generator.bit_generator
        return Source(lambda: copy.deepcopy(bits.state), lambda state: setattr(bits, "state", state))
    return _python(generator)


def _python(generator: Any) -> Source:
    if generator is not random and type(generator) is not random.Random:
        return Source(generator.getstate, generator.setstate)  # of another kind
    return Source(
        generator.getstate,
        generator.setstate,
        lambda: [(3, (*words.tolist(), 0), None) for words in _extreme_words()],
    )


def _numpy(generator: Any) -> Source:
    if generator.get_state()[0] != "MT19937":
        return Source(generator.get_state, generator.set_state)
    return Source(
        generator.get_state,
        generator.set_state,
        lambda: [("MT19937", words, 0, 0, 0.0) for words in _extreme_words()],
    )


def _torch(generator: torch.Generator) -> Source:
    def get() -> Any:
        return generator.get_state().numpy()

    def put(state: Any) -> None:
        generator.set_state(torch.from_numpy(state.copy()))

    def extremes() -> list[Any]:
        found: list[Any] = []
        for words in _extreme_words():
            # on the CPU its state is the seed, numbers left (int32), whether seeded, place of the next number, words
            state = get()
            state[8:12] = np.array([_WORDS], np.int32).view(np.uint8)
            state[16:24] = 0
            state[24 : 24 + 8 * _WORDS] = words.astype(np.uint64).view(np.uint8)
            found.append(state)
        return found

    return Source(get, put, extremes) if generator.device.type == "cpu" else Source(get, put)


def _cuda(device: torch.device) -> Source:
    return Source(lambda: torch.cuda.get_rng_state(device).numpy(), lambda state: _set_cuda(state, device))


def _set_cuda(state: Any, device: torch.device) -> None:
    torch.cuda.set_rng_state(torch.from_numpy(state), device)


def _extreme_words() -> list[Any]:
    """Return the states from which a Mersenne twister puts out numbers of which all bits but the last 8 are equal."""
    last = np.random.RandomState(0).randint(0, 256, _WORDS).astype(np.uint32)  # so that no rejection loop runs forever
    return [_untempered(last), _untempered(last | np.uint32(0xFFFFFF00))]


def _untempered(words: Any) -> Any:
    """Return the state whose tempering puts out these words: its four steps are undone, the last first."""
    y = words ^ (words >> np.uint32(18))
    y = y ^ ((y << np.uint32(15)) & np.uint32(0xEFC60000))
    x = y
    for _ in range(5):  # seven more bits are right each time
        x = y ^ ((x << np.uint32(7)) & np.uint32(0x9D2C5680))
    y = x
    for _ in range(3):  # eleven
        x = y ^ (x >> np.uint32(11))
    return x
