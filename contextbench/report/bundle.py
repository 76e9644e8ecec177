"""All tables and figures of a comparison in one folder."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from contextbench.files import write_text
from contextbench.report import plots
from contextbench.report.collection import Collection
from contextbench.report.complexity import write_forms
from contextbench.report.examples import Examples
from contextbench.report.scaling import write_scaling
from contextbench.report.tables import (
    comparison_table,
    group_columns,
    per_class_markdown,
    per_class_table,
    render_markdown,
    warnings_for,
    write_csv,
)
from contextbench.results import HeadProfileRecord, RunRecord, write_model

FILE_NAMES: dict[plots.Cost, str] = {
    "macs": "tradeoff-macs",
    "latency_ms": "tradeoff-latency",
    "inference_memory_bytes": "tradeoff-memory",
    "parameters": "tradeoff-parameters",
}


def write_report(collection: Collection, examples: Examples | None, folder: Path) -> list[Path]:
    """Write `table.csv`, `table.md`, `per_class.csv`, `figures/*.png` and `.svg`; return the paths.

    A figure whose numbers do not exist is left out. Raises as `comparison_table` does, and
    `OutputError` when a file cannot be written.
    """
    runs, profile = collection.runs, collection.profile
    table = comparison_table(runs, profile, ranking=collection.ranking)
    per_class = per_class_table(runs)
    title = subject(runs[0])
    csv, markdown, classes = (folder / n for n in ("table.csv", "table.md", "per_class.csv"))
    write_csv(table, csv)
    write_csv(per_class, classes)
    sections = [
        f"# {title}",
        render_markdown(table, [*warnings_for(runs, profile), *collection.all_warnings]).strip(),
        "## Classes",
        per_class_markdown(per_class),
    ]
    write_text(markdown, "\n\n".join(sections))
    written = [csv, markdown, classes]
    for name, figure in _figures(collection, table, examples, title):
        written += plots.save(figure, folder / "figures", name)
    return written


def write_head_report(record: HeadProfileRecord, folder: Path) -> list[Path]:
    """The record of heads alone, and all that is made of it; the paths of the latter."""
    write_model(folder / "profile.json", record)
    written = write_forms(record, folder)
    return [*written, *(write_scaling(record, folder) if record.sizes > 1 else [])]


def subject(run: RunRecord) -> str:
    """What a comparison is about, as its title."""
    dataset = run.protocol.get("dataset")
    name = dataset.get("name") if isinstance(dataset, dict) else None
    protocol = f"protocol {run.protocol_name}"
    return f"{name}, {protocol}" if name else protocol


def _figures(
    collection: Collection,
    table: pd.DataFrame,
    examples: Examples | None,
    title: str,
) -> Iterator[tuple[str, Figure]]:
    """File name and figure, for every figure that has something to show."""
    costs = [cost for cost in plots.COSTS if not plots.plottable(table, cost).empty]
    for cost in costs:
        yield FILE_NAMES[cost], plots.tradeoff(table, cost, f"Accuracy and cost: {title}")
    if costs:
        yield "tradeoff", plots.tradeoff_grid(table, f"Accuracy and cost: {title}")
    scored = table["miou"].notna().any()
    if scored and group_columns(table):
        yield "groups", plots.group_table_plot(table, f"IoU of groups of classes: {title}")
    if scored:
        yield "per-class", plots.per_class_heatmap(collection.runs, f"IoU of classes: {title}")
    if any(entries for seeds in collection.histories.values() for entries in seeds.values()):
        yield "loss", plots.loss_curves(collection.histories, f"Training loss: {title}")
    if examples is not None and examples.images and examples.predictions:
        yield "predictions", _predictions(examples, collection.runs[0], f"Predictions: {title}")


def _predictions(examples: Examples, run: RunRecord, title: str) -> Figure:
    return plots.prediction_grid(
        examples.images,
        examples.truths,
        examples.predictions,
        run.labels,
        title,
        names=examples.names,
    )
