"""The device that torch computes on."""

import torch

from qtool.core.compute import check_provider
from qtool.core.errors import UsageError, arg

_DEVICES = {"cpu": "cpu", "cuda": "cuda"}


def device_of(provider: str) -> str:
    """Return the name that torch has for a provider's device. Raises `UsageError`: there is none, here or at all."""
    device = _DEVICES.get(provider)
    if device is None:
        check_provider(provider)
        raise UsageError(f"{arg('provider', provider)}: nothing is trained there; choose one of {', '.join(_DEVICES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"{arg('provider', provider)}: torch {torch.__version__} finds no CUDA device; install torch for "
            "CUDA where there is an NVIDIA GPU, or leave it out"
        )
    return device


def nearest_device(provider: str) -> str:
    """Return the device that is nearest to where a provider runs models: a GPU only where torch finds one too."""
    return "cuda" if provider != "cpu" and torch.cuda.is_available() else "cpu"
