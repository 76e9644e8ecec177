"""The commands that measure cost: of heads, and of loading data."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from contextbench.cli.shared import (
    DeviceOption,
    HeadsOption,
    JsonOption,
    PrecisionOption,
    ProtocolOption,
    RootOption,
    RoundsOption,
    SetOption,
    console,
    device_of,
    execution_of,
    guarded,
    heads_of,
    listed,
    print_json,
    size_of,
)
from contextbench.config.files import ConfigError
from contextbench.config.protocols import load_protocol
from contextbench.records.count_checks import CountCheckRecord
from contextbench.records.fits import FitsRecord
from contextbench.records.loading import LoaderRecord
from contextbench.records.profiles import HeadProfileRecord, ProfileRecord
from contextbench.records.stored import write_model

ALL_SCOPES = "core,context,head"
ROUNDS = 15
PAPER_FEATURES = "2048x128x128"  # of a dilated ResNet-50 or -101, for an image of 1024x1024


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
    ] = ALL_SCOPES,
    backward: Annotated[
        bool, typer.Option("--backward", help="With --features: also time forward + backward.")
    ] = False,
    floors: Annotated[
        bool,
        typer.Option("--floors", help="With --features: also time each convolution and product."),
    ] = False,
    check_counts: Annotated[
        bool, typer.Option("--check-counts", help="Put fvcore's counts beside ours; time nothing.")
    ] = False,
    fits: Annotated[
        str | None,
        typer.Option(
            metavar="AMOUNT", help="What fits into this memory, like 24GiB; times nothing."
        ),
    ] = None,
    modes: Annotated[
        str | None,
        typer.Option(help="What to time in the same rounds: eager,compile. Compiling is slow."),
    ] = None,
    rounds: RoundsOption = ROUNDS,
    precision: PrecisionOption = "float32",
    layout: Annotated[
        str, typer.Option(help="Of images: contiguous or channels_last.")
    ] = "contiguous",
    device: DeviceOption = "auto",
    overrides: SetOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write record and tables here.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what heads cost: parameters, MACs, memory, latency.

    Example: contextbench profile --features 2048x64x64 --implementation both --backward

    Example: contextbench profile --features 2048x64x64 --floors --layout channels_last

    Example: contextbench profile --sizes 32,48,64,96,128 --scopes context -o scaling

    Example: contextbench profile --protocol cityscapes-r50 --fits 24GiB

    Example: contextbench profile --features 512x24x24 --scopes head --modes eager,compile

    Example: contextbench profile --features 2048x32x32 --check-counts
    """
    with guarded():
        from contextbench.measure.command import (
            HeadRequest,
            ModelRequest,
            Sampling,
            counts_of_heads,
            counts_of_models,
            fits_of_models,
            modes_of,
            profile_of_heads,
            profile_of_models,
        )
        from contextbench.measure.head_profile import Extent

        timing = {
            "--backward": backward,
            "--floors": floors,
            "--modes": modes is not None,
            "--rounds": rounds != ROUNDS,
            "--layout": layout != "contiguous",
        }
        of_heads = {
            "--implementation": implementation != "fast",
            "--scopes": scopes != ALL_SCOPES,
        }
        of_models = {
            "--protocol": protocol != "probe",
            "--set": overrides is not None,
            "--image": image is not None,
        }
        if fits is not None:
            _refuse_beside(
                "--fits predicts whole models at sizes of its own and times nothing",
                {
                    "--features": features is not None,
                    "--sizes": sizes is not None,
                    "--image": image is not None,
                    **of_heads,
                    **timing,
                    "--check-counts": check_counts,
                },
            )
        if check_counts:
            _refuse_beside(
                "--check-counts counts the scope head, or model, in float32 and times nothing",
                {**timing, "--scopes": of_heads["--scopes"], "--precision": precision != "float32"},
            )
        if predict_only and modes is not None:
            raise ConfigError("--modes says what to time, and --predict times nothing")
        wanted = modes_of(None if modes is None else listed(modes, "--modes"))
        sampling = Sampling(
            0 if predict_only else rounds, precision, device_of(device), wanted, layout
        )
        asked = heads_of(heads)
        with execution_of(Path(), device, None, 0) as execution:
            if features is None and sizes is None:
                _refuse_beside(
                    "without --features or --sizes whole models are measured",
                    {**of_heads, "--backward": backward, "--floors": floors},
                )
                size = size_of(image, "--image")
                models = ModelRequest(protocol, tuple(overrides or ()), asked, size, classes)
                if check_counts:
                    _show_check(counts_of_models(models, sampling, execution), out, as_json)
                elif fits is not None:
                    _show_fits(fits_of_models(models, fits, sampling, execution), out, as_json)
                else:
                    _show_models(profile_of_models(models, sampling, execution), out, as_json)
                return
            _refuse_beside("--features and --sizes ask for heads alone, not for models", of_models)
            extent = Extent(listed(scopes, "--scopes"), backward, floors, wanted or ("eager",))
            alone = HeadRequest(
                features or PAPER_FEATURES, sizes, asked, classes, implementation, extent
            )
            if check_counts:
                _show_check(counts_of_heads(alone, sampling, execution), out, as_json)
                return
            record = profile_of_heads(alone, sampling, execution)
            with execution.stop.at_once():
                _show_heads(record, out, as_json)


