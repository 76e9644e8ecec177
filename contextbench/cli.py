"""The command line: parse, call one function, print.

Commands import what they run when they run it, since importing torch takes longer than everything
that `--help`, `list` and `plot` do.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from contextbench import __version__
from contextbench.errors import UserError

if TYPE_CHECKING:
    import torch

    from contextbench.config import HeadConfig
    from contextbench.results import HeadProfileRecord, ProfileRecord, RunRecord
    from contextbench.runner import Execution

FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130  # exit codes besides 0

PAPER_FEATURES = "2048x128x128"  # of a dilated ResNet-50 or -101, for an image of 1024x1024
FAMILIES = "fcn,ppm,aspp,ocnet,encnet,ocr"  # what `compare` runs unless told otherwise

app = typer.Typer(
    help="Compare context heads for semantic segmentation: accuracy and cost under one protocol.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
console = Console()
errors = Console(stderr=True)

ProtocolOption = Annotated[str, typer.Option("--protocol", help="Name of a protocol, or a file.")]
HeadsOption = Annotated[
    str, typer.Option(help="Heads by name or file, with commas; `all` for every registered one.")
]
SeedsOption = Annotated[str, typer.Option(help="Seeds, with commas.")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder of the runs.")]
RootOption = Annotated[
    Path | None, typer.Option(help="Folder of the data, or the folder above it.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Change one value: train.steps=500. Repeatable.")
]
WorkersOption = Annotated[int, typer.Option(min=0, help="Processes that load data.")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Run again what is on disk.")]
RoundsOption = Annotated[int, typer.Option(min=1, help="Rounds of the latency measurement.")]
PrecisionOption = Annotated[str, typer.Option(help="float32 or bfloat16.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunArgument = Annotated[Path, typer.Argument(help="Folder of a run: runs/PROTOCOL/HEAD/seed-N.")]


@app.command()
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
    fresh: FreshOption = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run cells again that are recorded as failed.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train, evaluate and measure several heads; rank them.

    What is on disk is not run again, so the same command resumes after an interruption.

    Example: contextbench compare --protocol camvid-small --data-root data --heads fcn,ppm,ocr
    """
    with _guarded(resume=True):
        from contextbench import comparison
        from contextbench.config import load_protocol

        settings = load_protocol(protocol, overrides or ())
        plan = comparison.Plan(
            heads=_heads(heads),
            seeds=_seeds(seeds),
            fresh=fresh,
            retry_failed=retry_failed,
            rounds=rounds,
        )
        with _execution(out, device, data_root, workers) as execution:
            outcome = comparison.compare(settings, plan, execution)
        _print_comparison(outcome.runs, outcome.profile, as_json)
        _say_where(out / settings.name, as_json)
        _exit_for(outcome.runs)


