"""Ablations of papers: rows of heads and changed protocols, with published scores. No torch.

A file in `configs/ablations/` names rows; each row is a head with options and, where the backbone
or the training is what the paper varies, changed values of the protocol. A row refers to published
scores by the text of cells in a file of `published_folder()`; it never repeats the numbers.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from contextbench.config.differences import differences
from contextbench.config.files import (
    ConfigError,
    find_config,
    names_in,
    nearest,
    validated,
)
from contextbench.config.frozen import Frozen, Weight
from contextbench.config.heads import HeadConfig, load_head
from contextbench.config.protocols import Protocol
from contextbench.papers.published import PublishedScore, find_score, load_scores, read_rows
from contextbench.system.naming import Name
from contextbench.system.plugins import is_place

CHANGEABLE = ("backbone", "evaluate", "head_width_factor", "train")
"""Parts of a protocol that a row may change. The data stay, so that rows share their images."""


FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class _Column(Frozen):
    """Published scores that one column of the table holds, and the keys all of them have."""

    file: str
    keys: dict[str, str] = Field(default_factory=dict)
    label: str | None = None  # where dataset, split and backbone do not tell columns apart


class _Row(Frozen):
    label: str
    head: str  # a head's file, by name or path; with options or weights of its own: registered
    name: FolderName | None = None  # of its runs, for options or weights of its own
    options: dict[str, Any] = Field(default_factory=dict)
    loss_weights: dict[str, Weight] = Field(default_factory=dict)
    protocol: dict[str, Any] = Field(default_factory=dict)  # dotted keys, as for --set
    published: dict[str, dict[str, str]] = Field(default_factory=dict)  # column -> keys of the line
    notes: tuple[str, ...] = ()  # what is not the same as in the paper

    @property
    def own(self) -> bool:
        """Whether the row's head is no file of its own."""
        return bool(self.options or self.loss_weights)


class _File(Frozen):
    name: Name
    title: str
    paper: str
    baseline: str  # label of the row that differences refer to
    published: dict[str, _Column] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    rows: tuple[_Row, ...] = Field(min_length=2)


