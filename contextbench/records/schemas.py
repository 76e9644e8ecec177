"""Records of what was run, and where their files lie. Raw counts and samples only; no torch.

runs/<protocol>/<head>/seed-<n>/   record.json areas.npz history.jsonl config.yaml
                                   checkpoint.safetensors resume.pt
runs/<protocol>/profile.json       cost of every head, measured side by side
runs/<protocol>/precision.json     number format and memory layout that all heads share
"""

import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from contextbench.config.sampling import Sampling
from contextbench.system.errors import UserError
from contextbench.system.files import digest_of, quarantine, write_atomic, write_text
from contextbench.system.naming import Name
from contextbench.system.npz import read_arrays
from contextbench.system.reading import check_plain, exists, given, read_bytes, read_json, why
from contextbench.system.text import printable

SCHEMA_VERSION = 1
COMPARISON_FILES = ("table.csv", "profile.json", "precision.json")
LONGEST_MESSAGE = 400  # characters of an error's message that had several lines
Used = Literal["areas.npz", "checkpoint.safetensors"]
"""Files that a finished run is used with, besides its record."""

AREAS: Used = "areas.npz"
CHECKPOINT: Used = "checkpoint.safetensors"
LARGEST_HISTORY = 2**30  # bytes
LARGEST_NUMBER = 1e300  # in a history: such that means of them are numbers
ARRAYS = ("image", "intersection", "predicted", "labelled")  # arrays of an `areas.npz`
NOTABLE_WAIT = 0.1  # part of the training time spent waiting for data from which on it is said

Status = Literal["done", "failed", "out_of_memory", "interrupted"]
IntArray = npt.NDArray[np.int64]
R = TypeVar("R", bound=BaseModel)
V = TypeVar("V")


class RecordError(UserError, ValueError):
    """A record that cannot be used. The message names the file and the reason."""


class MisplacedError(RecordError):
    """A record in the folder of another run. The message names both."""


