"""Networks of `nn.Sequential`s as tables: what a head here has, and where theirs has it.

A table names convolutions, each with the batch norm behind it; widths and kernels come from the
shapes of weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from contextbench.config.protocols import BackboneConfig
from contextbench.interop.facts import Facts
from contextbench.interop.files import CheckpointFile, ImportedError
from contextbench.interop.literals import UNREADABLE
from contextbench.interop.structure import Change, Recognised

UNTRAINED = "The branch on layer3, which no prediction needs, is not trained"
AUXILIARY = "head.auxiliary.branch"


@dataclass(frozen=True)
class Layout:
    """A head of another code base.

    `mark` is a module that no other head of that code has. `layers` are ours -> their convolution;
    its batch norm is the next in their Sequential. `names` are ours -> theirs where both are the
    same. `widths` and `kernels` are options that the shape of a weight shows, `options` those that
    are always so, `facts` those that nothing shows, with their published value. `unbiased` are
    convolutions of ours whose bias theirs never had: 0. `folded` are theirs that `changed` uses up.
    """

    head: str
    mark: str
    layers: Mapping[str, str]
    widths: Mapping[str, str]
    classifier: str  # their Sequential that ends in it, or itself
    auxiliary: str | None = None  # their branch on layer3, where the file has one
    coarse: str | None = None  # the same where the head needs its logits
    names: Mapping[str, str] = field(default_factory=dict)
    kernels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    changed: Mapping[str, Change] = field(default_factory=dict)
    dropped: Sequence[str] = ()
    unbiased: bool = False


@dataclass(frozen=True)
class Network:
    """Of a file: its backbone, as it is built here, and what its tensors are called."""

    source: str
    backbone: BackboneConfig
    names: Mapping[str, str]  # of the backbone
    align_corners: bool = True
    in_place: bool = False  # batch norms were in-place ones, and the ReLU behind them leaky
    dropped: Sequence[str] = ()
    prefix: str = ""  # that was taken from the names of the file
    stated: Mapping[str, Any] = field(default_factory=dict)  # facts of heads that the file says


def layout_of(file: CheckpointFile, layouts: Sequence[Layout], source: str) -> Layout:
    """The one whose mark the file has. Raises `ImportedError` where none is."""
    modules = {".".join(name.split(".")[:n]) for name in file.tensors for n in (1, 2, 3)}
    for layout in layouts:
        if layout.mark in modules:
            return layout
    found = sorted({name.partition(".")[0] for name in file.tensors})
    known = ", ".join(dict.fromkeys(each.head for each in layouts))
    raise ImportedError(
        f"import: {file.path} has none of the heads of {source} that are known here ({known}); "
        f"its modules are {', '.join(found[:12])}: is it of another code base?"
    )


def found_in(file: CheckpointFile, layout: Layout, network: Network, facts: Facts) -> Recognised:
    """The network with the head of `layout`. Raises `ImportedError` for tensors that lack."""
    classifier = last_convolution(file, layout.classifier)
    names = {**network.names, "head.classifier.1": classifier}
    names |= {ours: _norm(file, theirs) for ours, theirs in layout.names.items()}
    for ours, theirs in layout.layers.items():
        names |= layer(file, ours, theirs)
    branch, branch_names, notes = _branch(file, layout)
    asked = {
        name: facts.of(name, network.stated.get(name, UNREADABLE), usual)
        for name, usual in layout.facts.items()
    }
    facts.check()
    leaky = network.in_place and "release" not in layout.options
    options = {
        **{option: len(_weight(file, name)) for option, name in layout.widths.items()},
        **{option: _weight(file, name).shape[-1] for option, name in layout.kernels.items()},
        **branch,
        **layout.options,
        **{name: _single(name, value) for name, value in asked.items()},
        **({"activation": "leaky_relu"} if leaky else {}),
    }
    return Recognised(
        model=f"{layout.head} of {network.source}",
        backbone=network.backbone,
        head=layout.head,
        options=options,
        num_classes=len(_weight(file, classifier)),
        names={**names, **branch_names},
        changed=layout.changed,
        dropped=[*network.dropped, *layout.dropped],
        untrained=() if branch else ("head.auxiliary",),
        notes=notes,
        align_corners=network.align_corners,
        in_place=network.in_place,
        prefix=network.prefix,
        zeros=[f"{ours}.bias" for ours in CLASSIFIERS] if layout.unbiased else [],
    )


CLASSIFIERS = ("head.classifier.1", "head.coarse.1.1", f"{AUXILIARY}.1.1")


def layer(file: CheckpointFile, ours: str, theirs: str) -> dict[str, str]:
    """Names of a convolution and of the batch norm behind it, itself in a Sequential or not."""
    before, _, at = theirs.rpartition(".")
    return {f"{ours}.0": theirs, f"{ours}.1": _norm(file, f"{before}.{int(at) + 1}")}


def _norm(file: CheckpointFile, module: str) -> str:
    """`module`, or the batch norm that begins it."""
    inner = f"{module}.0"
    return inner if f"{inner}.running_mean" in file.tensors else module


def last_convolution(file: CheckpointFile, module: str) -> str:
    """`module` itself, or the last convolution of a Sequential. Raises `ImportedError`."""
    if f"{module}.weight" in file.tensors:
        return module
    parts = [name.split(".")[0] for name in file.below(f"{module}.")]
    numbers = [int(part) for part in parts if part.isdigit()]
    for number in sorted(numbers, reverse=True):
        weight = file.tensors.get(f"{module}.{number}.weight")
        if weight is not None and weight.ndim == 4:
            return f"{module}.{number}"
    raise ImportedError(f"import: {file.path} has no convolution below {module}: parts are missing")


def _branch(
    file: CheckpointFile, layout: Layout
) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """Options, names and sentences on the branch beside the head."""
    theirs, ours = layout.coarse, "head.coarse"
    if theirs is None:
        theirs, ours = layout.auxiliary, AUXILIARY
        if theirs is None or not file.below(f"{theirs}."):
            return {}, {}, [UNTRAINED]
    weight = _weight(file, f"{theirs}.0")
    names = {
        **layer(file, f"{ours}.0", f"{theirs}.0"),
        f"{ours}.1.1": last_convolution(file, theirs),
    }
    kernel = {} if weight.shape[-1] == 3 else {"aux_kernel": weight.shape[-1]}
    return {"aux_width": len(weight), **kernel}, names, []


def _single(name: str, value: Any) -> Any:
    """Of a pair for height and width, the one number that both have to be."""
    if not isinstance(value, tuple):
        return value
    if len(set(value)) != 1:
        raise ImportedError(f"import: {name} is {value}: equal ones can be taken over")
    return value[0]


def _weight(file: CheckpointFile, module: str) -> Tensor:
    if f"{module}.weight" not in file.tensors:
        raise ImportedError(
            f"import: {file.path} has no tensor {module}.weight: parts of the model are missing"
        )
    return file.tensors[f"{module}.weight"]