def _refuse_beside(reason: str, given: Mapping[str, bool]) -> None:
    """Raise `ConfigError` where options are given that do not go with another, for a reason."""
    if named := [option for option, present in given.items() if present]:
        raise ConfigError(f"{reason}: leave out {', '.join(named)}")


def profile_data(
    protocol: ProtocolOption = "probe",
    head: Annotated[str, typer.Option(help="Head to train, by name or file.")] = "fcn",
    workers: Annotated[
        str, typer.Option(help="Numbers of processes that load data, with commas.")
    ] = "0,1,2",
    data_root: RootOption = None,
    image: Annotated[
        str | None,
        typer.Option(help="Load generated images of this height x width: 1024x2048."),
    ] = None,
    training: Annotated[
        bool, typer.Option("--training/--no-training", help="Also time training steps.")
    ] = True,
    steps: Annotated[int, typer.Option(min=1, help="Batches that each round times.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 3,
    precision: PrecisionOption = "float32",
    device: DeviceOption = "auto",
    overrides: SetOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write loader.json here.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure whether loading of training data keeps up with training.

    Without the data, images of their size are generated.

    Example: contextbench profile-data --protocol cityscapes-r50 --head ocr --workers 0,2,4,8

    Example: contextbench profile-data --protocol ade20k-r50 --image 512x683 --no-training
    """
    with guarded():
        from contextbench.measure.command import precision_of
        from contextbench.measure.loader import LoaderRequest, profile_loader

        request = LoaderRequest(
            protocol=load_protocol(protocol, overrides or ()),
            head=heads_of(head)[0] if training else None,
            workers=_workers_of(workers),
            rounds=rounds,
            steps=steps,
            image_size=size_of(image, "--image"),
            precision=precision_of(precision),
        )
        with execution_of(Path(), device, data_root, 0) as execution:
            _show_loading(profile_loader(request, execution), out, as_json)


def _workers_of(text: str) -> list[int]:

    parts = listed(text, "--workers")
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise ConfigError(f"--workers {text!r}: write whole numbers, like 0,1,2")
    return [int(part) for part in parts]


def _show(
    record: BaseModel, path: Path | None, as_json: bool, drawn: Callable[[], Iterable[Any]]
) -> None:
    """Write the record where that is wanted; print it, as JSON or as what is `drawn` of it."""
    if path is not None:
        write_model(path, record)
    if as_json:
        print_json(record.model_dump(mode="json"))
        return
    for part in drawn():
        console.print(part)


def _show_loading(record: LoaderRecord, out: Path | None, as_json: bool) -> None:
    from contextbench.report.tables.loading import loading_console

    _show(record, out and out / "loader.json", as_json, lambda: [loading_console(record)])


def _show_models(record: ProfileRecord, out: Path | None, as_json: bool) -> None:
    from contextbench.report.comparison import cost_table
    from contextbench.report.tables.comparison import comparison_sheet

    path = out and out / "profile.json"
    _show(record, path, as_json, lambda: [comparison_sheet(cost_table(record))])


def _show_fits(record: FitsRecord, out: Path | None, as_json: bool) -> None:
    from contextbench.report.tables.fits import fits_sheet

    _show(record, out and out / "fits.json", as_json, lambda: [fits_sheet(record)])


def _show_check(record: CountCheckRecord, out: Path | None, as_json: bool) -> None:
    from contextbench.report.tables.counts import check_sheet

    _show(record, out and out / "counts.json", as_json, lambda: [check_sheet(record)])


def _show_heads(record: HeadProfileRecord, out: Path | None, as_json: bool) -> None:
    from contextbench.report.bundle import write_head_report
    from contextbench.report.tables.forms import form_console, form_table
    from contextbench.report.tables.scaling import scaling_sheet

    def drawn() -> Iterator[Any]:
        yield form_console(form_table(record))
        if record.sizes > 1:
            yield scaling_sheet(record)

    _show(record, out and out / "profile.json", as_json, drawn)
    if out is not None:
        write_head_report(record, out)
