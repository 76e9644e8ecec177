"""Commands that train, evaluate and use models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contextbench.cli.clusters import (
    CpusOption,
    GpusOption,
    JobOptions,
    LauncherOption,
    MemoryOption,
    PartitionOption,
    RestartsOption,
    SbatchOption,
    TimeOption,
    WidthOption,
    compare_as_jobs,
)
from contextbench.cli.planning import DryRunOption, ProcessesOption, TimeStepsOption, show_plan
from contextbench.cli.shared import (
    FAILED,
    DeviceOption,
    FreshOption,
    HeadsOption,
    JsonOption,
    OutOption,
    PluginOption,
    ProtocolOption,
    RetryOption,
    RootOption,
    RoundsOption,
    RunArgument,
    SeedsOption,
    SetOption,
    TrackOption,
    ViewOption,
    WorkersOption,
    console,
    execution_of,
    exit_for,
    guarded,
    heads_of,
    permit_plugins,
    print_comparison,
    print_json,
    print_notes,
    print_paths,
    scales_of,
    seeds_of,
    size_of,
)
from contextbench.config.amounts import bytes_of
from contextbench.config.files import ConfigError
from contextbench.config.protocols import load_protocol
from contextbench.report.collection import assemble
from contextbench.system.files import write_json

if TYPE_CHECKING:
    from contextbench.runs.predicting import Predicted
    from contextbench.runs.trained import Changes

ViewScales = Annotated[
    str | None, typer.Option(help="Scales of the image, with commas: 0.75,1,1.25.")
]
FlipOption = Annotated[
    bool | None, typer.Option("--flip/--no-flip", help="Average with the mirrored image.")
]
WindowOption = Annotated[str | None, typer.Option(help="Sliding window, height x width: 512x1024.")]
StrideOption = Annotated[
    str | None, typer.Option(help="Of the windows, height x width; 2/3 of them unless given.")
]

CompileOption = Annotated[
    bool,
    typer.Option("--compile", help="Train compiled code: --set train.compile=true."),
]

SCORED = (
    "miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "mean_f1",
    "mean_precision",
)  # fmt: skip
MOST_LISTED = 20  # images whose files `predict` prints
FAMILIES = "fcn,ppm,aspp,ocnet,encnet,ocr"  # what `compare` runs unless told otherwise


def compare(
    protocol: ProtocolOption = "probe",
    heads: HeadsOption = FAMILIES,
    seeds: SeedsOption = "0",
    out: OutOption = Path("runs"),
    data_root: RootOption = None,
    device: DeviceOption = "auto",
    overrides: SetOption = None,
    workers: WorkersOption = 0,
    rounds: RoundsOption = 15,
    examples: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Images to keep with predictions."),
    ] = 4,
    track: TrackOption = None,
    tuned: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Use the choices of `tune` in here.")
    ] = None,
    fresh: FreshOption = False,
    retry_failed: RetryOption = False,
    dry_run: DryRunOption = False,
    time_steps: TimeStepsOption = None,
    processes: ProcessesOption = 1,
    launcher: LauncherOption = None,
    partition: PartitionOption = None,
    gpus: GpusOption = 0,
    cpus: CpusOption = None,
    memory: MemoryOption = None,
    time: TimeOption = JobOptions.time,
    array_width: WidthOption = JobOptions.array_width,
    restarts: RestartsOption = JobOptions.restarts,
    sbatch: SbatchOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train, evaluate and measure several heads; rank them.

    What is on disk is not run again, so the same command resumes.

    \b
    Examples:
      contextbench compare --protocol camvid-small --data-root data
      contextbench compare --protocol cityscapes-r101 --seeds 0,1,2 --dry-run
      contextbench compare --protocol cityscapes-r101 --launcher slurm --gpus 1
      torchrun --nproc-per-node 4 -m contextbench compare --heads fcn,ocr
    """
    with guarded(resume=True):
        from contextbench.runs import comparison
        from contextbench.runs.plan import Wanted, plan_comparison

        settings = load_protocol(protocol, overrides or ())
        if tuned is not None and (dry_run or launcher is not None):
            raise ConfigError(
                "--tuned is not for --dry-run or --launcher; several processes may share one --out"
            )
        if dry_run:
            if memory is not None and launcher is not None:
                raise ConfigError(
                    "--memory is main memory of a job with --launcher, and that of a GPU with "
                    "--dry-run: leave one of the two out"
                )
            card = None if memory is None else bytes_of(memory, "--memory")
            wanted = Wanted(
                heads_of(heads), seeds_of(seeds), fresh, retry_failed, processes, time_steps, card
            )
            with execution_of(out, device, data_root, workers) as execution:
                show_plan(plan_comparison(settings, wanted, execution), as_json)
            return
        if time_steps is not None or processes != 1:
            raise ConfigError("--time-steps and --processes are for --dry-run")
        plan = comparison.Plan(
            heads=heads_of(heads),
            seeds=seeds_of(seeds),
            fresh=fresh,
            retry_failed=retry_failed,
            rounds=rounds,
            examples=examples,
            tuned=tuned,
        )
        jobs = JobOptions(partition, gpus, cpus, memory, time, array_width, restarts, sbatch)
        if launcher is not None:
            with execution_of(out, "cpu", data_root, workers, track=track) as execution:
                collection = compare_as_jobs(launcher, jobs, settings, plan, execution, device)
        else:
            jobs.check_unused()
            where = execution_of(out, device, data_root, workers, shared=settings, track=track)
            with where as execution:
                collection = comparison.compare(settings, plan, execution)
        if execution.world.is_main:
            print_comparison(collection, as_json)
            _say_where(out / settings.name, as_json)
        exit_for(collection.runs)


