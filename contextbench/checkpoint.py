"""Trained weights as safetensors, with what is needed to refuse them for another model."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from contextbench.errors import UserError
from contextbench.files import write_atomic


class CheckpointError(UserError, ValueError):
    """A checkpoint that cannot be used here. The message names the file and the reason."""


def save_checkpoint(path: Path, model: nn.Module, about: Mapping[str, str]) -> None:
    """Write weights and buffers with the description `about` (head, classes, backbone, ...)."""
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    content = save(state, metadata=dict(about))
    write_atomic(path, lambda file: file.write(content))


def load_checkpoint(path: Path, model: nn.Module, expected: Mapping[str, str]) -> None:
    """Load weights into `model`; `CheckpointError` when missing, corrupt or of another model."""
    try:
        with safe_open(path, framework="pt", device="cpu") as stored:
            about = stored.metadata() or {}
            _check_same(path, about, expected)
            names = stored.keys()
            state: dict[str, torch.Tensor] = {name: stored.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: does not fit the model: {error}") from error


def _check_same(path: Path, about: Mapping[str, str], expected: Mapping[str, str]) -> None:
    different = [
        f"{key} is {about.get(key, 'not stated')!r}, expected {value!r}"
        for key, value in expected.items()
        if about.get(key) != value
    ]
    if different:
        raise CheckpointError(f"{path} is a checkpoint of another model: {'; '.join(different)}")
