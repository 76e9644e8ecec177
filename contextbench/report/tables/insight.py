"""The insight as a table for a terminal, as a page in Markdown, and as JSON."""

from typing import Any

from contextbench.report.columns import Cell, Column
from contextbench.report.insight import (
    SOLVED,
    Insight,
    Verdict,
)
from contextbench.report.insight import Cell as Judged
from contextbench.report.tables.sheet import (
    Remark,
    Sheet,
    markdown_list,
    markdown_text,
    sheet_markdown,
)
from contextbench.report.words import (
    ABSENT,
    ends,
    level_text,
    p_value,
    percent,
    plain,
    signed_points,
)
from contextbench.statistics.methods import TRAININGS
from contextbench.statistics.scores import ClassMetric

METRIC_PHRASES: dict[ClassMetric, str] = {
    "iou": "an IoU",
    "f1": "an F1",
    "precision": "a precision",
    "recall": "a recall",
}

PHRASES: dict[Verdict, str] = {
    "solves": "solved by",
    "better": "better with",
    "undecided": "undecided for",
    "worse": "worse with",
    "no verdict": "no verdict on",
}


def insight_markdown(insight: Insight, figure: str | None = None) -> str:
    """The page: findings, head x group, differences, scores by seed, how to read it.

    `figure` is the file name of the figure, relative to the page.
    """
    sections = [
        f"# Which head solves which group: {markdown_text(insight.subject)}",
        markdown_list(_findings(insight)),
        sheet_markdown(insight_sheet(insight), insight.cautions).strip(),
        *(
            [f"![{insight.metric_name} of every head, seed and group, with intervals](<{figure}>)"]
            if figure
            else []
        ),
        f"## Differences to {markdown_text(insight.baseline)}",
        sheet_markdown(_differences(insight)).strip(),
        "## By seed",
        sheet_markdown(_by_seed(insight)).strip(),
        "## Groups",
        markdown_list(f"{g}: {', '.join(c)}" for g, c in insight.groups.items()),
    ]
    return "\n\n".join(sections) + "\n"


def insight_json(insight: Insight) -> dict[str, Any]:
    """Fractions in full precision; None where there is no number."""
    content: dict[str, Any] = {
        "subject": insight.subject,
        "baseline": insight.baseline,
        "metric": insight.metric,
        "images": insight.images,
        "resampling": insight.resampling,
        "comparisons": insight.comparisons,
        "groups": insight.groups,
        "cells": [
            {
                "head": head,
                "group": group,
                insight.metric: cell.iou,
                "at_chance": cell.at_chance,
                "seed_deviation": cell.spread.deviation,
                "seeds": [{"seed": seed, **iou._asdict()} for seed, iou in cell.seeds.items()],
                "comparison": cell.comparison,
            }
            for (head, group), cell in insight.cells.items()
        ],
        "chance": insight.chance,
        "cautions": insight.cautions,
    }
    return {key: plain(value) for key, value in content.items()}


def rule(insight: Insight) -> list[str]:
    """How verdicts follow from the numbers, a sentence each."""
    return [
        f"better, worse: than {insight.baseline} over other trainings and other images, with a "
        f"p-value below {1 - insight.resampling.level:.2g} after Holm's correction for the heads "
        "of a group.",
        f"solves: better, and the interval of the difference begins above {100 * SOLVED:g} % of "
        f"what {insight.baseline} lacks to {METRIC_PHRASES[insight.metric]} of 100 %.",
        "undecided: all else. It does not say that two heads are equal. No verdict: fewer than "
        f"{TRAININGS} trainings of the head or of {insight.baseline}, or too few images.",
        "at chance: no training is above the better of two ways of guessing within the group, one "
        "class everywhere or each class with the same chance.",
    ]


def _findings(insight: Insight) -> list[str]:
    """One sentence a group: what the baseline reaches, and who got which verdict."""
    sentences = []
    for group in insight.groups:
        reached = insight.cells[insight.baseline, group].iou.estimate
        named = {verdict: insight.heads_with(verdict, group) for verdict in PHRASES}
        verdicts = [
            f"{PHRASES[verdict]} {', '.join(_with_range(insight, head, group) for head in heads)}"
            for verdict, heads in named.items()
            if heads
        ]
        guess = ", at chance" if insight.cells[insight.baseline, group].at_chance else ""
        start = f"{group} ({insight.baseline} {percent(reached)} %{guess})"
        sentences.append(f"{start}: {'; '.join(verdicts)}.")
    return sentences


