"""Commands on what may be concluded: how much would be enough, and heads over several protocols."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pandas as pd
import typer

from contextbench.cli.shared import JsonOption, console, guarded, listed, print_json, print_paths
from contextbench.report.collection import collect
from contextbench.report.columns import write_csv
from contextbench.report.inference import (
    aggregate_dict,
    aggregate_of,
    aggregate_sentences,
    power_plan,
)
from contextbench.report.tables.sheet import Sheet, sheet_markdown
from contextbench.system.files import write_text

if TYPE_CHECKING:
    from contextbench.statistics.aggregate import Aggregate
    from contextbench.statistics.intervals import Interval


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
        chosen = listed(heads, "--heads") if heads is not None else []
        plan = power_plan(collect(results), difference / 100, chosen)
        if as_json:
            print_json(plan.as_dict())
            return
        now = f"chance with {plan.ranking.images} images"
        header = ["pair", now, "limited by", "seeds needed", "images needed", "or both"]
        rows = [
            [
                f"{each.first}, {each.second}",
                f"{each.chance:.0%}",
                each.bottleneck,
                "none is enough" if each.seeds is None else str(each.seeds),
                "none is enough" if each.images is None else str(each.images),
                f"{each.both[0]} and {each.both[1]}",
            ]
            for each in plan.pairs
        ]
        console.print(Sheet.plain(header, rows, filter(None, plan.sentences)))


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
        found = aggregate_of(results, baseline=baseline)
        content, sheet = aggregate_dict(found), _aggregate_sheet(found, baseline)
        written = []
        if out is not None:
            written = [out / "aggregate.md", out / "aggregate.csv"]
            title = f"# Heads over {', '.join(found.protocols)}\n\n"
            write_text(written[0], title + sheet_markdown(sheet))
            write_csv(pd.json_normalize(content["heads"]), written[1], ())
        if as_json:
            print_json(content)
            return
        console.print(sheet)
        print_paths(written)


def _aggregate_sheet(found: "Aggregate", baseline: str) -> Sheet:
    header = ["head", "mean rank", f"difference to {baseline}, points", "p-value"]
    rows = [
        [
            each.head,
            _with_ends(each.rank, 1, 1),
            "baseline" if each.head == baseline else _with_ends(each.difference, 100, 2),
            _number(each.holm_p_value, 3),
            *(_number(place, 1) for place in each.ranks),
        ]
        for each in found.heads
    ]
    ranks = [f"rank on {name}" for name in found.protocols]
    return Sheet.plain([*header, *ranks], rows, filter(None, aggregate_sentences(found)))


def _with_ends(interval: "Interval", scale: float, decimals: int) -> str:
    estimate, *ends = (scale * value for value in interval)
    text = _number(estimate, decimals)
    if any(end != end for end in ends):  # NaN
        return text
    return f"{text} [{', '.join(_number(end, decimals) for end in ends)}]"


def _number(value: float, decimals: int) -> str:
    return "–" if value != value else f"{value:.{decimals}f}".replace("-", "\u2212")
