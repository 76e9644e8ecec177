"""The command that runs a paper's ablation and puts its scores beside the measured ones."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from contextbench.cli.shared import (
    DeviceOption,
    FreshOption,
    JsonOption,
    OutOption,
    ProtocolOption,
    RetryOption,
    RootOption,
    SeedsOption,
    SetOption,
    WorkersOption,
    console,
    execution_of,
    exit_for,
    guarded,
    print_paths,
    print_rows,
    seeds_of,
)
from contextbench.config.heads import HeadConfig, known_names, place_of
from contextbench.config.protocols import load_protocol
from contextbench.papers.ablations import Ablation, load_ablation, variants
from contextbench.report.papers.runs import read_rows


def ablate(
    name: Annotated[
        str, typer.Argument(help="Name of an ablation, or a file; see `list ablations`.")
    ],
    protocol: ProtocolOption = "probe",
    seeds: SeedsOption = "0",
    out: OutOption = Path("runs"),
    data_root: RootOption = None,
    device: DeviceOption = "auto",
    overrides: SetOption = None,
    workers: WorkersOption = 0,
    fresh: FreshOption = False,
    retry_failed: RetryOption = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Run nothing: the table of what is on disk.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run what is missing of a paper's ablation; print published beside measured.

    Runs are shared with `compare`; the same command goes on after an interruption. The tables lie
    in OUT/PROTOCOL/ablations.

    Example: contextbench ablate encnet --protocol camvid-small --data-root data --seeds 0,1,2
    """
    with guarded(resume=not report_only):
        from contextbench.report.papers.ablations import (
            ablation_sheet,
            ablation_table,
            write_ablation,
        )

        ablation = _loaded(name)
        settings = load_protocol(protocol, overrides or ())
        unsuitable: dict[str, str] = {}
        if not report_only:
            from contextbench.runs.ablations import Plan, run_ablation

            plan = Plan(seeds_of(seeds), fresh=fresh, retry_failed=retry_failed)
            with execution_of(out, device, data_root, workers) as execution:
                unsuitable = run_ablation(ablation, settings, plan, execution)
        rows = read_rows(out, variants(ablation, settings), seeds_of(seeds), unsuitable)
        table = ablation_table(ablation, settings, rows)
        paths = write_ablation(table, out / settings.name / "ablations")
        if as_json:
            print_rows(table.frame)
        else:
            console.print(ablation_sheet(table))
            print_paths(paths)
        exit_for([run for row in rows for run in row.runs.values()])


def _loaded(name: str) -> Ablation:
    """With the code of those of its heads that are plug-ins. Without one it needs no torch."""
    ablation = load_ablation(name, known_names())
    rows = tuple(replace(row, head=_identified(row.head)) for row in ablation.rows)
    return replace(ablation, rows=rows)


def _identified(head: HeadConfig) -> HeadConfig:
    if place_of(head.head) is None:
        return head

    from contextbench.models.heads import identified

    return identified(head)
