"""Heads against groups of classes and against classes, and confusions, as shaded cells."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from contextbench.report.collection import Collection
from contextbench.report.confusion import Confusion, confusion_of
from contextbench.report.figures.style import (
    BODY,
    INK,
    SMALL,
    column_width,
    new_figure,
    text_width,
)
from contextbench.report.geometry import FloatArray
from contextbench.report.heat import Heat
from contextbench.report.looks import shortened
from contextbench.report.verdicts import draws_of
from contextbench.report.words import level_text, percent, signed_points
from contextbench.statistics.intervals import HeadStatistics, Ranking

BLOCK_ROWS = 60  # classes below each other before the next block starts
LONGEST, LONGEST_ABOVE = 24, 16  # characters of the name of a row, of a column
CELL, GROUP_CELL, LONG_CELL = 0.36, 0.62, 0.95  # inches: narrowest of a head, group, long line
ROW = 0.17  # inches: lowest row
CONFUSION_CELL, CONFUSION_ROW = 0.33, 0.2  # inches
PADDING, PITCH = 0.11, 0.11  # inches: air in a row of several lines, height of a line
PALE = 0.21  # luminance from which on dark text stands out more from a cell than white does
BLANK = (0.95, 0.95, 0.95, 1.0)  # a cell without a value
MOST_WRITTEN = 30  # classes up to which cells of confusions have numbers
LEAST_WRITTEN = 0.005  # share below which such a cell is empty
FAINTEST = 0.02  # half of the range of shades of a difference of shares, at least

SHADES = mpl.colormaps["Blues"]
DIVERGING = mpl.colormaps["RdBu"]  # of ColorBrewer's colour-blind safe ones; blue is better


class Cells(NamedTuple):
    """Rows and columns of what is drawn in a cell."""

    texts: Sequence[Sequence[str]]
    faces: FloatArray  # (rows, columns, 4)
    bold: npt.NDArray[np.bool_]
    below: Sequence[Sequence[str]] | None = None  # small lines below each text


def group_figure(
    heat: Heat, ranking: Ranking | None, title: str, *, width: float | None = None
) -> Figure:
    """Mean IoU of each head (row) on each group of classes (column), numbers in the cells.

    `ranking` is that of a group, for what is said of intervals and seeds.
    """
    names = name_width(heat.rows)
    needed = names + max(GROUP_CELL, text_width(heat.columns, BODY) + 0.1) * len(heat.columns)
    full = column_width(needed, width)
    separator = "  " if (full - names) / len(heat.columns) > LONG_CELL else "\n"
    below = [
        [separator.join(_spread(heat.statistics.get((row, column)))) for column in heat.columns]
        for row in heat.rows
    ]
    lines = _lines_below(below)
    height = 0.3 + (PADDING + PITCH * (1 + lines)) * len(heat.rows)
    figure = new_figure(full, height, title, _group_caption(ranking))
    cells = _shaded(heat)._replace(below=below if lines else None)
    draw_cells(figure.subplots(), heat.rows, heat.columns, cells)
    return figure


def class_figure(heat: Heat, title: str, *, width: float | None = None) -> Figure:
    """IoU of each class (row) for each head (column), numbers in the cells; NaN is a dash."""
    caption = "IoU (%), mean over seeds."
    return _class_figure(heat, heat.columns, _shaded(heat), title, caption, width)


def gain_figure(heat: Heat, title: str, *, width: float | None = None) -> Figure:
    """IoU of each class (row): of the baseline, then what every other head adds to it (columns).

    Raises ValueError unless another head has scores.
    """
    base = heat.columns.index(heat.baseline)
    if len(heat.columns) < 2:
        raise ValueError(f"no differences to {heat.baseline}: another head needs scores")
    others = [column for column in range(len(heat.columns)) if column != base]
    gains = heat.differences[:, others]
    limit = max(0.01, heat.largest)
    colours = DIVERGING(0.5 + np.nan_to_num(gains) / (2 * limit))  # white in the middle
    cells = Cells(
        texts=[
            [percent(own), *map(signed_points, row)]
            for own, row in zip(heat.values[:, base].tolist(), gains.tolist(), strict=True)
        ],
        faces=np.concatenate((np.ones((len(gains), 1, 4)), _filled(colours, gains)), axis=1),
        bold=np.zeros((len(gains), 1 + len(others)), dtype=bool),
    )
    caption = (
        f"First column: IoU (%) of {heat.baseline}, mean over seeds. Others: percentage points "
        f"more (blue) or less (red) than {heat.baseline}; shades reach from −{100 * limit:.0f} to "
        f"+{100 * limit:.0f}."
    )
    heads = [heat.baseline, *(heat.columns[column] for column in others)]
    return _class_figure(heat, heads, cells, title, caption, width)


def confusion_figure(
    confusion: Confusion, head: str, title: str, *, width: float | None = None
) -> Figure:
    """Share of each label's pixels (rows) that `head` predicts as each class (columns).

    Of two heads the first one's share less the second one's.
    """
    values = confusion.shares(head)
    caption = f"Percent of the pixels of a class (row) that {head} predicts as each class (column)"
    if confusion.two:
        one, other = confusion.heads
        values = confusion.shares(one) - confusion.shares(other)
        caption = (
            f"Points of the pixels of a class (row) that {one} predicts as each class (column) "
            f"more (blue) or less (red) often than {other}"
        )
    caption += ", mean over seeds. On the diagonal: recall."
    names = list(confusion.units)
    above = text_width([shortened(name, LONGEST_ABOVE) for name in names], BODY)
    full = column_width(name_width(names) + CONFUSION_CELL * len(names), width)
    figure = new_figure(full, 0.3 + CONFUSION_ROW * len(names) + above, title, caption)
    axes = figure.subplots()
    draw_cells(axes, names, names, _confused(values, confusion.two))
    axes.tick_params(axis="x", labelrotation=90)
    return figure


def head_confusion(
    collection: Collection, head: str, *, width: float | None = None
) -> tuple[str, Figure]:
    """All confusions of one head, with the title. Raises as `confusion_of` does."""
    title = f"What {shortened(head)} takes each class for: {collection.subject}"
    alone = confusion_of(collection, heads=[head], top=0)
    return title, confusion_figure(alone, head, title, width=width)


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
    heat: Heat, heads: Sequence[str], cells: Cells, title: str, caption: str, width: float | None
) -> Figure:
    """Classes below each other, in several blocks beside each other where they are many."""
    count = math.ceil(len(heat.rows) / BLOCK_ROWS)
    rows = math.ceil(len(heat.rows) / count)
    names = name_width(heat.rows)
    full = column_width(count * (names + CELL * len(heads)), width)
    widest = text_width([shortened(head, LONGEST_ABOVE) for head in heads], BODY)
    upright = widest > (full / count - names) / len(heads)
    figure = new_figure(full, 0.15 + (widest if upright else 0.2) + ROW * rows, title, caption)
    for block, axes in enumerate(figure.subplots(1, count, squeeze=False)[0]):
        part = slice(block * rows, (block + 1) * rows)
        own = Cells(cells.texts[part], cells.faces[part], cells.bold[part])
        draw_cells(axes, heat.rows[part], heads, own)
        axes.set_ylim(rows, 0)
        if upright:
            axes.tick_params(axis="x", labelrotation=90)
    return figure


def _shaded(heat: Heat) -> Cells:
    """Percentages with shades from 0 to 100; bold what leads."""
    return Cells(
        texts=[list(map(percent, row)) for row in heat.values.tolist()],
        faces=_filled(SHADES(np.nan_to_num(np.round(heat.values, 3))), heat.values),
        bold=heat.leading,
    )


def _confused(values: FloatArray, difference: bool) -> Cells:
    """Shares, or differences of them; without numbers where classes are many."""
    known = np.nan_to_num(values)
    limit = max(FAINTEST, float(np.abs(known).max()))
    faces = DIVERGING(0.5 + known / (2 * limit)) if difference else SHADES(0.85 * known)
    write = signed_points if difference else percent
    small = len(values) > MOST_WRITTEN
    texts = [
        ["" if small or abs(each) < LEAST_WRITTEN else write(each) for each in row]
        for row in known.tolist()
    ]
    return Cells(texts, _filled(faces, values), np.zeros(values.shape, dtype=bool))


def _filled(colours: Any, values: FloatArray) -> FloatArray:
    """The colours, with that of blank cells where there is no value."""
    filled: FloatArray = np.where(np.isnan(values)[..., None], BLANK, colours)
    return filled


def _luminance(colour: FloatArray) -> float:
    """Relative luminance of an sRGB colour, from 0 to 1 (WCAG 2.1)."""
    rgb = colour[:3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def _spread(statistics: HeadStatistics | None) -> list[str]:
    """Half the width of an interval, and the range of the seeds."""
    if statistics is None or math.isnan(statistics.miou.low):
        return []
    half = f"±{percent((statistics.miou.high - statistics.miou.low) / 2)}"
    if statistics.seeds.n < 2:
        return [half]
    return [half, "–".join(percent(end(statistics.seeds.values)) for end in (min, max))]


def _lines_below(below: Sequence[Sequence[str]]) -> int:
    """Of the cell that has most of them."""
    return max((text.count("\n") + 1 for row in below for text in row if text), default=0)


def _group_caption(ranking: Ranking | None) -> str:
    text = "Mean IoU (%) over the classes of a group and over seeds."
    if ranking is None:
        return text
    bold = ""
    if ranking.claims == "heads":
        bold = " Bold: heads that are not separated from the best of a group, where others are."
    several = any(each.seeds.n > 1 for each in ranking.heads)
    seeds = "Then the lowest and highest seed." if several else "One seed a head."
    level = level_text(ranking.resampling.level)
    return f"{text}{bold} ±: half the {level} interval over {draws_of(ranking)}. {seeds}"
