"""The loss of every head over training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from contextbench.report.geometry import FloatArray
from contextbench.report.style import (
    BODY,
    ONE_COLUMN,
    head_style,
    new_figure,
    scale_axis,
    style_axes,
)

SMOOTHING = 20  # a curve is averaged over this part of its entries


def loss_curves(histories: Mapping[str, Mapping[int, list[dict[str, Any]]]], title: str) -> Figure:
    """Smoothed main loss of every head and seed over the training steps.

    `histories`: head -> seed -> entries with `step` and `main`. The main term, because the
    auxiliary terms differ from head to head.
    """
    curves = {
        head: [_curve(entries) for _, entries in sorted(seeds.items()) if entries]
        for head, seeds in histories.items()
    }
    window = max((curve.shape[1] for each in curves.values() for curve in each), default=0)
    window = max(1, window // SMOOTHING)
    figure = new_figure(ONE_COLUMN, 2.7, title, _loss_caption(curves, window))
    axes = figure.subplots()
    style_axes(axes, "Training step", "Main cross-entropy loss (nats)")
    smooth = {head: [_smoothed(each, window) for each in curves[head]] for head in curves}
    for head in sorted(smooth, key=lambda head: _final(smooth[head]), reverse=True):
        _draw_curves(axes, head, smooth[head])
    scale_axis(axes, "y", [y for each in smooth.values() for c in each for y in c[1]])
    axes.legend(
        loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=BODY, handlelength=3
    )
    return figure


def _curve(entries: Sequence[Mapping[str, Any]]) -> FloatArray:
    """(2, entries): steps and main loss; a step logged again after a resume counts once."""
    losses = {float(entry["step"]): float(entry["main"]) for entry in entries}
    return np.array(sorted(losses.items())).T


def _smoothed(curve: FloatArray, window: int) -> FloatArray:
    """Centred moving average of the loss; at the ends over the entries that there are."""
    window = min(window, curve.shape[1])
    kernel = np.ones(window)
    total = np.convolve(curve[1], kernel, mode="same")
    return np.stack((curve[0], total / np.convolve(np.ones(curve.shape[1]), kernel, mode="same")))


def _final(curves: Sequence[FloatArray]) -> float:
    return float(np.mean([curve[1, -1] for curve in curves])) if curves else -math.inf


def _loss_caption(curves: Mapping[str, Sequence[FloatArray]], window: int) -> str:
    spacings = [np.diff(curve[0]) for each in curves.values() for curve in each]
    spacing = float(np.median(np.concatenate(spacings))) if spacings else math.nan
    steps = "one step" if not spacing * window > 1 else f"{spacing * window:.0f} steps"
    several = any(len(each) > 1 for each in curves.values())
    seeds = " One line a seed." if several else ""
    return f"Moving average over {steps}; the legend is in order of the final loss.{seeds}"


def _draw_curves(axes: Axes, head: str, curves: Sequence[FloatArray]) -> None:
    style = head_style(head)
    for number, (steps, losses) in enumerate(curves):
        axes.plot(
            steps, losses, color=style.colour, linestyle=style.line, linewidth=1.0,
            marker=style.marker, markersize=3.5, markevery=(0.1, 0.2),
            label=head if number == 0 else None,
        )  # fmt: skip
