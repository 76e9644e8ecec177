"""The command line: parse, call one function, print.

A command's module is loaded when the command is asked for, so that `--help`, completion and a
mistyped name wait for none of them.
"""

import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from contextbench import __version__
from contextbench.system.interrupt import catch_ctrl_c


class Command(NamedTuple):
    """Where a command is found, and the first line of its docstring."""

    place: str  # module of this package, colon, function
    summary: str

    @property
    def function(self) -> Callable[..., None]:
        """What runs it; importing its module takes longer than `--help` may."""
        module, _, name = self.place.partition(":")
        found: Callable[..., None] = getattr(import_module(f"{__name__}.{module}"), name)
        return found


COMMANDS = {
    "compare": Command("runs:compare", "Train, evaluate and measure several heads; rank them."),
    "tune": Command(
        "tuning:tune",
        "Try the same grid of settings with every head; choose on images of no table.",
    ),
    "train": Command("runs:train", "Train and evaluate one head."),
    "evaluate": Command(
        "runs:evaluate",
        "Evaluate trained runs again: with other scales, in windows, on another split, together.",
    ),
    "predict": Command(
        "runs:predict",
        "Write what a run predicts: index masks, colour masks and overlays, or a submission.",
    ),
    "import": Command(
        "interchange:import_checkpoint",
        "Turn a published checkpoint into the folder of a run, with the same logits.",
    ),
    "export": Command(
        "interchange:export",
        "Write a run's model to a file for other programs, read it back and compare.",
    ),
    "attend": Command(
        "attention:attend",
        "Show what a pixel attends to: attention, regions, codewords; and what influences its "
        "class.",
    ),
    "ablate": Command(
        "ablations:ablate",
        "Run what is missing of a paper's ablation; print published beside measured.",
    ),
    "profile": Command(
        "costs:profile", "Measure what heads cost: parameters, MACs, memory, latency."
    ),
    "profile-data": Command(
        "costs:profile_data", "Measure whether loading of training data keeps up with training."
    ),
    "check-device": Command(
        "devices:check_device",
        "Find out in minutes what a device does: heads, models, formats, kernels, tests.",
    ),
    "table": Command(
        "tables:table",
        "Put a paper's table and this code's numbers side by side, or compare the runs of a "
        "folder.",
    ),
    "check-data": Command(
        "inspection:check_data", "Look for faults in a dataset before training on it."
    ),
    "check-head": Command(
        "heads:check_head", "Run on a head the tests that every head here passes; say what fails."
    ),
    "plot": Command(
        "reports:plot",
        "Make tables and figures again from records. Needs no device and no data.",
    ),
    "report": Command(
        "reports:report",
        "Write one page that shows comparisons: ranking, costs, classes, examples, provenance.",
    ),
    "explain": Command(
        "planning:explain",
        "List every difference of recipe and protocol beside the difference in mIoU.",
    ),
    "insight": Command(
        "reports:insight",
        "Show which head solves which group of classes, seed by seed, with intervals.",
    ),
    "confusion": Command(
        "details:confusion", "Show which class is taken for which, and what two heads differ in."
    ),
    "details": Command(
        "details:details",
        "Show what a view counted beside IoU: calibration, boundaries, trimaps, robustness.",
    ),
    "power": Command(
        "inference:power", "Say how many seeds and images would show a difference between heads."
    ),
    "aggregate": Command(
        "inference:aggregate",
        "Rank heads over several protocols: mean rank, mean difference to a baseline.",
    ),
    "merge": Command("clusters:merge", "Join the runs of several machines in a new folder."),
    "list": Command("inspection:list_names", "List what exists, one line each."),
    "doctor": Command(
        "inspection:doctor", "Show versions and devices, and try a training step on the device."
    ),
}


def _typer(**settings: Any) -> typer.Typer:
    return typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich", **settings)


class LoadedWhenAsked(TyperGroup):
    """A group that knows its commands by name and summary until one is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command itself in place of what stands for it in `--help`."""
        name, command, rest = super().resolve_command(ctx, args)
        if name is None:
            return name, command, rest
        alone = _typer(add_completion=False)
        alone.command(name)(COMMANDS[name].function)
        return name, typer.main.get_command(alone), rest


app = _typer(
    cls=LoadedWhenAsked,
    help="Compare context heads for semantic segmentation: accuracy and cost under one protocol.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _command in COMMANDS.items():
    app.command(_name, help=_command.summary)(lambda: None)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        typer.echo(f"contextbench {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point of the console script."""
    catch_ctrl_c()
    warnings.formatwarning = _formatted
    app()


def _formatted(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Warnings of this package are about the user's data, and its lines of code tell nothing."""
    if Path(filename).is_relative_to(Path(__file__).parents[1]):
        return f"warning: {message}\n"
    return _with_place(message, category, filename, lineno, line)


_with_place = warnings.formatwarning
