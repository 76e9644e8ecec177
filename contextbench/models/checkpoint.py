"""Trained weights as safetensors, with what is needed to refuse them for another model or run."""

import hashlib
import json
import logging
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from contextbench.system.errors import UserError
from contextbench.system.files import CHUNK_BYTES, write_atomic

DIGEST = "digest"  # key of the SHA-256 of the file, as it is with `NO_DIGEST` in its place
NO_DIGEST = "0" * 64
ALIGNMENT = 8  # bytes of safetensors' header are a multiple of it

log = logging.getLogger(__name__)


class CheckpointError(UserError, ValueError):
    """A checkpoint that cannot be used here. The message names the file and the reason."""


def save_checkpoint(path: Path, model: nn.Module, about: Mapping[str, str]) -> None:
    """Write weights and buffers with the description `about` (head, classes, backbone, ...).

    Equal weights with an equal description make equal bytes.
    """
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    plain = save(state)
    start = 8 + _header_bytes(plain)
    header = {"__metadata__": {**dict(sorted(about.items())), DIGEST: NO_DIGEST}}
    text = json.dumps({**header, **json.loads(plain[8:start])}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    head = struct.pack("<Q", len(text)) + text
    digest = hashlib.sha256(head)
    digest.update(memoryview(plain)[start:])
    head = head.replace(NO_DIGEST.encode(), digest.hexdigest().encode(), 1)
    write_atomic(path, lambda file: (file.write(head), file.write(memoryview(plain)[start:])))


def load_checkpoint(
    path: Path,
    model: nn.Module,
    expected: Mapping[str, str],
    own: Mapping[str, str] | None = None,
) -> None:
    """Load weights into `model`.

    `expected` is what the model is, `own` what the run is called that the weights are to be of. A
    checkpoint of before runs and digests were stated is taken as it is, and the log says so. Raises
    `CheckpointError` when missing, damaged, of another model or of another run.
    """
    own = own or {}
    try:
        with safe_open(path, framework="pt", device="cpu") as stored:
            about = stored.metadata() or {}
            _check_same(path, about, expected, "model")
            _check_whole(path, about, own)
            names = stored.keys()
            state: dict[str, torch.Tensor] = {name: stored.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: does not fit the model: {error}") from error


def _check_whole(path: Path, about: Mapping[str, str], own: Mapping[str, str]) -> None:
    """Refuse content that is not what was written, and weights of another run."""
    if not {DIGEST, "run", "seed", "fingerprint"} & about.keys():
        log.warning(
            "%s states neither its run nor a digest, as those of earlier versions: taken as it is",
            path,
        )
        return
    stated = about.get(DIGEST, "")
    if stated != _content_digest(path, stated.encode()):
        raise CheckpointError(f"{path} is damaged: its digest is not that of its content")
    _check_same(path, about, own, "run")


def _content_digest(path: Path, stated: bytes) -> str:
    """What `DIGEST` has to be, where it is `stated`."""
    with path.open("rb") as file:
        length = file.read(8)
        text = file.read(_header_bytes(length))
        digest = hashlib.sha256(length + text.replace(stated, NO_DIGEST.encode(), 1))
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _header_bytes(content: bytes) -> int:
    size: int = struct.unpack("<Q", content[:8])[0]
    return size


def _check_same(
    path: Path, about: Mapping[str, str], expected: Mapping[str, str], what: str
) -> None:
    different = [
        f"{key} is {about.get(key, 'not stated')!r}, expected {value!r}"
        for key, value in expected.items()
        if about.get(key) != value
    ]
    if different:
        raise CheckpointError(f"{path} is a checkpoint of another {what}: {'; '.join(different)}")
