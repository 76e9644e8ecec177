"""How fast training data are loaded."""

from contextbench.records.formats import Format
from contextbench.records.stored import SCHEMA_VERSION, Count, Free, Positive, Seconds, Side, Stored
from contextbench.system.naming import Name


class Pace(Stored):
    """Images in a time, and how much of it the device waited for them."""

    images: Count
    seconds: Seconds
    wait_seconds: Seconds = 0.0


class WorkersPace(Stored):
    """Rounds with one number of worker processes: of loading alone, and of training on it."""

    workers: Count
    loading: list[Pace]
    training: list[Pace] = []


class LoaderRecord(Stored):
    """How fast training data are loaded, and how fast a model trains, in interleaved rounds."""

    schema_version: int = SCHEMA_VERSION
    protocol_name: Name
    head: Name | None  # None: only loading was measured
    data: str  # what was loaded
    image_size: tuple[Side, Side]  # height, width
    crop: tuple[Side, Side]
    batch: Positive
    pinned: bool  # whether batches are in page-locked memory
    precision: Format
    environment: Free
    stage_seconds: dict[str, list[Seconds]]  # of one process on a batch: decode, augment, collate
    trainer: list[Pace] = []  # on batches that are there already
    loaders: list[WorkersPace]
