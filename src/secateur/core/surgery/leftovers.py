"""What torch leaves behind in layers whose spectral norm was taken off, and means to take off too."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook


def drop_leftovers(model: nn.Module) -> None:
    """Take off hooks of ``torch.nn.utils.spectral_norm`` that have outlived it, and refuse all state dicts.

    ``remove_spectral_norm`` looks for the hook itself, where modules keep it wrapped.
    """
    for module in model.modules():
        norms = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, SpectralNorm)]  # pyright: ignore[reportPrivateUsage]
        hooks: dict[int, Any] = module._load_state_dict_pre_hooks  # pyright: ignore[reportPrivateUsage]
        for key, hook in list(hooks.items()):
            own = getattr(hook, "hook", hook)
            if isinstance(own, SpectralNormLoadStateDictPreHook) and own.fn.name not in [norm.name for norm in norms]:
                del hooks[key]
