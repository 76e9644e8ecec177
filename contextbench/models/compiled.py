"""Modules that torch compiles: what they compute and learn stays that of the module itself."""

import itertools
import os
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import FunctionType
from typing import Any, Literal

import torch
from torch import nn

from contextbench.config.files import ConfigError

Mode = Literal["eager", "compile"]

_numbers = itertools.count()

LONGEST_CAUSE = 300  # characters of what torch says

# What is drawn in a pass, as for dropout, is what the module itself would draw.
OPTIONS = {"fallback_random": True}


class Compiled(nn.Module):
    """`module` as one graph a size, with the parameters, buffers and mode of `module`.

    The first call of each mode and size compiles: for graphs of any size torch's own code fails in
    dilated backbones. A call raises what torch raises where the graph breaks or cannot be compiled,
    and where there were more sizes than it keeps graphs, 8 unless it is told otherwise.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

        def call(*inputs: Any) -> Any:
            return module(*inputs)

        self._compiled = torch.compile(
            _apart(call), fullgraph=True, dynamic=False, options=dict(OPTIONS)
        )

    def forward(self, *inputs: Any) -> Any:
        return self._compiled(*inputs)


def _apart(call: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with code of its own.

    torch keeps graphs with the code of a function, refuses more than a few of one, and lets sizes
    be dynamic that differed between two of its calls: modules of one class would count as one.
    """
    assert isinstance(call, FunctionType)
    name = f"{call.__name__}_{next(_numbers)}"
    code = call.__code__.replace(co_name=name)
    return FunctionType(code, call.__globals__, name, call.__defaults__, call.__closure__)


@cache
def why_not_compiled(device: torch.device) -> str | None:
    """Why torch compiles nothing for `device` here, or None; tried on a sum, which takes seconds.

    On processors it needs a C++ compiler, on GPUs Triton too.
    """
    try:
        Compiled(_Sum())(torch.ones(2, device=device))
    except Exception as error:  # of torch, of the compiler, of the system
        said = f"{type(error).__name__}: {without_advice(str(error))}"
        cause = textwrap.shorten(said, LONGEST_CAUSE, placeholder=" ...")
        return f"torch cannot compile for {device.type} here: {cause}"
    return None


def without_advice(said: str) -> str:
    """What torch says of code that it cannot compile, less how to have it say more."""
    return said.partition("Set TORCHDYNAMO_VERBOSE")[0].strip()


def check_compiles(device: torch.device, key: str) -> None:
    """Raise `ConfigError`, naming the key of a protocol, where torch cannot compile."""
    if (reason := why_not_compiled(device)) is not None:
        raise ConfigError(
            f"{key}: {reason}. It needs a C++ compiler (g++ or clang++, or what the variable CXX "
            "names), on GPUs Triton too; without --compile nothing else changes"
        )


class _Sum(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x


@contextmanager
def empty_cache() -> Iterator[None]:
    """Let torch find nothing on disk that it compiled before, so that compiling takes its time."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ[name] = folder
        try:
            yield
        finally:
            os.environ.pop(name)
            if before is not None:
                os.environ[name] = before
