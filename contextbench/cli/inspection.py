"""Commands that look at data, records and this installation."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

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
from contextbench.config.files import ConfigError, nearest
from contextbench.config.protocols import load_protocol

KINDS = {
    "heads": "context heads, by the names that --heads takes",
    "protocols": "data, training and evaluation that heads share, for --protocol",
    "datasets": "what a protocol trains on and evaluates",
    "backbones": "networks below the heads",
    "tables": "papers' tables of costs, for `table`",
    "ablations": "papers' ablations, for `ablate`",
}
"""What `list` knows."""

SHOWN_PROBLEMS = 20  # of one split


def check_data(
    protocol: ProtocolOption = "probe",
    data_root: RootOption = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Look at so many images of each split.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write a contact sheet of the evaluated split (PNG).")
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(help="Read every file again and compare it with the remembered digest."),
    ] = False,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look for faults in a dataset before training on it.

    Example: contextbench check-data --protocol camvid-small --data-root data --sheet sheet.png
    """
    with guarded():
        from contextbench.data.check import check_config
        from contextbench.runs.cells import check_view_splits

        settings = load_protocol(protocol, overrides or ())
        check_view_splits(settings, data_root)
        report = check_config(
            settings.dataset,
            data_root,
            further=[settings.split(view) for view in settings.evaluate],
            limit=limit,
            sheet=sheet,
            verify=verify,
        )
        if as_json:
            print_json(report.as_dict())
        else:
            _print_check(report.as_dict())
        if not report.sound:
            raise typer.Exit(FAILED)


def list_names(
    kind: Annotated[
        str | None,
        typer.Argument(help=f"{', '.join(KINDS)}; without: what these are.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List what exists, one line each.

    Example: contextbench list heads

    Example: contextbench list
    """
    with guarded():
        lines = dict(KINDS) if kind is None else _existing(kind)
        if as_json:
            print_json(lines)
            return
        width = max(map(len, lines))
        for name, text in lines.items():
            console.print(f"{name:{width}}  {text}", markup=False, highlight=False, soft_wrap=True)


def _existing(kind: str) -> dict[str, str]:
    from contextbench.cli.inventory import INVENTORY

    if kind not in INVENTORY:
        raise ConfigError(f"unknown kind {kind!r}; {nearest(kind, INVENTORY)}")
    return INVENTORY[kind]()


def doctor(device: DeviceOption = "auto", as_json: JsonOption = False) -> None:
    """Show versions and devices, and try a training step on the device.

    Example: contextbench doctor
    """
    with guarded():
        from contextbench.cli.inventory import examine

        findings = examine(device_of(device))
        if as_json:
            print_json(findings)
        else:
            for name, value in findings.items():
                console.print(f"{name:14} {value}", markup=False, highlight=False)


def _print_check(report: dict[str, Any]) -> None:
    splits = report["splits"]
    for split in splits:
        _say(_split_line(split))
    console.print(_class_table(splits))
    for split in splits:
        if split["raw_values"]:
            _say(f"{split['split']}: raw values {_shares_of(split['raw_values'])}")
        if split["absent_classes"]:
            _say(f"{split['split']}: without a pixel of {', '.join(split['absent_classes'])}")
        _say_all(f"{split['split']}: ", split["notes"])
    _say_all("", report["notes"])
    for split in splits:
        _say_all(f"problem in {split['split']}: ", split["problems"])
    _say_all("problem: ", [*report["overlap"], *report["never"]])


def _split_line(split: dict[str, Any]) -> str:
    sizes = list(split["sizes"])
    size = f"{len(sizes)} sizes" if len(sizes) > 3 else ", ".join(sizes)
    modes = " and ".join(split["mask_modes"])
    parts = [
        f"{split['split']}: {split['checked']} of {split['images']} images",
        f"{size} (height x width)" if size else "",
        f"masks {modes}" if modes else "",
        f"{split['ignored_share']:.2%} of the pixels ignored",
    ]
    return ", ".join(part for part in parts if part)


def _class_table(splits: list[dict[str, Any]]) -> RenderableType:
    """Share of each class in the labelled pixels of each split."""
    from contextbench.report.tables.sheet import Sheet

    rows = [
        [name, *(f"{100 * split['shares'][name]:.3f}" for split in splits)]
        for name in (splits[0]["shares"] if splits else ())
    ]
    return Sheet.plain(["class", *(f"{split['split']} %" for split in splits)], rows)


def _shares_of(counts: dict[str, int]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{value} ({count / total:.2%})" for value, count in counts.items())


def _say_all(prefix: str, lines: list[str]) -> None:
    for line in lines[:SHOWN_PROBLEMS]:
        _say(prefix + line)
    if len(lines) > SHOWN_PROBLEMS:
        _say(f"{prefix}and {len(lines) - SHOWN_PROBLEMS} more; --json lists all")


def _say(line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
