"""Peak memory: predicted from shapes without the device, and measured on it.

A prediction follows every tensor from its creation to its release while the model runs on fake
tensors of a CPU: tensors with shape and lifetime but without data. What is not a tensor is not in
it: workspaces of convolution libraries, the allocator's rounding, the interpreter.
"""

import copy
import gc
import re
import resource
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

from contextbench.models.precision import Precision

Optimizer = Literal["sgd", "adamw"]

# Copies of each trained parameter that an optimiser keeps: momentum; first and second moment.
STATE_COPIES: Mapping[Optimizer, int] = {"sgd": 1, "adamw": 2}

CPU = torch.device("cpu")


@dataclass(frozen=True)
class MemoryPrediction:
    """Bytes of tensors; `peak_bytes` is weights + inputs + optimiser state + `activation_peak`."""

    peak_bytes: int
    weights_bytes: int  # parameters and buffers
    input_bytes: int  # images or features, and labels
    activation_peak_bytes: int  # all else that lives at the peak, gradients among it
    optimizer_bytes: int = 0
    gradient_bytes: int = 0  # of all trained parameters, as they are when the optimiser steps


@dataclass(frozen=True)
class MeasuredMemory:
    """Peak of the CUDA caching allocator, what was allocated before the measurement included."""

    allocated_bytes: int  # tensors and workspaces
    reserved_bytes: int  # what the process holds of the device, and other processes cannot use


class WithoutData:
    """A copy of a module in which tensors have no data: what it would hold is predicted by it.

    Made once for any number of predictions, since copying takes as long as a pass. `module` is
    neither run nor changed. Inputs are tensors on any device (meta needs no memory) or tuples of
    them.
    """

    def __init__(self, module: nn.Module) -> None:
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        with self._mode:
            self._module = fake_module(module)

    def inference(self, *inputs: Any, precision: Precision | None = None) -> MemoryPrediction:
        """As `predict_inference`; the copy is in evaluation mode from then on."""
        precision = precision or Precision()
        with self._mode:
            model = self._module.eval()
            inputs = fake(inputs)
            ledger = _Ledger(_tensors(model), tree_iter(inputs))
            # In inference mode, as predictions run, autocast keeps no copies of weights. Tensors
            # without data do not have that mode, but can do without the copies.
            with torch.no_grad(), ledger, precision.autocast(CPU, cached=False):
                model(*inputs)
        return ledger.prediction()

    def training_steps(
        self,
        step: Callable[[nn.Module, Any], object],
        inputs: Any,
        *,
        optimizer: Optimizer = "sgd",
        steps: int = 2,
    ) -> MemoryPrediction:
        """As `predict_training_step`, of so many steps.

        One is enough where a step begins by clearing gradients: then all are alike.
        """
        if optimizer not in STATE_COPIES:
            raise ValueError(f"unknown optimizer {optimizer!r}; allowed: {', '.join(STATE_COPIES)}")
        with self._mode:
            model, given = self._module, fake(inputs)
            trained = [p for p in model.parameters() if p.requires_grad]
            state = [torch.empty_like(p) for p in trained for _ in range(STATE_COPIES[optimizer])]
            ledger = _Ledger(_tensors(model), tree_iter(given), state)
            try:
                with ledger:
                    for _ in range(steps):
                        step(model, given)
                gradients = [p.grad for p in trained if p.grad is not None]
                return ledger.prediction(gradient_bytes=_nbytes(gradients))
            finally:
                model.zero_grad(set_to_none=True)


def predict_inference(
    module: nn.Module, *inputs: Any, precision: Precision | None = None
) -> MemoryPrediction:
    """Predicted peak of `module(*inputs)` in evaluation and inference mode.

    `inputs` are tensors on any device (meta needs no memory) or tuples of them; `module` is neither
    run nor changed.
    """
    return WithoutData(module).inference(*inputs, precision=precision)


def predict_training_step(
    module: nn.Module,
    step: Callable[[nn.Module, Any], object],
    inputs: Any,
    *,
    optimizer: Optimizer = "sgd",
) -> MemoryPrediction:
    """Predicted peak of the second of two training steps, `step(module, inputs)` each.

    `step` clears gradients, computes them anew and does what else a training step does but the
    update, which is taken to be in place; it is given a copy of `module`, in the mode that it has,
    and `inputs` without data. SGD is with momentum. Where `step` selects elements by a boolean
    mask, all of them are taken to be selected. `inputs` as in `predict_inference`.

    Raises ValueError for an unknown optimiser.
    """
    return WithoutData(module).training_steps(step, inputs, optimizer=optimizer)


