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
from contextbench.report.columns import Cell, Column, write_csv
from contextbench.report.comparison import MODELS, difference_columns
from contextbench.report.papers.legend import (
    UNCONFIRMED,
    heading_of,
    legend_of,
    notes_of,
    scores_of,
    source_of,
)
from contextbench.report.papers.runs import RowRuns
from contextbench.report.tables.sheet import Remark, Sheet, markdown_list, sheet_markdown
from contextbench.report.words import ABSENT, ends, fixed, percent, signed, signed_points
from contextbench.statistics.intervals import Interval, Ranking, Resampling, rank
from contextbench.statistics.scores import scores
from contextbench.system.files import write_text

MEASURED = ("measured mIoU %", "s.d. (seeds)", "measured Δ", "separated")
MISSING = dict.fromkeys(
    ("miou_low", "miou_high", "miou_seed_sd", "difference", "difference_low", "difference_high",
     "holm_p_value", "separated", "smallest_difference"), math.nan,
)  # fmt: skip


@dataclass(frozen=True)
class AblationTable:
    """A table and what a reader must know of it.

    `frame` has one row for each of the ablation, in its order: `label, name, head, protocol,
    changes, baseline`; `published_<column>_miou`, `_difference` and `_status` for every published
    column; `seeds, miou, miou_low, miou_high, miou_seed_sd, difference, difference_low,
    difference_high, holm_p_value, separated, smallest_difference, models_difference_low,
    models_difference_high, models_holm_p_value, models_separated, notes`. Fractions.
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
        frame=frame.astype({"separated": "boolean", "models_separated": "boolean"}),
        headings=headings,
        decimals={
            name: max(score.decimals for score in scores_of(name, ablation))
            for name in ablation.columns
        },
        notes=notes,
        legend=legend_of(ablation, protocol, rows, ranking, headings),
        sources=[source_of(name, headings[name], ablation) for name in ablation.columns],
    )


def ablation_sheet(table: AblationTable) -> Sheet:
    """The table with footnotes and how to read it; not the sources."""
    columns = [_published(table, name) for name in table.headings]
    measured = [_measured_texts(row) for row in table.frame.to_dict("records")]
    rows = [
        [Cell(str(label), notes=tuple(notes)), *(Cell(column[i]) for column in columns), *right]
        for i, (label, notes, right) in enumerate(
            zip(table.frame["label"], table.notes, measured, strict=True)
        )
    ]
    published = [f"published: {heading}, mIoU % (Δ)" for heading in table.headings.values()]
    return Sheet(
        [Column(name, name) for name in ("", *published, *MEASURED)],
        rows,
        [Remark(line) for line in table.legend],
        title=table.title,
    )


def ablation_markdown(table: AblationTable) -> str:
    """The table with footnotes, how to read it, and the sources of the published scores."""
    sheet = sheet_markdown(ablation_sheet(table)).strip()
    sections = [f"# {table.title}", sheet, "## Sources", markdown_list(table.sources)]
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
        **MISSING,
        "miou_seed_sd": stdev(mious) if len(mious) > 1 else math.nan,
        "separated": None,
        **dict.fromkeys(MODELS, math.nan),
        "models_separated": None,
    }
    ranked = ranking.find(row.label) if ranking else None
    if ranking is None or ranked is None:
        return columns
    columns.update(miou_low=ranked.miou.low, miou_high=ranked.miou.high)
    if row is not baseline and baseline.areas:
        pair = ranking.pair(row.label, baseline.label)
        columns.update(difference_columns(ranking, row.label, baseline.label, "difference"))
        columns.update(
            separated=pair.separated if pair.tested else None,
            models_separated=pair.models.separated,
            smallest_difference=pair.smallest_difference,
        )
    return columns


def _published(table: AblationTable, column: str) -> list[str]:
    """Scores with as many digits as are printed, and the differences to the baseline's."""
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
        texts.append(f"{text} ({signed(100 * difference, digits)})" if shown else text)
    return texts


def _measured_texts(row: Mapping[Any, Any]) -> list[Cell]:
    """mIoU with its interval, spread over seeds, difference with its interval, separation."""
    if math.isnan(row["miou"]):
        return [Cell(ABSENT)] * len(MEASURED)
    score = Interval(*(row[name] for name in ("miou", "miou_low", "miou_high")))
    miou = Cell(percent(score.estimate), ends(score, "[{}–{}]"))
    seeds = Cell(f"{percent(row['miou_seed_sd'])} ({row['seeds']})")
    if row["baseline"]:
        return [miou, seeds, Cell("baseline"), Cell("")]
    gap = Interval(*(row[name] for name in ("difference", "difference_low", "difference_high")))
    difference = Cell(signed_points(gap.estimate), ends(gap, write=signed_points))
    separated = ABSENT if pd.isna(row["separated"]) else "yes" if row["separated"] else "no"
    return [miou, seeds, difference, Cell(separated)]


def _miou(score: PublishedScore | None) -> float:
    return math.nan if score is None or score.miou is None else score.miou
