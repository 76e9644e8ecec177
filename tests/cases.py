"""Cases of one test of which the default suite runs some, and the slow stage all others."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def quick(cases: Iterable[Any], those: Collection[Any]) -> list[Any]:
    """All `cases`; the ones that are not among `those` run in the slow stage."""
    marked = []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        slow = () if case in those else pytest.mark.slow
        marked.append(pytest.param(*values, marks=slow))
    return marked
