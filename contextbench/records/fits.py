"""How large inputs and batches may become within a given memory."""

from typing import Literal

from contextbench.records.failures import Failure
from contextbench.records.formats import Format
from contextbench.records.stored import SCHEMA_VERSION, Count, Free, Positive, Stored
from contextbench.system.naming import Name

Work = Literal["inference", "training"]
Varied = Literal["side", "batch"]


class Largest(Stored):
    """The most that fits, and what it and the next step are predicted to take."""

    work: Work
    varied: Varied  # of a square image at batch 1, in pixels; images of the protocol's crop
    largest: Positive | None = None  # None: not even the least, or a failure
    predicted_bytes: Count | None = None  # at `largest`
    next: Positive | None = None  # one step more, or the least where that does not fit
    next_bytes: Count | None = None  # more than the budget; None: `largest` is the most tried
    # 2: one image alone cannot train a batch norm over one value, so that it is one of two
    # processes whose batch norms are synchronised.
    processes: Positive = 1
    failure: Failure | None = None


class HeadFits(Stored):
    """What fits of a model with one head."""

    weights_bytes: Count | None = None  # parameters and buffers
    found: list[Largest] = []
    failure: Failure | None = None  # why nothing is known


class FitsRecord(Stored):
    """What fits into a memory, by prediction alone."""

    schema_version: int = SCHEMA_VERSION
    budget_bytes: Positive
    protocol: Free
    classes: Positive
    side_step: Positive  # pixels
    most_side: Positive  # that are tried
    most_batch: Positive
    precision: Format
    environment: Free
    heads: dict[Name, HeadFits]
