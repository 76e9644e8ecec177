"""What a device was found to do, part by part."""

from pathlib import Path
from typing import Literal

from contextbench.records.failures import Failure
from contextbench.records.profiles import HeadProfileRecord, ProfileRecord
from contextbench.records.stored import SCHEMA_VERSION, Free, Seconds, Stored, read_record

NAME = "device.json"


class DevicePart(Stored):
    """One thing that was tried; `found` are words and numbers by what they are of."""

    name: str
    status: Literal["done", "failed", "skipped"]
    seconds: Seconds = 0.0
    found: dict[str, str] = {}
    failure: Failure | None = None


class DeviceRecord(Stored):
    """Everything that one command found of one device."""

    schema_version: int = SCHEMA_VERSION
    environment: Free
    settings: Free  # sizes and heads that were asked for
    parts: list[DevicePart] = []
    heads: list[HeadProfileRecord] = []  # one a number format
    models: list[ProfileRecord] = []


def read_device(folder: Path) -> DeviceRecord:
    """The record in a folder. Raises `RecordError` naming what is wrong with the file."""
    return read_record(DeviceRecord, folder / NAME)