class _Stored(BaseModel):
    """Immutable and closed, as `_read` takes it; its validators are all that is checked of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _plain(content: dict[str, V]) -> dict[str, V]:
    check_plain(content)
    return content


MOST_PIXELS = 2**62  # such that the sum of two counts fits into 64 bits

Count = Annotated[int, Field(ge=0, le=MOST_PIXELS)]
Positive = Annotated[int, Field(ge=1, le=MOST_PIXELS)]
Seconds = Annotated[float, Field(ge=0, le=1e10)]
Milliseconds = Annotated[float, Field(gt=0, le=1e10)]  # ratios divide by them
Shade = Annotated[int, Field(ge=0, le=255)]
TrainId = Annotated[int, Field(ge=0, lt=2**16)]
Free = Annotated[dict[str, Any], AfterValidator(_plain)]  # what no reader relies on


class NumberFormat(_Stored):
    """The number format and memory layout that a model runs in."""

    dtype: Literal["float32", "tf32", "bfloat16"]
    memory_format: Literal["contiguous", "channels_last"]


class StoredPrecision(_Stored):
    """A `precision.json`: what was chosen for all heads of a comparison, and on which device."""

    model_config = ConfigDict(extra="ignore")  # what the choice rests on is for people

    device: str
    chosen: NumberFormat


def read_precision(path: Path) -> StoredPrecision:
    """Read a `precision.json`. Raises `RecordError` for one that cannot be used."""
    return _valid(StoredPrecision, _content(path), path)


def _fitting(part: type[BaseModel], content: dict[str, V]) -> dict[str, V]:
    """`content`. Raises ValueError unless readers find in it what they take from it."""
    try:
        part.model_validate(_plain(content))
    except ValidationError as error:
        raise ValueError(why(error)) from None
    return content


def _recorded_head(head: dict[str, Any]) -> dict[str, Any]:
    return _fitting(_Head, head)


def _recorded_protocol(protocol: dict[str, Any]) -> dict[str, Any]:
    return _fitting(_Protocol, protocol)


def _known_format(precision: dict[str, str]) -> dict[str, str]:
    return _fitting(_Format, precision)


class _Part(_Stored):
    """What readers rely on of what is recorded as it was resolved; the rest may be anything."""

    model_config = ConfigDict(extra="allow")


class _Head(_Part):
    name: Name
    head: str = ""
    options: dict[str, Any] = {}
    loss_weights: dict[str, float] = {}


class _Dataset(_Part):
    name: str = ""
    train: str = ""
    evaluate: str = ""
    options: dict[str, Any] = {}


class _Protocol(_Part):
    name: Name
    dataset: _Dataset | None = None
    backbone: dict[str, Any] = {}
    train: dict[str, Any] = {}
    evaluate: dict[str, Any] = {}


class _Format(_Part):
    dtype: Literal["float32", "bfloat16"] | None = None
    memory_format: Literal["contiguous", "channels_last"] | None = None


Head = Annotated[dict[str, Any], AfterValidator(_recorded_head)]
Protocol = Annotated[dict[str, Any], AfterValidator(_recorded_protocol)]
Format = Annotated[dict[str, str], AfterValidator(_known_format)]


class Failure(_Stored):
    """Why a run or a measurement has no numbers."""

    kind: str  # class of the error
    message: str
    detail: str | None = None  # the error's own words where the message is shorter

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        text = printable(str(error))
        line = _one_line(text)
        detail = None if line == text.strip() else text
        return cls(kind=type(error).__name__, message=line, detail=detail)

    @property
    def cause(self) -> str:
        """On one line."""
        return " ".join(f"{self.kind}: {self.message}".split())


class ClassTotals(_Stored):
    """Pixels per class over the whole split, ignored pixels left out. Each list has K integers."""

    intersection: list[Count]
    predicted: list[Count]
    labelled: list[Count]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        _check_counts(self.intersection, self.predicted, self.labelled)
        return self


class LabelInfo(_Stored):
    """What a report needs to know about the classes without opening the dataset."""

    classes: Annotated[list[str], Field(min_length=1, max_length=2**16)]
    palette: list[tuple[Shade, Shade, Shade]]
    groups: dict[str, list[TrainId]] = {}
    swap: list[tuple[TrainId, TrainId]] = []  # that a horizontal flip exchanges
    sampling: Sampling | None = None  # which images belong together; None in records of before

    @model_validator(mode="after")
    def _one_number_of_classes(self) -> Self:
        count = len(self.classes)
        if len(self.palette) != count:
            raise ValueError(f"{count} classes have {len(self.palette)} colours")
        members = [*self.groups.values(), [k for pair in self.swap for k in pair]]
        if beyond := [k for group in members for k in group if k >= count]:
            raise ValueError(f"train id {beyond[0]} in groups or swap is none of {count} classes")
        return self


class Leg(_Stored):
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


class RunRecord(_Stored):
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
    evaluate_seconds: Seconds | None = None
    evaluated_images: Positive | None = None
    totals: ClassTotals | None = None
    legs: list[Leg] = []  # all that the run came from, in order; [] in records of before
    weights_digest: str | None = None  # SHA-256 of the file that `backbone.weights` names
    digests: dict[Used, str] = {}  # file beside the record -> its SHA-256; {} in records of before

    @model_validator(mode="after")
    def _of_one_piece(self) -> Self:
        if self.status == "done" and self.failure is not None:
            raise ValueError("status done excludes a failure")
        classes = len(self.labels.classes)
        if self.totals is not None and len(self.totals.labelled) != classes:
            raise ValueError(f"totals are of {len(self.totals.labelled)} classes, not of {classes}")
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


class ScopeCounts(_Stored):
    """Size and work of one scope (`context`, `head` or `model`); FLOPs are twice the MACs."""

    parameters: Count
    macs: Count
    uncounted: list[str] = []  # operators that no counter sees


class HeadCost(_Stored):
    """What one head costs at the profile's input size; None where it could not be determined."""

    counts: dict[str, ScopeCounts]
    inference_memory_bytes: Count | None = None  # predicted peak, model scope, weights and input in
    training_memory_bytes: Count | None = None  # predicted peak of one optimisation step
    latency_ms: list[Milliseconds] = []  # forward, one sample a round, rounds shared by all heads
    train_latency_ms: list[Milliseconds] = []  # forward + backward + step
    failure: Failure | None = None


