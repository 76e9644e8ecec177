"""mIoU of every head while it trained, where that was watched."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from contextbench.records.watched import Watched
from contextbench.report.figures.style import (
    ONE_COLUMN,
    SMALL,
    TWO_COLUMNS,
    data_uri,
    new_figure,
    style_axes,
)
from contextbench.report.looks import head_style, shortened
from contextbench.statistics.scores import watched_miou

WatchedCurves = Mapping[str, Mapping[int, Sequence[Watched]]]
"""head -> seed -> entries of `watch.jsonl`"""

Curve = dict[int, float]  # step -> mIoU in percent; NaN where it is not known
HEIGHT = 2.6  # inches
LONGEST = 14  # characters of a name in the legend


def watched_figure(
    watched: WatchedCurves, title: str, *, width: float = ONE_COLUMN
) -> Figure | None:
    """mIoU against steps: a thin line for each seed, a bold one for the mean over them.

    Runs that were watched on another part than most are left out, and named. None where no step has
    a score.
    """
    part = _most_common_part(watched)
    curves = {head: _curves(seeds, part) for head, seeds in watched.items()}
    curves = {head: seeds for head, seeds in curves.items() if seeds}
    if part is None or not curves:
        return None
    figure = new_figure(width, HEIGHT, title, " ".join(_sentences(watched, curves, part)))
    axes = figure.subplots()
    style_axes(axes, "Training step", f"mIoU (%), {part[1]} images of {part[0]}")
    for head, seeds in curves.items():
        _draw(axes, head, seeds)
    axes.set_xlim(left=0)
    figure.legend(loc="outside right upper", frameon=False, fontsize=SMALL)
    return figure


def _most_common_part(watched: WatchedCurves) -> tuple[str, int] | None:
    parts = Counter(
        (entries[0].split, entries[0].images)
        for seeds in watched.values()
        for entries in seeds.values()
        if entries
    )
    return parts.most_common(1)[0][0] if parts else None


def _curves(seeds: Mapping[int, Sequence[Watched]], part: object) -> dict[int, Curve]:
    """Of the seeds that were watched on `part` and have any score."""
    found = {}
    for seed, entries in sorted(seeds.items()):
        scores = {e.step: 100 * watched_miou(e) for e in entries if (e.split, e.images) == part}
        if any(not math.isnan(score) for score in scores.values()):
            found[seed] = scores
    return found


def mean_curve(seeds: Sequence[Curve]) -> Curve:
    """The mean at the steps at which every seed has a score: no other step shows the same runs."""
    steps = sorted(set.intersection(*(set(curve) for curve in seeds)))
    means = {step: fmean(curve[step] for curve in seeds) for step in steps}
    return {step: mean for step, mean in means.items() if not math.isnan(mean)}


def _draw(axes: Axes, head: str, seeds: Mapping[int, Curve]) -> None:
    style = head_style(head)
    look: dict[str, Any] = {"color": style.colour, "linestyle": style.line}
    for curve in seeds.values() if len(seeds) > 1 else ():
        axes.plot([*curve], [*curve.values()], linewidth=0.5, alpha=0.6, **look)
    mean = mean_curve([*seeds.values()])
    name = shortened(head, LONGEST)
    marks: dict[str, Any] = {"marker": style.marker, "markersize": 2.5, "label": name}
    axes.plot([*mean], [*mean.values()], linewidth=1.4, **marks, **look)


def _sentences(
    watched: WatchedCurves, curves: Mapping[str, Mapping[int, Curve]], part: tuple[str, int]
) -> Iterator[str]:
    """What the lines are, and what is not among them."""
    split, images = part
    yield f"{images} evenly spaced images of {split}, scored during training."
    if any(len(seeds) > 1 for seeds in curves.values()):
        yield "Thin: each seed; bold: their mean, at the steps that all of them have."
    missing = [
        f"{head} seed {seed}"
        for head, seeds in watched.items()
        for seed, entries in seeds.items()
        if entries and seed not in curves.get(head, {})
    ]
    if missing:
        yield f"Watched on other images, or without a score: {', '.join(missing)}."
    failed = [
        f"{head} seed {seed} at step {entry.step}"
        for head, seeds in watched.items()
        for seed, entries in seeds.items()
        for entry in entries
        if entry.failure is not None and seed in curves.get(head, {})
    ]
    if failed:
        yield f"Not counted: {', '.join(failed[:5])}{' and others' * (len(failed) > 5)}."


class Picture(NamedTuple):
    """The figure for a page: a data URI, and in words what it shows in the end."""

    uri: str
    text: str


def watched_picture(watched: WatchedCurves, title: str) -> Picture | None:
    """None where `watched_figure` gives none."""
    figure = watched_figure(watched, title, width=TWO_COLUMNS)
    if figure is None:
        return None
    return Picture(data_uri(figure), f"{title}. {_in_words(watched)}")


def _in_words(watched: WatchedCurves) -> str:
    part = _most_common_part(watched)
    last = {
        head: max(mean.items())
        for head, seeds in watched.items()
        if (curves := _curves(seeds, part)) and (mean := mean_curve([*curves.values()]))
    }
    return ", ".join(f"{head} {miou:.1f} % at step {step}" for head, (step, miou) in last.items())
