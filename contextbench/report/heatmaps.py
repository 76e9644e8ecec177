"""Heads against groups of classes and against classes, as numbers on shaded cells."""

import math
from collections.abc import Sequence
from typing import Literal

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from contextbench.report.geometry import FloatArray
from contextbench.report.render import GROUP_PREFIX, group_columns
from contextbench.report.style import BODY, INK, ONE_COLUMN, SMALL, new_figure
from contextbench.report.tables import per_class_table
from contextbench.results import RunRecord

BLOCK_ROWS = 60  # classes below each other before the next block starts
DARK = 60  # percent from which numbers are white


def group_table_plot(table: pd.DataFrame, title: str) -> Figure:
    """Mean IoU of each head (row) on each group of classes (column), numbers in the cells.

    Raises ValueError when the table has no groups.
    """
    groups = group_columns(table)
    if not groups:
        raise ValueError("the table has no groups of classes")
    caption = "Mean IoU (%) over the classes of a group and over seeds; the best head is bold."
    height = 1.0 + 0.26 * len(table)
    figure = new_figure(max(ONE_COLUMN, 0.8 + 0.6 * len(groups)), height, title, caption)
    names = [name.removeprefix(GROUP_PREFIX) for name in groups]
    values = 100 * table[groups].to_numpy(dtype=np.float64)
    _draw_heat(figure.subplots(), values, list(table["head"]), names, best_in="column")
    return figure


def per_class_heatmap(runs: Sequence[RunRecord], title: str) -> Figure:
    """IoU of each class (row) for each head (column), numbers in the cells; NaN is a dash."""
    table = per_class_table(runs)
    heads = [str(name) for name in table.columns[2:]]
    count = math.ceil(len(table) / BLOCK_ROWS)
    rows = math.ceil(len(table) / count)
    names = 0.2 + 0.06 * max(map(len, table["class"]))
    width, height = count * (names + 0.36 * len(heads)), 1.1 + 0.17 * rows
    caption = "IoU (%), mean over seeds; the best head of a class is bold."
    figure = new_figure(max(ONE_COLUMN, width), height, title, caption)
    for block, axes in enumerate(figure.subplots(1, count, squeeze=False)[0]):
        part = table[block * rows : (block + 1) * rows]
        values = 100 * part[heads].to_numpy(dtype=np.float64)
        _draw_heat(axes, values, list(part["class"]), heads, best_in="row")
        axes.set_ylim(rows, 0)
        if count > 1:
            axes.tick_params(axis="x", labelrotation=90)
    return figure


def _draw_heat(
    axes: Axes,
    values: FloatArray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    best_in: Literal["row", "column"],
) -> None:
    """Cells shaded from 0 to 100 with their number; bold where the best is printed."""
    shades = mpl.colormaps["Blues"]
    axes.pcolormesh(values, cmap=shades, vmin=0, vmax=100, edgecolors="white", linewidth=1)
    rounded = np.round(values, 1)
    best = _best(rounded, axis=1 if best_in == "row" else 0)
    for (row, column), value in np.ndenumerate(rounded):
        axes.text(
            column + 0.5,
            row + 0.5,
            "–" if math.isnan(value) else f"{value:.1f}",
            color="white" if value > DARK else INK,
            weight="bold" if best[row, column] else "normal",
            ha="center", va="center", size=SMALL,
        )  # fmt: skip
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows, size=BODY)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, size=BODY)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_ylim(len(rows), 0)


def _best(values: FloatArray, axis: int) -> npt.NDArray[np.bool_]:
    """Cells with the highest value along an axis, unless all its values are the same."""
    highest = np.where(np.isnan(values), -np.inf, values).max(axis=axis, keepdims=True)
    lowest = np.where(np.isnan(values), np.inf, values).min(axis=axis, keepdims=True)
    best: npt.NDArray[np.bool_] = (values == highest) & (highest > lowest)
    return best
