"""What all commands share: options, reading of arguments, printing, exit codes.

Functions import what needs torch, pandas or matplotlib when they run, since importing these takes
longer than everything that `--help` does; everything else is imported at the head of modules.
"""

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.text import Text

from contextbench.config.files import ConfigError
from contextbench.config.frozen import LARGEST_SCALE, LARGEST_SEED, LARGEST_SIDE
from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import Protocol
from contextbench.system.console import SafeConsole
from contextbench.system.errors import UserError
from contextbench.system.interrupt import Interrupted, RankError
from contextbench.system.plugins import permit
from contextbench.system.reading import given, why
from contextbench.system.text import printable

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from contextbench.records.runs import RunRecord
    from contextbench.report.collection import Collection
    from contextbench.training.execution import Execution

FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130  # exit codes besides 0

SPEAKING_SECONDS = 5.0  # for another process to say what is wrong

console = SafeConsole()
errors = SafeConsole(stderr=True)

ProtocolOption = Annotated[str, typer.Option("--protocol", help="Name or file.")]
HeadsOption = Annotated[str, typer.Option(help="Names, files, MODULE:CLASS; or all.")]
SeedsOption = Annotated[str, typer.Option(help="Seeds, with commas.")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder of the runs.")]
RootOption = Annotated[Path | None, typer.Option(help="Folder of the data, or that above.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, xpu.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="K=V", help="Change a value: train.steps=500."),
]
WorkersOption = Annotated[int, typer.Option(min=0, metavar="N", help="Processes that load data.")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Run again what is on disk.")]
TrackOption = Annotated[
    str | None,
    typer.Option("--track", metavar="NAME", help="Log trainings, too: tensorboard."),
]
RoundsOption = Annotated[int, typer.Option(min=1, metavar="N", help="Rounds of latencies.")]
PrecisionOption = Annotated[str, typer.Option(help="float32, tf32 or bfloat16.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RetryOption = Annotated[
    bool, typer.Option("--retry-failed", help="Run cells recorded as failed again.")
]
PluginOption = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="PACKAGE.MODULE:CLASS",
        help="Code that the run is of and that is not installed as a plug-in; repeatable.",
    ),
]
ViewOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Which view of the evaluation; without: the first."),
]
RunArgument = Annotated[Path, typer.Argument(help="Folder of a run: runs/PROTOCOL/HEAD/seed-N.")]


@contextmanager
def guarded(*, resume: bool = False) -> Iterator[None]:
    """Turn a user's mistake into one message and exit code 2, an interruption into 130.

    What several processes meet together is said once on each machine; that one of them was lost,
    by each of the others, with exit code 1.
    """

    hint = "; the same command goes on from here" if resume else ""
    errors.quiet = os.environ.get("LOCAL_RANK", "0") != "0"
    try:
        yield
    except UserError as error:
        if errors.quiet:  # torchrun ends all at the first exit, and with them the one that speaks
            time.sleep(SPEAKING_SECONDS)
        errors.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(WRONG_INPUT) from None
    except OSError as error:
        # A name that is too long, a folder that is not to be entered: of no use to anybody is where
        # in the code it was met. Errors without a file are of the network or of this software.
        if error.filename is None:
            raise
        where = given(os.fsdecode(error.filename))
        errors.print(f"error: {where}: {why(error)}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(WRONG_INPUT) from None
    except (Interrupted, KeyboardInterrupt):
        errors.print(f"interrupted{hint}", markup=False, highlight=False)
        raise typer.Exit(INTERRUPTED) from None
    except RankError as error:
        errors.quiet = False
        errors.print(f"error: {error}{hint}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(FAILED) from None


def execution_of(
    out: Path,
    device: str,
    data_root: Path | None,
    workers: int,
    *,
    shared: Protocol | None = None,
    track: str | None = None,
) -> "AbstractContextManager[Execution]":
    """How and where to execute; `shared` is what several processes may train together."""
    from contextbench.training.execution import executing

    return executing(out, device, data_root, workers, shared=shared, track=track, own_process=True)


def device_of(name: str) -> "torch.device":
    from contextbench.models import device

    return device.device_of(name)


def heads_of(names: str) -> list[HeadConfig]:
    """`all` are those that can be used; what is wrong with others is said."""
    from contextbench.models.heads import known_heads, named_heads

    if names != "all":
        return named_heads(listed(names, "--heads"))
    known = known_heads()
    print_notes((f"left out: {fault}" for fault in known.faults.values()), errors)
    return named_heads(list(known.found))


def permit_plugins(places: Sequence[str] | None) -> None:
    """Let records be of code that is named here. Raises `PluginError` where it is not found."""
    for place in places or ():
        permit(place)


def seeds_of(text: str) -> list[int]:

    try:
        seeds = [int(part) for part in listed(text, "--seeds")]
    except ValueError:
        raise ConfigError(f"--seeds {given(text)}: write whole numbers, like 0,1,2") from None
    if not all(0 <= seed <= LARGEST_SEED for seed in seeds):
        raise ConfigError(f"--seeds {given(text)}: seeds are from 0 to {LARGEST_SEED}")
    return seeds


def scales_of(text: str | None) -> tuple[float, ...] | None:

    if text is None:
        return None
    try:
        scales = tuple(float(part) for part in listed(text, "--scales"))
    except ValueError:
        raise ConfigError(
            f"--scales {given(text)}: write numbers with commas, like 0.75,1"
        ) from None
    if not all(0 < scale <= LARGEST_SCALE for scale in scales):  # NaN is not either
        raise ConfigError(
            f"--scales {given(text)}: scales are above 0 and at most {LARGEST_SCALE:g}"
        )
    return scales


def size_of(text: str | None, option: str) -> tuple[int, int] | None:
    """Height and width, or None where the option was not given."""

    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text.strip())
    if match is None:
        raise ConfigError(f"{option} {given(text)}: write height x width, like 512x1024")
    height, width = int(match[1]), int(match[2])
    if not all(1 <= side <= LARGEST_SIDE for side in (height, width)):
        raise ConfigError(f"{option} {given(text)}: sides are from 1 to {LARGEST_SIDE}")
    return height, width


def listed(text: str, option: str) -> list[str]:

    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or len(set(parts)) < len(parts):
        raise ConfigError(f"{option} {given(text)}: needs one or more different names")
    return parts


def print_comparison(collection: "Collection", as_json: bool) -> None:
    from contextbench.report.tables.comparison import printed_comparison

    table = printed_comparison(collection.table)
    if as_json:
        print_rows(table.rows())
        return
    console.print(table.sheet())
    print_notes(collection.notes, console)


def print_rows(table: "pd.DataFrame") -> None:
    """A table as JSON, one object a row, in full precision."""
    # pandas writes at most 15 digits.
    cells = table.astype(object)
    print_json(cells.where(cells.notna(), None).to_dict(orient="records"))


def print_notes(notes: Iterable[str], target: Console) -> None:
    for note in notes:
        target.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


def print_paths(paths: Iterable[Path]) -> None:
    for path in paths:
        console.print(str(path), markup=False, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """In colour on a terminal; characters that steer it are escaped, as JSON allows."""
    text = Text(printable(json.dumps(value, indent=2, ensure_ascii=False)))
    console.print(JSONHighlighter()(text), soft_wrap=True)


def print_text(text: str) -> None:
    """A table for a file, as it would be written to one."""
    typer.echo(printable(text), nl=False)


def exit_for(runs: "Sequence[RunRecord]") -> None:
    if any(run.status != "done" for run in runs):
        raise typer.Exit(FAILED)
