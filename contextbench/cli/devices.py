"""The command that finds out what a device does."""

from pathlib import Path
from typing import Annotated

import typer

from contextbench.cli.runs import FAMILIES
from contextbench.cli.shared import (
    DeviceOption,
    HeadsOption,
    JsonOption,
    ProtocolOption,
    execution_of,
    guarded,
    heads_of,
    print_json,
    print_text,
    size_of,
)
from contextbench.config.files import ConfigError
from contextbench.config.protocols import load_protocol
from contextbench.records.device import NAME, DeviceRecord
from contextbench.records.stored import write_model
from contextbench.system.files import write_text


def check_device(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the record.")] = Path(
        "device"
    ),
    features: Annotated[
        str, typer.Option(help="Of heads alone: channels x height x width.")
    ] = "2048x128x128",
    heads: HeadsOption = FAMILIES,
    protocol: ProtocolOption = "cityscapes-r50",
    image: Annotated[
        str, typer.Option(help="Of the model of the first head, height x width.")
    ] = "512x1024",
    batch: Annotated[int, typer.Option(min=1, help="Images of a training step.")] = 4,
    logits: Annotated[int, typer.Option(min=1, help="Elements of the largest map of logits.")] = 2
    ** 31
    + 2**20,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Rounds of latencies.")] = 5,
    seconds: Annotated[
        float, typer.Option(min=1.0, help="After which nothing new is begun.")
    ] = 480.0,
    tests: Annotated[
        Path | None,
        typer.Option(help="Folder of tests, of which those marked gpu are run.", exists=True),
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Find out in minutes what a device does: heads, models, formats, kernels, tests.

    What fails, or does not fit into the time, is a row like all else.

    Example: contextbench check-device --tests tests -o device
    """
    with guarded():
        from contextbench.measure.counts import parse_feature_size
        from contextbench.measure.device_check import Wanted
        from contextbench.measure.device_check import check_device as checked
        from contextbench.report.tables.device import device_markdown

        try:
            parse_feature_size(features)
        except ValueError as error:
            raise ConfigError(f"--features: {error}") from error
        load_protocol(protocol, ())
        size = size_of(image, "--image")
        assert size is not None
        wanted = Wanted(
            features,
            tuple(heads_of(heads)),
            protocol,
            size,
            batch,
            logits,
            rounds=rounds,
            seconds=seconds,
            tests=tests,
        )

        def keep(record: DeviceRecord) -> None:
            write_model(out / NAME, record)

        with execution_of(out, device, None, 0) as execution:
            record = checked(wanted, execution, keep)
        text = device_markdown(record)
        write_text(out / "device.md", text)
        if as_json:
            print_json(record.model_dump(mode="json"))
            return
        print_text(text)
