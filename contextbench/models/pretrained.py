"""Weights from elsewhere: found in a file, matched to a network by name and shape, checked.

A file is a state dict or holds some, one in another (`state_dict`, `model`, ...). The names of a
network's tensors may have a prefix (`module.`, `backbone.`, `module.backbone.`, ...), which is
whatever stands before most of them, and may be those of another code base (`Naming`). What fits
with every name and every shape is taken, and `Fitted.origin` says what that was. Tensors of
classifiers and heads are left out, and said to be; anything else that is missing, left over or of
another shape is refused.
"""

import pickle
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from contextbench.system.errors import UserError

MOST_LISTED = 8  # names in a message
LONGEST_NAME = 100  # characters of one of them
COUNTER = "num_batches_tracked"  # which batch norms of old files lack; torch starts it at 0
DEEPEST = 3  # mappings that a state dict may be inside of
TENSORS_ALONE = (
    "Where the file can be trusted, write its tensors alone to another: "
    "torch.save(model.state_dict(), 'weights.pth')"
)

# Where training code puts the network: timm, torchvision's references, mmengine, Lightning and
# semseg have one of the first two. Averages over training steps (`*ema*`) come last: they lie
# beside the weights of the last step. What is named otherwise comes between, as the file has it.
WRAPPERS = ("state_dict", "model", "model_state", "model_state_dict", "network", "net", "weights")
AVERAGE = "ema"

# First modules of what stands on a backbone in the code bases whose weights are read. A module that
# is not listed may be a part of the backbone, so it is refused.
AFTER_BACKBONE = {
    "fc", "classifier", "head", "heads", "last_linear", "neck",
    "decode_head", "auxiliary_head",  # mmsegmentation
    "aux_classifier",  # torchvision
    "ppm", "cls", "aux", "dsn", "context", "auxlayer",  # semseg, OCNet, CCNet, PyTorch-Encoding
    "decoder", "segmentation_head", "classification_head",  # segmentation-models-pytorch
    "last_layer", "aux_head", "cls_head", "conv3x3_ocr", "ocr_gather_head", "ocr_distri_head",
    "conv_3x3", "spatial_context_head", "spatial_ocr_head", "aux_layer",  # HRNet, openseg.pytorch
    "incre_modules", "downsamp_modules", "final_layer",  # HRNet on ImageNet
}  # fmt: skip

Shape = tuple[int, ...]


class WeightsError(UserError, ValueError):
    """Pretrained weights that cannot be had or do not fit. The message says what to do."""


class StateDict(NamedTuple):
    """Tensors by name, and the keys of the mappings that they lie in."""

    inside: tuple[str, ...]
    tensors: dict[str, Tensor]


class Naming(NamedTuple):
    """What a code base calls the tensors of a network."""

    label: str
    names: Mapping[str, str]  # ours -> theirs


@dataclass(frozen=True)
class Wanted:
    """The network that weights are for.

    `beyond` are names that a file may have below the network's prefix and that are not used. `hint`
    gets the tensors of a file that does not fit, without their prefix, and says what they are of.
    """

    name: str  # for messages
    shapes: Mapping[str, Shape]
    namings: Sequence[Naming]
    beyond: Collection[str] = ()
    hint: Callable[[Mapping[str, Tensor]], str] | None = None


@dataclass(frozen=True)
class Fitted:
    """Tensors by the network's own names, as the file has them, and what they are."""

    tensors: dict[str, Tensor]
    origin: str  # without the folder: it goes into records


@dataclass(frozen=True)
class _Match:
    """One state dict read with one prefix and one naming."""

    state: StateDict
    prefix: str
    naming: Naming
    missing: list[str]
    misshapen: list[str]
    unexpected: list[str]
    left_out: list[str]

    @property
    def faults(self) -> tuple[int, int]:
        """Tensors of the network that are not there, then those too many."""
        return len(self.missing) + len(self.misshapen), len(self.unexpected)

    @property
    def place(self) -> str:
        """Where in the file: `in 'state_dict' below 'module.'`, or nothing."""
        inside = f" in {'.'.join(self.state.inside)!r}" if self.state.inside else ""
        return inside + (f" below {self.prefix!r}" if self.prefix else "")

    def tensors(self) -> dict[str, Tensor]:
        """By the network's names."""
        pairs = ((ours, self.prefix + theirs) for ours, theirs in self.naming.names.items())
        return {ours: self.state.tensors[key] for ours, key in pairs if key in self.state.tensors}


