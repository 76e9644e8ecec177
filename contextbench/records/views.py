"""What a run came to in one view, and what records said before there were several."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import model_validator

from contextbench.config.evaluation import SINGLE
from contextbench.records.classes import ClassTotals
from contextbench.records.failures import Failure
from contextbench.records.stored import Free, Positive, Seconds, Stored

COUNTS = "areas.npz"
"""Counts per image of a run's first view; those of a further one are in `areas/VIEW.npz`."""


class ViewResult(Stored):
    """One evaluation of a finished training; without totals it failed.

    `fingerprint` is that of the protocol with this view alone, so that it is the run's own for the
    first view, and the same for all that was trained and evaluated alike.
    """

    settings: Free  # resolved, as in a protocol
    split: str
    fingerprint: str
    dataset_fingerprint: str  # of the training split and of `split`
    evaluated_images: Positive | None = None
    evaluate_seconds: Seconds | None = None
    totals: ClassTotals | None = None
    failure: Failure | None = None
    digest: str | None = None  # SHA-256 of its counts per image; None in records of before

    @model_validator(mode="after")
    def _scores_or_failure(self) -> Self:
        if self.totals is not None and self.failure is not None:
            raise ValueError("totals exclude a failure")
        return self


def counts_file(view: str, first_view: str) -> str:
    """Where a view's counts lie in the folder of a run."""
    return COUNTS if view == first_view else f"areas/{view}.npz"


def from_version_1(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a record without views holds, as one with the view `single`. Nothing is checked."""
    kept = {"schema_version", "totals", "evaluated_images", "evaluate_seconds"}
    record = {key: value for key, value in content.items() if key not in kept}
    digests = record.get("digests")
    digest = None
    if isinstance(digests, Mapping):
        digest = digests.get(COUNTS)
        record["digests"] = {key: value for key, value in digests.items() if key != COUNTS}
    if content.get("totals") is None:
        return record
    protocol = _mapping(content.get("protocol"))
    result = {
        "settings": protocol.get("evaluate", {}),
        "split": _mapping(protocol.get("dataset")).get("evaluate", ""),
        "fingerprint": content.get("fingerprint"),
        "dataset_fingerprint": content.get("dataset_fingerprint"),
        "evaluated_images": content.get("evaluated_images"),
        "evaluate_seconds": content.get("evaluate_seconds"),
        "totals": content["totals"],
        "digest": digest,
    }
    return {**record, "views": {SINGLE: result}}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
