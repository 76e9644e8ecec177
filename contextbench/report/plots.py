"""Figures of a comparison: tables and records in, `Figure` objects out.

Every figure can be read alone: its title names dataset and protocol, its axes their units, and a
line below says what is drawn, on which device.
"""

from contextbench.report.curves import loss_curves
from contextbench.report.geometry import pareto_front
from contextbench.report.heatmaps import group_table_plot, per_class_heatmap
from contextbench.report.predictions import prediction_grid
from contextbench.report.style import head_style, save
from contextbench.report.tradeoff import COSTS, Cost, plottable, tradeoff, tradeoff_grid

__all__ = [
    "COSTS",
    "Cost",
    "group_table_plot",
    "head_style",
    "loss_curves",
    "pareto_front",
    "per_class_heatmap",
    "plottable",
    "prediction_grid",
    "save",
    "tradeoff",
    "tradeoff_grid",
]
