"""What papers print: costs, beside the heads that are compared with them, and scores. No torch.

A file in `configs/tables/` names a file of published figures and lists rows; each row is a head
with options and, where the paper has that row, the paper's name of it. Files of published scores
have a line for each score, which is found by the text of some of its cells.
"""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from contextbench.config.files import ConfigError, find_config, nearest, read_mapping, validated
from contextbench.config.frozen import Frozen, Positive
from contextbench.config.heads import HeadConfig
from contextbench.system.naming import Name


class PublishedCost(Frozen):
    """One row of a paper's complexity table, as printed; None where a cell is empty."""

    method: str
    params_m: float | None
    memory_mb: float | None
    flops_g: float | None
    time_ms: float | None
    input_feature_map: str
    gpu: str
    status: Literal["verified", "unverified"]
    source: str

    @field_validator("params_m", "memory_mb", "flops_g", "time_ms", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value == "" else value

    @property
    def parameters(self) -> int | None:
        return None if self.params_m is None else round(self.params_m * 1e6)

    @property
    def flops(self) -> int | None:
        return None if self.flops_g is None else round(self.flops_g * 1e9)

    @property
    def memory_bytes(self) -> int | None:
        """What is printed as MB are MiB: only so do the sizes of the tensors add up to it."""
        return None if self.memory_mb is None else round(self.memory_mb * 2**20)


class PublishedScore(Frozen):
    """One line of a file of published scores; all cells as printed."""

    file: str
    line: int  # in the file, from 1
    cells: dict[str, str]
    dataset: str
    split: str  # empty where the file does not say
    backbone: str
    miou_percent: float | None  # None: the cell is empty
    status: Literal["verified", "unverified", "computed"]
    source: str
    notes: str = ""

    @property
    def miou(self) -> float | None:
        """As a fraction, to the printed digits: without the noise of a division."""
        return None if self.miou_percent is None else round(self.miou_percent / 100, 6)

    @property
    def decimals(self) -> int:
        """Digits behind the point, as printed: 2 for 55.60."""
        return len(self.cells[_score_column(self.cells)].partition(".")[2])


class FeatureShape(Frozen):
    """The features that a table is about, batch 1: `layer4` of a backbone."""

    channels: Positive
    height: Positive
    width: Positive

    def __str__(self) -> str:
        return f"{self.channels}x{self.height}x{self.width}"


class TableRow(Frozen):
    """A head with options, and the row of the paper that it is compared with."""

    name: str  # of the head in a record
    label: str
    method: str | None  # in the published file; None: not in the paper
    head: str
    options: dict[str, Any] = Field(default_factory=dict)
    counts: str  # which layers the parameters and FLOPs are those of
    notes: tuple[str, ...] = ()  # what differs from the published figures, and why


class TableSpec(Frozen):
    """A paper's table with our heads beside it. `baseline` is the row that times refer to."""

    name: Name
    title: str
    published: str  # file in `published_folder()`
    features: FeatureShape
    classes: Positive
    baseline: str
    rows: tuple[TableRow, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [row.name for row in self.rows]
        if len(set(names)) < len(names):
            raise ValueError(f"the names of rows must differ, got {', '.join(names)}")
        if self.baseline not in names:
            raise ValueError(
                f"baseline {self.baseline!r} is no row; {nearest(self.baseline, names)}"
            )
        return self

    def heads(self) -> list[HeadConfig]:
        """What a record must hold, in both forms, for the table to be complete."""
        return [HeadConfig(name=r.name, head=r.head, options=r.options) for r in self.rows]


def published_folder() -> Path:
    """The papers' figures: inside an installed package, or `results/published` in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "published"
    return installed if installed.is_dir() else package.parent / "results" / "published"


def load_table(name: str, known: Iterable[str]) -> TableSpec:
    """Read a shipped table by name, or any file by path. `known` are the registered heads.

    Raises `ConfigError` for an unknown name, an unreadable file, unknown or invalid keys and
    unknown heads, naming the file and the row.
    """
    path = find_config(name, "tables")
    spec = validated(TableSpec, read_rows(path, TableRow), str(path))
    heads = set(known)
    for row in spec.rows:
        if row.head not in heads:
            hint = nearest(row.head, heads)
            raise ConfigError(f"{path}: row {row.name!r}: head {row.head!r} is unknown; {hint}")
    return spec


def read_rows(path: Path, model: type[Frozen]) -> dict[str, Any]:
    """What a file holds, its `rows` validated one by one; its own name unless it gives one.

    Raises `ConfigError` for an unreadable file and wrong rows, naming the row.
    """
    content = read_mapping(path)
    rows = content.get("rows")
    if isinstance(rows, list):
        checked = [_row(row, model, f"{path}: row {i}") for i, row in enumerate(rows, start=1)]
        content = {**content, "rows": checked}
    return {"name": path.stem, **content}


def load_published(spec: TableSpec) -> dict[str, PublishedCost]:
    """The published figures that a table refers to, by the paper's names of its rows.

    Raises `ConfigError` for an unreadable file, wrong cells, and a row whose method it lacks.
    """
    path = published_folder() / spec.published
    lines = _lines(path)
    costs = [_published(line, f"{path}: line {i}") for i, line in enumerate(lines, start=2)]
    figures = {cost.method: cost for cost in costs}
    for row in spec.rows:
        if row.method is not None and row.method not in figures:
            raise ConfigError(
                f"table {spec.name!r}: row {row.name!r}: method {row.method!r} is not in {path}; "
                f"{nearest(row.method, figures)}"
            )
    return figures


def load_scores(file: str) -> list[PublishedScore]:
    """The lines with an mIoU of a file in `published_folder()`.

    The mIoU is in the column `miou`, or in `value` where `metric` is mIoU. Raises `ConfigError` for
    an unreadable file and for wrong or missing cells, naming the line.
    """
    path = published_folder() / file
    numbered = [
        (number, _cells(line, f"{path}: line {number}"))
        for number, line in enumerate(_lines(path), start=2)
    ]
    scores = [
        _score(file, number, cells, f"{path}: line {number}")
        for number, cells in numbered
        if cells.get("metric", "mIoU") == "mIoU"
    ]
    if not scores:
        raise ConfigError(f"{path}: has no line with an mIoU")
    return scores


def find_score(
    scores: Sequence[PublishedScore], keys: Mapping[str, str], source: str
) -> PublishedScore:
    """The one line of `scores`, at least one, whose cells have the text that `keys` give.

    Raises `ConfigError`, beginning with `source`, for an unknown column, a text that no line has
    there, and keys that no or several lines have together.
    """
    left = list(scores)
    for column, text in keys.items():
        if any(column not in score.cells for score in scores):
            hint = nearest(column, scores[0].cells)
            raise ConfigError(f"{source}: {scores[0].file} has no column {column!r}; {hint}")
        given = {score.cells[column] for score in left}
        left = [score for score in left if score.cells[column] == text]
        if not left:
            hint = nearest(text, given - {""})
            raise ConfigError(
                f"{source}: no line of {scores[0].file} with these keys has {column!r} {text!r}; "
                f"{hint}"
            )
    if len(left) > 1:
        lines = ", ".join(str(score.line) for score in left)
        differing = [name for name in left[0].cells if len({s.cells[name] for s in left}) > 1]
        raise ConfigError(
            f"{source}: the lines {lines} of {scores[0].file} all have these keys; add another "
            f"key, of {', '.join(differing)}"
        )
    return left[0]


def refer(reference: str) -> PublishedScore:
    """The score that `FILE:LINE` or `FILE:COLUMN=TEXT,COLUMN=TEXT` names; the file without .csv.

    Raises `ConfigError` for another form and an unknown file, line, column or text.
    """
    name, separator, keys = reference.partition(":")
    if not separator or not (keys.isdecimal() or "=" in keys):
        raise ConfigError(
            f"published score {reference!r}: write FILE:COLUMN=TEXT,COLUMN=TEXT or FILE:LINE, like "
            "mmseg_published:method=PSPNet,backbone=R-101-D8,dataset=ADE20K,iterations=80000"
        )
    files = {path.stem: path.name for path in published_folder().glob("*.csv")}
    stem = name.removesuffix(".csv")
    if stem not in files:
        raise ConfigError(
            f"published score {reference!r}: no file {stem!r}; {nearest(stem, files)}"
        )
    scores, source = load_scores(files[stem]), f"published score {reference!r}"
    if not keys.isdecimal():
        # Texts may hold commas: a new key is what a comma and a name with "=" begin.
        pairs = (part.partition("=") for part in re.split(r",\s*(?=\w+=)", keys))
        return find_score(scores, {column: text for column, _, text in pairs}, source)
    for score in scores:
        if score.line == int(keys):
            return score
    first, last = scores[0].line, scores[-1].line
    raise ConfigError(f"{source}: lines with an mIoU are among {first} .. {last} of {files[stem]}")


def _score(file: str, line: int, cells: dict[str, str], source: str) -> PublishedScore:
    column = _score_column(cells)
    for needed in ("dataset", "backbone", column, "status", "source"):
        if needed not in cells:
            raise ConfigError(f"{source}: key {needed!r} is missing")
    named = {key: cells[key] for key in ("dataset", "backbone", "status", "source")}
    content = {
        **named,
        "split": cells.get("split", ""),
        "file": file,
        "line": line,
        "cells": cells,
        "miou_percent": cells[column] or None,
        "notes": cells.get("notes", ""),
    }
    return validated(PublishedScore, content, source)


def _score_column(cells: Mapping[str, str]) -> str:
    return "miou" if "miou" in cells else "value"


def _lines(path: Path) -> list[dict[Any, Any]]:
    try:
        return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _cells(line: Mapping[Any, Any], source: str) -> dict[str, str]:
    # Cells beyond the header have the key None, missing ones the value None.
    if None in line or None in line.values():
        raise ConfigError(f"{source}: has not as many cells as the first line")
    return {str(key): str(value) for key, value in line.items()}


def _row(content: Any, model: type[Frozen], source: str) -> Frozen:
    if not isinstance(content, Mapping):
        raise ConfigError(f"{source}: must hold a mapping of keys, found {type(content).__name__}")
    return validated(model, content, source)


def _published(line: Mapping[Any, Any], source: str) -> PublishedCost:
    # A line with too many cells has them under the key None, one with too few has None in them.
    cells = {str(key): value for key, value in line.items() if value is not None}
    return validated(PublishedCost, cells, source)