@app.command()
def train(
    head: Annotated[str, typer.Option(help="Head by name or file.")],
    protocol: ProtocolOption = "probe",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: OutOption = Path("runs"),
    data_root: RootOption = None,
    device: DeviceOption = "auto",
    overrides: SetOption = None,
    workers: WorkersOption = 0,
    fresh: FreshOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train and evaluate one head.

    Example: contextbench train --protocol camvid-small --head ocr --data-root data
    """
    with _guarded(resume=True):
        from contextbench.comparison import shared_precision
        from contextbench.config import load_protocol
        from contextbench.runner import lock, open_setting, run_grid

        settings = load_protocol(protocol, overrides or ())
        chosen = _heads(head)
        with (
            _execution(out, device, data_root, workers) as execution,
            lock(out, settings),
        ):
            setting = open_setting(settings, data_root)
            precision = shared_precision(setting, chosen, execution)
            runs = run_grid(setting, chosen, [seed], precision, execution, fresh=fresh)
        _print_comparison(runs, None, as_json)
        _exit_for(runs)


@app.command()
def evaluate(
    run: RunArgument,
    data_root: RootOption = None,
    split: Annotated[str | None, typer.Option(help="Another split than the protocol's.")] = None,
    scales: Annotated[
        str | None, typer.Option(help="Scales of the image, with commas: 0.75,1,1.25.")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Average with the mirrored image.")] = False,
    device: DeviceOption = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write the scores to this JSON file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a trained run again, with other scales or on another split.

    Example: contextbench evaluate runs/camvid-small/ocr/seed-0 --split test --flip
    """
    with _guarded():
        from contextbench.files import write_json
        from contextbench.inference import evaluate_run

        with _execution(run, device, data_root, 0) as execution:
            scores = evaluate_run(run, execution, split, _scales(scales), flip)
        if out is not None:
            write_json(out, scores)
        if as_json:
            _print_json(scores)
            return
        for name in ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou"):
            console.print(f"{name:24} {100 * scores[name]:6.2f} %", highlight=False)
        for name, value in scores["iou_per_class"].items():
            text = "absent" if value is None else f"{100 * value:6.2f} %"
            console.print(f"  {name:22} {text}", highlight=False, markup=False)


@app.command()
def predict(
    run: RunArgument,
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of masks and overlays.")],
    device: DeviceOption = "auto",
) -> None:
    """Write the index mask, the colour mask and the overlay of images.

    Example: contextbench predict runs/probe/ocr/seed-0 street.jpg -o predictions
    """
    with _guarded():
        from contextbench.inference import predict_files

        with _execution(run, device, None, 0) as execution:
            _print_paths(predict_files(run, images, out, execution))


@app.command()
def profile(
    protocol: ProtocolOption = "probe",
    heads: HeadsOption = "all",
    features: Annotated[
        str | None, typer.Option(help="Heads alone, on features of C x h x w: 2048x128x128.")
    ] = None,
    sizes: Annotated[
        str | None, typer.Option(help="Heads alone, on square maps of these sides: 32,64,128.")
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="Size of the image, height x width: 1024x2048.")
    ] = None,
    classes: Annotated[int, typer.Option(min=2, help="Number of classes.")] = 19,
    predict_only: Annotated[
        bool, typer.Option("--predict", help="Predict counts and memory; time nothing.")
    ] = False,
    implementation: Annotated[
        str, typer.Option(help="With --features: fast, reference (as papers count) or both.")
    ] = "fast",
    scopes: Annotated[
        str, typer.Option(help="With --features: what to time, of core, context and head.")
    ] = "core,context,head",
    backward: Annotated[
        bool, typer.Option("--backward", help="With --features: also time forward + backward.")
    ] = False,
    floors: Annotated[
        bool,
        typer.Option("--floors", help="With --features: also time each convolution and product."),
    ] = False,
    rounds: RoundsOption = 15,
    precision: PrecisionOption = "float32",
    device: DeviceOption = "auto",
    overrides: SetOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write record and tables here.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what heads cost: parameters, MACs, memory, latency.

    Example: contextbench profile --features 2048x64x64 --implementation both --backward

    Example: contextbench profile --sizes 32,48,64,96,128 --scopes context -o scaling
    """
    with _guarded():
        from contextbench.config import ConfigError
        from contextbench.measure.command import (
            HeadRequest,
            ModelRequest,
            Sampling,
            profile_of_heads,
            profile_of_models,
        )
        from contextbench.measure.head_profile import Extent

        sampling = Sampling(0 if predict_only else rounds, precision, _device(device))
        with _execution(Path(), device, None, 0) as execution:
            if features is None and sizes is None:
                if backward or floors or implementation != "fast":
                    raise ConfigError(
                        "--backward, --floors and --implementation need --features or --sizes"
                    )
                models = ModelRequest(
                    protocol, tuple(overrides or ()), _heads(heads), image, classes
                )
                _show_models(profile_of_models(models, sampling, execution), out, as_json)
                return
            if image is not None:
                raise ConfigError(
                    "--image is for whole models, --features and --sizes are for heads alone"
                )
            extent = Extent(_listed(scopes, "--scopes"), backward, floors)
            alone = HeadRequest(
                features or PAPER_FEATURES, sizes, _heads(heads), classes, implementation, extent
            )
            _show_heads(profile_of_heads(alone, sampling, execution), out, as_json)


@app.command()
def table(
    name: Annotated[str, typer.Argument(help="Name of a table, or a file; see `list tables`.")],
    rounds: Annotated[
        int, typer.Option(min=0, help="Rounds of the latency measurement; 0: predict only.")
    ] = 0,
    record: Annotated[
        Path | None, typer.Option(help="Costs from this file, instead of determining them.")
    ] = None,
    precision: PrecisionOption = "float32",
    device: DeviceOption = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write record and table here.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put a paper's table and this code's numbers side by side.

    Example: contextbench table ocr-complexity --rounds 5 -o complexity
    """
    with _guarded():
        from contextbench.measure.command import Sampling, profile_of_table
        from contextbench.published import load_published, load_table
        from contextbench.report.papers import paper_console, paper_table, write_paper
        from contextbench.results import read_head_profile, write_model
        from heads import HEADS

        spec = load_table(name, HEADS)
        published = load_published(spec)
        if record is not None:
            costs = read_head_profile(record)
        else:
            sampling = Sampling(rounds, precision, _device(device))
            with _execution(Path(), device, None, 0) as execution:
                costs = profile_of_table(spec, sampling, execution)
        rows = paper_table(spec, published, costs)
        if out is not None:
            write_model(out / f"{spec.name}.json", costs)
            write_paper(spec, rows, out)
        if as_json:
            console.print_json(rows.to_json(orient="records"))
            return
        console.print(paper_console(rows))


@app.command("check-data")
def check_data(
    protocol: ProtocolOption = "probe",
    data_root: RootOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Look at so many images only.")] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write a contact sheet of the evaluated split (PNG).")
    ] = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look for faults in a dataset before training on it.

    Example: contextbench check-data --protocol camvid-small --data-root data --sheet sheet.png
    """
    with _guarded():
        from contextbench.config import load_protocol
        from contextbench.data import build_dataset
        from contextbench.data.check import check_dataset, check_overlap, contact_sheet

        config = load_protocol(protocol, overrides or ()).dataset
        splits = list(dict.fromkeys((config.train, config.evaluate)))
        datasets = {split: build_dataset(config, split, data_root) for split in splits}
        reports = [check_dataset(datasets[split], split, limit) for split in splits]
        overlap = check_overlap(*reports)
        if sheet is not None:
            contact_sheet(datasets[config.evaluate], sheet)
        if as_json:
            _print_json({"splits": [report.as_dict() for report in reports], "overlap": overlap})
        else:
            for report in reports:
                _print_split(report.as_dict())
            for line in overlap:
                console.print(line, markup=False, highlight=False)
        if overlap or any(report.problems for report in reports):
            raise typer.Exit(FAILED)


@app.command()
def plot(
    results: Annotated[
        Path, typer.Argument(help="Folder with runs of one protocol, or a profile of heads.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of tables and figures.")],
) -> None:
    """Make tables and figures again from records. Needs no device and no data.

    Example: contextbench plot results/camvid-small -o figures
    """
    with _guarded():
        from contextbench.report.bundle import write_report
        from contextbench.results import (
            RecordError,
            find_runs,
            read_head_profile,
            read_history,
            read_profile,
            read_run,
        )

        folders = find_runs(results)
        costs = results / "profile.json"
        if not folders and not costs.exists():
            raise RecordError(
                f"{results}: there is neither record.json below this folder nor profile.json in it"
            )
        if not folders:
            _print_paths(_write_heads(read_head_profile(costs), out))
            return
        runs = [read_run(folder / "record.json") for folder in folders]
        histories: dict[str, dict[int, Any]] = {}
        for folder, record in zip(folders, runs, strict=True):
            by_seed = histories.setdefault(record.head_name, {})
            by_seed[record.seed] = read_history(folder / "history.jsonl")
        record_of_costs = read_profile(costs) if costs.exists() else None
        _print_paths(write_report(runs, record_of_costs, histories, None, out))


@app.command("list")
def list_names(
    kind: Annotated[str, typer.Argument(help="heads, protocols, datasets, backbones or tables.")],
    as_json: JsonOption = False,
) -> None:
    """List what exists, one line each.

    Example: contextbench list heads
    """
    with _guarded():
        from contextbench.inventory import inventory

        lines = inventory(kind)
        if as_json:
            _print_json(lines)
            return
        width = max(map(len, lines))
        for name, text in lines.items():
            console.print(f"{name:{width}}  {text}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def doctor(device: DeviceOption = "auto", as_json: JsonOption = False) -> None:
    """Show versions and devices, and try a training step on the device.

    Example: contextbench doctor
    """
    with _guarded():
        from contextbench.inventory import examine

        findings = examine(_device(device))
        if as_json:
            _print_json(findings)
        else:
            for name, value in findings.items():
                console.print(f"{name:14} {value}", markup=False, highlight=False)


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


@contextmanager
def _guarded(*, resume: bool = False) -> Iterator[None]:
    """Turn a user's mistake into one message and exit code 2, an interruption into 130."""
    from contextbench.interrupt import Interrupted

    try:
        yield
    except UserError as error:
        errors.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(WRONG_INPUT) from None
    except (Interrupted, KeyboardInterrupt):
        hint = "; the same command goes on from here" if resume else ""
        errors.print(f"interrupted{hint}", markup=False, highlight=False)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _execution(
    out: Path, device: str, data_root: Path | None, workers: int
) -> "Iterator[Execution]":
    from contextbench.interrupt import stop_on_signals
    from contextbench.runner import Execution

    with stop_on_signals() as stop:
        yield Execution(
            out=out, device=_device(device), data_root=data_root, workers=workers, stop=stop
        )


