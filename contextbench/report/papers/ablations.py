"""An ablation's table: published beside measured, and the differences to one row on both sides.

A paper's data and recipe are not those of a protocol here, so absolute values do not compare; what
stands side by side are the differences to the table's baseline row. Fractions and base units in
the frame; percent and rounding where it is printed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from contextbench.config.protocols import Protocol
from contextbench.papers.ablations import Ablation
from contextbench.papers.published import PublishedScore
from contextbench.records.comparability import sampling_of
from contextbench.report.papers.legend import (
    UNCONFIRMED,
    heading_of,
    legend_of,
    notes_of,
    scores_of,
    source_of,
)
from contextbench.report.papers.runs import RowRuns
from contextbench.report.tables.render import (
    ABSENT,
    ConsoleTable,
    bullets,
    fixed,
    markdown_table,
    write_csv,
)
from contextbench.statistics.intervals import Ranking, Resampling, rank
from contextbench.statistics.scores import scores
from contextbench.system.files import write_text

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
    ranking = _ranking(rows, resampling)
    headings = {name: heading_of(name, ablation) for name in ablation.columns}
    notes = [notes_of(row) for row in rows]
    cells = [_row(row, ablation, rows, ranking) for row in rows]
    frame = pd.DataFrame(cells).assign(notes=["; ".join(each) for each in notes])
    return AblationTable(
        name=ablation.name,
        title=ablation.title,
        frame=frame.astype({"separated": "boolean"}),
        headings=headings,
        decimals={
            name: max(score.decimals for score in scores_of(name, ablation))
            for name in ablation.columns
        },
        notes=notes,
        legend=legend_of(ablation, protocol, rows, ranking, headings),
        sources=[source_of(name, headings[name], ablation) for name in ablation.columns],
    )


def ablation_console(table: AblationTable) -> ConsoleTable:
    """The table for a terminal, with footnotes and how to read it; not the sources."""
    numbers = _numbered(table)
    labels = [
        f"{label} [{', '.join(str(numbers[note]) for note in notes)}]" if notes else str(label)
        for label, notes in zip(table.frame["label"], table.notes, strict=True)
    ]
    header = [name.replace(", ", "\n").replace(": ", "\n") for name in _header(table)]
    footnotes = [f"[{number}] {note}" for note, number in numbers.items()]
    rows = _text_rows(table, labels)
    return ConsoleTable(
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


def _ranking(rows: Sequence[RowRuns], resampling: Resampling) -> Ranking | None:
    areas = {row.label: row.areas for row in rows if row.areas}
    if not areas:
        return None
    run = next(run for row in rows if row.areas for run in row.runs.values())
    return rank(areas, sampling=sampling_of(run), resampling=resampling)


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
