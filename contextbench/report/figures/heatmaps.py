"""Heads against groups of classes and against classes, as numbers on shaded cells."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from contextbench.records.runs import RunRecord
from contextbench.report.figures.geometry import FloatArray
from contextbench.report.figures.style import (
    BODY,
    INK,
    SMALL,
    column_width,
    new_figure,
    shortened,
    signed,
    text_width,
)
from contextbench.report.ranking_text import draws_of
from contextbench.report.tables.comparison import per_class_table
from contextbench.report.tables.render import GROUP_PREFIX, group_columns
from contextbench.statistics.intervals import HeadStatistics, Ranking

BLOCK_ROWS = 60  # classes below each other before the next block starts
LONGEST, LONGEST_ABOVE = 24, 16  # characters of the name of a row, of a column
CELL, GROUP_CELL, LONG_CELL = 0.36, 0.62, 0.95  # inches: narrowest of a head, group, long line
ROW = 0.17  # inches: lowest row
PADDING, PITCH = 0.11, 0.11  # inches: air in a row of several lines, height of a line
PALE = 0.21  # luminance from which on dark text stands out more from a cell than white does
BLANK = (0.95, 0.95, 0.95, 1.0)  # a cell without a value
BASELINE = "fcn"  # the head that others are compared with, where it has scores

SHADES = mpl.colormaps["Blues"]
DIVERGING = mpl.colormaps["RdBu"]  # of ColorBrewer's colour-blind safe ones; blue is better


class Cells(NamedTuple):
    """Rows and columns of what is drawn in a cell."""

    texts: Sequence[Sequence[str]]
    faces: FloatArray  # (rows, columns, 4)
    bold: npt.NDArray[np.bool_]
    below: Sequence[Sequence[str]] | None = None  # small lines below each text


def group_table_plot(
    table: pd.DataFrame,
    title: str,
    *,
    rankings: Mapping[str, Ranking] | None = None,
    width: float | None = None,
) -> Figure:
    """Mean IoU of each head (row) on each group of classes (column), numbers in the cells.

    `rankings`: group -> ranking by its classes alone, for intervals and seeds. Raises ValueError
    when the table has no groups.
    """
    groups = group_columns(table)
    if not groups:
        raise ValueError("the table has no groups of classes")
    names = [name.removeprefix(GROUP_PREFIX) for name in groups]
    heads = [str(head) for head in table["head"]]
    values = 100 * table[groups].to_numpy(dtype=np.float64)
    needed = name_width(heads) + max(GROUP_CELL, text_width(names, BODY) + 0.1) * len(names)
    full = column_width(needed, width)
    one_line = (full - name_width(heads)) / len(names) > LONG_CELL
    below = _spreads(heads, names, rankings or {}, "  " if one_line else "\n")
    lines = _lines_below(below)
    height = 0.3 + (PADDING + PITCH * (1 + lines)) * len(heads)
    figure = new_figure(full, height, title, _group_caption(rankings))
    cells = _shaded(values, best_in="column")._replace(below=below if lines else None)
    draw_cells(figure.subplots(), heads, names, cells)
    return figure


def per_class_heatmap(
    runs: Sequence[RunRecord], title: str, *, width: float | None = None
) -> Figure:
    """IoU of each class (row) for each head (column), numbers in the cells; NaN is a dash."""
    table = per_class_table(runs)
    heads = [str(name) for name in table.columns[2:]]
    caption = "IoU (%), mean over seeds; the best head of a class is bold."
    cells = _shaded(100 * table[heads].to_numpy(dtype=np.float64), best_in="row")
    return _class_figure(list(table["class"]), heads, cells, title, caption, width)


def per_class_difference(
    runs: Sequence[RunRecord],
    title: str,
    *,
    baseline: str | None = None,
    width: float | None = None,
) -> Figure:
    """IoU of each class (row): of the baseline, then what every other head adds to it (columns).

    The baseline is `fcn` unless it is given or has no scores; then it is the head with the lowest
    mIoU. Raises ValueError unless it and another head have scores.
    """
    table = per_class_table(runs)
    scored = [str(name) for name in table.columns[2:] if table[name].notna().any()]
    base = baseline or (BASELINE if BASELINE in scored else scored[-1] if scored else "none")
    others = [name for name in scored if name != base]
    if base not in scored or not others:
        raise ValueError(f"no differences to {base}: it and another head need scores")
    absolute = 100 * table[[base]].to_numpy(dtype=np.float64)
    gains = 100 * table[others].to_numpy(dtype=np.float64) - absolute
    known = np.abs(gains[~np.isnan(gains)])
    limit = max(1.0, float(known.max(initial=0.0)))
    cells = Cells(
        texts=[
            [_number(own), *(signed(gain) for gain in row)]
            for own, row in zip(absolute[:, 0].tolist(), gains.tolist(), strict=True)
        ],
        faces=np.concatenate((np.ones((len(gains), 1, 4)), _coloured(gains, limit)), axis=1),
        bold=np.zeros((len(gains), 1 + len(others)), dtype=bool),
    )
    caption = (
        f"First column: IoU (%) of {base}, mean over seeds. Others: percentage points more (blue) "
        f"or less (red) than {base}; shades reach from −{limit:.0f} to +{limit:.0f}."
    )
    return _class_figure(list(table["class"]), [base, *others], cells, title, caption, width)


def draw_cells(axes: Axes, rows: Sequence[str], columns: Sequence[str], cells: Cells) -> None:
    """Shaded cells with their texts; names of rows to the left, of columns above."""
    axes.pcolormesh(cells.faces, edgecolors="white", linewidth=1)
    lines = _lines_below(cells.below or ())
    half_line = PITCH / 2 / (PADDING + PITCH * (1 + lines))  # of a row
    for (row, column), bold in np.ndenumerate(cells.bold):
        colour = INK if _luminance(cells.faces[row, column]) > PALE else "white"
        middle = row + 0.5 - lines * half_line
        axes.text(
            column + 0.5, middle, cells.texts[row][column], color=colour, ha="center",
            va="center", size=SMALL, weight="bold" if bold else "normal",
        )  # fmt: skip
        if cells.below is not None:
            axes.text(
                column + 0.5, middle + half_line, cells.below[row][column], color=colour,
                ha="center", va="top", size=SMALL, linespacing=1.15,
            )  # fmt: skip
    axes.set_yticks(np.arange(len(rows)) + 0.5, [shortened(n, LONGEST) for n in rows], size=BODY)
    names = [shortened(name, LONGEST_ABOVE) for name in columns]
    axes.set_xticks(np.arange(len(names)) + 0.5, names, size=BODY)
    axes.tick_params(length=0, labeltop=True, labelbottom=False, labelcolor=INK)
    axes.spines[:].set_visible(False)
    axes.set_ylim(len(rows), 0)


def name_width(names: Sequence[str]) -> float:
    """Inches that the names of rows take."""
    return 0.1 + text_width([shortened(name, LONGEST) for name in names], BODY)


def _class_figure(
    classes: Sequence[str],
    heads: Sequence[str],
    cells: Cells,
    title: str,
    caption: str,
    width: float | None,
) -> Figure:
    """Classes below each other, in several blocks beside each other where they are many."""
    count = math.ceil(len(classes) / BLOCK_ROWS)
    rows = math.ceil(len(classes) / count)
    full = column_width(count * (name_width(classes) + CELL * len(heads)), width)
    cell = (full / count - name_width(classes)) / len(heads)
    widest = text_width([shortened(head, LONGEST_ABOVE) for head in heads], BODY)
    upright = widest > cell
    figure = new_figure(full, 0.15 + (widest if upright else 0.2) + ROW * rows, title, caption)
    for block, axes in enumerate(figure.subplots(1, count, squeeze=False)[0]):
        part = slice(block * rows, (block + 1) * rows)
        own = Cells(cells.texts[part], cells.faces[part], cells.bold[part])
        draw_cells(axes, classes[part], heads, own)
        axes.set_ylim(rows, 0)
        if upright:
            axes.tick_params(axis="x", labelrotation=90)
    return figure


def _shaded(values: FloatArray, *, best_in: Literal["row", "column"]) -> Cells:
    """Percentages with shades from 0 to 100; bold where the best is printed."""
    rounded = np.round(values, 1)
    return Cells(
        texts=[[_number(value) for value in row] for row in rounded.tolist()],
        faces=_filled(SHADES(np.nan_to_num(rounded / 100)), rounded),
        bold=_best(rounded, axis=1 if best_in == "row" else 0),
    )


def _coloured(gains: FloatArray, limit: float) -> FloatArray:
    """(rows, columns, 4) of the diverging shades, white in the middle."""
    return _filled(DIVERGING(0.5 + np.nan_to_num(gains) / (2 * limit)), gains)


def _filled(colours: Any, values: FloatArray) -> FloatArray:
    """The colours, with that of blank cells where there is no value."""
    filled: FloatArray = np.where(np.isnan(values)[..., None], BLANK, colours)
    return filled


def _luminance(colour: FloatArray) -> float:
    """Relative luminance of an sRGB colour, from 0 to 1 (WCAG 2.1)."""
    rgb = colour[:3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def _best(values: FloatArray, axis: int) -> npt.NDArray[np.bool_]:
    """Cells with the highest value along an axis, unless all its values are the same."""
    highest = np.where(np.isnan(values), -np.inf, values).max(axis=axis, keepdims=True)
    lowest = np.where(np.isnan(values), np.inf, values).min(axis=axis, keepdims=True)
    best: npt.NDArray[np.bool_] = (values == highest) & (highest > lowest)
    return best


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"


def _spreads(
    heads: Sequence[str], groups: Sequence[str], rankings: Mapping[str, Ranking], separator: str
) -> list[list[str]]:
    """For every head and group half the width of its interval, and the range of its seeds."""
    found = {group: {each.head: each for each in r.heads} for group, r in rankings.items()}
    return [
        [separator.join(_spread(found.get(group, {}).get(head))) for group in groups]
        for head in heads
    ]


def _spread(statistics: HeadStatistics | None) -> list[str]:
    if statistics is None or math.isnan(statistics.miou.low):
        return []
    half = 50 * (statistics.miou.high - statistics.miou.low)
    if statistics.seeds.n < 2:
        return [f"±{half:.1f}"]
    low, high = (100 * end(statistics.seeds.values) for end in (min, max))
    return [f"±{half:.1f}", f"{low:.1f}–{high:.1f}"]


def _lines_below(below: Sequence[Sequence[str]]) -> int:
    """Of the cell that has most of them."""
    return max((text.count("\n") + 1 for row in below for text in row if text), default=0)


def _group_caption(rankings: Mapping[str, Ranking] | None) -> str:
    sentences = ["Mean IoU (%) over the classes of a group and over seeds; the best head is bold."]
    for ranking in list((rankings or {}).values())[:1]:
        level = f"{ranking.resampling.level:.0%}"
        sentences.append(f"±: half the {level} interval over {draws_of(ranking)}.")
        several = max(each.seeds.n for each in ranking.heads) > 1
        sentences.append("Then the lowest and highest seed." if several else "One seed a head.")
    return " ".join(sentences)