def fit(path: Path, wanted: Wanted) -> Fitted:
    """The weights of `wanted` in a file.

    The first state dict, prefix and naming that fit are taken, in the order of `WRAPPERS`, of the
    file and of `wanted.namings`. Raises `WeightsError` for a file that is missing, unreadable, of
    another network, or has values that are not finite.
    """
    matches = [match for state in read_states(path) for match in _matches(state, wanted)]
    fitting = [match for match in matches if match.faults == (0, 0)]
    if not fitting:
        raise WeightsError(
            _misfit(path, min(matches, key=lambda match: (match.faults, len(match.prefix))), wanted)
        )
    tensors = fitting[0].tensors()
    _check_values(path, tensors, fitting[0])
    return Fitted(tensors, _origin(path, fitting[0], fitting[1:]))


def read_states(path: Path) -> list[StateDict]:
    """All state dicts in a file, those that are likely the network's first.

    Pickled code is refused, not run. Raises `WeightsError` for a file without any, or that cannot
    be read.
    """
    if not path.is_file():
        raise WeightsError(f"backbone.weights: no such file: {path}")
    states = states_in(read_content(path))
    if not states:
        raise WeightsError(f"backbone.weights: {path} holds no state dict (names to tensors)")
    return states


def states_in(content: Any) -> list[StateDict]:
    """All state dicts in what a file holds, those that are likely the network's first."""
    return sorted(_states(content), key=_rank)


def listed(names: Sequence[str]) -> str:
    """The first few names and how many more there are."""
    shown = ", ".join(map(_printable, names[:MOST_LISTED])) or "none"
    more = len(names) - MOST_LISTED
    return shown if more <= 0 else f"{shown} and {more} more"


def _printable(name: str) -> str:
    """A name from a file, cut, with control characters written out."""
    cut = name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME] + "..."
    return cut if cut.isprintable() else repr(cut)


def read_content(
    path: Path, asked_by: str = "backbone.weights", remedy: str = TENSORS_ALONE
) -> Any:
    """What the file holds, in either format, on the CPU.

    Raises `WeightsError`: the message begins with `asked_by`, and for a file that needs code to be
    read ends with `remedy`.
    """
    try:
        with torch.device("cpu"):
            if _is_safetensors(path):
                return load_file(path)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(_refused_code(path, asked_by, remedy)) from error
    except (OSError, EOFError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        if "weights_only" in str(error):  # a TorchScript program
            raise WeightsError(_refused_code(path, asked_by, remedy)) from error
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise WeightsError(f"{asked_by}: cannot read {path}: {reason}") from error


def _is_safetensors(path: Path) -> bool:
    """By its suffix, or where a JSON object follows the eight bytes of its length."""
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _refused_code(path: Path, asked_by: str, remedy: str) -> str:
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # damaged, or the format of before torch 1.6, which is not looked into
        names = []
    why = f"Python objects ({listed(names)})" if names else "a program or Python objects"
    return (
        f"{asked_by}: cannot read {path}: it is damaged, or holds {why}, and reading these "
        f"could run any code. {remedy}"
    )


def _states(content: Any, inside: tuple[str, ...] = ()) -> Iterator[StateDict]:
    """The mapping itself, where it has tensors, and those in it."""
    if not isinstance(content, Mapping):
        return
    named = {str(key): value for key, value in content.items()}
    tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}
    if tensors:
        yield StateDict(inside, tensors)
    if len(inside) < DEEPEST:
        for key, value in named.items():
            yield from _states(value, (*inside, key))


def _rank(state: StateDict) -> int:
    if not state.inside:
        return -1
    if any(AVERAGE in key for key in state.inside):
        return len(WRAPPERS) + 1
    return WRAPPERS.index(state.inside[0]) if state.inside[0] in WRAPPERS else len(WRAPPERS)


def _matches(state: StateDict, wanted: Wanted) -> Iterator[_Match]:
    for naming in wanted.namings:
        for prefix in _prefixes(state.tensors, set(naming.names.values())):
            yield _match(state, prefix, naming, wanted)


def _prefixes(names: Iterable[str], theirs: Collection[str]) -> list[str]:
    """What stands before names of the network, at least half as often as what does most often."""
    found: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in theirs:
                found["".join(f"{part}." for part in parts[:cut])] += 1
    most = max(found.values(), default=0)
    return [prefix for prefix, count in found.items() if 2 * count >= most] or [""]


