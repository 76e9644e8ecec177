"""All tables and figures of a comparison in one folder."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from contextbench.records.examples import Examples
from contextbench.records.failures import Failure
from contextbench.records.profiles import HeadProfileRecord
from contextbench.records.runs import RunRecord
from contextbench.records.stored import write_model
from contextbench.report.collection import Collection
from contextbench.report.figures import plots
from contextbench.report.figures.disagreement import disagreement_grid
from contextbench.report.figures.scaling import write_scaling
from contextbench.report.tables.comparison import (
    comparison_table,
    group_columns,
    per_class_markdown,
    per_class_table,
    render_markdown,
    write_csv,
)
from contextbench.report.tables.complexity import write_forms
from contextbench.statistics.intervals import Ranking, rank
from contextbench.system.files import OutputError, write_text
from contextbench.system.interrupt import Interrupted

FILE_NAMES: dict[plots.Cost, str] = {
    "macs": "tradeoff-macs",
    "latency_ms": "tradeoff-latency",
    "inference_memory_bytes": "tradeoff-memory",
    "parameters": "tradeoff-parameters",
}
FORMATS = plots.FORMATS
MOST_IMAGES = 12  # in a figure


def write_report(
    collection: Collection,
    examples: Examples | None,
    folder: Path,
    *,
    width: plots.Width | None = None,
    formats: Sequence[plots.Format] = FORMATS,
    failures: list[str] | None = None,
) -> list[Path]:
    """Write `table.csv`, `table.md`, `per_class.csv` and `figures/NAME.FORMAT`; return the paths.

    `width` is that of the figures, in columns of a paper; None: as each of them needs. Without
    `formats` nothing is drawn. A figure whose numbers do not exist is left out. What goes wrong in
    drawing is added to `failures`, and the figures after it are drawn; without `failures` it is
    raised. Raises as `comparison_table` does, and `OutputError` when a file cannot be written.
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
        render_markdown(table, collection.notes).strip(),
        "## Classes",
        per_class_markdown(per_class),
    ]
    write_text(markdown, "\n\n".join(sections))
    written = [csv, markdown, classes]
    for group in _figures(collection, table, examples, width) if formats else ():
        try:
            for name, figure in group:
                written += plots.save(figure, folder / "figures", name, formats)
        except (OutputError, Interrupted):
            raise
        except Exception as error:
            if failures is None:
                raise
            failures.append(f"Figures are missing: {Failure.of(error).cause}")
    return written


def write_head_report(
    record: HeadProfileRecord, folder: Path, *, formats: Sequence[plots.Format] = plots.FORMATS
) -> list[Path]:
    """The record of heads alone, and all that is made of it; the paths of the latter."""
    write_model(folder / "profile.json", record)
    written = write_forms(record, folder)
    return [*written, *(write_scaling(record, folder, formats=formats) if record.sizes > 1 else [])]


def subject(run: RunRecord) -> str:
    """What a comparison is about, as its title."""
    dataset = run.protocol.get("dataset")
    name = dataset.get("name") if isinstance(dataset, dict) else None
    protocol = f"protocol {run.protocol_name}"
    return f"{name}, {protocol}" if name else protocol


Figures = Iterator[tuple[str, Figure]]  # with file names


def _figures(
    collection: Collection,
    table: pd.DataFrame,
    examples: Examples | None,
    width: plots.Width | None,
) -> list[Figures]:
    """Every figure that has something to show, in groups that are drawn independently."""
    title = subject(collection.runs[0])
    inches = None if width is None else plots.WIDTHS[width]
    return [
        _tradeoffs(table, collection.ranking, title, inches),
        _of_ranking(collection.ranking, title, inches),
        _of_classes(collection, table, title, inches),
        _of_training(collection, title, inches),
        _of_examples(collection, examples, title, inches),
    ]


def _of_training(collection: Collection, title: str, width: float | None) -> Figures:
    if any(entries for seeds in collection.histories.values() for entries in seeds.values()):
        loss = plots.loss_curves(
            collection.histories, f"Training loss: {title}", width=width or plots.ONE_COLUMN
        )
        yield "loss", loss


def _of_examples(
    collection: Collection, examples: Examples | None, title: str, width: float | None
) -> Figures:
    if examples is not None and examples.images and examples.predictions:
        shown = examples.spread(MOST_IMAGES)
        yield "predictions", _predictions(shown, collection.runs[0], title, width)
        if len(examples.predictions) > 1:
            title = f"Where heads differ: {title}"
            yield "disagreement", disagreement_grid(shown, title, width=width or plots.TWO_COLUMNS)


def _tradeoffs(
    table: pd.DataFrame, ranking: Ranking | None, subject: str, width: float | None
) -> Figures:
    title = f"Accuracy and cost: {subject}"
    costs = [cost for cost in plots.COSTS if not plots.plottable(table, cost).empty]
    for cost in costs:
        figure = plots.tradeoff(
            table, cost, title, ranking=ranking, width=width or plots.ONE_COLUMN
        )
        yield FILE_NAMES[cost], figure
    if costs:
        width = width or plots.TWO_COLUMNS
        yield "tradeoff", plots.tradeoff_grid(table, title, ranking=ranking, width=width)


def _of_ranking(ranking: Ranking | None, subject: str, width: float | None) -> Figures:
    scored = [each.head for each in ranking.heads if each.miou.estimate >= 0] if ranking else []
    if ranking is None or len(scored) < 2:
        return
    yield "ranks", plots.rank_stability(ranking, f"Stability of ranks: {subject}", width=width)
    for reference in dict.fromkeys([scored[0], *(head for head in scored if head == "fcn")]):
        name = "differences" if reference == scored[0] else f"differences-{reference}"
        title = f"mIoU against {plots.shortened(reference, plots.LONGEST)}: {subject}"
        figure = plots.paired_differences(ranking, title, reference=reference, width=width)
        yield name, figure


def _of_classes(
    collection: Collection, table: pd.DataFrame, subject: str, width: float | None
) -> Figures:
    scored = int(table["miou"].notna().sum())
    if scored and group_columns(table):
        rankings = _group_rankings(collection)
        title = f"IoU of groups of classes: {subject}"
        yield "groups", plots.group_table_plot(table, title, rankings=rankings, width=width)
    if scored:
        title = f"IoU of classes: {subject}"
        yield "per-class", plots.per_class_heatmap(collection.runs, title, width=width)
    if scored > 1:
        title = f"Gain by class: {subject}"
        figure = plots.per_class_difference(collection.runs, title, width=width)
        yield "per-class-difference", figure


def _group_rankings(collection: Collection) -> dict[str, Ranking]:
    """A ranking by each group of classes alone; none where the runs have none."""
    if collection.ranking is None:
        return {}
    return {
        group: rank(collection.areas, sampling=collection.sampling, classes=classes)
        for group, classes in collection.runs[0].labels.groups.items()
    }


def _predictions(examples: Examples, run: RunRecord, subject: str, width: float | None) -> Figure:
    return plots.prediction_grid(
        examples.images,
        examples.truths,
        examples.predictions,
        run.labels,
        f"Predictions: {subject}",
        names=examples.names,
        width=width or plots.TWO_COLUMNS,
    )
