"""Commands that show what views counted beside the pixels of classes: no device, no data."""

from pathlib import Path
from typing import Annotated

import typer

from contextbench.cli.shared import (
    JsonOption,
    ViewOption,
    console,
    guarded,
    listed,
    print_json,
    print_notes,
    print_paths,
)
from contextbench.records.counters import CounterName
from contextbench.report.collection import Collection, collect
from contextbench.report.confusion import TOP, confusion_of
from contextbench.report.counted import UncountedError, nothing_counted, view_that_counts


def confusion(
    results: Annotated[
        Path, typer.Argument(help="Folder of a run, or with the runs of one protocol.")
    ],
    heads: Annotated[
        str | None,
        typer.Option(help="Heads, with commas; two: what they differ in. All if left out."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Confusions to list.")] = TOP,
    groups: Annotated[
        bool, typer.Option("--groups", help="Between groups of classes in place of classes.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for all confusions (CSV), the table, the figure."),
    ] = None,
    view: ViewOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which class is taken for which, and what two heads differ in.

    Of the view that is named, else of the first one that counted confusions.

    Example: contextbench confusion runs/probe --heads ocr,fcn

    Example: contextbench evaluate runs/probe/ocr/seed-0 --view details --set confusion=true
    """
    with guarded(resume=True):
        from contextbench.report.tables.confusion import confusion_rows, confusion_sheet

        collection = _collected(results, "confusion", view)
        chosen = listed(heads, "--heads") if heads is not None else []
        found = confusion_of(collection, heads=chosen, top=top, groups=groups)
        if out is not None:
            from contextbench.report.bundle import write_confusion

            print_paths(write_confusion(found, out))
        elif as_json:
            print_json(confusion_rows(found))
        else:
            console.print(confusion_sheet(found))
            print_notes([*collection.view_notes, *collection.warnings], console)


def details(
    results: Annotated[
        Path, typer.Argument(help="Folder of a run, or with the runs of one protocol.")
    ],
    view: ViewOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a view counted beside IoU: calibration, boundaries, trimaps, robustness.

    Without --view each of them is of the first view that counted it. `plot` and `report` draw them.

    Example: contextbench evaluate runs/probe/ocr/seed-0 --view details --set calibration=true

    Example: contextbench details runs/probe
    """
    with guarded(resume=True):
        from contextbench.report.tables.details import BUILDERS, details_of

        seen = {name: _collected(results, name, view) for name in BUILDERS}
        found = details_of(seen)
        if as_json:
            print_json({name: each.rows for name, each in found.items()})
            return
        sheets = [sheet for each in found.values() for sheet in each.sheets]
        for sheet in sheets:
            console.print(sheet)
            console.print()
        if not sheets:
            raise UncountedError(nothing_counted(next(iter(seen.values()))))


def _collected(results: Path, counter: CounterName, view: str | None) -> Collection:
    """Seen in `view`, or in the first one that has such counts."""
    first = collect(results, view)
    found = view_that_counts(first.runs, counter) if view is None else None
    return first if found in (None, first.view) else collect(results, found)
