"""What one cell of a comparison was run with and came to, and where its files lie. No torch.

runs/<protocol>/<head>/seed-<n>/   record.json areas.npz history.jsonl config.yaml
                                   checkpoint.safetensors resume.pt; watch.jsonl where the
                                   training was watched, tensorboard/ where it was tracked
runs/<protocol>/profile.json       cost of every head, measured side by side
runs/<protocol>/precision.json     number format and memory layout that all heads share
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, model_validator

from contextbench.records.classes import ClassTotals, LabelInfo
from contextbench.records.failures import Failure
from contextbench.records.formats import Format
from contextbench.records.stored import (
    SCHEMA_VERSION,
    Count,
    Free,
    Part,
    Positive,
    RecordError,
    Seconds,
    Stored,
    fitting,
    read_record,
)
from contextbench.records.watched import Watched
from contextbench.system.files import digest_of, quarantine
from contextbench.system.naming import Name
from contextbench.system.reading import exists

COMPARISON_FILES = ("table.csv", "profile.json", "precision.json")
Used = Literal["areas.npz", "checkpoint.safetensors"]
"""Files that a finished run is used with, besides its record."""
AREAS: Used = "areas.npz"
CHECKPOINT: Used = "checkpoint.safetensors"
NOTABLE_WAIT = 0.1  # part of the training time spent waiting for data from which on it is said
Status = Literal["done", "failed", "out_of_memory", "interrupted"]


class MisplacedError(RecordError):
    """A record in the folder of another run. The message names both."""


def _recorded_head(head: dict[str, Any]) -> dict[str, Any]:
    return fitting(_Head, head)


def _recorded_protocol(protocol: dict[str, Any]) -> dict[str, Any]:
    return fitting(_Protocol, protocol)


class _Head(Part):
    name: Name
    head: str = ""
    options: dict[str, Any] = {}
    loss_weights: dict[str, float] = {}


class _Dataset(Part):
    name: str = ""
    train: str = ""
    evaluate: str = ""
    options: dict[str, Any] = {}


class _Protocol(Part):
    name: Name
    dataset: _Dataset | None = None
    backbone: dict[str, Any] = {}
    train: dict[str, Any] = {}
    evaluate: dict[str, Any] = {}


Head = Annotated[dict[str, Any], AfterValidator(_recorded_head)]
Protocol = Annotated[dict[str, Any], AfterValidator(_recorded_protocol)]


class Leg(Stored):
    """A part of a run that one start of the program did, on the devices and versions of then.

    A run that was interrupted has several. The last step of one is that of its last stored state,
    which the next goes on from: what was done after it is done again.
    """

    started: str  # ISO 8601, UTC
    finished: str
    first_step: Count  # steps done when it started
    last_step: Count  # steps done when it ended
    precision: dict[str, str]
    environment: Free


class RunRecord(Stored):
    """One cell of a comparison: one head, one seed, one protocol."""

    schema_version: int = SCHEMA_VERSION
    status: Status
    failure: Failure | None = None
    protocol: Protocol  # resolved
    head: Head  # resolved, with `name`
    seed: Count
    fingerprint: str  # of the protocol
    dataset_fingerprint: str
    labels: LabelInfo
    precision: Format  # dtype and memory_format that were used
    environment: Free
    started: str  # ISO 8601, UTC
    finished: str
    steps: Count  # trained so far
    train_seconds: Seconds
    train_wait_seconds: Seconds | None = None  # of them, for data; None in records of before
    watch_seconds: Seconds | None = None  # of the watched steps; None where none were watched
    evaluate_seconds: Seconds | None = None
    evaluated_images: Positive | None = None
    totals: ClassTotals | None = None
    legs: list[Leg] = []  # all that the run came from, in order; [] in records of before
    weights_digest: str | None = None  # SHA-256 of the file that `backbone.weights` names
    digests: dict[Used, str] = {}  # file beside the record -> its SHA-256; {} in records of before
    kept: Watched | None = None  # the step whose weights were kept; None: those of the last step

    @model_validator(mode="after")
    def _of_one_piece(self) -> Self:
        if self.status == "done" and self.failure is not None:
            raise ValueError("status done excludes a failure")
        classes = len(self.labels.classes)
        watched = self.kept.totals if self.kept is not None else None
        for totals in (self.totals, watched):
            if totals is not None and len(totals.labelled) != classes:
                raise ValueError(f"totals are of {len(totals.labelled)} classes, not of {classes}")
        return self

    @property
    def wait_share(self) -> float | None:
        """Part of the training time that went by waiting for data; None where it is not known."""
        if self.train_wait_seconds is None or not self.train_seconds:
            return None
        return self.train_wait_seconds / self.train_seconds

    @property
    def head_name(self) -> str:
        return str(self.head["name"])

    @property
    def protocol_name(self) -> str:
        return str(self.protocol["name"])


def cell_folder(out: Path, protocol: str, head: str, seed: int) -> Path:
    """Where the files of one cell lie."""
    return out / protocol / head / f"seed-{seed}"


def read_run(path: Path) -> RunRecord:
    """Read a `record.json`.

    Raises `RecordError` when corrupt or of another schema version, and `MisplacedError` for the
    record of another head or seed than its folder is for.
    """
    record = read_record(RunRecord, path)
    _check_place(record, path.parent)
    return record


def _check_place(record: RunRecord, folder: Path) -> None:
    """Refuse a record that was copied or moved to another run's folder.

    A run may be copied to anywhere: its seed is compared with folders named `seed-N` only, its head
    with the folder above only where that lies in the folder of a comparison.
    """
    folder = folder.absolute()
    found = re.fullmatch(r"seed-(\d+)", folder.name)
    if found is None:
        return
    protocol = folder.parent.parent
    whole = protocol.name == record.protocol_name or any(
        (protocol / name).exists() for name in COMPARISON_FILES
    )
    if int(found[1]) == record.seed and folder.parent.name == (
        record.head_name if whole else folder.parent.name
    ):
        return
    raise MisplacedError(
        f"{folder / 'record.json'} is that of {record.head_name}, seed {record.seed}, which is "
        f"stored in {record.head_name}/seed-{record.seed}: this run was copied or moved here. Move "
        "it back, or remove it"
    )


def damage(folder: Path, record: RunRecord, name: Used) -> str | None:
    """What is wrong with a file that `record` states the digest of; None where nothing is known."""
    path, digest = folder / name, record.digests.get(name)
    if digest is None:
        return None
    try:
        if digest_of(path) == digest:
            return None
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror or error}"
    return f"{path} is not the file that record.json was written with: damaged, or of another run"


def existing_run(folder: Path) -> RunRecord | None:
    """The record of a cell, or None; a corrupt one is set aside so that the cell runs again."""
    path = folder / "record.json"
    if not exists(path):
        return None
    try:
        return read_run(path)
    except MisplacedError:
        raise
    except RecordError as error:
        quarantine(path, error)
        return None


def find_runs(folder: Path) -> list[Path]:
    """Cell folders below `folder` that have a record, in order of path."""
    return sorted(path.parent for path in folder.rglob("record.json"))
