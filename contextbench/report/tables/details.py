"""Tables of what views counted beside the pixels of classes: a row a head, best first."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, NamedTuple

from contextbench.records.counters import CounterName
from contextbench.report.boundaries import (
    Bands,
    Calibration,
    boundary_bands,
    calibration_of,
    trimap_bands,
)
from contextbench.report.collection import Collection
from contextbench.report.columns import Cell, Column
from contextbench.report.counted import counters_of
from contextbench.report.robustness import Point, Robustness, robustness_of
from contextbench.report.tables.sheet import Remark, Sheet
from contextbench.report.verdicts import LETTERS, draws_of
from contextbench.report.words import ends, level_text, percent, plain, signed_points
from contextbench.statistics.intervals import HeadStatistics, Interval, Ranking

HEAD = Column("head", "head")

Row = dict[str, Any]

Seen = Mapping[CounterName, Collection]
"""Of each counter the comparison in the view that counted it, if any did."""


@dataclass(frozen=True)
class Detail:
    """What was counted: tables, and rows for programs.

    Rows have fractions in full precision, None where there is no number.
    """

    sheets: Sequence[Sheet]
    rows: Sequence[Row]


class Ranked(NamedTuple):
    """A column of scores with intervals and letters."""

    column: Column
    ranking: Ranking
    write: Callable[[float], str] = percent
    score: Callable[[HeadStatistics], Interval] = attrgetter("miou")

    def cell(self, head: str) -> Cell:
        found = self.ranking.of(head)
        score = self.score(found)
        parts = (ends(score, write=self.write), found.groups)
        return Cell(self.write(score.estimate), " ".join(filter(None, parts)), value=score.estimate)

    def row(self, head: str) -> Row:
        """For programs."""
        found = self.ranking.of(head)
        seeds = plain(list(found.seeds.values))
        own = {"head": head, **plain(self.score(found)), "groups": found.groups}
        return {**own, "seed_scores": seeds}


def details_of(seen: Seen) -> dict[str, Detail]:
    """Everything that was counted by its name, then what corruptions cost."""
    found: dict[str, Detail] = {
        name: build(seen[name])
        for name, build in BUILDERS.items()
        if name in counters_of(seen[name])
    }
    robustness = robustness_of(next(iter(seen.values())))
    if robustness is not None:
        rows = [_robustness_row(p, head) for p in robustness.points for head in robustness.heads]
        found["robustness"] = Detail(robustness_sheets(robustness), rows)
    return found


def bands_detail(bands: Bands, title: str) -> Detail:
    """mIoU of each band."""
    what = (
        "Of all labelled pixels that are at most so many rows and columns from another label."
        if bands.widths
        else "Of the bands of masks within so many pixels, or such a part of the diagonal, "
        "of their boundaries."
    )
    columns = [Ranked(Column(name, name, "%"), each) for name, each in bands.rankings.items()]
    first = columns[0].ranking
    sheet = Sheet(
        [HEAD, *(each.column for each in columns)],
        [[Cell(head), *(each.cell(head) for each in columns)] for head in first.names],
        [Remark(what), *_remarks(first)],
        title=title,
    )
    rows = [
        {"band": each.column.name, **each.row(head)}
        for each in columns
        for head in each.ranking.names
    ]
    return Detail([sheet], rows)


def calibration_sheet(calibration: Calibration) -> Sheet:
    """Expected calibration error, and by how much confidence exceeds accuracy."""
    error, ranking = _error(calibration), calibration.ranking
    over = {head: calibration.overconfidence(head) for head in ranking.names}
    rows = [
        [Cell(head), error.cell(head), Cell(signed_points(over[head]), value=over[head])]
        for head in ranking.names
    ]
    what = (
        "ECE: expected calibration error, 15 bins of confidence. Overconfident: mean confidence "
        "less accuracy."
    )
    headings = [HEAD, error.column, Column("overconfidence", "overconfident", "points")]
    return Sheet(headings, rows, [Remark(what), *_remarks(ranking)], title="Calibration")


def robustness_sheets(robustness: Robustness) -> list[Sheet]:
    """One of each kind: mIoU on clean images, and what each strength changes of it."""
    sheets = []
    for kind in robustness.kinds:
        points = robustness.of_kind(kind)
        columns = [_change(point) for point in points]
        clean = points[0].clean
        rows = [
            [
                Cell(head),
                Cell(percent(clean[head]), value=clean[head]),
                *(each.cell(head) for each in columns),
            ]
            for head in robustness.heads
        ]
        headings = [HEAD, Column("clean", "clean", "%"), *(each.column for each in columns)]
        sheets.append(Sheet(headings, rows, _remarks(points[0].ranking), title=f"{kind}: mIoU"))
    if sheets and robustness.left_out:
        remark = Remark(f"Left out: {'; '.join(robustness.left_out)}.")
        sheets[-1] = replace(sheets[-1], remarks=[*sheets[-1].remarks, remark])
    return sheets


def _calibration(collection: Collection) -> Detail:
    found = calibration_of(collection)
    rows = [
        {**_error(found).row(head), "overconfidence": plain(found.overconfidence(head))}
        for head in found.ranking.names
    ]
    return Detail([calibration_sheet(found)], rows)


def _error(calibration: Calibration) -> Ranked:
    """ECE, of which the ranking has the rest to 1."""

    def error(found: HeadStatistics) -> Interval:
        estimate, low, high = (1 - value for value in found.miou)
        return Interval(estimate, high, low)

    return Ranked(Column("ece", "ECE", "%"), calibration.ranking, score=error)


def _change(point: Point) -> Ranked:
    column = Column(point.view, f"strength {point.strength}", "points")
    return Ranked(column, point.ranking, signed_points)


def _robustness_row(point: Point, head: str) -> Row:
    """The estimate is the change of mIoU."""
    where = {"view": point.view, "kind": point.kind, "strength": point.strength}
    return {**where, **_change(point).row(head), "miou": plain(point.miou(head))}


def _remarks(ranking: Ranking) -> list[Remark]:
    level = level_text(ranking.resampling.level)
    reading = f"Mean over seeds. Brackets: {level} interval of these models, {draws_of(ranking)}."
    judged = any(each.groups for each in ranking.heads)
    return [Remark(reading), *([Remark(LETTERS)] if judged else [])]


BUILDERS: dict[CounterName, Callable[[Collection], Detail]] = {
    "calibration": _calibration,
    "boundary": lambda found: bands_detail(boundary_bands(found), "Boundary IoU"),
    "trimap": lambda found: bands_detail(trimap_bands(found), "Trimap mIoU"),
}