def train(
    head: Annotated[str, typer.Option(help="Head by name, file or package.module:Class.")],
    protocol: ProtocolOption = "probe",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: OutOption = Path("runs"),
    data_root: RootOption = None,
    device: DeviceOption = "auto",
    overrides: SetOption = None,
    compiled: CompileOption = False,
    workers: WorkersOption = 0,
    track: TrackOption = None,
    fresh: FreshOption = False,
    retry_failed: RetryOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train and evaluate one head.

    Example: contextbench train --protocol camvid-small --head ocr --data-root data
    """
    with guarded(resume=True):
        from contextbench.runs.cells import lock, open_setting
        from contextbench.runs.comparison import check_runnable, say_weights, shared_precision
        from contextbench.runs.grid import run_grid

        settings = load_protocol(protocol, _with_compiled(overrides, compiled))
        chosen = heads_of(head)
        where = execution_of(out, device, data_root, workers, shared=settings, track=track)
        with where as execution:
            say_weights(settings, execution)
            setting = open_setting(settings, data_root)
            check_runnable(setting, chosen, execution)
            with lock(execution, settings):
                precision = shared_precision(setting, chosen, execution)
            runs = run_grid(
                setting,
                chosen,
                [seed],
                precision,
                execution,
                fresh=fresh,
                retry_failed=retry_failed,
            )
        if execution.world.is_main:
            print_comparison(assemble(out, runs, None), as_json)
        exit_for(runs)


def evaluate(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folder of a run, runs/PROTOCOL/HEAD/seed-N; several: their mean."),
    ],
    data_root: RootOption = None,
    view: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A view of the run; or the name of a new one, with its settings: kept with the "
            "run. Without: the first one, and only printed.",
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Another split than the view's.")] = None,
    scales: ViewScales = None,
    flip: FlipOption = None,
    window: WindowOption = None,
    stride: StrideOption = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="K=V", help="Any setting of a view: confusion=true."),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="mmseg",
            help="As the code base that an imported run is from evaluates it, to the pixel.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = 0,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Count a view again, also with other settings.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write the scores to this JSON file.")
    ] = None,
    plugins: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate trained runs again: with other scales, in windows, on another split, together.

    Example: contextbench evaluate runs/camvid-small/ocr/seed-0 --view multi --scales 0.75,1,1.25

    Example: contextbench evaluate runs/probe/ocr/seed-0 --view noise-3
    --set corrupt.kind=noise --set corrupt.strength=3

    Example: contextbench evaluate runs/probe/ocr/seed-0 runs/probe/ocnet/seed-0
    """
    with guarded():
        from contextbench.runs.evaluating import evaluate_runs

        permit_plugins(plugins)
        with execution_of(runs[0], device, data_root, workers) as execution:
            scored = evaluate_runs(
                runs,
                execution,
                view=view,
                split=split,
                like=like,
                changes=_changes(scales, flip, window, stride, settings),
                fresh=fresh,
            )
        if out is not None:
            write_json(out, scored)
        if as_json:
            print_json(scored)
            return
        for name in SCORED:
            console.print(f"{name:24} {100 * scored[name]:6.2f} %", highlight=False)
        for name, value in scored["iou_per_class"].items():
            text = "absent" if value is None else f"{100 * value:6.2f} %"
            console.print(f"  {name:22} {text}", highlight=False, markup=False)
        print_notes([_kept(scored)], console)


def predict(
    run: RunArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of what is written.")],
    images: Annotated[
        list[str] | None,
        typer.Argument(help="Files, folders, patterns in quotes; unless --split is given."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Predict this split of the run's dataset, labels or not.")
    ] = None,
    submission: Annotated[
        bool,
        typer.Option("--submission", help="Write the files that the benchmark's server reads."),
    ] = False,
    data_root: RootOption = None,
    scales: ViewScales = None,
    flip: FlipOption = None,
    window: WindowOption = None,
    stride: StrideOption = None,
    view: ViewOption = None,
    confidence: Annotated[
        bool,
        typer.Option("--confidence", help="Write the probability of the predicted class, too."),
    ] = False,
    batch: Annotated[
        int, typer.Option(min=1, metavar="N", help="Images of one size to predict at a time.")
    ] = 1,
    device: DeviceOption = "auto",
    workers: WorkersOption = 0,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Replace predictions of other runs and settings.")
    ] = False,
    plugins: PluginOption = None,
) -> None:
    """Write what a run predicts: index masks, colour masks and overlays, or a submission.

    Predictions of the same run and settings that are there already are kept, so the same command
    resumes after an interruption. An image that fails is named, and the others go on.

    Example: contextbench predict runs/probe/ocr/seed-0 street.jpg photos/ -o predictions

    Example: contextbench predict runs/cityscapes-r101/ocr/seed-0 --split test --submission -o sent
    """
    with guarded(resume=True):
        from contextbench.runs.predicting import Wanted, predict_files

        permit_plugins(plugins)
        if (split is None) == (not images):
            raise ConfigError("predict needs images or --split, one of the two")
        changes = _changes(scales, flip, window, stride)
        wanted = Wanted(submission, confidence, view, changes, batch, fresh)
        with execution_of(run, device, data_root, workers) as execution:
            done = predict_files(
                run,
                images or (),
                out,
                execution,
                split=split,
                wanted=wanted,
            )
        print_predicted(done, split or "images", out)


def print_predicted(done: "Sequence[Predicted]", what: str, out: Path) -> None:
    """The files, or of many images their numbers. Exits with `FAILED` where an image failed."""
    failed = [each for each in done if each.failure is not None]
    if what == "images" and len(done) <= MOST_LISTED:
        print_paths(path for each in done for path in each.paths)
    else:
        kept = sum(each.kept for each in done)
        new = len(done) - kept - len(failed)
        console.print(
            f"{what}: {new} images predicted, {kept} were there already; {out}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if failed:
        print_notes([f"{len(failed)} of {len(done)} images failed, see above"], console)
        raise typer.Exit(FAILED)


def _with_compiled(overrides: Sequence[str] | None, compiled: bool) -> list[str]:
    """`--compile` is short for `--set train.compile=true`."""
    return [*(overrides or ()), *(["train.compile=true"] if compiled else [])]


def _changes(
    scales: str | None,
    flip: bool | None,
    window: str | None,
    stride: str | None,
    settings: list[str] | None = None,
) -> "Changes":
    from contextbench.runs.trained import Changes

    sizes = size_of(window, "--window"), size_of(stride, "--stride")
    return Changes(scales_of(scales), flip, *sizes, settings)


def _kept(scored: Mapping[str, Any]) -> str:
    """Where scores are from now on."""
    if scored["kept"]:
        return f"view {scored['view']} is kept with the run: --view shows it in tables and figures"
    if len(scored["runs"]) > 1:
        return "these are the scores of the mean prediction, and kept nowhere"
    return "this is printed only: with --view NAME it is kept as a view of the run"


def _say_where(folder: Path, as_json: bool) -> None:
    if not as_json:
        text = f"tables: {folder}/table.md, {folder}/table.csv; figures: {folder}/figures/"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
