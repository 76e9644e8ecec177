"""Counts of multiply-accumulates by two counters that do not know of each other."""

from typing import Literal

from contextbench.records.failures import Failure
from contextbench.records.stored import SCHEMA_VERSION, Count, Free, Positive, Stored
from contextbench.system.naming import Name

Kind = Literal["convolutions", "products"]


class KindCounts(Stored):
    """Multiply-accumulates of one kind of operators, by the operators' names in each counter.

    Both columns are MACs: `ours` are half of torch's operations, `fvcore` what fvcore calls flops.
    """

    kind: Kind
    ours: dict[str, Count]
    fvcore: dict[str, Count]

    @property
    def ours_macs(self) -> int:
        return sum(self.ours.values())

    @property
    def fvcore_macs(self) -> int:
        return sum(self.fvcore.values())


class CheckedCounts(Stored):
    """Both counts of one form of one head, or of a model with it."""

    head: Name
    implementation: str | None  # None: as the head's configuration has it
    input: str  # shape of the features or of the image
    kinds: list[KindCounts] = []
    unseen_by_ours: list[str] = []  # operators that compute and are in no count
    unseen_by_fvcore: dict[str, Count] = {}  # operators without a count, and how often each runs
    other_by_fvcore: dict[str, Count] = {}  # operations of other operators: no MACs
    failure: Failure | None = None


class CountCheckRecord(Stored):
    """Our counts beside those of fvcore."""

    schema_version: int = SCHEMA_VERSION
    scope: Literal["head", "model"]
    classes: Positive
    fvcore: str  # version
    environment: Free
    checks: list[CheckedCounts]
