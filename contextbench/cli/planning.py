"""Before and after runs: what a comparison would take, and why two scores differ."""

from pathlib import Path
from typing import Annotated

import typer

from contextbench.cli.shared import JsonOption, RunArgument, console, guarded, print_json


def explain(
    run: RunArgument,
    other: Annotated[
        Path | None, typer.Argument(help="Folder of another run.", show_default=False)
    ] = None,
    published: Annotated[
        str | None,
        typer.Option(
            help="Instead of another run a published score: FILE:COLUMN=TEXT,COLUMN=TEXT or "
            "FILE:LINE, of the files in results/published."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List every difference of recipe and protocol beside the difference in mIoU.

    Example: contextbench explain runs/probe/ocr/seed-0 runs/probe/fcn/seed-0

    Example: contextbench explain runs/cityscapes-r101/ppm/seed-0
    --published mmseg_published:method=PSPNet,backbone=R-101-D8,crop=512x1024,iterations=40000
    """
    with guarded():
        from contextbench.config import ConfigError
        from contextbench.published import refer
        from contextbench.report.explain import (
            explain_published,
            explain_runs,
            explanation_console,
        )

        if other is not None and published is None:
            explanation = explain_runs(run, other)
        elif published is not None and other is None:
            explanation = explain_published(run, refer(published))
        else:
            raise ConfigError("give either a second run or --published, not both or neither")
        if as_json:
            print_json(explanation.as_dict())
        else:
            console.print(explanation_console(explanation))
