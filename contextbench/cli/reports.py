"""Commands that make tables, figures and pages from records: no device, no data, no torch."""

from pathlib import Path
from typing import Annotated

import typer

from contextbench.cli.shared import guarded, print_paths


def plot(
    results: Annotated[
        Path, typer.Argument(help="Folder with runs of one protocol, or a profile of heads.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of tables and figures.")],
) -> None:
    """Make tables and figures again from records. Needs no device and no data.

    Example: contextbench plot results/camvid-small -o figures
    """
    with guarded():
        from contextbench.report.bundle import write_head_report, write_report
        from contextbench.report.collection import collect
        from contextbench.report.examples import read_examples
        from contextbench.results import find_runs, read_head_profile

        if not find_runs(results) and (results / "profile.json").exists():
            print_paths(write_head_report(read_head_profile(results / "profile.json"), out))
            return
        print_paths(write_report(collect(results), read_examples(results), out))
