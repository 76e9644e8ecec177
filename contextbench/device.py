"""The device that a user names, found where the work runs."""

import torch

from contextbench.config import ConfigError


def device_of(name: str) -> torch.device:
    """`auto` is the GPU where there is one. Raises `ConfigError` for what cannot be used here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {name!r} cannot be used here: {reason}") from error
    return device
