"""Tables of what views counted beside the pixels of classes: a row a head, best first."""

from collections.abc import Callable, Mapping
from typing import Any

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
from contextbench.report.rankings import draws_of, statistics_in
from contextbench.report.robustness import Robustness, robustness_of
from contextbench.report.tables.sheet import Remark, Sheet
from contextbench.report.words import ends, level_text, percent, plain, signed_points
from contextbench.statistics.intervals import HeadStatistics, Interval, Ranking

BANDS: dict[CounterName, tuple[Callable[[Collection], Bands], str]] = {
    "boundary": (boundary_bands, "Boundary IoU"),
    "trimap": (trimap_bands, "Trimap mIoU"),
}
LETTERS = "Heads that share a letter are not separated, over trainings and images."


Seen = Mapping[CounterName, Collection]
"""Of each counter the comparison in the view that counted it, if any did."""


def detail_sheets(seen: Seen) -> list[Sheet]:
    """Of everything that was counted, then of what corruptions cost."""
    sheets = []
    if "calibration" in counters_of(seen["calibration"]):
        sheets.append(calibration_sheet(calibration_of(seen["calibration"])))
    for name, (find, title) in BANDS.items():
        if name in counters_of(seen[name]):
            sheets.append(bands_sheet(find(seen[name]), title))
    found = robustness_of(next(iter(seen.values())))
    return [*sheets, *(robustness_sheets(found) if found else ())]


def detail_rows(seen: Seen) -> dict[str, list[dict[str, Any]]]:
    """The same for programs: fractions in full precision, None where there is no number."""
    rows: dict[str, list[dict[str, Any]]] = {}
    if "calibration" in counters_of(seen["calibration"]):
        rows["calibration"] = calibration_rows(calibration_of(seen["calibration"]))
    for name, (find, _) in BANDS.items():
        if name in counters_of(seen[name]):
            rows[name] = bands_rows(find(seen[name]))
    found = robustness_of(next(iter(seen.values())))
    return {**rows, **({"robustness": robustness_rows(found)} if found else {})}


def bands_sheet(bands: Bands, title: str) -> Sheet:
    """mIoU of each band with interval and letters."""
    what = (
        "Of all labelled pixels that are at most so many rows and columns from another label."
        if bands.widths
        else "Of the bands of masks within so many pixels, or such a part of the diagonal, "
        "of their boundaries."
    )
    first = next(iter(bands.rankings.values()))
    heads = [each.head for each in first.heads]
    rows = [
        [Cell(head), *(_score(statistics_in(ranking, head)) for ranking in bands.rankings.values())]
        for head in heads
    ]
    headings = [Column("head", "head"), *(Column(name, name, "%") for name in bands.rankings)]
    return Sheet(headings, rows, [Remark(what), *_remarks(first)], title=title)


def calibration_sheet(calibration: Calibration) -> Sheet:
    """Expected calibration error, and by how much confidence exceeds accuracy."""
    headings = [
        Column("head", "head"),
        Column("ece", "ECE", "%"),
        Column("overconfidence", "overconfident", "points"),
    ]
    rows = []
    for each in calibration.ranking.heads:
        error = _error(each.miou)
        over = calibration.overconfidence(each.head)
        rows.append(
            [
                Cell(each.head),
                Cell(percent(error.estimate), _detail(error, each.groups), value=error.estimate),
                Cell(signed_points(over), value=over),
            ]
        )
    what = (
        "ECE: expected calibration error, 15 bins of confidence. Overconfident: mean confidence "
        "less accuracy."
    )
    remarks = [Remark(what), *_remarks(calibration.ranking)]
    return Sheet(headings, rows, remarks, title="Calibration")


def robustness_sheets(robustness: Robustness) -> list[Sheet]:
    """One of each kind: mIoU on clean images, and what each strength changes of it."""
    sheets = []
    for kind in robustness.kinds:
        points = robustness.of_kind(kind)
        headings = [Column("head", "head"), Column("clean", "clean", "%")]
        headings += [Column(p.view, f"strength {p.strength}", "points") for p in points]
        rows = []
        for head in robustness.heads:
            clean = points[0].clean[head]
            rows.append([Cell(head), Cell(percent(clean), value=clean)])
            for point in points:
                found = point.of(head)
                detail = _detail(found.miou, found.groups, signed_points)
                value = found.miou.estimate
                rows[-1].append(Cell(signed_points(value), detail, value=value))
        sheets.append(Sheet(headings, rows, _remarks(points[0].ranking), title=f"{kind}: mIoU"))
    if sheets and robustness.left_out:
        remark = Remark(f"Left out: {'; '.join(robustness.left_out)}.")
        last = sheets[-1]
        sheets[-1] = Sheet(last.headings, last.rows, [*last.remarks, remark], title=last.title)
    return sheets


def bands_rows(bands: Bands) -> list[dict[str, Any]]:
    """For programs: fractions in full precision, None where there is no number."""
    return [
        {"band": name, **_json(each, each.miou)}
        for name, ranking in bands.rankings.items()
        for each in ranking.heads
    ]


def calibration_rows(calibration: Calibration) -> list[dict[str, Any]]:
    """As `bands_rows`."""
    return [
        {
            **_json(each, _error(each.miou)),
            "overconfidence": plain(calibration.overconfidence(each.head)),
        }
        for each in calibration.ranking.heads
    ]


def robustness_rows(robustness: Robustness) -> list[dict[str, Any]]:
    """As `bands_rows`; the estimate is the change of mIoU."""
    return [
        {
            "view": point.view,
            "kind": point.kind,
            "strength": point.strength,
            **_json(point.of(head), point.of(head).miou),
            "miou": plain(point.miou(head)),
        }
        for point in robustness.points
        for head in robustness.heads
    ]


def _error(calibrated: Interval) -> Interval:
    estimate, low, high = (1 - value for value in calibrated)
    return Interval(estimate, high, low)


def _score(found: HeadStatistics) -> Cell:
    value = found.miou.estimate
    return Cell(percent(value), _detail(found.miou, found.groups), value=value)


def _detail(interval: Interval, letters: str, write: Any = percent) -> str:
    return " ".join(part for part in (ends(interval, write=write), letters) if part)


def _remarks(ranking: Ranking) -> list[Remark]:
    level = level_text(ranking.resampling.level)
    reading = f"Mean over seeds. Brackets: {level} interval of these models, {draws_of(ranking)}."
    judged = any(each.groups for each in ranking.heads)
    return [Remark(reading), *([Remark(LETTERS)] if judged else [])]


def _json(found: HeadStatistics, interval: Interval) -> dict[str, Any]:
    seeds = plain(list(found.seeds.values))
    return {"head": found.head, **plain(interval), "groups": found.groups, "seed_scores": seeds}
