"""All tables and figures of a comparison in one folder."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from contextbench.records.examples import Examples
from contextbench.records.failures import Failure
from contextbench.records.profiles import HeadProfileRecord
from contextbench.records.tuning import TuningRecord
from contextbench.report.collection import Collection
from contextbench.report.columns import write_csv
from contextbench.report.confusion import Confusion
from contextbench.report.counted import counters_of
from contextbench.report.figures.details import detail_figures
from contextbench.report.figures.examples import disagreement_grid, prediction_grid
from contextbench.report.figures.heatmaps import (
    class_figure,
    confusion_figure,
    gain_figure,
    group_figure,
    head_confusion,
)
from contextbench.report.figures.insight import insight_figure
from contextbench.report.figures.plots import (
    course_figure,
    scaling_figure,
    tradeoff,
    tradeoff_grid,
)
from contextbench.report.figures.stability import paired_differences, rank_stability
from contextbench.report.figures.style import (
    FORMATS,
    ONE_COLUMN,
    TWO_COLUMNS,
    WIDTHS,
    Format,
    Width,
    save,
)
from contextbench.report.figures.tuning import tuning_figure
from contextbench.report.heat import BASELINE, class_heat, group_heat
from contextbench.report.insight import Insight, InsightError
from contextbench.report.looks import shortened
from contextbench.report.samples import forms_of
from contextbench.report.tables.comparison import per_class_sheet, printed_comparison
from contextbench.report.tables.confusion import confusion_frame, confusion_sheet
from contextbench.report.tables.forms import write_forms
from contextbench.report.tables.insight import insight_markdown
from contextbench.report.tables.scaling import write_scaling
from contextbench.report.tables.sheet import markdown_text, sheet_markdown
from contextbench.report.tables.tuning import trials_frame
from contextbench.report.tradeoffs import MAIN, plottable
from contextbench.report.training import losses_of, watched_of
from contextbench.report.tuning import tuned_heads
from contextbench.system.files import OutputError, write_text
from contextbench.system.interrupt import Interrupted

FILE_NAMES = dict(zip(MAIN, ("macs", "latency", "memory", "parameters"), strict=True))
FIGURES = FORMATS  # of the figures of a comparison
MOST_IMAGES = 12  # in a figure

Figures = Iterator[tuple[str, Figure]]  # with file names


def write_report(
    collection: Collection,
    examples: Examples | None,
    folder: Path,
    *,
    width: Width | None = None,
    formats: Sequence[Format] = FORMATS,
    failures: list[str] | None = None,
) -> list[Path]:
    """Write `table.csv`, `table.md`, `per_class.csv` and `figures/NAME.FORMAT`; return the paths.

    Those of a view other than the first are `table-VIEW.csv`, `figures-VIEW/NAME.FORMAT` and so on.
    `width` is that of the figures, in columns of a paper; None: as each of them needs. Without
    `formats` nothing is drawn. A figure whose numbers do not exist is left out. What goes wrong in
    drawing is added to `failures`, and the figures after it are drawn; without `failures` it is
    raised. Raises as `comparison_table` does, and `OutputError` when a file cannot be written.
    """
    printed = printed_comparison(collection.table, collection.notes)
    end = collection.ending
    names = (f"table{end}.csv", f"table{end}.md", f"per_class{end}.csv")
    csv, markdown, classes = (folder / name for name in names)
    write_text(csv, printed.csv())
    write_csv(collection.per_class, classes)
    per_class = sheet_markdown(per_class_sheet(collection.per_class))
    sections = [f"# {collection.subject}", printed.markdown().strip(), "## Classes", per_class]
    write_text(markdown, "\n\n".join(sections))
    written = [csv, markdown, classes]
    for group in _figures(collection, examples, width) if formats else ():
        try:
            for name, figure in group:
                written += save(figure, folder / f"figures{end}", name, formats)
        except (OutputError, Interrupted):
            raise
        except Exception as error:
            if failures is None:
                raise
            failures.append(f"Figures are missing: {Failure.of(error).cause}")
    return written


def write_head_report(
    record: HeadProfileRecord, folder: Path, *, formats: Sequence[Format] = FORMATS
) -> list[Path]:
    """All that is made of a record of heads alone; the paths."""
    written = write_forms(record, folder)
    if record.sizes > 1:
        written += write_scaling(record, folder)
        for form in forms_of(record):
            written += save(scaling_figure(record, form), folder, f"scaling-{form}", formats)
    return written


def write_tuning(
    record: TuningRecord, folder: Path, *, formats: Sequence[Format] = FORMATS
) -> list[Path]:
    """Write `trials.csv` and, where a trial has a score, `figures/tuning.FORMAT`; the paths."""
    path = folder / "trials.csv"
    write_csv(trials_frame(record), path)
    title = f"Tuning: protocol {record.protocol.get('name')}"
    figure = tuning_figure(record, record.heads, title)
    drawn = [] if figure is None else save(figure, folder / "figures", "tuning", formats)
    return [path, *drawn]


def write_insight(insight: Insight, path: Path) -> list[Path]:
    """Write the page and, beside it under the same name, its figure; return the paths.

    Raises `InsightError` for a name that does not end in `.md`, `OutputError` when a file cannot be
    written.
    """
    if path.suffix != ".md":
        raise InsightError(f"-o {path}: the page is Markdown; write a name that ends in .md")
    figures = save(insight_figure(insight), path.parent, path.stem)
    write_text(path, insight_markdown(insight, figures[0].name))
    return [path, *figures]


def write_confusion(confusion: Confusion, folder: Path) -> list[Path]:
    """Write `confusion.csv`, of every pair, `confusion.md`, of the largest, and figures: of the
    difference of two heads, otherwise of each head; the paths."""
    csv, markdown = folder / "confusion.csv", folder / "confusion.md"
    write_csv(confusion_frame(confusion), csv)
    title = f"Confusions: {confusion.subject}"
    write_text(
        markdown, f"# {markdown_text(title)}\n\n{sheet_markdown(confusion_sheet(confusion))}"
    )
    written = [csv, markdown]
    for head in confusion.heads[: 1 if confusion.two else None]:
        name = "confusion-difference" if confusion.two else f"confusion-{head}"
        written += save(confusion_figure(confusion, head, title), folder, name)
    return written


def _figures(
    collection: Collection, examples: Examples | None, width: Width | None
) -> list[Figures]:
    """Every figure that has something to show, in groups that are drawn independently."""
    inches = None if width is None else WIDTHS[width]
    return [
        _tradeoffs(collection, inches),
        _of_ranking(collection, inches),
        _of_classes(collection, inches),
        _of_training(collection, inches),
        _of_details(collection, inches),
        _of_examples(collection, examples, inches),
    ]


def _tradeoffs(collection: Collection, width: float | None) -> Figures:
    table, ranking = collection.table, collection.ranking
    title = f"Accuracy and cost: {collection.subject}"
    costs = [cost for cost in MAIN if not plottable(table, cost).empty]
    for cost in costs:
        narrow = width or ONE_COLUMN
        figure = tradeoff(table, cost, title, ranking=ranking, width=narrow)
        yield f"tradeoff-{FILE_NAMES[cost]}", figure
    if costs:
        wide = width or TWO_COLUMNS
        yield "tradeoff", tradeoff_grid(table, title, ranking=ranking, width=wide)


def _of_ranking(collection: Collection, width: float | None) -> Figures:
    ranking, subject = collection.ranking, collection.subject
    scored = [each.head for each in ranking.heads if each.miou.estimate >= 0] if ranking else []
    if ranking is None or len(scored) < 2:
        return
    yield "ranks", rank_stability(ranking, f"Stability of ranks: {subject}", width=width)
    for reference in dict.fromkeys([scored[0], *(head for head in scored if head == BASELINE)]):
        name = "differences" if reference == scored[0] else f"differences-{reference}"
        title = f"mIoU against {shortened(reference)}: {subject}"
        yield name, paired_differences(ranking, title, reference=reference, width=width)


def _of_classes(collection: Collection, width: float | None) -> Figures:
    subject = collection.subject
    groups, classes = group_heat(collection), class_heat(collection.per_class)
    if groups is not None:
        ranking = next(iter(collection.group_rankings.values()), None)
        title = f"IoU of groups of classes: {subject}"
        yield "groups", group_figure(groups, ranking, title, width=width)
    if classes is not None:
        yield "per-class", class_figure(classes, f"IoU of classes: {subject}", width=width)
        if len(classes.columns) > 1:
            figure = gain_figure(classes, f"Gain by class: {subject}", width=width)
            yield "per-class-difference", figure


def _of_training(collection: Collection, width: float | None) -> Figures:
    for name, what, course in (
        ("loss", "Training loss", losses_of(collection.histories)),
        ("watched", "mIoU while training", watched_of(collection.watched)),
    ):
        if course is not None:
            title = f"{what}: {collection.subject}"
            yield name, course_figure(course, title, width=width or ONE_COLUMN)
    tuned = tuned_heads(collection.runs)
    if tuned:
        trials = {name: each.head for name, each in tuned.items()}
        title = f"Tuning: {collection.subject}"
        figure = tuning_figure(next(iter(tuned.values())), trials, title, width=width)
        if figure is not None:
            yield "tuning", figure


def _of_details(collection: Collection, width: float | None) -> Figures:
    if "confusion" in counters_of(collection):
        for head in collection.areas:
            yield f"confusion-{head}", head_confusion(collection, head, width=width)[1]
    for each in detail_figures(collection, width):
        yield each.name, each.figure


def _of_examples(collection: Collection, examples: Examples | None, width: float | None) -> Figures:
    if examples is None or not examples.images or not examples.predictions:
        return
    shown, wide = examples.spread(MOST_IMAGES), width or TWO_COLUMNS
    title = f"Predictions: {collection.subject}"
    yield "predictions", prediction_grid(shown, collection.labels, title, width=wide)
    if len(examples.predictions) > 1:
        title = f"Where heads differ: {collection.subject}"
        yield "disagreement", disagreement_grid(shown, title, width=wide)
