"""What one cell of a comparison was run with and came to, and where its files lie. No torch.

runs/<protocol>/<head>/seed-<n>/   record.json areas.npz areas/<view>.npz history.jsonl
                                   config.yaml checkpoint.safetensors resume.pt; watch.jsonl where
                                   the training was watched, tensorboard/ where it was tracked
runs/<protocol>/profile.json       cost of every head, measured side by side
runs/<protocol>/precision.json     number format and memory layout that all heads share
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, PrivateAttr, model_validator

from contextbench.config.evaluation import SINGLE, ViewName, as_views
from contextbench.records.classes import ClassTotals, LabelInfo
from contextbench.records.failures import Failure
from contextbench.records.formats import Format
from contextbench.records.stored import (
    Count,
    Free,
    Part,
    RecordError,
    Seconds,
    Stored,
    fitting,
    read_record,
)
from contextbench.records.tuning import Tuned
from contextbench.records.views import ViewResult, counts_file, from_version_1
from contextbench.records.watched import Watched
from contextbench.system.files import digest_of, quarantine
from contextbench.system.naming import Name
from contextbench.system.reading import exists

COMPARISON_FILES = ("table.csv", "profile.json", "precision.json")
RUN_VERSION = 2
"""Of `record.json`: 1 had one evaluation and no views."""
CHECKPOINT: Literal["checkpoint.safetensors"] = "checkpoint.safetensors"
NOTABLE_WAIT = 0.1  # part of the training time spent waiting for data from which on it is said
Status = Literal["done", "failed", "out_of_memory", "interrupted"]


class MisplacedError(RecordError):
    """A record in the folder of another run. The message names both."""


def _recorded_head(head: dict[str, Any]) -> dict[str, Any]:
    return fitting(_Head, head)


def _recorded_protocol(protocol: dict[str, Any]) -> dict[str, Any]:
    """With its views by name. Raises ValueError as `fitting` and `as_views` do."""
    return fitting(_Protocol, {**protocol, "evaluate": as_views(protocol.get("evaluate", {}))})


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
    evaluate: dict[ViewName, dict[str, Any]] = {}


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


class Imported(Stored):
    """Where a model came from that was trained by other code.

    `facts` are what the file or its user said of it, `assumed` what published models of that code
    have, taken for lack of better; `notes` are sentences on what was dropped, missing or changed.
    """

    source: str  # the code base
    model: str  # as it was recognised
    file: str  # its name, without the folder
    digest: str  # SHA-256 of it
    published: str | None = None  # the score that its publisher states, in words
    facts: Free = {}
    assumed: Free = {}
    inference: Free | None = None  # how its code base evaluates it, where the file says so
    partial: bool = False  # not all tensors were there: not the published model
    notes: list[str] = []


class Initial(Stored):
    """The trained model that a training started from."""

    place: str  # the run or file, as `train.init` named it
    digest: str  # SHA-256 of its weights
    model: str  # the run that it is of, in words
    classes: Count  # that it had
    anew: list[str] = []  # tensors that depend on the classes, which were others


class RunRecord(Stored):
    """One cell of a comparison: one head, one seed, one protocol, in one or several views.

    Totals, images and seconds of evaluation are those of the view that is `seen`: the first unless
    another one was chosen.
    """

    schema_version: int = RUN_VERSION
    status: Status
    failure: Failure | None = None
    protocol: Protocol  # resolved
    head: Head  # resolved, with `name`
    seed: Count
    fingerprint: str  # of the protocol with its first view
    dataset_fingerprint: str  # of the training split and that of the first view
    labels: LabelInfo
    precision: Format  # dtype and memory_format that were used
    environment: Free
    started: str  # ISO 8601, UTC
    finished: str
    steps: Count  # trained so far
    train_seconds: Seconds
    train_wait_seconds: Seconds | None = None  # of them, for data; None in records of before
    watch_seconds: Seconds | None = None  # of the watched steps; None where none were watched
    views: dict[ViewName, ViewResult] = {}  # of a finished run: those that were evaluated
    legs: list[Leg] = []  # all that the run came from, in order; [] in records of before
    weights_digest: str | None = None  # SHA-256 of the file that `backbone.weights` names
    initial: Initial | None = None  # of a training that `train.init` gave its first weights
    imported: Imported | None = None  # of a model that was trained elsewhere
    digests: dict[Literal["checkpoint.safetensors"], str] = {}  # SHA-256; {} in records of before
    kept: Watched | None = None  # the step whose weights were kept; None: those of the last step
    tuned: Tuned | None = None  # what its settings were chosen from; None: those of the protocol
    _seen: str | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _of_one_piece(self) -> Self:
        if self.status == "done" and self.failure is not None:
            raise ValueError("status done excludes a failure")
        classes = len(self.labels.classes)
        watched = self.kept.totals if self.kept is not None else None
        for totals in (*(view.totals for view in self.views.values()), watched):
            if totals is not None and len(totals.labelled) != classes:
                raise ValueError(f"totals are of {len(totals.labelled)} classes, not of {classes}")
        return self

    def seen(self, view: str | None) -> Self:
        """The same record, seen in a view, which it may lack; None: in the first."""
        record = self.model_copy()
        record._seen = view
        return record

    @property
    def first_view(self) -> str:
        return next(iter(self.protocol.get("evaluate", ())), SINGLE)

    @property
    def view_name(self) -> str:
        """The view that this record is seen in."""
        return self._seen or self.first_view

    @property
    def view(self) -> ViewResult | None:
        """What the run came to in the view that it is seen in; None: it was not evaluated so."""
        return self.views.get(self.view_name)

    @property
    def totals(self) -> ClassTotals | None:
        return self.view.totals if self.view else None

    @property
    def evaluated_images(self) -> int | None:
        return self.view.evaluated_images if self.view else None

    @property
    def evaluate_seconds(self) -> float | None:
        return self.view.evaluate_seconds if self.view else None

    @property
    def evaluate_settings(self) -> dict[str, Any]:
        """Of the view that it is seen in, as they were recorded; {} where nothing is known."""
        if self.view is not None:
            return dict(self.view.settings)
        return dict(self.protocol.get("evaluate", {}).get(self.view_name, {}))

    @property
    def counts_file(self) -> str:
        """Of the view that it is seen in, below the run's folder."""
        return counts_file(self.view_name, self.first_view)

    @property
    def files(self) -> dict[str, str]:
        """Files that a finished run is used with, where the record states their SHA-256."""
        counts = {
            counts_file(name, self.first_view): view.digest
            for name, view in self.views.items()
            if view.digest is not None
        }
        return {CHECKPOINT: self.digests[CHECKPOINT], **counts} if self.digests else counts

    @property
    def init_digest(self) -> str | None:
        """SHA-256 of the weights that training started from, where these are of a trained model."""
        return None if self.initial is None else self.initial.digest

    @property
    def wait_share(self) -> float | None:
        """Part of the training time that went by waiting for data; None where it is not known."""
        if self.train_wait_seconds is None or not self.train_seconds:
            return None
        return self.train_wait_seconds / self.train_seconds

    @property
    def shared_fingerprint(self) -> str:
        """Of the protocol that heads share: without the values that were tuned for one."""
        return self.fingerprint if self.tuned is None else self.tuned.protocol_fingerprint

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
    """Read a `record.json`, one of before there were views as a record of the view `single`.

    Raises `RecordError` when corrupt or of another schema version, and `MisplacedError` for the
    record of another head or seed than its folder is for.
    """
    record = read_record(RunRecord, path, {1: from_version_1})
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


def damage(folder: Path, record: RunRecord, name: str) -> str | None:
    """What is wrong with a file that `record` states the digest of; None where nothing is known."""
    path, digest = folder / name, record.files.get(name)
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
