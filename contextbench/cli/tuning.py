"""The command that tunes every head alike, before `compare --tuned` reports what was chosen."""

from pathlib import Path
from typing import Annotated

import typer

from contextbench.cli.planning import (
    CardOption,
    DryRunOption,
    ProcessesOption,
    TimeStepsOption,
    show_plan,
)
from contextbench.cli.runs import FAMILIES
from contextbench.cli.shared import (
    FAILED,
    DeviceOption,
    FreshOption,
    HeadsOption,
    JsonOption,
    OutOption,
    ProtocolOption,
    RetryOption,
    RootOption,
    SeedsOption,
    SetOption,
    TrackOption,
    WorkersOption,
    console,
    execution_of,
    guarded,
    heads_of,
    print_json,
    print_notes,
    print_paths,
    seeds_of,
)
from contextbench.config.amounts import bytes_of
from contextbench.config.files import ConfigError
from contextbench.config.grids import read_axis
from contextbench.config.protocols import load_protocol
from contextbench.records.tuning import TUNING, TuningRecord, tuning_folder
from contextbench.report.tuning import sentences


def tune(
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="K=V,V",
            help="Values to try: train.lr=0.01,0.03, head.options.K=, head.loss_weights.K=; "
            "repeated: all combinations. HEAD,HEAD:K=V,V is for these heads alone.",
        ),
    ] = None,
    view: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="View to choose by, on a split that no other view has."),
    ] = None,
    protocol: ProtocolOption = "probe",
    heads: HeadsOption = FAMILIES,
    seeds: SeedsOption = "0",
    out: OutOption = Path("runs"),
    data_root: RootOption = None,
    device: DeviceOption = "auto",
    overrides: SetOption = None,
    workers: WorkersOption = 0,
    track: TrackOption = None,
    fresh: FreshOption = False,
    retry_failed: RetryOption = False,
    dry_run: DryRunOption = False,
    time_steps: TimeStepsOption = None,
    processes: ProcessesOption = 1,
    memory: CardOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try the same grid of settings with every head; choose on images of no table.

    The same command resumes. What is chosen lies in OUT/PROTOCOL-tuning, for compare --tuned.

    \b
    Examples:
      contextbench tune --set evaluate.tuning.split=test --grid train.lr=0.001,0.01
      contextbench compare --tuned runs/probe-tuning --seeds 1,2,3 -o tuned
    """
    with guarded(resume=not dry_run):
        from contextbench.report.bundle import write_tuning
        from contextbench.runs import tuning
        from contextbench.runs.plan import Wanted

        settings = load_protocol(protocol, overrides or ())
        axes = [read_axis(text) for text in grid or ()]
        chosen = heads_of(heads)
        plan = tuning.Plan(
            chosen, axes, seeds_of(seeds), view, fresh=fresh, retry_failed=retry_failed
        )
        if dry_run:
            card = None if memory is None else bytes_of(memory, "--memory")
            wanted = Wanted(chosen, plan.seeds, fresh, retry_failed, processes, time_steps, card)
            with execution_of(out, device, data_root, workers) as execution:
                show_plan(tuning.plan_tuning(settings, plan, wanted, execution), as_json)
            return
        if time_steps is not None or processes != 1 or memory is not None:
            raise ConfigError("--time-steps, --processes and --memory are for --dry-run")
        where = execution_of(out, device, data_root, workers, shared=settings, track=track)
        with where as execution:
            record = tuning.tune(settings, plan, execution)
        if execution.world.is_main:
            folder = tuning_folder(out, settings.name)
            written = [folder / TUNING, *write_tuning(record, folder)]
            _print(record, written, as_json)
        if any(head.chosen is None for head in record.heads.values()):
            raise typer.Exit(FAILED)


def _print(record: TuningRecord, written: list[Path], as_json: bool) -> None:
    from contextbench.report.tables.tuning import tuning_sheet

    if as_json:
        print_json({**record.model_dump(mode="json"), "digest": record.digest})
        return
    console.print(tuning_sheet(record.heads))
    print_notes(sentences(record, record.heads), console)
    print_paths(written)
