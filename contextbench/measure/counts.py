"""Parameters and multiply-accumulates, counted from shapes alone.

Counted are convolutions and matrix products, fused attention included, as the papers do; the other
operators are named, not counted. Everything runs on the meta device: no data, no arithmetic, no
memory, so a 2048x128x128 map takes as long as an 8x4x4 one.
"""

import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from contextbench.config.frozen import LARGEST_SIDE
from contextbench.system.reading import given
from heads.interface import Channels, ContextHead, Features

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True)
class Counts:
    """Size and work of one forward pass in evaluation mode."""

    parameters: int  # elements of the parameters that the pass reads
    macs: int  # multiply-accumulates of convolutions and matrix products
    uncounted: tuple[str, ...]  # names of the other operators that compute, sorted

    @property
    def flops(self) -> int:
        """Two operations, a multiplication and an addition, for each multiply-accumulate."""
        return 2 * self.macs

    def __add__(self, other: "Counts") -> "Counts":
        """The counts of two modules, without shared parameters, run one after the other."""
        return Counts(
            self.parameters + other.parameters,
            self.macs + other.macs,
            tuple(sorted({*self.uncounted, *other.uncounted})),
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a record; FLOPs are left out because they follow from the MACs."""
        return {
            "parameters": self.parameters,
            "macs": self.macs,
            "uncounted": list(self.uncounted),
        }


class FeatureSize(NamedTuple):
    """The map that `layer4` of a backbone of output stride 8 hands to a head."""

    channels: int
    height: int
    width: int


class Pass(NamedTuple):
    """One forward pass in evaluation mode, on the meta device."""

    output: Any
    counts: Counts
    macs: Mapping[str, int]  # by operator, such as `convolution`; they add up to `counts.macs`


def count(module: nn.Module, *inputs: Any) -> Counts:
    """Counts of `module(*inputs)` in evaluation mode; `module` itself is neither run nor changed.

    `inputs` are tensors on any device, or tuples of them; only their shapes and dtypes matter.
    Raises ValueError if the operations counted are odd in number, so not twice any MACs.
    """
    return run_on_meta(module, *inputs).counts


def run_on_meta(module: nn.Module, *inputs: Any) -> Pass:
    """As `count`, with what it is made of."""
    return _run(on_meta(module), inputs)


def count_scopes(
    backbone: nn.Module, head: ContextHead, image_size: tuple[int, int]
) -> dict[str, Counts]:
    """Counts in the scopes `context`, `head` and `model`, for one image of `image_size` (H, W).

    `model` is backbone and head, without the resizing of the logits to the image.
    """
    images = torch.empty(1, 3, *image_size, device="meta")
    below = _run(on_meta(backbone), (images,))
    scopes = count_head_scopes(head, below.output)
    return {**scopes, "model": below.counts + scopes["head"]}


def count_head_scopes(head: ContextHead, features: Features) -> dict[str, Counts]:
    """Counts in the scopes `context` and `head` on given features, such as `meta_features` makes.

    What prepares the inputs of `context` (for OCR, the coarse head) is part of `head` only.
    """
    head = on_meta(head)
    features = tree_map_only(Tensor, lambda t: t.to("meta"), features)
    with torch.no_grad():
        inputs = head.context_inputs(features)
    return {"context": _run(head.context, inputs).counts, "head": _run(head, (features,)).counts}


def parse_feature_size(text: str) -> FeatureSize:
    """`2048x128x128`, channels x height x width of layer4; ValueError for anything else."""
    match = re.fullmatch(r"([1-9]\d{0,8})x([1-9]\d{0,8})x([1-9]\d{0,8})", text.strip())
    if match is None:
        raise ValueError(
            f"feature size {given(text)}: expected channels x height x width, such as 2048x128x128"
        )
    size = FeatureSize(*(int(number) for number in match.groups()))
    if max(size) > LARGEST_SIDE:
        raise ValueError(f"feature size {given(text)}: the largest number is {LARGEST_SIDE}")
    if size.channels % 8:
        raise ValueError(
            f"feature size {given(text)}: {size.channels} channels, expected a multiple of 8 "
            "(each earlier stage of a ResNet has half as many, three times)"
        )
    return size


def feature_channels(size: FeatureSize) -> Channels:
    """The stages of a ResNet whose last stage has `size.channels`."""
    return Channels(*(size.channels // divisor for divisor in (8, 4, 2, 1)))


def meta_features(size: FeatureSize, *, batch: int = 1) -> Features:
    """Backbone output without data, at output stride 8: layer1 is twice as high and as wide."""
    maps = [(size.height, size.width)] * 4
    maps[0] = (2 * size.height, 2 * size.width)
    stages = zip(feature_channels(size), maps, strict=True)
    return Features(*(torch.empty(batch, c, *hw, device="meta") for c, hw in stages))


def on_meta(module: ModuleT) -> ModuleT:
    """A copy for evaluation without data; the parameters are never copied, however large."""
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(module, memo).eval()


def _run(module: nn.Module, inputs: tuple[Any, ...]) -> Pass:
    """Of a module on the meta device."""
    inputs = tree_map_only(Tensor, lambda t: t.to("meta"), inputs)
    counter = FlopCounterMode(display=False, custom_mapping=dict(_VECTOR_PRODUCTS))
    observer = _Observer(module)
    # The counter takes compound operators apart, so the observer below it sees only simple ones.
    with torch.no_grad(), observer, counter:
        output = module(*inputs)
    macs, odd = divmod(counter.get_total_flops(), 2)
    if odd:
        raise ValueError(f"{type(module).__name__}: an odd number of operations, {2 * macs + 1}")
    by_operator = {
        _name(packet): flops // 2 for packet, flops in counter.get_flop_counts()["Global"].items()
    }
    counts = Counts(observer.parameters, macs, tuple(sorted(observer.uncounted)))
    return Pass(output, counts, by_operator)


class _Observer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which parameters a pass reads and which operators compute something uncounted."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._unread = {id(p): p.numel() for p in module.parameters()}
        self.parameters = 0
        self.uncounted: set[str] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        for value in tree_iter((args, kwargs)):
            self.parameters += self._unread.pop(id(value), 0)
        if not is_counted(func) and not _is_free(func):
            self.uncounted.add(_name(func))
        return func(*args, **kwargs)


def is_counted(func: Any) -> bool:
    """Whether an operator of a dispatch mode is a convolution or a product."""
    packet = func._overloadpacket
    return packet in flop_registry or packet in _VECTOR_PRODUCTS


def _is_free(func: Any) -> bool:
    return func.is_view or func.namespace == "prim" or _name(func) in _NO_ARITHMETIC


def _name(func: Any) -> str:
    """`softmax` for aten._softmax.default, `relu` for aten.relu_.default."""
    packet = getattr(func, "_overloadpacket", func)
    name = packet.__name__.strip("_")
    return _PLAIN_NAMES.get(name, name)


# Names that differ between releases of torch, or say how instead of what.
_PLAIN_NAMES: Mapping[str, str] = {
    "native_batch_norm": "batch_norm",
    "native_batch_norm_legit_no_training": "batch_norm",
    "native_group_norm": "group_norm",
    "native_layer_norm": "layer_norm",
    "safe_softmax": "softmax",
}

# Operators that make, copy or rearrange values without arithmetic, beside the views.
_NO_ARITHMETIC = frozenset(
    {
        *("arange", "empty", "empty_like", "empty_strided", "eye", "full", "full_like"),
        *("new_empty", "new_full", "new_ones", "new_zeros", "ones", "ones_like"),
        *("scalar_tensor", "zero", "zeros", "zeros_like", "fill", "lift_fresh"),
        *("cat", "clone", "copy", "repeat", "stack", "to_copy", "unsafe_view"),
        *("constant_pad_nd", "gather", "im2col", "index", "index_select"),
    }
)


def _dot_flops(a: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(a)


def _addmv_flops(_: Any, matrix: Sequence[int], *__: Any, **___: Any) -> int:
    return 2 * math.prod(matrix)


# Products with a vector, which torch's counter leaves out although a matrix of one column counts.
_VECTOR_PRODUCTS: Mapping[Any, Callable[..., int]] = {
    torch.ops.aten.mv: _dot_flops,
    torch.ops.aten.dot: _dot_flops,
    torch.ops.aten.addmv: _addmv_flops,
}
