"""Figures of a comparison: tables and records in, `Figure` objects out.

Every figure can be read alone: its title names dataset and protocol, its axes their units, and a
line below says what is drawn, on which device.
"""

from contextbench.report.figures.curves import loss_curves
from contextbench.report.figures.geometry import pareto_front
from contextbench.report.figures.heatmaps import (
    group_table_plot,
    per_class_difference,
    per_class_heatmap,
)
from contextbench.report.figures.predictions import prediction_grid
from contextbench.report.figures.stability import paired_differences, rank_stability
from contextbench.report.figures.style import (
    FORMATS,
    LONGEST,
    ONE_COLUMN,
    TWO_COLUMNS,
    WIDTHS,
    Format,
    Width,
    head_style,
    save,
    shortened,
)
from contextbench.report.figures.tradeoff import COSTS, Cost, plottable, tradeoff, tradeoff_grid

__all__ = [
    "COSTS",
    "FORMATS",
    "LONGEST",
    "ONE_COLUMN",
    "TWO_COLUMNS",
    "WIDTHS",
    "Cost",
    "Format",
    "Width",
    "group_table_plot",
    "head_style",
    "loss_curves",
    "paired_differences",
    "pareto_front",
    "per_class_difference",
    "per_class_heatmap",
    "plottable",
    "prediction_grid",
    "rank_stability",
    "save",
    "shortened",
    "tradeoff",
    "tradeoff_grid",
]
