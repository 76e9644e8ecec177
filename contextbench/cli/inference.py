"""Commands on what may be concluded: how much would be enough, and heads over several protocols."""

from pathlib import Path
from typing import Annotated

import typer

from contextbench.cli.shared import JsonOption, console, guarded, listed, print_json, print_paths
from contextbench.report.collection import collect
from contextbench.report.inference import aggregate_dict, aggregate_of, power_plan


def power(
    results: Annotated[Path, typer.Argument(help="Folder with the runs of one protocol.")],
    difference: Annotated[
        float, typer.Option(help="True difference in mIoU that should be shown, in points.")
    ] = 1.0,
    heads: Annotated[str | None, typer.Option(help="Heads, with commas; all if left out.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say how many seeds and images would show a difference between heads.

    Example: contextbench power results/probe --difference 0.5 --heads ppm,aspp
    """
    with guarded(resume=True):
        from contextbench.report.tables.inference import power_sheet

        chosen = listed(heads, "--heads") if heads is not None else []
        plan = power_plan(collect(results), difference / 100, chosen)
        if as_json:
            print_json(plan.as_dict())
        else:
            console.print(power_sheet(plan))


def aggregate(
    results: Annotated[
        list[Path], typer.Argument(help="Folders, each with the runs of another protocol.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of aggregate.md and aggregate.csv."),
    ] = None,
    baseline: Annotated[str, typer.Option(help="Head that the others are compared with.")] = "fcn",
    as_json: JsonOption = False,
) -> None:
    """Rank heads over several protocols: mean rank, mean difference to a baseline.

    Example: contextbench aggregate results/probe results/camvid-small -o aggregated
    """
    with guarded(resume=True):
        from contextbench.report.tables.inference import aggregate_sheet, write_aggregate

        found = aggregate_of(results, baseline=baseline)
        written = write_aggregate(found, out) if out is not None else []
        if as_json:
            print_json(aggregate_dict(found))
            return
        console.print(aggregate_sheet(found))
        print_paths(written)
