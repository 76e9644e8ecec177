"""The command that sets tables: of a paper beside this code's numbers, or of records."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contextbench.cli.shared import (
    DeviceOption,
    JsonOption,
    PrecisionOption,
    ViewOption,
    console,
    device_of,
    errors,
    execution_of,
    guarded,
    listed,
    print_json,
    print_notes,
    print_rows,
    print_text,
)
from contextbench.config.files import ConfigError, names_in, nearest
from contextbench.config.heads import known_names
from contextbench.papers.published import TableSpec, load_published, load_table
from contextbench.records.device import read_device
from contextbench.records.profiles import HeadProfileRecord, read_head_profile
from contextbench.records.stored import write_model
from contextbench.report.collection import collect
from contextbench.statistics.scores import ClassMetric

if TYPE_CHECKING:
    from contextbench.report.tables.printing import PrintedTable


class TableFormat(StrEnum):
    """What a table is printed as."""

    CONSOLE = "console"
    MARKDOWN = "markdown"
    CSV = "csv"
    LATEX = "latex"


@dataclass(frozen=True)
class Wanted:
    """What is printed of a table, and how; None: the default."""

    form: TableFormat
    columns: list[str] | None
    order: str | None
    out: Path | None
    as_json: bool

    @property
    def for_programs(self) -> bool:
        """Whether nothing but the table may be on standard output."""
        return self.as_json or self.form is TableFormat.CSV


def table(
    what: Annotated[
        str,
        typer.Argument(help="A paper's table, by name or file (see `list tables`), or a folder."),
    ],
    folder: Annotated[
        Path | None, typer.Argument(help="After `device`: what `check-device` wrote.")
    ] = None,
    form: Annotated[
        TableFormat, typer.Option("--format", help="What to print.")
    ] = TableFormat.CONSOLE,
    columns: Annotated[
        str | None, typer.Option(help="Columns, with commas: miou,parameters,macs.")
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(help="Column to sort by, best or lowest first; a minus sign: the other way."),
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=0, help="Of a paper: rounds of latencies; 0: predict only.")
    ] = 0,
    record: Annotated[
        Path | None, typer.Option(help="Of a paper: costs from this file, not determined anew.")
    ] = None,
    precision: PrecisionOption = "float32",
    device: DeviceOption = "auto",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Also write CSV, Markdown and LaTeX to this folder."),
    ] = None,
    view: ViewOption = None,
    classes: Annotated[
        ClassMetric | None,
        typer.Option(help="Of a folder: this score of every class, a column a head."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put a paper's table and this code's numbers side by side, or compare the runs of a folder.

    Columns are called as in the CSV file or as the table heads them.

    Example: contextbench table ocr-complexity --rounds 5 -o complexity

    Example: contextbench table results/probe --format latex --columns miou,parameters,latency_ratio

    Example: contextbench table results/probe --classes f1

    Example: contextbench table device results/device
    """
    with guarded(resume=True):
        if as_json and form is not TableFormat.CONSOLE:
            raise ConfigError(f"--json and --format {form} exclude each other")
        if folder is not None or what == "device":
            _device(what, folder, form, as_json)
            return
        names = listed(columns, "--columns") if columns is not None else None
        wanted = Wanted(form, names, sort, out, as_json)
        if what not in names_in("tables") and Path(what).is_dir():
            if (rounds, record, precision, device) != (0, None, "float32", "auto"):
                raise ConfigError(
                    "--rounds, --record, --precision and --device are for tables of papers; "
                    f"{what} is a folder"
                )
            _compare(Path(what), wanted, view, classes)
            return
        if classes is not None:
            raise ConfigError(f"--classes is for folders of runs; {what} is a paper's table")
        if view is not None:
            raise ConfigError(f"--view is for folders of runs; {what} is a paper's table")
        if what not in names_in("tables") and not Path(what).exists():
            hint = nearest(what, names_in("tables"))
            raise ConfigError(f"{what!r} is neither a folder, a file nor a paper's table; {hint}")
        _beside_paper(what, record, (rounds, precision, device), wanted)


def _device(what: str, folder: Path | None, form: TableFormat, as_json: bool) -> None:
    from contextbench.report.tables.device import device_markdown

    if what != "device" or folder is None:
        raise ConfigError("a second argument goes with `device`: contextbench table device FOLDER")
    if form not in (TableFormat.CONSOLE, TableFormat.MARKDOWN):
        raise ConfigError(f"--format {form}: what a device does is told in Markdown, or --json")
    record = read_device(folder)
    if as_json:
        print_json(record.model_dump(mode="json"))
    else:
        print_text(device_markdown(record))


def _compare(folder: Path, wanted: Wanted, view: str | None, classes: ClassMetric | None) -> None:
    from contextbench.report.comparison import per_class_table
    from contextbench.report.tables.comparison import printed_classes, printed_comparison

    collection = collect(folder, view)
    if classes is not None:
        frame = per_class_table(collection.runs, classes)
        _print(printed_classes(frame, classes, collection.subject, collection.ending), wanted)
        return
    _print(printed_comparison(collection.table, collection.notes, collection.ending), wanted)
    if wanted.for_programs or wanted.form is TableFormat.CONSOLE:
        print_notes(collection.notes, errors if wanted.for_programs else console)


def _beside_paper(
    name: str, record: Path | None, sampling: tuple[int, str, str], wanted: Wanted
) -> None:
    from contextbench.report.papers.complexity import paper_table, printed_paper

    spec = load_table(name, known_names())
    published = load_published(spec)
    costs = read_head_profile(record) if record is not None else _sampled(spec, *sampling)
    _print(printed_paper(spec, paper_table(spec, published, costs)), wanted)
    if wanted.out is not None:
        write_model(wanted.out / f"{spec.name}.json", costs)


def _print(table: "PrintedTable", wanted: Wanted) -> None:
    table, columns = table.sorted_by(wanted.order), table.called(wanted.columns)
    if wanted.out is not None:
        table.write(wanted.out, columns)
    if wanted.as_json:
        print_rows(table.rows(columns))
    elif wanted.form is TableFormat.CSV:
        print_text(table.csv(columns))
    elif wanted.form is TableFormat.MARKDOWN:
        print_text(table.markdown(columns))
    elif wanted.form is TableFormat.LATEX:
        print_text(table.latex(columns))
    else:
        console.print(table.sheet(columns))


def _sampled(spec: TableSpec, rounds: int, precision: str, device: str) -> HeadProfileRecord:
    from contextbench.measure.command import Sampling, profile_of_table

    sampling = Sampling(rounds, precision, device_of(device))
    with execution_of(Path(), device, None, 0) as execution:
        return profile_of_table(spec, sampling, execution)
