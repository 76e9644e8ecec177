"""A trained segmentation model as what another training starts from.

Every tensor has to be there under its name and in its shape, but for those whose shape follows the
number of classes: where that is another, or the classes are others, these stay as they were drawn.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from contextbench.config.files import ConfigError
from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import Protocol
from contextbench.models.build import build_model
from contextbench.models.pretrained import is_finite, listed
from contextbench.models.segmenter import Segmenter

CLASSES = "classes"  # key of a file's metadata: their names, as JSON

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Fit:
    """How the tensors of a file fit a model."""

    path: Path
    classes: int  # of the model in the file
    anew: tuple[str, ...]  # names of tensors that depend on the classes, which are others

    def load(self, model: Segmenter) -> None:
        """Give `model` the tensors. Raises `ConfigError` for values that are not finite."""
        state = model.state_dict()
        taken = {name: each for name, each in _tensors(self.path).items() if name not in self.anew}
        broken = [name for name, each in taken.items() if not is_finite(each)]
        if broken:
            raise ConfigError(f"train.init: {self.path}: not finite: {listed(broken)}")
        model.load_state_dict({**state, **taken})


def fit(
    path: Path, protocol: Protocol, head: HeadConfig, num_classes: int, *, other_classes: bool
) -> Fit:
    """How the model in a file fits one of `head`; nothing but names and shapes is read.

    `other_classes` is whether its classes are known to be others, in whatever number. Raises
    `ConfigError` for a file that cannot be read, and for tensors that are missing, unknown or of
    another shape, by name.
    """
    stored = _shapes(path)
    own, more = (_model_shapes(protocol, head, k) for k in (num_classes, num_classes + 1))
    dependent = [name for name in own if own[name] != more[name]]
    classes = _classes(stored, own, more, dependent, num_classes)
    same = classes == num_classes
    expected = own if same else _model_shapes(protocol, head, classes)
    faults = {
        "missing": [name for name in expected if name not in stored],
        "unknown": [name for name in stored if name not in expected],
        "of another shape": [
            f"{name} {list(stored[name])}, expected {list(shape)}"
            for name, shape in expected.items()
            if name in stored and stored[name] != shape
        ],
    }
    if any(faults.values()):
        told = "; ".join(f"{len(e)} {what} ({listed(e)})" for what, e in faults.items() if e)
        raise ConfigError(
            f"train.init: {path} does not fit head {head.name} on {protocol.backbone.name}: "
            f"tensors {told}"
        )
    return Fit(path, classes, () if same and not other_classes else tuple(dependent))


def stored_classes(path: Path) -> list[str] | None:
    """Names of the classes, where the file states them."""
    with _opened(path) as file:
        text = (file.metadata() or {}).get(CLASSES, "null")
    try:
        stated = json.loads(text)
    except ValueError:
        return None
    return [str(each) for each in stated] if isinstance(stated, list) else None


def _classes(
    stored: Shapes, own: Shapes, more: Shapes, dependent: Sequence[str], num_classes: int
) -> int:
    """The number for which a tensor would have the shape it has; `more` is of one class more."""
    for name in dependent:
        if len(stored.get(name, ())) != len(own[name]):
            continue
        for found, one, other in zip(stored[name], own[name], more[name], strict=True):
            if one != other:
                return max(1, num_classes + (found - one) // (other - one))
    return num_classes


def _model_shapes(protocol: Protocol, head: HeadConfig, num_classes: int) -> Shapes:
    with torch.device("meta"):
        model = build_model(protocol, head, num_classes, seed=0, pretrained=False)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _shapes(path: Path) -> Shapes:
    with _opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def _tensors(path: Path) -> dict[str, Tensor]:
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Raises `ConfigError` for what cannot be read."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"train.init: {path} cannot be read as safetensors: {error}. A checkpoint of other "
            "code becomes a run by `contextbench import`"
        ) from error
