"""Commands that look at data, records and this installation."""

from pathlib import Path
from typing import Annotated, Any

import typer

from contextbench.cli.shared import (
    FAILED,
    DeviceOption,
    JsonOption,
    ProtocolOption,
    RootOption,
    SetOption,
    console,
    device_of,
    guarded,
    print_json,
)


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
    with guarded():
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
            print_json({"splits": [report.as_dict() for report in reports], "overlap": overlap})
        else:
            for report in reports:
                _print_split(report.as_dict())
            for line in overlap:
                console.print(line, markup=False, highlight=False)
        if overlap or any(report.problems for report in reports):
            raise typer.Exit(FAILED)


def list_names(
    kind: Annotated[
        str, typer.Argument(help="heads, protocols, datasets, backbones, tables or ablations.")
    ],
    as_json: JsonOption = False,
) -> None:
    """List what exists, one line each.

    Example: contextbench list heads
    """
    with guarded():
        from contextbench.inventory import inventory

        lines = inventory(kind)
        if as_json:
            print_json(lines)
            return
        width = max(map(len, lines))
        for name, text in lines.items():
            console.print(f"{name:{width}}  {text}", markup=False, highlight=False, soft_wrap=True)


def doctor(device: DeviceOption = "auto", as_json: JsonOption = False) -> None:
    """Show versions and devices, and try a training step on the device.

    Example: contextbench doctor
    """
    with guarded():
        from contextbench.inventory import examine

        findings = examine(device_of(device))
        if as_json:
            print_json(findings)
        else:
            for name, value in findings.items():
                console.print(f"{name:14} {value}", markup=False, highlight=False)


def _print_split(report: dict[str, Any]) -> None:
    for key, value in report.items():
        if key == "problems" or value in ([], {}, None):
            continue
        console.print(f"{key:18} {value}", markup=False, highlight=False, soft_wrap=True)
    for problem in report.get("problems", []):
        console.print(f"problem: {problem}", markup=False, highlight=False, soft_wrap=True)
    console.print()