def _device(name: str) -> "torch.device":
    import torch

    from contextbench.config import ConfigError

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {name!r} cannot be used here: {reason}") from error
    return device


def _heads(names: str) -> "list[HeadConfig]":
    from contextbench.config import load_head
    from heads import HEADS

    listed = list(HEADS) if names == "all" else _listed(names, "--heads")
    return [load_head(name, HEADS) for name in listed]


def _seeds(text: str) -> list[int]:
    from contextbench.config import ConfigError

    try:
        seeds = [int(part) for part in _listed(text, "--seeds")]
    except ValueError:
        raise ConfigError(f"--seeds {text!r}: write whole numbers, like 0,1,2") from None
    if min(seeds) < 0:
        raise ConfigError(f"--seeds {text!r}: seeds are 0 or more")
    return seeds


def _scales(text: str | None) -> tuple[float, ...] | None:
    from contextbench.config import ConfigError

    if text is None:
        return None
    try:
        scales = tuple(float(part) for part in _listed(text, "--scales"))
    except ValueError:
        raise ConfigError(f"--scales {text!r}: write numbers with commas, like 0.75,1") from None
    if min(scales) <= 0:
        raise ConfigError(f"--scales {text!r}: scales are positive")
    return scales


def _listed(text: str, option: str) -> list[str]:
    from contextbench.config import ConfigError

    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or len(set(parts)) < len(parts):
        raise ConfigError(f"{option} {text!r}: needs one or more different names")
    return parts


