"""The number format and memory layout in which a model runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from contextbench.config.files import ConfigError, nearest

Dtype = Literal["float32", "tf32", "bfloat16"]
MemoryFormat = Literal["contiguous", "channels_last"]


@dataclass(frozen=True)
class Precision:
    """One choice for a whole comparison: number format of the work, layout of images.

    `float32` is that throughout. `tf32` keeps float32 tensors but lets NVIDIA GPUs round the
    operands of convolutions and of matrix products, of both, to ten bits. `bfloat16` is autocast:
    parameters stay in float32. Raises `ConfigError` for anything else.
    """

    dtype: Dtype = "float32"
    memory_format: MemoryFormat = "contiguous"

    def __post_init__(self) -> None:
        for name, kind in (("dtype", Dtype), ("memory_format", MemoryFormat)):
            given, allowed = getattr(self, name), get_args(kind)
            if given not in allowed:
                raise ConfigError(f"{name} {given!r} is unknown; {nearest(str(given), allowed)}")

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of the operands of convolutions and products."""
        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float32

    @property
    def torch_memory_format(self) -> torch.memory_format:
        """What to convert the model and its images to."""
        if self.memory_format == "channels_last":
            return torch.channels_last
        return torch.contiguous_format

    @contextmanager
    def autocast(self, device: torch.device, *, cached: bool = True) -> Iterator[None]:
        """Context of the forward pass; parameters stay in float32.

        `cached` keeps converted weights for the rest of the pass, where gradients need them.
        """
        enabled = self.dtype == "bfloat16"
        autocast = torch.autocast(
            device.type, torch.bfloat16, enabled=enabled, cache_enabled=cached
        )
        with self.products(), autocast:
            yield

    @contextmanager
    def products(self) -> Iterator[None]:
        """Context of backward passes too: float32 convolutions and products in one format.

        By itself torch rounds those of convolutions on NVIDIA GPUs, and no others.
        """
        wanted = "tf32" if self.dtype == "tf32" else "ieee"
        before = [(owner, name, getattr(owner, name)) for owner, name in _switches()]
        changed = [each for each in before if each[2] != _value(each[1], wanted)]
        for owner, name, _ in changed:
            setattr(owner, name, _value(name, wanted))
        try:
            yield
        finally:
            for owner, name, value in changed:
                setattr(owner, name, value)


FLOAT32 = Precision()


def float32_products() -> str:
    """What torch rounds the operands of float32 convolutions and products to, now: `ieee`, `tf32`.

    Where they differ, both are said.
    """
    product, convolution = (
        "ieee" if getattr(owner, name) in (False, "none", "ieee") else "tf32"
        for owner, name in _switches()[:2]
    )
    if product == convolution:
        return product
    return f"products {product}, convolutions {convolution}"


def _switches() -> list[tuple[Any, str]]:
    """What decides of products, of convolutions and of more, in this release of torch.

    Reading the older switches after the newer ones were set raises an error, and the reverse.
    """
    backends = torch.backends
    if hasattr(backends.cuda.matmul, "fp32_precision"):
        owners: tuple[Any, ...] = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)  # type: ignore[attr-defined]
        return [(owner, "fp32_precision") for owner in owners]
    return [(backends.cuda.matmul, "allow_tf32"), (backends.cudnn, "allow_tf32")]


def _value(name: str, wanted: str) -> str | bool:
    return wanted == "tf32" if name == "allow_tf32" else wanted
