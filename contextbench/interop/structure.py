"""What a checkpoint was recognised as, and its tensors under the names that a model here has."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from contextbench.config.protocols import BackboneConfig
from contextbench.interop.files import CheckpointFile, ImportedError
from contextbench.models.pretrained import COUNTER, is_finite, listed

IN_PLACE_EPS = 1e-5  # of in-place batch norm, in the backbone and in the head
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Recognised:
    """A network of another code base, as this one builds it.

    `names` pairs beginnings of names, ours and theirs; `changed` are tensors of ours that are made
    from theirs in more than the name. Theirs below `dropped` have no counterpart, and of ours those
    below `untrained`: no prediction needs either. `zeros` are ours that are 0 where the file lacks
    them. With `in_place`, batch norms multiply by |weight| + eps. `notes` are sentences for the
    reader.
    """

    model: str  # as that code base calls it
    backbone: BackboneConfig
    head: str
    options: Mapping[str, Any]
    num_classes: int
    names: Mapping[str, str]
    changed: Mapping[str, Change] = field(default_factory=dict)
    dropped: Sequence[str] = ()
    untrained: Sequence[str] = ()
    notes: Sequence[str] = ()
    align_corners: bool = False
    in_place: bool = False
    zeros: Sequence[str] = ()
    prefix: str = ""  # of every name in the file, and of no other here
    inference: Mapping[str, Any] | None = None  # `EvaluateConfig` of its code base, with `like`


def convolved(ours: str, theirs: str) -> dict[str, str]:
    """Names of a convolution and its batch norm: `conv_bn_relu` here, mmcv's `ConvModule` there."""
    return {f"{ours}.0": f"{theirs}.conv", f"{ours}.1": f"{theirs}.bn"}


def halves_swapped(weight: Tensor) -> Tensor:
    """Of a convolution over two maps of equal width that lie in the other order."""
    return weight.roll(weight.shape[1] // 2, dims=1)


def transplant(
    model: nn.Module, file: CheckpointFile, found: Recognised, *, partial: bool
) -> list[str]:
    """Give `model` the tensors of the file; what a reader should know of it, as sentences.

    Raises `ImportedError` for tensors that are missing or left over, unless `partial`, and always
    for those of another shape or with values that no network computes with.
    """
    file = file.without(found.prefix)
    own = model.state_dict()
    taken, missing, used = _taken(own, file, found)
    unused = _unused(file, found, used)
    _check_all(missing, unused, file, partial)
    _check_values(own, taken, file)
    model.load_state_dict({**own, **{name: each.float() for name, each in taken.items()}})
    notes = _stored_as(taken)
    if missing:
        notes.append(f"Missing in the file, at random values: {listed(missing)}")
    if unused:
        notes.append(f"In the file and not used: {listed(unused)}")
    return notes


def _taken(
    own: Mapping[str, Tensor], file: CheckpointFile, found: Recognised
) -> tuple[dict[str, Tensor], list[str], set[str]]:
    """Tensors by our names, names of theirs that the file lacks, and those that were used."""
    taken: dict[str, Tensor] = {}
    missing, used = [], set()
    for name, tensor in own.items():
        theirs = _their_name(name, found.names)
        if theirs in file.tensors:
            used.add(theirs)
            change = found.changed.get(name, torch.Tensor.clone)
            taken[name] = change(file.tensors[theirs])
            if found.in_place and _is_factor(name, own):
                taken[name] = taken[name].abs() + IN_PLACE_EPS
            used |= _fold_bias(name, own, file, found, taken)
        elif name.endswith(f".{COUNTER}") or _is_redundant(name, own) or name in found.zeros:
            taken[name] = torch.zeros_like(tensor)
        elif not _below(name, found.untrained):
            missing.append(theirs)
    return taken, missing, used


def _is_factor(name: str, own: Mapping[str, Tensor]) -> bool:
    """Whether it is what a batch norm multiplies by."""
    module, _, kind = name.rpartition(".")
    return kind == "weight" and f"{module}.running_mean" in own


def _fold_bias(
    name: str,
    own: Mapping[str, Tensor],
    file: CheckpointFile,
    found: Recognised,
    taken: dict[str, Tensor],
) -> set[str]:
    """A bias of theirs in front of a batch norm, for which ours has no place, is less mean.

    The name of theirs where there is one.
    """
    convolution = f"{name.removesuffix('1.running_mean')}0"
    bias = f"{convolution}.bias"
    if not name.endswith(".1.running_mean") or f"{convolution}.weight" not in own or bias in own:
        return set()
    theirs = _their_name(bias, found.names)
    if theirs not in file.tensors:
        return set()
    taken[name] = taken[name].float() - file.tensors[theirs].float()
    return {theirs}


def _their_name(name: str, names: Mapping[str, str]) -> str:
    """By the longest beginning that is known; our own name where none is."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        theirs = names.get(".".join(parts[:cut]))
        if theirs is not None:
            return ".".join([theirs, *parts[cut:]])
    return name


def _is_redundant(name: str, own: Mapping[str, Tensor]) -> bool:
    """Whether it is the bias of a convolution in front of a batch norm: 0 changes nothing."""
    return name.endswith(".0.bias") and f"{name.removesuffix('0.bias')}1.running_mean" in own


def _unused(file: CheckpointFile, found: Recognised, used: set[str]) -> list[str]:
    return [
        name
        for name in file.tensors
        if name not in used and not _below(name, found.dropped) and not name.endswith(COUNTER)
    ]


def _below(name: str, beginnings: Sequence[str]) -> bool:
    return any(f"{name}.".startswith(f"{each}.") for each in beginnings)


def _check_all(
    missing: Sequence[str], unused: Sequence[str], file: CheckpointFile, partial: bool
) -> None:
    parts = {"missing": missing, "left over": unused}
    faults = [f"{len(names)} {what} ({listed(names)})" for what, names in parts.items() if names]
    if faults and not partial:
        raise ImportedError(
            f"import: {file.path}: tensors do not match the network: {'; '.join(faults)}. "
            "--partial takes what there is, and the model is then not the published one"
        )


def _check_values(
    own: Mapping[str, Tensor], taken: Mapping[str, Tensor], file: CheckpointFile
) -> None:
    misshapen = [
        f"{name} {list(each.shape)} for {list(own[name].shape)}"
        for name, each in taken.items()
        if each.shape != own[name].shape
    ]
    faults = {
        "tensors of other shapes (ours, by name)": misshapen,
        "numbers that are not floating-point": [
            name for name, each in _parameters(taken) if not each.is_floating_point()
        ],
        "values that are not finite": [
            name
            for name, each in _parameters(taken)
            if each.is_floating_point() and not is_finite(each)
        ],
    }
    for what, names in faults.items():
        if names:
            raise ImportedError(f"import: {file.path}: {what}: {listed(names)}")


def _parameters(taken: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    return [(name, each) for name, each in taken.items() if not name.endswith(COUNTER)]


def _stored_as(taken: Mapping[str, Tensor]) -> list[str]:
    kinds = {str(each.dtype).removeprefix("torch.") for _, each in _parameters(taken)}
    others = sorted(kinds - {"float32"})
    if not others:
        return []
    return [f"Stored as {', '.join(others)}: logits differ from float32 weights by that rounding"]
