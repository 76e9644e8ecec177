"""A table of confusions as shaded cells: of one head, or the difference of two."""

import numpy as np
from matplotlib.figure import Figure

from contextbench.report.confusion import Confusion
from contextbench.report.figures.heatmaps import (
    BLANK,
    DIVERGING,
    LONGEST_ABOVE,
    SHADES,
    Cells,
    draw_cells,
    name_width,
)
from contextbench.report.figures.style import BODY, column_width, new_figure, text_width
from contextbench.report.geometry import FloatArray
from contextbench.report.looks import shortened
from contextbench.report.words import percent, signed_points

CELL, ROW = 0.33, 0.2  # inches
MOST_WRITTEN = 30  # classes up to which cells have numbers
LEAST_WRITTEN = 0.005  # share below which a cell is empty
FAINTEST = 0.02  # half of the range of shades, at least


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
    full = column_width(name_width(names) + CELL * len(names), width)
    figure = new_figure(full, 0.3 + ROW * len(names) + above, title, caption)
    axes = figure.subplots()
    draw_cells(axes, names, names, _cells(values, confusion.two))
    axes.tick_params(axis="x", labelrotation=90)
    return figure


def _cells(values: FloatArray, difference: bool) -> Cells:
    known = np.nan_to_num(values)
    if difference:
        limit = max(FAINTEST, float(np.abs(known).max()))
        faces = DIVERGING(0.5 + known / (2 * limit))
    else:
        faces = SHADES(0.85 * known)
    faces = np.where(np.isnan(values)[..., None], BLANK, faces)
    write = signed_points if difference else percent
    small = len(values) > MOST_WRITTEN
    texts = [
        ["" if small or abs(each) < LEAST_WRITTEN else write(each) for each in row]
        for row in known.tolist()
    ]
    return Cells(texts, faces, np.zeros(values.shape, dtype=bool))