class ProfileRecord(_Stored):
    """Costs of several heads, measured in interleaved rounds on one device."""

    schema_version: int = SCHEMA_VERSION
    protocol_name: Name | None
    identity: str | None = (
        None  # of protocol, heads, precision and device; None outside comparisons
    )
    backbone: str | None
    input: str  # e.g. "1x3x192x192"
    training_input: str | None
    scope: str  # what was timed and whose memory was predicted: `model` or `head` or `context`
    precision: Format
    environment: Free
    baseline: str  # head that latency ratios refer to
    heads: dict[Name, HeadCost]
    # What was measured: sizes, passes an image, a process's part of the batch; {}: before 0015
    workload: Free = {}
    order_seed: int | None = None  # of the order within rounds; None: always that of the heads
    notes: list[str] = []  # what a reader of these costs must know


class MemoryBytes(_Stored):
    """Predicted peak of one forward pass without gradients, and its parts."""

    peak_bytes: Count  # weights + input + activations
    weights_bytes: Count
    input_bytes: Count
    activation_peak_bytes: Count  # all else that lives at the peak


class Timing(_Stored):
    """Times of one scope of one head, one sample a round."""

    scope: str  # `core`, `context` or `head`
    direction: Literal["forward", "forward_backward"]
    latency_ms: list[Milliseconds]


class FormCost(_Stored):
    """What one form of one head costs on features of one size, batch 1.

    The scope `core` is the part of `context` that differs between the two forms.
    """

    head: str  # name of the head's file
    implementation: str  # `fast` or `reference`
    height: Positive  # of the features, in feature pixels
    width: Positive
    counts: dict[str, ScopeCounts] = {}  # `context` and `head`
    memory: dict[str, MemoryBytes] = {}  # `context` and `head`
    measured_activation_peak_bytes: Count | None = None  # of `context`, where the device counts it
    products: dict[str, dict[str, Count]] = {}  # scope -> operator of the record -> times it runs
    timings: list[Timing] = []
    failure: Failure | None = None


class HeadProfileRecord(_Stored):
    """Costs of heads alone, without a backbone, measured in interleaved rounds on one device."""

    schema_version: int = SCHEMA_VERSION
    channels: Positive  # of the features' last stage
    classes: Positive
    precision: Format
    environment: Free
    rounds: Count  # 0: predicted only
    costs: list[FormCost]
    # Convolutions and matrix products of the forward passes, each run alone: ms, one a round.
    operators_ms: dict[str, list[Milliseconds]] = {}

    @property
    def sizes(self) -> int:
        """Number of feature sizes."""
        return len({(cost.height, cost.width) for cost in self.costs})


class Pace(_Stored):
    """Images in a time, and how much of it the device waited for them."""

    images: Count
    seconds: Seconds
    wait_seconds: Seconds = 0.0


class WorkersPace(_Stored):
    """Rounds with one number of worker processes: of loading alone, and of training on it."""

    workers: Count
    loading: list[Pace]
    training: list[Pace] = []


class LoaderRecord(_Stored):
    """How fast training data are loaded, and how fast a model trains, in interleaved rounds."""

    schema_version: int = SCHEMA_VERSION
    protocol_name: Name
    head: Name | None  # None: only loading was measured
    data: str  # what was loaded
    image_size: tuple[Positive, Positive]  # height, width
    crop: tuple[Positive, Positive]
    batch: Positive
    pinned: bool  # whether batches are in page-locked memory
    precision: Format
    environment: Free
    stage_seconds: dict[str, list[Seconds]]  # of one process on a batch: decode, augment, collate
    trainer: list[Pace] = []  # on batches that are there already
    loaders: list[WorkersPace]