# Operators with a list of indices as their second argument.
_SELECTING = (
    torch.ops.aten.index,
    torch.ops.aten.index_put,
    torch.ops.aten.index_put_,
    torch.ops.aten._index_put_impl_,
)


class _Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Live and peak bytes of all tensor storages seen, each counted once from creation to release.

    Views share their tensor's storage and operators in place reuse it, so neither adds anything.
    """

    def __init__(
        self,
        weights: Iterable[Any],
        inputs: Iterable[Any],
        optimizer_state: Iterable[Any] = (),
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._live: dict[int, int] = {}
        self._live_bytes = 0
        self._peak_bytes = 0
        self._weights_bytes, self._input_bytes, self._optimizer_bytes = (
            self._record(group) for group in (weights, inputs, optimizer_state)
        )

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        args = self._with_all_selected(func, args)
        result = func(*args, **(kwargs or {}))
        self._record(tree_iter(result))
        return result

    def _with_all_selected(self, func: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Arguments in which boolean masks are the numbers that stand for them, of all elements.

        How many a mask selects is not known without data. The numbers are what torch makes of it.
        """
        if func.overloadpacket not in _SELECTING:
            return args
        indices: list[Any] = []
        for index in args[1]:
            if isinstance(index, Tensor) and index.dtype == torch.bool:
                numbers = torch.empty(index.dim(), index.numel(), dtype=torch.int64)
                self._record([numbers])
                indices += numbers.unbind()
            else:
                indices.append(index)
        return (args[0], indices, *args[2:])

    def prediction(self, *, gradient_bytes: int = 0) -> MemoryPrediction:
        fixed = self._weights_bytes + self._input_bytes + self._optimizer_bytes
        return MemoryPrediction(
            peak_bytes=self._peak_bytes,
            weights_bytes=self._weights_bytes,
            input_bytes=self._input_bytes,
            activation_peak_bytes=self._peak_bytes - fixed,
            optimizer_bytes=self._optimizer_bytes,
            gradient_bytes=gradient_bytes,
        )

    def _record(self, values: Iterable[Any]) -> int:
        """Enter the storages that are new among `values`; their bytes."""
        before = self._live_bytes
        for value in values:
            if isinstance(value, Tensor):
                self._enter(value.untyped_storage())
        self._peak_bytes = max(self._peak_bytes, self._live_bytes)
        return self._live_bytes - before

    def _enter(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)  # unique while the storage lives, which is as long as the entry does
        if key not in self._live:
            self._live[key] = storage.nbytes()
            self._live_bytes += storage.nbytes()
            weakref.finalize(storage, self._release, key).atexit = False

    def _release(self, key: int) -> None:
        self._live_bytes -= self._live.pop(key)


def fake_module(module: nn.Module) -> nn.Module:
    """A copy without data, in a `FakeTensorMode`. Its tensors are a CPU's: on meta, fused attention
    falls to pieces and convolutions forget the layout of images.
    """
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(fake(parameter.detach()), parameter.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = fake(buffer)
    return copy.deepcopy(module, memo)


def fake(values: Any) -> Any:
    """`values` with every tensor replaced by a fake CPU tensor of its shape, strides and dtype."""
    return tree_map_only(
        Tensor, lambda t: torch.empty_strided(t.size(), t.stride(), dtype=t.dtype), values
    )


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def measure_peak_cuda(
    fn: Callable[[], object], device: torch.device | None = None
) -> MeasuredMemory:
    """Peak of the caching allocator while `fn` runs, with earlier garbage returned first."""
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    fn()
    torch.cuda.synchronize(device)
    return MeasuredMemory(
        allocated_bytes=torch.cuda.max_memory_allocated(device),
        reserved_bytes=torch.cuda.max_memory_reserved(device),
    )


def measure_peak_cpu(fn: Callable[[], object]) -> int:
    """Bytes by which the peak resident memory of a fresh process grows while it runs `fn`.

    Coarse, by some megabytes: it includes library workspaces, threads' stacks, code loaded on first
    use and what the C allocator keeps. `fn` must be picklable and build all that it needs.

    Raises MemoryError when the process is killed, as the system does when memory runs out.
    """
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_peak_growth, fn).result()
        except BrokenProcessPool as error:
            raise MemoryError("the measuring process was killed before it finished") from error


def _peak_growth(fn: Callable[[], object]) -> int:
    before = _peak_resident_bytes()
    fn()
    return _peak_resident_bytes() - before


def _peak_resident_bytes(status: Path = Path("/proc/self/status")) -> int:
    """High-water mark of this process's resident memory.

    On Linux from /proc, since `ru_maxrss` starts at the peak of the process that started this one.
    """
    if status.exists():
        match = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
        if match is not None:
            return int(match.group(1)) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
