"""The convolutions and matrix products of a forward pass, each to be run alone.

Their times, summed, are a floor: what the pass would take if nothing but its multiply-accumulates
took time, at the rate at which the same library does each of them on the same device.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from contextbench.measure.counts import is_counted, on_meta
from contextbench.measure.memory import fake, fake_module
from contextbench.models.precision import Precision

CONTIGUOUS, CHANNELS_LAST = "contiguous", "channels_last"


@dataclass(frozen=True)
class Shape:
    """Stands for a tensor of these sides in the arguments of an operator, in its order in memory.

    `order` has its axes from the slowest to the fastest; empty where they are as counted. What lies
    between the values of a part of a larger tensor is left out.
    """

    sides: tuple[int, ...]
    order: tuple[int, ...] = ()

    @classmethod
    def of(cls, tensor: Tensor) -> "Shape":
        strides, axes = tensor.stride(), range(tensor.dim())
        # An axis of one value, or of one value repeated, has no place: it stays.
        long = [axis for axis in axes if tensor.shape[axis] > 1 and strides[axis]]
        moved = iter(sorted(long, key=lambda axis: -strides[axis]))
        order = tuple(next(moved) if axis in long else axis for axis in axes)
        return cls(tuple(tensor.shape), () if order == tuple(axes) else order)

    @property
    def layout(self) -> str:
        """`contiguous`, `channels_last` of images and kernels, or the order of the axes."""
        if not self.order:
            return CONTIGUOUS
        dense = self.drawn(torch.device("meta"), torch.float32)
        if dense.dim() == 4 and dense.is_contiguous(memory_format=torch.channels_last):
            return CHANNELS_LAST
        return f"axes {' '.join(map(str, self.order))}"

    def drawn(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Random values in this shape and order."""
        if not self.order:
            return torch.randn(self.sides, device=device, dtype=dtype)
        stored = [self.sides[axis] for axis in self.order]
        places = [self.order.index(axis) for axis in range(len(self.order))]
        return torch.randn(stored, device=device, dtype=dtype).permute(places)

    def __str__(self) -> str:
        """`1x64x8x8`, and `1x64x8x8 (channels_last)` where axes are not as counted."""
        sides = "x".join(map(str, self.sides))
        return f"{sides} ({self.layout})" if self.order else sides


@dataclass(frozen=True)
class Operator:
    """One convolution or matrix product with the shapes and settings of its call."""

    name: str  # in torch.ops.aten
    arguments: tuple[Any, ...]  # `Shape` for tensors, tuples for lists

    def __str__(self) -> str:
        """`convolution 1x2048x64x64 512x2048x3x3 stride 1 padding 1 dilation 1`."""
        shapes = " ".join(str(a) for a in self.arguments if isinstance(a, Shape))
        if self.name != "convolution":
            return f"{self.name} {shapes}"
        named = zip(("stride", "padding", "dilation"), self.arguments[3:6], strict=True)
        settings = (f"{name} {'x'.join(map(str, dict.fromkeys(v)))}" for name, v in named)
        return f"{self.name} {shapes} {' '.join(settings)}"

    @property
    def layouts(self) -> set[str]:
        """Of its operands."""
        return {argument.layout for argument in self.arguments if isinstance(argument, Shape)}


def products(
    module: nn.Module, *inputs: Any, layout: torch.memory_format = torch.contiguous_format
) -> Counter[Operator]:
    """Which operators `module(*inputs)` runs in evaluation mode, and how often, from shapes alone.

    Images and kernels come in `layout`; what the module makes of it is seen, so that operands have
    the layouts that they have when it runs. Fused attention appears as the two matrix products that
    it stands for. `inputs` are tensors on any device, or tuples of them; `module` itself is neither
    run nor changed.
    """
    inputs = tree_map_only(Tensor, lambda t: _in_layout(t.to("meta"), layout), inputs)
    skeleton = on_meta(module).to(memory_format=layout)
    recorder = _Recorder()
    with FakeTensorMode(allow_non_fake_inputs=True):
        run, given = fake_module(skeleton), fake(inputs)
        # The counter takes compound operators apart, so the recorder below it sees only simple
        # ones; attention falls into its two products in the form without a kernel of its own.
        with (
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            recorder,
            FlopCounterMode(display=False),
        ):
            run(*given)
    return recorder.seen


def operator_call(
    operator: Operator, device: torch.device, precision: Precision
) -> Callable[[], object]:
    """What to time: the operator on random operands in a number format, without a bias.

    They lie in memory as in the pass.
    """
    function = getattr(torch.ops.aten, operator.name)
    arguments = [
        argument.drawn(device, precision.torch_dtype) if isinstance(argument, Shape) else argument
        for argument in operator.arguments
    ]

    def run() -> object:
        with torch.inference_mode(), precision.products():
            return function(*arguments)

    return run


def _in_layout(tensor: Tensor, layout: torch.memory_format) -> Tensor:
    """Only images have four sides, and with them a layout."""
    return tensor.contiguous(memory_format=layout) if tensor.dim() == 4 else tensor


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every counted operator with the shapes of its operands."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: Counter[Operator] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if is_counted(func):
            self.seen[_operator(func, args)] += 1
        return func(*args, **(kwargs or {}))


def _operator(func: Any, args: Sequence[Any]) -> Operator:
    name = func._overloadpacket.__name__
    described = [_described(argument) for argument in args]
    if name == "convolution":
        described[2] = None  # a bias is an addition, and in no count
    return Operator(name, tuple(described))


def _described(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return Shape.of(argument)
    return tuple(argument) if isinstance(argument, list) else argument