@dataclass(frozen=True)
class Areas:
    """Per-image pixel counts of one evaluation; `names` in the order of the rows."""

    names: list[str]
    intersection: IntArray  # (images, K)
    predicted: IntArray
    labelled: IntArray

    def totals(self) -> ClassTotals:
        """Sums over the images."""
        return ClassTotals(
            intersection=self.intersection.sum(0).tolist(),
            predicted=self.predicted.sum(0).tolist(),
            labelled=self.labelled.sum(0).tolist(),
        )


def _check_counts(
    intersection: Sequence[int], predicted: Sequence[int], labelled: Sequence[int]
) -> None:
    """Raises ValueError for totals that no prediction of any labels has."""
    if not len(intersection) == len(predicted) == len(labelled):
        raise ValueError("intersection, predicted and labelled are of different numbers of classes")
    pairs = zip(intersection, predicted, labelled, strict=True)
    for k, (correct, *areas) in enumerate(pairs):
        if correct > min(areas):
            raise ValueError(f"train id {k} has more correct than predicted or labelled pixels")
    if sum(predicted) != sum(labelled) or sum(labelled) > MOST_PIXELS:
        raise ValueError(
            f"{sum(predicted)} predicted and {sum(labelled)} labelled pixels: every labelled pixel "
            f"is predicted, and there are at most {MOST_PIXELS}"
        )


def cell_folder(out: Path, protocol: str, head: str, seed: int) -> Path:
    """Where the files of one cell lie."""
    return out / protocol / head / f"seed-{seed}"


def write_model(path: Path, record: BaseModel) -> None:
    """Write a record atomically."""
    write_text(path, record.model_dump_json(indent=1) + "\n")


def read_run(path: Path) -> RunRecord:
    """Read a `record.json`.

    Raises `RecordError` when corrupt or of another schema version, and `MisplacedError` for the
    record of another head or seed than its folder is for.
    """
    record = _read(RunRecord, path)
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


def read_head_profile(path: Path) -> HeadProfileRecord:
    """A record of heads alone. Raises `RecordError` naming what is wrong with the file."""
    return _read(HeadProfileRecord, path)


def read_profile(path: Path) -> ProfileRecord:
    """Read a `profile.json`. Raises `RecordError` like `read_run`."""
    return _read(ProfileRecord, path)


def _read(model: type[R], path: Path) -> R:
    content = _content(path)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if type(version) is not int or version != SCHEMA_VERSION:
        found = f"schema version {given(version)}"
        raise RecordError(f"{path}: {found}, this release reads {SCHEMA_VERSION}")
    return _valid(model, content, path)


def _content(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: cannot be read: {why(error)}") from error


def _valid(model: type[R], content: Any, path: Path) -> R:
    try:
        return model.model_validate(content)
    except ValueError as error:
        raise RecordError(f"{path}: not a valid record: {why(error)}") from error


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


def write_areas(path: Path, areas: Areas) -> None:
    """Write per-image counts as a compressed npz."""
    arrays = {
        "image": np.array(areas.names),
        "intersection": areas.intersection,
        "predicted": areas.predicted,
        "labelled": areas.labelled,
    }
    write_atomic(path, lambda file: np.savez_compressed(file, allow_pickle=False, **arrays))


def read_areas(path: Path, run: RunRecord | None = None) -> Areas:
    """Read per-image counts, which are those of `run` where it is given.

    Raises `RecordError` where they are missing, corrupt, impossible or those of another run.
    """
    try:
        names, *counts = read_arrays(path, ARRAYS, partial(_check_shapes, run=run))
        areas = Areas(_image_names(names), *counts)
        _check_areas(areas)
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: cannot be read: {why(error)}") from error
    if run is not None and areas.totals() != run.totals:
        raise RecordError(f"{path}: the counts do not add up to those of record.json")
    return areas


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], run: RunRecord | None) -> None:
    """Raises ValueError unless all are of the same images and classes, those of `run`."""
    images, *counts = (shapes[name] for name in ARRAYS)
    if len(set(counts)) != 1 or len(counts[0]) != 2 or images != counts[0][:1]:
        raise ValueError(f"not one (images, classes) shape: {sorted(set(counts))} of {images}")
    expected = None if run is None else (run.evaluated_images, len(run.labels.classes))
    if expected is not None and counts[0] != expected and expected[0] is not None:
        raise ValueError(f"its counts are {counts[0]}, images and classes of the run {expected}")


