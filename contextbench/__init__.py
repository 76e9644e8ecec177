"""Compare context heads for semantic segmentation under one protocol.

The names below are for programs, described in docs/python.md; everything else may change without
notice. A name is loaded when it is asked for, so that importing this package needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "Model",
    "UserError",
    "build_head",
    "build_model",
    "compare",
    "load",
    "profile",
    "rank",
    "read_counts",
    "read_results",
    "tune",
]

# Name -> module that has it.
_PUBLIC = {
    "Model": "contextbench.runs.loaded",
    "UserError": "contextbench.system.errors",
    "build_head": "heads",
    "build_model": "contextbench.runs.named",
    "compare": "contextbench.runs.named",
    "load": "contextbench.runs.loaded",
    "profile": "contextbench.measure.cost",
    "rank": "contextbench.report.frames",
    "read_counts": "contextbench.report.frames",
    "read_results": "contextbench.report.frames",
    "tune": "contextbench.runs.named",
}

if TYPE_CHECKING:
    from contextbench.measure.cost import profile
    from contextbench.report.frames import rank, read_counts, read_results
    from contextbench.runs.loaded import Model, load
    from contextbench.runs.named import build_model, compare, tune
    from contextbench.system.errors import UserError
    from heads import build_head
else:  # a type checker would take any name for one of this package

    def __getattr__(name: str) -> object:
        if name not in _PUBLIC:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(import_module(_PUBLIC[name]), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
