"""The command line: parse, call one function, print."""

from typing import Annotated

import typer

from contextbench import __version__
from contextbench.cli.ablations import ablate
from contextbench.cli.attention import attend
from contextbench.cli.clusters import merge
from contextbench.cli.costs import profile, profile_data
from contextbench.cli.inspection import check_data, doctor, list_names
from contextbench.cli.planning import explain
from contextbench.cli.reports import insight, plot, report
from contextbench.cli.runs import compare, evaluate, predict, train
from contextbench.cli.shared import console
from contextbench.cli.tables import table

app = typer.Typer(
    help="Compare context heads for semantic segmentation: accuracy and cost under one protocol.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

app.command()(compare)
app.command()(train)
app.command()(evaluate)
app.command()(predict)
app.command()(attend)
app.command()(ablate)
app.command()(profile)
app.command("profile-data")(profile_data)
app.command()(table)
app.command("check-data")(check_data)
app.command()(plot)
app.command()(report)
app.command()(explain)
app.command()(insight)
app.command()(merge)
app.command("list")(list_names)
app.command()(doctor)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        console.print(f"contextbench {__version__}", highlight=False)
        raise typer.Exit


def main() -> None:
    """Entry point of the console script."""
    app()