def _print_comparison(runs: "list[RunRecord]", costs: Any, as_json: bool) -> None:
    from contextbench.report.tables import comparison_table, render_console, warnings_for

    table = comparison_table(runs, costs)
    if as_json:
        console.print_json(table.to_json(orient="records"))
        return
    console.print(render_console(table))
    for warning in warnings_for(runs, costs):
        console.print(f"note: {warning}", markup=False, highlight=False, soft_wrap=True)


def _show_models(record: "ProfileRecord", out: Path | None, as_json: bool) -> None:
    from contextbench.report.tables import cost_table, render_console
    from contextbench.results import write_model

    if out is not None:
        write_model(out / "profile.json", record)
    if as_json:
        _print_json(record.model_dump(mode="json"))
        return
    console.print(render_console(cost_table(record)))


def _show_heads(record: "HeadProfileRecord", out: Path | None, as_json: bool) -> None:
    from contextbench.report.complexity import form_console, form_table
    from contextbench.report.scaling import scaling_console

    if out is not None:
        _write_heads(record, out)
    if as_json:
        _print_json(record.model_dump(mode="json"))
        return
    console.print(form_console(form_table(record)))
    if record.sizes > 1:
        console.print(scaling_console(record))


def _write_heads(record: "HeadProfileRecord", out: Path) -> list[Path]:
    """The record of heads alone, and all that is made of it."""
    from contextbench.report.complexity import write_forms
    from contextbench.report.scaling import write_scaling
    from contextbench.results import write_model

    write_model(out / "profile.json", record)
    written = write_forms(record, out)
    return [*written, *(write_scaling(record, out) if record.sizes > 1 else [])]


def _print_paths(paths: Iterable[Path]) -> None:
    for path in paths:
        console.print(str(path), markup=False, highlight=False, soft_wrap=True)


def _say_where(folder: Path, as_json: bool) -> None:
    if not as_json:
        text = f"tables: {folder}/table.md, {folder}/table.csv; figures: {folder}/figures/"
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _print_split(report: dict[str, Any]) -> None:
    for key, value in report.items():
        if key == "problems" or value in ([], {}, None):
            continue
        console.print(f"{key:18} {value}", markup=False, highlight=False, soft_wrap=True)
    for problem in report.get("problems", []):
        console.print(f"problem: {problem}", markup=False, highlight=False, soft_wrap=True)
    console.print()


def _print_json(value: Any) -> None:
    console.print_json(json.dumps(value))


def _exit_for(runs: "list[RunRecord]") -> None:
    if any(run.status != "done" for run in runs):
        raise typer.Exit(FAILED)
