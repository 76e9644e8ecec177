"""The command that measures cost."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contextbench.cli.shared import (
    DeviceOption,
    HeadsOption,
    JsonOption,
    PrecisionOption,
    ProtocolOption,
    RoundsOption,
    SetOption,
    console,
    device_of,
    execution_of,
    guarded,
    heads_of,
    listed,
    print_json,
)

if TYPE_CHECKING:
    from contextbench.results import HeadProfileRecord, ProfileRecord

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
    with guarded():
        from contextbench.config import ConfigError
        from contextbench.measure.command import (
            HeadRequest,
            ModelRequest,
            Sampling,
            profile_of_heads,
            profile_of_models,
        )
        from contextbench.measure.head_profile import Extent

        sampling = Sampling(0 if predict_only else rounds, precision, device_of(device))
        with execution_of(Path(), device, None, 0) as execution:
            if features is None and sizes is None:
                if backward or floors or implementation != "fast":
                    raise ConfigError(
                        "--backward, --floors and --implementation need --features or --sizes"
                    )
                models = ModelRequest(
                    protocol, tuple(overrides or ()), heads_of(heads), image, classes
                )
                _show_models(profile_of_models(models, sampling, execution), out, as_json)
                return
            if image is not None:
                raise ConfigError(
                    "--image is for whole models, --features and --sizes are for heads alone"
                )
            extent = Extent(listed(scopes, "--scopes"), backward, floors)
            alone = HeadRequest(
                features or PAPER_FEATURES, sizes, heads_of(heads), classes, implementation, extent
            )
            _show_heads(profile_of_heads(alone, sampling, execution), out, as_json)


def _show_models(record: "ProfileRecord", out: Path | None, as_json: bool) -> None:
    from contextbench.report.tables import cost_table, render_console
    from contextbench.results import write_model

    if out is not None:
        write_model(out / "profile.json", record)
    if as_json:
        print_json(record.model_dump(mode="json"))
        return
    console.print(render_console(cost_table(record)))


def _show_heads(record: "HeadProfileRecord", out: Path | None, as_json: bool) -> None:
    from contextbench.report.bundle import write_head_report
    from contextbench.report.complexity import form_console, form_table
    from contextbench.report.scaling import scaling_console

    if out is not None:
        write_head_report(record, out)
    if as_json:
        print_json(record.model_dump(mode="json"))
        return
    console.print(form_console(form_table(record)))
    if record.sizes > 1:
        console.print(scaling_console(record))
