"""Comparisons as texts, as the command line sets them."""

from collections.abc import Sequence

import pandas as pd

from contextbench.report.tables.comparison import per_class_sheet, printed_comparison
from contextbench.report.tables.sheet import sheet_markdown


def render_markdown(
    table: pd.DataFrame, warnings: Sequence[str], columns: Sequence[str] | None = None
) -> str:
    return printed_comparison(table, warnings).markdown(columns)


def render_latex(
    table: pd.DataFrame, warnings: Sequence[str], columns: Sequence[str] | None = None
) -> str:
    return printed_comparison(table, warnings).latex(columns)


def per_class_markdown(table: pd.DataFrame) -> str:
    return sheet_markdown(per_class_sheet(table))
