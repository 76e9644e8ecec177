"""Commands that make tables, figures and pages from records: no device, no data, no torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from contextbench.cli.shared import (
    JsonOption,
    ViewOption,
    console,
    guarded,
    listed,
    print_json,
    print_paths,
)
from contextbench.config.files import ConfigError, nearest
from contextbench.records.examples import read_examples
from contextbench.records.profiles import read_head_profile
from contextbench.records.runs import find_runs
from contextbench.records.stored import write_model
from contextbench.report.collection import collect
from contextbench.report.insight import judge
from contextbench.statistics.scores import ClassMetric

if TYPE_CHECKING:
    from contextbench.report.figures.style import Format


def plot(
    results: Annotated[
        Path, typer.Argument(help="Folder with runs of one protocol, or a profile of heads.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of tables and figures.")] = Path(
        "report"
    ),
    width: Annotated[
        Literal["one", "two"] | None,
        typer.Option(
            help="Columns of a paper that figures span. Left out, and where one is too narrow for "
            "what is drawn: as each figure needs."
        ),
    ] = None,
    formats: Annotated[
        str, typer.Option("--format", help="Of figures, with commas: png, svg, pdf.")
    ] = "png,svg",
    view: ViewOption = None,
) -> None:
    """Make tables and figures again from records. Needs no device and no data.

    Example: contextbench plot results/camvid-small -o figures --width one --format pdf
    """
    with guarded(resume=True):
        from contextbench.report.bundle import write_head_report, write_report

        kinds = _formats(formats)
        if not find_runs(results) and (results / "profile.json").exists():
            profile = read_head_profile(results / "profile.json")
            if out.resolve() != results.resolve():  # what is read stays as it is
                write_model(out / "profile.json", profile)
            print_paths(write_head_report(profile, out, formats=kinds))
            return
        collection = collect(results, view)
        examples = read_examples(results, len(collection.runs[0].labels.classes))
        print_paths(write_report(collection, examples, out, width=width, formats=kinds))


def report(
    results: Annotated[
        list[Path], typer.Argument(help="Folders, each with the runs of one protocol.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The page, one HTML file: report.html, report-VIEW.html."),
    ] = None,
    view: ViewOption = None,
) -> None:
    """Write one page that shows comparisons: ranking, costs, classes, examples, provenance.

    The file needs nothing else and no network. Images are on it where they lie beside the records.

    Example: contextbench report results/probe results/camvid-small -o report.html
    """
    with guarded(resume=True):
        from contextbench.report.page import write_page

        page = out or Path("report.html" if view is None else f"report-{view}.html")
        print_paths([write_page(results, page, view)])


def insight(
    results: Annotated[
        Path, typer.Argument(help="Folder with runs of one protocol whose dataset has groups.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Page (.md); its figure is written beside.")
    ] = None,
    baseline: Annotated[str, typer.Option(help="Head that the others are compared with.")] = "fcn",
    view: ViewOption = None,
    metric: Annotated[
        ClassMetric, typer.Option(help="What heads are judged by, mean over a group's classes.")
    ] = "iou",
    as_json: JsonOption = False,
) -> None:
    """Show which head solves which group of classes, seed by seed, with intervals.

    Example: contextbench insight results/probe -o insight.md
    """
    with guarded(resume=True):
        from contextbench.report.bundle import write_insight
        from contextbench.report.tables.insight import insight_json, insight_sheet

        judged = judge(collect(results, view), baseline=baseline, metric=metric)
        written = [] if out is None else write_insight(judged, out)
        if as_json:
            print_json(insight_json(judged))
        elif out is not None:
            print_paths(written)
        else:
            console.print(insight_sheet(judged))
            for caution in judged.cautions:
                console.print(f"note: {caution}", markup=False, highlight=False, soft_wrap=True)


def _formats(text: str) -> "list[Format]":
    from contextbench.report.figures.style import METADATA

    chosen = listed(text, "--format")
    for name in chosen:
        if name not in METADATA:
            raise ConfigError(f"--format {name!r} is unknown; {nearest(name, METADATA)}")
    return [kind for kind in METADATA if kind in chosen]