def _match(state: StateDict, prefix: str, naming: Naming, wanted: Wanted) -> _Match:
    ours = {prefix + theirs: ours for ours, theirs in naming.names.items()}
    others = [key for key in state.tensors if key not in ours]
    roots = {name.partition(".")[0] for name in naming.names.values()}
    inner = {key: key.removeprefix(prefix) for key in others if key.startswith(prefix)}
    unexpected = [
        key
        for key, name in inner.items()
        if name not in wanted.beyond
        and (name.partition(".")[0] in roots or name.partition(".")[0] not in AFTER_BACKBONE)
    ]
    refused = set(unexpected)
    return _Match(
        state,
        prefix,
        naming,
        missing=[k for k in ours if k not in state.tensors and not k.endswith(COUNTER)],
        misshapen=[
            f"{key} {list(state.tensors[key].shape)} for {list(wanted.shapes[name])}"
            for key, name in ours.items()
            if key in state.tensors and tuple(state.tensors[key].shape) != wanted.shapes[name]
        ],
        unexpected=unexpected,
        left_out=[key for key in others if key not in refused],
    )


def _misfit(path: Path, best: _Match, wanted: Wanted) -> str:
    start = f"backbone.weights '{path}' are not those of {wanted.name}: "
    tensors = best.state.tensors
    below = {
        k.removeprefix(best.prefix): t for k, t in tensors.items() if k.startswith(best.prefix)
    }
    hint = wanted.hint(below) if wanted.hint else ""
    end = f". {hint}" if hint else ""
    if len(best.missing) == sum(not name.endswith(COUNTER) for name in wanted.shapes):
        modules = list(dict.fromkeys(key.partition(".")[0] for key in tensors))
        return f"{start}the file has no tensor of them, but {listed(modules)}{best.place}{end}"
    parts = {
        "missing keys": best.missing,
        "unexpected keys": best.unexpected,
        "other shapes": best.misshapen,
    }
    faults = [f"{what}: {listed(names)}" for what, names in parts.items() if names]
    return f"{start}{'; '.join(faults)}{end}"


def _check_values(path: Path, tensors: Mapping[str, Tensor], match: _Match) -> None:
    """Raise `WeightsError` for numbers that no network computes with."""
    values = {name: each for name, each in tensors.items() if not name.endswith(COUNTER)}
    kinds = sorted({str(t.dtype) for t in values.values() if not t.is_floating_point()})
    if kinds:
        raise WeightsError(
            f"backbone.weights '{path}' hold numbers of {listed(kinds)}; floating-point ones are "
            "expected"
        )
    names = match.naming.names
    infinite = [match.prefix + names[name] for name, each in values.items() if not is_finite(each)]
    if infinite:
        raise WeightsError(
            f"backbone.weights '{path}' hold values that are not finite: {listed(infinite)}"
        )


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are, of any floating-point type."""
    return bool(tensor.to(torch.promote_types(tensor.dtype, torch.float32)).isfinite().all())


def _origin(path: Path, taken: _Match, others: Sequence[_Match]) -> str:
    text = f"{_printable(path.name)}: {taken.naming.label}{taken.place}"
    if others:
        also = dict.fromkeys(each.place.strip() or "at the top" for each in others)
        text += f"; not taken, though they fit too: those {listed(list(also))}"
    if taken.left_out:
        text += f"; left out: {_counted(taken.left_out, taken.prefix)}"
    kinds = sorted({str(t.dtype) for t in taken.tensors().values() if t.is_floating_point()})
    if kinds != ["torch.float32"]:
        text += f"; stored as {', '.join(kind.removeprefix('torch.') for kind in kinds)}"
    return text


def _counted(names: Iterable[str], prefix: str) -> str:
    """Modules with their numbers of tensors: `fc (2), decode_head (8)`."""
    modules = Counter(_module(name, prefix) for name in names)
    return listed([f"{module} ({count})" for module, count in modules.items()])


def _module(name: str, prefix: str) -> str:
    """The part of a name with which it leaves the path of the network."""
    parts, path = name.split("."), prefix.split(".")
    shared = 0
    while shared < len(parts) - 1 and shared < len(path) and parts[shared] == path[shared]:
        shared += 1
    return parts[shared]
