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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from contextbench.measure.counts import is_counted, on_meta
from contextbench.models.precision import Precision


@dataclass(frozen=True)
class Shape:
    """Stands for a tensor of these sides in the arguments of an operator."""

    sides: tuple[int, ...]

    def __str__(self) -> str:
        return "x".join(map(str, self.sides))


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


def products(module: nn.Module, *inputs: Any) -> Counter[Operator]:
    """Which operators `module(*inputs)` runs in evaluation mode, and how often, from shapes alone.

    Fused attention appears as the two matrix products that it stands for. `inputs` are tensors on
    any device, or tuples of them; `module` itself is neither run nor changed.
    """
    inputs = tree_map_only(Tensor, lambda t: t.to("meta"), inputs)
    recorder = _Recorder()
    # The counter takes compound operators apart, so the recorder below it sees only simple ones.
    with torch.no_grad(), recorder, FlopCounterMode(display=False):
        on_meta(module)(*inputs)
    return recorder.seen


def operator_call(
    operator: Operator, device: torch.device, precision: Precision
) -> Callable[[], object]:
    """What to time: the operator on random operands in a number format and layout, without a bias.

    Images and kernels have four sides, and only these have a layout.
    """
    function = getattr(torch.ops.aten, operator.name)

    def operand(sides: tuple[int, ...]) -> Tensor:
        drawn = torch.randn(sides, device=device, dtype=precision.torch_dtype)
        layout = precision.torch_memory_format
        return drawn.contiguous(memory_format=layout) if len(sides) == 4 else drawn

    arguments = [
        operand(argument.sides) if isinstance(argument, Shape) else argument
        for argument in operator.arguments
    ]

    def run() -> object:
        with torch.inference_mode(), precision.products():
            return function(*arguments)

    return run


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
        return Shape(tuple(argument.shape))
    return tuple(argument) if isinstance(argument, list) else argument