@dataclass(frozen=True)
class AblationRow:
    """A row of the table: what to run, and what is published of it."""

    label: str
    head: HeadConfig
    changes: Mapping[str, Any]  # of the protocol; dotted keys
    published: Mapping[str, PublishedScore]  # by name of the column
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Ablation:
    """A file of `configs/ablations/` with all that it refers to."""

    name: str
    path: Path
    title: str
    paper: str
    baseline: str  # label of a row
    columns: Mapping[str, str | None]  # published columns and their labels
    rows: tuple[AblationRow, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Variant:
    """A row under one protocol: which cells it has."""

    row: AblationRow
    protocol: Protocol  # under a name of its own unless it is the given one
    changed: Mapping[str, tuple[Any, Any]]  # dotted key -> value of the given protocol, of the row


def load_ablation(name: str, known: Iterable[str]) -> Ablation:
    """Read a shipped ablation by name, or any file by path. `known` are the registered heads.

    Raises `ConfigError` for an unknown name, an unreadable file, unknown or invalid keys, unknown
    heads, and references that no or several published lines answer, naming file and row.
    """
    path = find_config(name, "ablations")
    file = validated(_File, read_rows(path, _Row), str(path))
    _check_consistent(file, path)
    heads = [_head(row, set(known), f"{path}: row {row.label!r}") for row in file.rows]
    _check_names(heads, path)
    scores = {column.file: load_scores(column.file) for column in file.published.values()}
    return Ablation(
        name=file.name,
        path=path,
        title=file.title,
        paper=file.paper,
        baseline=file.baseline,
        columns={name: column.label for name, column in file.published.items()},
        rows=tuple(
            AblationRow(
                label=row.label,
                head=head,
                changes=row.protocol,
                published=_published(row, file, scores, f"{path}: row {row.label!r}"),
                notes=row.notes,
            )
            for row, head in zip(file.rows, heads, strict=True)
        ),
        notes=file.notes,
    )


def variants(ablation: Ablation, protocol: Protocol) -> list[Variant]:
    """Every row under `protocol` with the row's changes, in order.

    Changes that leave the protocol as it is keep its name, so that runs are shared with
    comparisons; others add theirs to it: `probe+output_stride-16`. Raises `ConfigError` for keys
    that the protocol lacks or that a row must not change, naming file and row.
    """
    return [
        _variant(row, protocol, f"{ablation.path}: row {row.label!r}: protocol")
        for row in ablation.rows
    ]


def _check_consistent(file: _File, path: Path) -> None:
    labels = [row.label for row in file.rows]
    if len(set(labels)) < len(labels):
        raise ConfigError(f"{path}: the labels of rows must differ, got {', '.join(labels)}")
    if file.baseline not in labels:
        hint = nearest(file.baseline, labels)
        raise ConfigError(f"{path}: baseline {file.baseline!r} is no row; {hint}")
    used = {name for row in file.rows for name in row.published}
    if unused := [name for name in file.published if name not in used]:
        raise ConfigError(f"{path}: published.{unused[0]}: no row refers to it")


def _head(row: _Row, known: set[str], source: str) -> HeadConfig:
    if row.own != (row.name is not None):
        raise ConfigError(
            f"{source}: a row has a name if it has options or loss_weights, and only then: a "
            "head's file has its own"
        )
    if not row.own:
        try:
            return load_head(row.head, known)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error
    if row.head not in known and not is_place(row.head):
        raise ConfigError(f"{source}: head {row.head!r} is unknown; {nearest(row.head, known)}")
    if row.name in names_in("heads"):
        raise ConfigError(f"{source}: name {row.name!r} is that of a shipped head's file")
    content = {"name": row.name, **row.model_dump(include={"head", "options", "loss_weights"})}
    return validated(HeadConfig, content, source)


def _check_names(heads: Iterable[HeadConfig], path: Path) -> None:
    """Rows of one name must be one head: their runs are in one folder."""
    by_name: dict[str, HeadConfig] = {}
    for head in heads:
        if by_name.setdefault(head.name, head) != head:
            raise ConfigError(f"{path}: rows with the name {head.name!r} are different heads")


def _published(
    row: _Row, file: _File, scores: Mapping[str, list[PublishedScore]], source: str
) -> dict[str, PublishedScore]:
    found = {}
    for name, keys in row.published.items():
        if name not in file.published:
            hint = nearest(name, file.published)
            raise ConfigError(f"{source}: published has no column {name!r}; {hint}")
        column = file.published[name]
        wanted = {**column.keys, **keys}
        found[name] = find_score(scores[column.file], wanted, f"{source}: published.{name}")
    return found


def _variant(row: AblationRow, protocol: Protocol, source: str) -> Variant:
    before = protocol.model_dump(mode="json")
    after = validated(Protocol, _changed(protocol, row.changes, source), source)
    changed = differences(before, after.model_dump(mode="json"))
    name = "+".join([protocol.name, *(_suffix(key, new) for key, (_, new) in changed.items())])
    return Variant(row, validated(Protocol, {**dict(after), "name": name}, source), changed)


def _changed(protocol: Protocol, changes: Mapping[str, Any], source: str) -> dict[str, Any]:
    content = protocol.model_dump(mode="json")
    for dotted, value in changes.items():
        *outer, last = dotted.split(".")
        if (first := dotted.partition(".")[0]) not in CHANGEABLE:
            raise ConfigError(
                f"{source}: a row cannot change {first!r}; {nearest(first, CHANGEABLE)}"
            )
        inner = content
        for key in outer:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{source}: {key!r} in {dotted!r} holds a value, not keys")
        inner[last] = value
    return content


def _suffix(key: str, value: Any) -> str:
    """For the name of a folder: `output_stride-16`, `multi_grid-1-2-4`."""
    text = "-".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{key.rpartition('.')[2]}-{re.sub(r'[^A-Za-z0-9.]+', '-', text).strip('-')}"
