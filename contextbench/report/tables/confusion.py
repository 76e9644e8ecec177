"""Confusions as tables, as rows for programs, and in full."""

from typing import Any

import numpy as np
import pandas as pd

from contextbench.report.columns import Cell, Column
from contextbench.report.confusion import Confused, Confusion
from contextbench.report.tables.sheet import Remark, Sheet
from contextbench.report.words import ends, level_text, p_value, percent, plain, signed_points
from contextbench.statistics.intervals import HeadStatistics
from contextbench.statistics.methods import TRAININGS


def confusion_sheet(confusion: Confusion, title: str = "") -> Sheet:
    """A row a confusion, a column a head: the share of the label's pixels, interval, letters.

    Of two heads also the difference of their shares, by which the rows are chosen.
    """
    headings = [Column("label", "labelled"), Column("prediction", "predicted")]
    headings += [Column(head, head, "%") for head in confusion.heads]
    if confusion.two:
        one, other = confusion.heads
        headings += [Column("difference", f"{one} − {other}", "points"), Column("p", "p-value")]
    rows = [
        [
            Cell(each.label),
            Cell(each.prediction),
            *(_share(each.of(head), letters=not confusion.two) for head in confusion.heads),
            *(_difference(confusion, each) if confusion.two else ()),
        ]
        for each in confusion.largest
    ]
    remarks = [Remark(text) for text in _reading(confusion)]
    return Sheet(headings, rows, remarks, left=("prediction",), title=title)


def confusion_rows(confusion: Confusion) -> list[dict[str, Any]]:
    """The largest ones for programs: fractions in full precision, None where there is no number."""
    rows = []
    for each in confusion.largest:
        row: dict[str, Any] = {"label": each.label, "prediction": each.prediction}
        row["heads"] = {
            head: {**plain(each.of(head).miou), "groups": each.of(head).groups}
            for head in confusion.heads
        }
        if confusion.two:
            row["difference"] = plain(each.difference(*confusion.heads))
            row["p_value"] = plain(confusion.p_value(each))
        rows.append(row)
    return rows


def confusion_frame(confusion: Confusion) -> pd.DataFrame:
    """Every head and pair of classes, right ones too: pixels, mean over seeds, and their share."""
    names = np.array(confusion.units)
    label, guess = (each.ravel() for each in np.indices((len(names), len(names))))
    parts = [
        pd.DataFrame(
            {
                "head": head,
                "label": names[label],
                "prediction": names[guess],
                "pixels": confusion.pixels[head].ravel(),
                "share": confusion.shares(head).ravel(),
            }
        )
        for head in confusion.heads
    ]
    return pd.concat(parts, ignore_index=True)


def _share(found: HeadStatistics, *, letters: bool) -> Cell:
    groups = found.groups if letters else ""  # which no correction for all confusions is in
    detail = " ".join(part for part in (ends(found.miou), groups) if part)
    return Cell(percent(found.miou.estimate), detail, value=found.miou.estimate)


def _difference(confusion: Confusion, each: Confused) -> list[Cell]:
    gap = each.difference(*confusion.heads)
    p = confusion.p_value(each)
    return [
        Cell(signed_points(gap.estimate), ends(gap, write=signed_points), value=gap.estimate),
        Cell(p_value(p), best=p < 1 - each.ranking.resampling.level),
    ]


def _reading(confusion: Confusion) -> list[str]:
    if not confusion.largest:
        return ["Nothing is confused: every labelled pixel is predicted rightly."]
    level = level_text(confusion.largest[0].ranking.resampling.level)
    lines = [
        "Share of the labelled pixels that are predicted as another class, mean over seeds; in "
        f"brackets the {level} interval of these trained models over images."
    ]
    if confusion.two:
        return [
            *lines,
            "Rows: those whose shares differ most. Difference: over other trainings and images; "
            f"p-value: times all {confusion.pairs} confusions that occur, – for fewer than "
            f"{TRAININGS} trainings.",
        ]
    if len(confusion.heads) > 1 and any(h.groups for h in confusion.largest[0].ranking.heads):
        lines.append(
            "Heads that share a letter are not separated, over trainings and images, each row by "
            "itself."
        )
    return [*lines, f"The largest of {confusion.pairs} confusions that occur."]
