"""An ablation's table: published beside measured, and the differences to one row on both sides.

A paper's data and recipe are not those of a protocol here, so absolute values do not compare; what
stands side by side are the differences to the table's baseline row. Fractions and base units in
the frame; percent and rounding where it is printed.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd
from rich.table import Table

from contextbench.ablation import Ablation
from contextbench.config import Protocol
from contextbench.files import write_text
from contextbench.metrics import scores
from contextbench.published import PublishedScore
from contextbench.report.ablation_runs import RowRuns
from contextbench.report.checks import device_name
from contextbench.report.collection import VIDEO_DATASETS
from contextbench.report.ranking_text import draws_of
from contextbench.report.render import (
    ABSENT,
    bullets,
    console_table,
    fixed,
    markdown_table,
    write_csv,
)
from contextbench.results import RunRecord
from contextbench.stats import Ranking, Resampling, rank

UNCONFIRMED = "‡"
MEASURED_DECIMALS = 1


@dataclass(frozen=True)
class AblationTable:
    """A table and what a reader must know of it.

    `frame` has one row for each of the ablation, in its order: `label, name, head, protocol,
    changes, baseline`; `published_<column>_miou`, `_difference` and `_status` for every published
    column; `seeds, miou, miou_low, miou_high, miou_seed_sd, difference, difference_low,
    difference_high, holm_p_value, separated, smallest_difference, notes`. Fractions.
    """

    name: str
    title: str
    frame: pd.DataFrame
    headings: Mapping[str, str]  # published column -> dataset, split, backbone
    decimals: Mapping[str, int]  # published column -> digits as printed
    notes: Sequence[Sequence[str]]  # of each row: no score, what differs from the paper
    legend: Sequence[str]  # how to read the table
    sources: Sequence[str]  # where the published scores are printed


def ablation_table(
    ablation: Ablation,
    protocol: Protocol,
    rows: Sequence[RowRuns],
    resampling: Resampling = Resampling(),
) -> AblationTable:
    """The table of `rows`, those of `ablation` under `protocol`, in its order.

    A row without scores has empty cells and a note. Differences are paired over the images that all
    rows were evaluated on. Raises `RecordError` unless these are the same.
    """
    ranking = _ranking(rows, protocol, resampling)
    headings = {name: _heading(name, ablation) for name in ablation.columns}
    notes = [_notes(row) for row in rows]
    cells = [_row(row, ablation, rows, ranking) for row in rows]
    frame = pd.DataFrame(cells).assign(notes=[" ".join(each) for each in notes])
    return AblationTable(
        name=ablation.name,
        title=ablation.title,
        frame=frame.astype({"separated": "boolean"}),
        headings=headings,
        decimals={name: _digits(_scores(name, ablation)) for name in ablation.columns},
        notes=notes,
        legend=_legend(ablation, protocol, rows, ranking, headings),
        sources=[_source(name, headings[name], ablation) for name in ablation.columns],
    )


def ablation_console(table: AblationTable) -> Table:
    """The table for a terminal, with footnotes and how to read it; not the sources."""
    numbers = _numbered(table)
    labels = [
        f"{label} [{', '.join(str(numbers[note]) for note in notes)}]" if notes else str(label)
        for label, notes in zip(table.frame["label"], table.notes, strict=True)
    ]
    header = [name.replace(", ", "\n").replace(": ", "\n") for name in _header(table)]
    footnotes = [f"[{number}] {note}" for note, number in numbers.items()]
    rows = _text_rows(table, labels)
    return console_table(
        header,
        rows,
        [*footnotes, *table.legend],
        title=table.title,
        wrapped=range(len(header)),
    )


def ablation_markdown(table: AblationTable) -> str:
    """The table with footnotes, how to read it, and the sources of the published scores."""
    numbers = _numbered(table)
    labels = [
        " ".join([str(label), *(f"[^{numbers[note]}]" for note in notes)])
        for label, notes in zip(table.frame["label"], table.notes, strict=True)
    ]
    sections = [
        f"# {table.title}",
        markdown_table(_header(table), _text_rows(table, labels)),
        bullets(table.legend),
        "## Sources",
        bullets(table.sources),
        *(f"[^{number}]: {note}" for note, number in numbers.items()),
    ]
    return "\n\n".join(sections) + "\n"


def write_ablation(table: AblationTable, folder: Path) -> list[Path]:
    """Write NAME.md, and NAME.csv in full precision, below `folder`; return the paths."""
    markdown, csv = folder / f"{table.name}.md", folder / f"{table.name}.csv"
    write_text(markdown, ablation_markdown(table))
    write_csv(table.frame, csv)
    return [markdown, csv]


def _ranking(rows: Sequence[RowRuns], protocol: Protocol, resampling: Resampling) -> Ranking | None:
    areas = {row.label: row.areas for row in rows if row.areas}
    if not areas:
        return None
    return rank(areas, video=protocol.dataset.name in VIDEO_DATASETS, resampling=resampling)


def _row(
    row: RowRuns, ablation: Ablation, rows: Sequence[RowRuns], ranking: Ranking | None
) -> dict[str, Any]:
    (baseline,) = (each for each in rows if each.label == ablation.baseline)
    published: dict[str, Any] = {}
    for column in ablation.columns:
        score = row.variant.row.published.get(column)
        own, other = (_miou(r.variant.row.published.get(column)) for r in (row, baseline))
        published[f"published_{column}_miou"] = own
        # Of numbers with few digits: without the noise of binary fractions.
        published[f"published_{column}_difference"] = round(own - other, 6)
        published[f"published_{column}_status"] = score.status if score else ""
    head = row.variant.row.head
    changed = row.variant.changed.items()
    return {
        "label": row.label,
        "name": head.name,
        "head": head.head,
        "protocol": row.variant.protocol.name,
        "changes": ", ".join(f"{key}={now}" for key, (_, now) in changed),
        "baseline": row is baseline,
        **published,
        **_measured(row, baseline, ranking),
    }


def _measured(row: RowRuns, baseline: RowRuns, ranking: Ranking | None) -> dict[str, Any]:
    mious = [scores(a.intersection, a.predicted, a.labelled).miou for a in row.areas.values()]
    columns: dict[str, Any] = {
        "seeds": len(mious),
        "miou": fmean(mious) if mious else math.nan,
        "miou_low": math.nan,
        "miou_high": math.nan,
        "miou_seed_sd": stdev(mious) if len(mious) > 1 else math.nan,
        "difference": math.nan,
        "difference_low": math.nan,
        "difference_high": math.nan,
        "holm_p_value": math.nan,
        "separated": None,
        "smallest_difference": math.nan,
    }
    if ranking is None or not row.areas:
        return columns
    (ranked,) = (each for each in ranking.heads if each.head == row.label)
    columns.update(miou_low=ranked.miou.low, miou_high=ranked.miou.high)
    if row is not baseline and baseline.areas:
        columns.update(_difference(ranking, row.label, baseline.label))
    return columns


def _difference(ranking: Ranking, row: str, baseline: str) -> dict[str, Any]:
    """Row minus baseline; the interval turns around with the sign."""
    pair = ranking.pair(row, baseline)
    estimate, low, high = pair.difference
    if pair.first == baseline:
        estimate, low, high = -estimate, -high, -low
    return {
        "difference": estimate,
        "difference_low": low,
        "difference_high": high,
        "holm_p_value": pair.holm_p_value,
        "separated": pair.separated,
        "smallest_difference": pair.smallest_difference,
    }


def _notes(row: RowRuns) -> list[str]:
    return [*row.missing, *_change(row), *row.variant.row.notes]


def _change(row: RowRuns) -> list[str]:
    changed = row.variant.changed
    if not changed or not row.runs:
        return []
    listed = "; ".join(f"{key} {now}, not {was}" for key, (was, now) in changed.items())
    return [
        f"Measured under a protocol of its own, {row.variant.protocol.name}: {listed}. This is "
        "what the table varies, so the row is compared all the same, on the same images."
    ]


def _scores(column: str, ablation: Ablation) -> list[PublishedScore]:
    return [row.published[column] for row in ablation.rows if column in row.published]


def _heading(column: str, ablation: Ablation) -> str:
    """Dataset, split, backbone, and the label where these do not tell."""
    found = _scores(column, ablation)
    parts = [
        " ".join(_distinct([f"{score.dataset} {score.split}" for score in found])),
        " / ".join(_distinct([score.backbone for score in found])),
        ablation.columns[column] or "",
    ]
    return ", ".join(part for part in parts if part)


def _source(column: str, heading: str, ablation: Ablation) -> str:
    """Where the scores of a column are printed, how sure they are, and what was noted of them."""
    found = _scores(column, ablation)
    parts = [
        *_distinct([f"{score.source} ({score.status})" for score in found]),
        *_distinct([score.notes for score in found if score.notes]),
    ]
    files = ", ".join(_distinct([score.file for score in found]))
    return f"{heading} (`{files}`): {'; '.join(parts)}."


def _legend(
    ablation: Ablation,
    protocol: Protocol,
    rows: Sequence[RowRuns],
    ranking: Ranking | None,
    headings: Mapping[str, str],
) -> list[str]:
    unconfirmed = any(
        score.status == "unverified" and score.miou is not None
        for row in ablation.rows
        for score in row.published.values()
    )
    mark = f" {UNCONFIRMED}: not confirmed in a public source; look it up before quoting it."
    return [
        f"Published: {ablation.paper}. {ABSENT}: no number.{mark * unconfirmed}",
        _measurement(protocol, rows, ranking),
        *ablation.notes,
        *_settings(ablation, protocol, headings),
        "Absolute values of the two sides do not compare. In brackets on the published side, and "
        f"as Δ on the measured one: the difference to the row “{ablation.baseline}”. These "
        "differences are what stands side by side, each under its own data and recipe.",
        *_separation(ranking),
        *_mixtures([run for row in rows for run in row.runs.values()]),
        *(ranking.cautions if ranking else ()),
    ]


def _measurement(protocol: Protocol, rows: Sequence[RowRuns], ranking: Ranking | None) -> str:
    train = protocol.train
    text = (
        f"Measured: {protocol.dataset.name} {protocol.dataset.evaluate}, "
        f"{protocol.backbone.name}, {train.steps} steps of {train.batch} images (protocol "
        f"{protocol.name}); mean over seeds"
    )
    if ranking is None:
        return f"{text}. No row has scores."
    level = f"{100 * ranking.resampling.level:g} %"
    spread = ", standard deviation over seeds" if any(len(r.areas) > 1 for r in rows) else ""
    return f"{text} [{level} interval of the test set: {draws_of(ranking)}]{spread}."


def _settings(ablation: Ablation, protocol: Protocol, headings: Mapping[str, str]) -> list[str]:
    """What is not the same on the two sides; columns of which the same is true in one sentence."""
    columns: dict[tuple[str, ...], list[str]] = {}
    for name, heading in headings.items():
        columns.setdefault(_different(_scores(name, ablation), protocol), []).append(heading)
    return [
        f"{'; '.join(named)}: published and measured differ in {', '.join(different)}."
        for different, named in columns.items()
    ]


def _different(found: Sequence[PublishedScore], protocol: Protocol) -> tuple[str, ...]:
    """Which of data, split and backbone have other names in print than here; recipes always do."""
    same = {
        "data": all(_plain(protocol.dataset.name) in _plain(score.dataset) for score in found),
        "split": all(_plain(score.split) == _plain(protocol.dataset.evaluate) for score in found),
        "backbone": all(
            _plain(score.backbone).removesuffix("d8") == _plain(protocol.backbone.name)
            for score in found
        ),
    }
    return (*(name for name, alike in same.items() if not alike), "recipe")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _separation(ranking: Ranking | None) -> list[str]:
    if ranking is None or not ranking.pairs:
        return []
    return [
        "Separated: whether the images of the split can tell the row from the baseline, corrected "
        "for all pairs of the table (Holm)."
    ]


def _mixtures(runs: Sequence[RunRecord]) -> list[str]:
    """What should be one for all rows and is not."""
    formats = {", ".join(run.precision.values()) for run in runs}
    devices = {device_name(run.environment) for run in runs}
    named = {"number formats": formats, "devices": devices}
    return [
        f"Runs have different {what}: {'; '.join(sorted(values))}."
        for what, values in named.items()
        if len(values) > 1
    ]


def _header(table: AblationTable) -> list[str]:
    published = [f"published: {heading}, mIoU % (Δ)" for heading in table.headings.values()]
    return ["", *published, "measured mIoU %", "s.d. (seeds)", "measured Δ", "separated"]


def _text_rows(table: AblationTable, labels: Sequence[str]) -> list[list[str]]:
    columns = [_published_texts(table, name) for name in table.headings]
    measured = [_measured_texts(row) for row in table.frame.to_dict("records")]
    published = list(zip(*columns, strict=True)) if columns else [()] * len(labels)
    return [
        [label, *left, *right]
        for label, left, right in zip(labels, published, measured, strict=True)
    ]


def _published_texts(table: AblationTable, column: str) -> list[str]:
    digits = table.decimals[column]
    names = [f"published_{column}_{what}" for what in ("miou", "difference", "status")]
    texts = []
    for baseline, (miou, difference, status) in zip(
        table.frame["baseline"], table.frame[names].itertuples(index=False), strict=True
    ):
        text = fixed(100 * miou, digits)
        if text != ABSENT and status == "unverified":
            text += UNCONFIRMED
        shown = not baseline and not math.isnan(difference)
        texts.append(f"{text} ({_signed(100 * difference, digits)})" if shown else text)
    return texts


def _measured_texts(row: Mapping[Any, Any]) -> list[str]:
    """mIoU with its interval, spread over seeds, difference with its interval, separation."""
    low, high = (fixed(100 * row[name], MEASURED_DECIMALS) for name in ("miou_low", "miou_high"))
    miou = fixed(100 * row["miou"], MEASURED_DECIMALS)
    seeds = f"{fixed(100 * row['miou_seed_sd'], MEASURED_DECIMALS)} ({row['seeds']})"
    if miou == ABSENT:
        return [ABSENT] * 4
    miou += f" [{low}–{high}]" if low != ABSENT else ""
    if row["baseline"]:
        return [miou, seeds, "baseline", ""]
    estimate, *ends = (
        _signed(100 * row[name], MEASURED_DECIMALS)
        for name in ("difference", "difference_low", "difference_high")
    )
    difference = estimate if ABSENT in ends else f"{estimate} [{', '.join(ends)}]"
    separated = ABSENT if pd.isna(row["separated"]) else "yes" if row["separated"] else "no"
    return [miou, seeds, difference, separated]


def _signed(value: float, decimals: int) -> str:
    text = fixed(value, decimals)
    return text if text == ABSENT or text.startswith("−") else f"+{text}"


def _numbered(table: AblationTable) -> dict[str, int]:
    """Notes by first appearance: one that several rows share has one number."""
    distinct = dict.fromkeys(note for notes in table.notes for note in notes)
    return {note: number for number, note in enumerate(distinct, start=1)}


def _miou(score: PublishedScore | None) -> float:
    return math.nan if score is None or score.miou is None else score.miou


def _digits(found: Sequence[PublishedScore]) -> int:
    """After the decimal point of the score that is printed with the most."""
    printed = [f"{score.miou_percent}" for score in found if score.miou_percent is not None]
    return max((len(text.partition(".")[2]) for text in printed), default=1)


def _distinct(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(texts))