def _image_names(names: npt.NDArray[Any]) -> list[str]:
    if names.dtype.kind != "U":
        raise ValueError(f"the names of images must be text, not {names.dtype}")
    found: list[str] = names.tolist()
    check_plain(found)
    return found


def _check_areas(areas: Areas) -> None:
    """Raises ValueError for counts that no prediction of any image has."""
    counts = (areas.intersection, areas.predicted, areas.labelled)
    if any(array.dtype != np.int64 for array in counts):
        raise ValueError("counts must be int64")
    if max(float(array.sum(dtype=np.float64)) for array in counts) > MOST_PIXELS:
        raise ValueError(f"there are more than {MOST_PIXELS} pixels")
    correct, predicted, labelled = counts
    wrong = (correct < 0) | (correct > predicted) | (correct > labelled)
    impossible = wrong.any(axis=1) | (predicted.sum(axis=1) != labelled.sum(axis=1))
    if impossible.any():
        name = areas.names[int(impossible.argmax())]
        raise ValueError(f"the counts of image {given(name)} are impossible")


def write_history(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON line for each entry (`step`, `lr`, `loss`, one number per loss term)."""
    lines = [json.dumps(dict(entry), allow_nan=False) + "\n" for entry in entries]
    write_text(path, "".join(lines))


def read_history(path: Path) -> list[dict[str, Any]]:
    """Entries of a `history.jsonl`; a last line cut off by a crash is left out. Missing file: [].

    Raises `RecordError` for any other line that is no entry.
    """
    if not exists(path):
        return []
    try:
        lines = read_bytes(path, LARGEST_HISTORY).split(b"\n")
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: cannot be read: {why(error)}") from error
    entries = [_entry(line) for line in lines]
    if not lines[-1] or entries[-1] is None:
        entries.pop()
    if None in entries:
        raise RecordError(f"{path}: line {entries.index(None) + 1} is no entry of a history")
    return [entry for entry in entries if entry is not None]


def _entry(line: bytes) -> dict[str, Any] | None:
    """A step with its numbers; None for a line that is none."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and _is_entry(entry) else None


def _is_entry(entry: Mapping[str, Any]) -> bool:
    numbers = all(
        type(value) in (int, float) and -LARGEST_NUMBER < value < LARGEST_NUMBER
        for value in entry.values()
    )
    return numbers and type(entry.get("step")) is int and "loss" in entry


def _one_line(text: str) -> str:
    """An error's text on one line; of a traceback in it, as worker processes send, what it ends in.

    A longer text, such as a list of keys, is cut.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
        return text.strip()
    if any(line.startswith("Traceback (") or "Original Traceback" in line for line in lines):
        return re.sub(r"^(\w+\.)*\w+(Error|Exception): ", "", lines[-1])
    return textwrap.shorten(" ".join(lines), LONGEST_MESSAGE, placeholder=" ...")


def differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys in which two nested mappings differ, with both values."""
    one, two = _flat(left), _flat(right)
    missing = "(not set)"
    pairs = {key: (one.get(key, missing), two.get(key, missing)) for key in {**one, **two}}
    return {key: (a, b) for key, (a, b) in pairs.items() if a != b}


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat
