"""The loss of every head over training, over its seeds."""

import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from contextbench.report.figures.geometry import FloatArray
from contextbench.report.figures.labels import name_ends, room_for
from contextbench.report.figures.style import (
    ONE_COLUMN,
    head_style,
    new_figure,
    scale_axis,
    style_axes,
)

SMOOTHING = 20  # a curve is averaged over this part of its entries
LOGARITHMIC = 3.0  # highest over lowest loss from which on the axis is logarithmic

Histories = Mapping[str, Mapping[int, list[dict[str, Any]]]]
Curves = dict[str, dict[int, FloatArray]]  # head -> seed -> (2, entries): steps, losses


class Band(NamedTuple):
    """Seeds of one head at the steps that any of them logged; NaN where none has a loss."""

    steps: FloatArray
    mean: FloatArray
    low: FloatArray
    high: FloatArray


def loss_curves(histories: Histories, title: str, *, width: float = ONE_COLUMN) -> Figure:
    """Smoothed main loss of every head: mean over seeds, and a band from lowest to highest.

    `histories`: head -> seed -> entries with `step` and `main`. The main term, because the
    auxiliary terms differ from head to head. A loss that is not finite is a gap, named below the
    figure, as are seeds that end before others.
    """
    curves = {
        head: {
            seed: curve
            for seed, entries in sorted(seeds.items())
            if (curve := _curve(entries)).size
        }
        for head, seeds in histories.items()
    }
    longest = max(
        (each.shape[1] for seeds in curves.values() for each in seeds.values()), default=0
    )
    window = max(1, longest // SMOOTHING)
    smooth = {
        head: [_smoothed(each, window) for each in seeds.values()] for head, seeds in curves.items()
    }
    bands = {head: _band(seeds) for head, seeds in smooth.items() if seeds}
    height = 0.5 + max(1.9, room_for(len(bands)))
    figure = new_figure(width, height, title, " ".join(_sentences(curves, window)))
    axes = figure.subplots()
    style_axes(axes, "Training step", "Main cross-entropy loss (nats)")
    ends = {head: end for head, band in bands.items() if (end := _draw(axes, head, band))}
    values = [y for band in bands.values() for y in band.mean.tolist() if not math.isnan(y)]
    scale_axis(axes, "y", values, LOGARITHMIC)
    axes.set_xlim(right=max((x for x, _ in ends.values()), default=None))
    name_ends(figure, {axes: ends})
    return figure


def _curve(entries: Sequence[Any]) -> FloatArray:
    """(2, entries): steps and main loss; a step logged again after a resume counts once.

    An entry without a finite loss is NaN; one without a step is left out.
    """
    losses = {}
    for entry in entries:
        step, main = (_number(entry, key) for key in ("step", "main"))
        if math.isfinite(step):
            losses[step] = main if math.isfinite(main) else math.nan
    return np.array(sorted(losses.items())).reshape(-1, 2).T


def _number(entry: Any, key: str) -> float:
    value = entry.get(key) if isinstance(entry, Mapping) else None
    return float(value) if isinstance(value, Real) else math.nan


def _smoothed(curve: FloatArray, window: int) -> FloatArray:
    """Centred moving average over the losses that there are in the window; gaps stay gaps."""
    steps, losses = curve
    window = min(window, len(losses))
    known = ~np.isnan(losses)
    kernel = np.ones(window)
    total = np.convolve(np.where(known, losses, 0.0), kernel, mode="same")
    count = np.convolve(known, kernel, mode="same")
    mean = np.full(len(losses), np.nan)
    np.divide(total, count, out=mean, where=known)
    return np.stack((steps, mean))


def _band(seeds: Sequence[FloatArray]) -> Band:
    """Mean, lowest and highest of the seeds, each from its first to its last step."""
    steps = np.unique(np.concatenate([curve[0] for curve in seeds]))
    losses = np.stack([np.interp(steps, x, y, left=np.nan, right=np.nan) for x, y in seeds])
    known = ~np.isnan(losses)
    mean = np.full(len(steps), np.nan)
    np.divide(np.where(known, losses, 0.0).sum(0), known.sum(0), out=mean, where=known.any(0))
    low = np.where(known, losses, np.inf).min(axis=0)
    high = np.where(known, losses, -np.inf).max(axis=0)
    return Band(steps, mean, *(np.where(known.any(0), end, np.nan) for end in (low, high)))


def _draw(axes: Axes, head: str, band: Band) -> tuple[float, float] | None:
    """A line in its band; returns its last point, None where there is none."""
    known = np.flatnonzero(~np.isnan(band.mean))
    if not known.size:
        return None
    style = head_style(head)
    if (band.high > band.low).any():
        axes.fill_between(
            band.steps, band.low, band.high, color=style.colour, alpha=0.18, linewidth=0, zorder=2
        )
    axes.plot(
        band.steps, band.mean, color=style.colour, linestyle=style.line, linewidth=1.0, zorder=3
    )
    return float(band.steps[known[-1]]), float(band.mean[known[-1]])


def _sentences(curves: Curves, window: int) -> Iterator[str]:
    """What the lines are, and where something is missing."""
    every = [each for seeds in curves.values() for each in seeds.values()]
    spacings = np.concatenate([np.diff(each[0]) for each in every]) if every else np.empty(0)
    spacing = float(np.median(spacings)) if spacings.size else math.nan
    yield (
        f"Moving average over {spacing * window:.0f} steps."
        if spacing * window > 1
        else "Not smoothed."
    )
    if any(len(seeds) > 1 for seeds in curves.values()):
        yield "Line: mean over the seeds; band: lowest to highest."
    gaps = list(_gaps(curves))
    if gaps:
        yield f"Loss not finite, a gap: {', '.join(gaps)}."
    early = list(_early(curves))
    if early:
        yield f"Ended early, then left out of the mean: {', '.join(early)}."


def _gaps(curves: Curves) -> Iterator[str]:
    for head, seeds in curves.items():
        for seed, (steps, losses) in seeds.items():
            lost = steps[np.isnan(losses)]
            if lost.size == steps.size:
                yield f"{head} seed {seed} (everywhere)"
            elif lost.size:
                share = f"{lost.size} of {steps.size} entries"
                yield f"{head} seed {seed} ({share}, first at step {lost[0]:g})"


def _early(curves: Curves) -> Iterator[str]:
    last = max((steps[-1] for seeds in curves.values() for steps, _ in seeds.values()), default=0)
    for head, seeds in curves.items():
        for seed, (steps, _) in seeds.items():
            if steps[-1] < last:
                yield f"{head} seed {seed} at step {steps[-1]:g}"
