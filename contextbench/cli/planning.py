"""Before and after runs: what a comparison would take, and why two scores differ."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from contextbench.cli.shared import (
    JsonOption,
    RunArgument,
    ViewOption,
    console,
    guarded,
    print_json,
    print_notes,
)
from contextbench.config.amounts import amount_text
from contextbench.config.evaluation import COUNTING
from contextbench.config.files import ConfigError
from contextbench.papers.published import refer
from contextbench.report.words import ABSENT, duration, fixed

if TYPE_CHECKING:
    from contextbench.measure.passes import Workload
    from contextbench.runs.plan import ComparisonPlan, HeadPlan

DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Print steps, memory, time; run nothing.")
]
TimeStepsOption = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="With --dry-run: steps to time."),
]
CardOption = Annotated[
    str | None,
    typer.Option("--memory", metavar="AMOUNT", help="With --dry-run: of a GPU, like 24GiB."),
]
ProcessesOption = Annotated[int, typer.Option(min=1, metavar="N", help="With --dry-run: GPUs.")]


def explain(
    run: RunArgument,
    other: Annotated[
        Path | None, typer.Argument(help="Folder of another run.", show_default=False)
    ] = None,
    published: Annotated[
        str | None,
        typer.Option(
            help="Instead of another run a published score: FILE:COLUMN=TEXT,COLUMN=TEXT or "
            "FILE:LINE, of the files in results/published."
        ),
    ] = None,
    view: ViewOption = None,
    as_json: JsonOption = False,
) -> None:
    """List every difference of recipe and protocol beside the difference in mIoU.

    Example: contextbench explain runs/probe/ocr/seed-0 runs/probe/fcn/seed-0

    Example: contextbench explain runs/cityscapes-r101/ppm/seed-0
    --published mmseg_published:method=PSPNet,backbone=R-101-D8,crop=512x1024,iterations=40000
    """
    with guarded():
        from contextbench.report.tables.explain import (
            explain_published,
            explain_runs,
            explanation_console,
        )

        if other is not None and published is None:
            explanation = explain_runs(run, other, view=view)
        elif published is not None and other is None:
            explanation = explain_published(run, refer(published), view=view)
        else:
            raise ConfigError("give either a second run or --published, not both or neither")
        if as_json:
            print_json(explanation.as_dict())
        else:
            console.print(explanation_console(explanation))


def show_plan(plan: "ComparisonPlan", as_json: bool) -> None:
    """Print what `compare` would do."""
    if as_json:
        print_json(plan.as_dict())
        return
    facts = Table.grid(padding=(0, 2))
    for name, text in _facts(plan):
        facts.add_row(Text(name), Text(text))
    console.print(facts)
    console.print()
    console.print(_plan_table(plan))
    console.print(Text(_total(plan)))
    print_notes([*plan.notes, *_reasons(plan)], console)


def _facts(plan: "ComparisonPlan") -> list[tuple[str, str]]:
    """Lines above the table: what all heads share."""
    backbone, expected = plan.protocol.backbone, plan.protocol.expected
    stem = "" if ":" in backbone.name else f"{backbone.stem} stem, "  # others have their own
    facts = [
        ("protocol", plan.protocol.name),
        ("data", _data(plan)),
        (
            "backbone",
            f"{backbone.name}, {stem}output stride {backbone.output_stride}, "
            f"weights {backbone.weights or 'none'}",
        ),
        ("training", _training(plan)),
        *_evaluations(plan),
        ("device", f"{plan.device}; {plan.precision.dtype}, {plan.precision.memory_format}"),
    ]
    if expected is None:
        return facts
    facts.append(("source", expected.source))
    facts.append(("GPU hours", expected.gpu_hours or "not known"))
    return [*facts, *_expected(plan, expected.scores)]


def _expected(
    plan: "ComparisonPlan", scores: Mapping[str, Mapping[str, str]]
) -> Iterator[tuple[str, str]]:
    """What is published of these heads, view by view."""
    names, started = [head.name for head in plan.heads], False
    for view in plan.protocol.evaluate:
        known = scores.get(view, {})
        lines = [f"{name} {known[name]}" for name in names if name in known]
        if others := ", ".join(name for name in names if name not in known):
            lines.append(f"nothing published for {others}")
        seen = f"{view}: " if len(plan.protocol.evaluate) > 1 else ""
        for line in lines:
            yield "" if started else "expected", f"{seen}{line}"
            started = True


def _reasons(plan: "ComparisonPlan") -> Iterator[str]:
    """Why something is not known, once for all heads that share the reason."""
    reasons: dict[str, list[str]] = {}
    for head in plan.heads:
        if head.forecast.failure:
            reasons.setdefault(f"failed: {head.forecast.failure.cause}", []).append(head.name)
        elif head.forecast.untimed:
            reasons.setdefault(f"not timed: {head.forecast.untimed}", []).append(head.name)
    for reason, names in reasons.items():
        yield f"{', '.join(names)} {reason}."


def _data(plan: "ComparisonPlan") -> str:
    counts = [
        f"{split.name} {'?' if split.images is None else format(split.images, ',')} images"
        for split in (plan.train, plan.evaluate)
    ]
    official = " (official numbers)" if plan.train.official else ""
    return f"{plan.dataset}, {plan.workload.classes} classes; {', '.join(counts)}{official}"


def _training(plan: "ComparisonPlan") -> str:
    train, processes = plan.protocol.train, plan.workload.processes
    epochs = "" if plan.epochs is None else f", {plan.epochs:.1f} epochs"
    shared = f", shared by {processes} processes" if processes > 1 else ""
    parts = f", in {train.accumulate} parts" if train.accumulate > 1 else ""
    return (
        f"{train.steps:,} steps of {train.batch} crops of {_size(train.crop)}{shared}{parts}"
        f": {train.steps * train.batch:,} crops{epochs}"
    )


def _evaluations(plan: "ComparisonPlan") -> Iterator[tuple[str, str]]:
    """A line for each view; where there are several, with its name and its images."""
    several = len(plan.views) > 1
    for name, view in plan.views.items():
        split = view.split
        images = "? images" if split.images is None else f"{split.images:,} images"
        seen = f"{name}, {split.name}, {images}: " if several else ""
        title = "evaluation" if name == plan.protocol.first_view else ""
        yield title, f"{seen}{_evaluation(view.workload, plan.assumed_size)}"


def _evaluation(work: "Workload", assumed_size: bool) -> str:
    config = work.evaluate
    scales = ", ".join(f"{scale:g}" for scale in config.scales)
    windows = "" if config.window is None else f", windows of {_size(config.window)}"
    flip = ", flip" if config.flip else ""
    guess = " (a guess: sizes differ)" if assumed_size else ""
    passes = "one pass" if work.passes == 1 else f"work of {work.passes:.3g} passes"
    worse = "" if config.corrupt is None else f", {config.corrupt.kind} {config.corrupt.strength}"
    counted = ", ".join(name for name in COUNTING if getattr(config, name))
    besides = f"; {counted} counted too, which is in no hours" if counted else ""
    return (
        f"images of {_size(work.image_size)}{guess}, scale {scales}{windows}{flip}{worse}: "
        f"{passes} of {_size(work.input_size)} each{besides}"
    )


def _plan_table(plan: "ComparisonPlan") -> RenderableType:
    from contextbench.report.tables.sheet import Sheet

    timed, card = any(head.forecast.step_ms for head in plan.heads), plan.card_bytes
    fits = None if card is None else f"fits\n{amount_text(card)}"
    header = ["head", "cells", "params\nM", "MACs\na pass\nG"]
    header += ["training\nmemory\nGiB", "evaluation\nmemory\nGiB"]
    header += [fits] if fits else []
    header += ["step\nms", "pass\nms", "hours\na cell"] if timed else []
    rows = [_plan_row(head, timed, card) for head in plan.heads]
    return Sheet.plain(header, rows, left=["cells", *([fits] if fits else [])])


def _plan_row(head: "HeadPlan", timed: bool, card_bytes: int | None) -> list[str]:

    forecast = head.forecast
    counts = Counter(state.replace("_", " ") for state in head.cells.values())
    cells = ", ".join(f"{count} {state}" for state, count in counts.items())
    row = [
        head.name,
        cells,
        _scaled(forecast.parameters, 1e6, 1),
        _scaled(forecast.macs, 1e9, 0),
        _scaled(forecast.training_memory_bytes, 2**30, 2),
        _scaled(forecast.inference_memory_bytes, 2**30, 2),
    ]
    row += [] if card_bytes is None else [_fits_text(head.fits(card_bytes))]
    if not timed:
        return row
    samples = (forecast.step_ms, forecast.pass_ms)
    times = [_scaled(median(each) if each else None, 1, 0) for each in samples]
    return [*row, *times, _scaled(forecast.hours, 1, 2)]


def _fits_text(fits: Mapping[str, bool] | None) -> str:
    """`yes`, or what does not fit."""
    if fits is None:
        return ABSENT
    without = [what for what, fit in fits.items() if not fit]
    return f"no: {' and '.join(without)}" if without else "yes"


def _scaled(value: float | None, unit: float, decimals: int) -> str:
    return ABSENT if value is None else fixed(value / unit, decimals)


def _total(plan: "ComparisonPlan") -> str:
    cells, runs = sum(len(head.cells) for head in plan.heads), sum(h.runs for h in plan.heads)
    text = f"{runs} of {cells} cells would run"
    if not runs:
        return f"{text}."
    if plan.hours is None:
        return f"{text}, for how long is not known."
    shared = f" on {plan.workload.processes} such devices" if plan.workload.processes > 1 else ""
    return f"{text}, one after another for about {duration(plan.hours)} on {plan.device}{shared}."


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