def _with_range(insight: Insight, head: str, group: str) -> str:
    """A head with the range of its seeds where they disagree, and whether it is at chance."""
    cell = insight.cells[head, group]
    each = cell.comparison
    remarks = ["at chance"] if cell.at_chance else []
    if each and each.seed_pairs not in (each.seed_wins, each.seed_losses) and cell.spread.n > 1:
        low, high = percent(min(cell.spread.values)), percent(max(cell.spread.values))
        remarks.append(f"seeds {low} to {high} %")
    return f"{head} ({', '.join(remarks)})" if remarks else head


def insight_sheet(insight: Insight) -> Sheet:
    """A row a head, a column a group: IoU and verdict; how to read them below."""
    headings = [Column("head", "head"), Column("seeds", "seeds"), *_group_headings(insight)]
    rows = [
        [
            Cell(head),
            _seeds_cell(insight, head),
            *(_verdict_cell(insight.cells[head, group]) for group in insight.groups),
        ]
        for head in insight.heads
    ]
    for name in ("constant", "random"):
        levels = (getattr(insight.chance[group], name) for group in insight.groups)
        rows.append(
            [Cell(f"{name} answer"), Cell("–"), *(Cell(percent(each), "chance") for each in levels)]
        )
    name = insight.metric_name
    reading = f"{name} of a group: mean over its classes and over seeds, then the verdict."
    reading = reading[0].upper() + reading[1:]
    return Sheet(headings, rows, [Remark(line) for line in (reading, *rule(insight))])


def _seeds_cell(insight: Insight, head: str) -> Cell:
    seeds, others = (
        max(insight.cells[name, group].spread.n for group in insight.groups)
        for name in (head, insight.baseline)
    )
    few = head != insight.baseline and min(seeds, others) < TRAININGS
    note = f"Fewer than {TRAININGS} seeds of the head or of {insight.baseline}: no verdicts."
    return Cell(str(seeds), notes=(note,) if few else ())


def _verdict_cell(cell: Judged) -> Cell:
    verdict = cell.comparison.verdict if cell.comparison else "baseline"
    text = f"{verdict}, at chance" if cell.at_chance else verdict
    return Cell(percent(cell.iou.estimate), text, best=verdict == "solves")


def _differences(insight: Insight) -> Sheet:
    level = level_text(insight.resampling.level)
    headings = [
        Column("group", "group"),
        Column("head", "head"),
        Column("iou", insight.metric_name, "%"),
        Column("deviation", "over seeds"),
        Column("difference", "difference", "points"),
        Column("p", "p-value"),
        Column("seeds", "pairs of seeds won"),
        Column("verdict", "verdict"),
    ]
    rows = [
        [Cell(group), Cell(head), *_difference_cells(insight.cells[head, group])]
        for group in insight.groups
        for head in insight.heads
    ]
    remarks = (
        f"In brackets: {level} intervals. Of {METRIC_PHRASES[insight.metric]}, for other images "
        f"with the same models, from {insight.resampling.resamples} draws of {insight.images} "
        "images; of a difference, for other trainings and other images.",
        "over seeds: standard deviation of one training in points, and number of trainings n.",
        "p-value: two-sided, after Holm's correction for the heads of a group.",
    )
    return Sheet(headings, rows, [Remark(line) for line in remarks], left=("head", "verdict"))


def _difference_cells(cell: Judged) -> list[Cell]:
    spread, each = cell.spread, cell.comparison
    deviation = f"{percent(spread.deviation)}, n = {spread.n}" if spread.n > 1 else "n = 1"
    score = [Cell(percent(cell.iou.estimate), ends(cell.iou)), Cell(deviation)]
    if each is None:
        return [*score, *(Cell(ABSENT) for _ in range(3)), Cell("baseline")]
    return [
        *score,
        Cell(signed_points(each.difference.estimate), ends(each.difference)),
        Cell(p_value(each.holm_p_value)),
        Cell(f"{each.seed_wins} of {each.seed_pairs}"),
        Cell(each.verdict, best=each.verdict == "solves"),
    ]


def _by_seed(insight: Insight) -> Sheet:
    headings = [Column("head", "head"), Column("seed", "seed"), *_group_headings(insight)]
    first = next(iter(insight.groups))
    rows = [
        [
            Cell(head),
            Cell(str(seed)),
            *(
                Cell(percent(iou.estimate), ends(iou))
                for iou in (insight.cells[head, group].seeds[seed] for group in insight.groups)
            ),
        ]
        for head in insight.heads
        for seed in insight.cells[head, first].seeds
    ]
    return Sheet(headings, rows)


def _group_headings(insight: Insight) -> list[Column]:
    return [Column(group, group, f"{insight.metric_name} %") for group in insight.groups]
