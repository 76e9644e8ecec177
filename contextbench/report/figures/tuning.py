"""Score against each tuned value, a line a head: whether a ranking depends on what was chosen."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from contextbench.config.grids import value_text
from contextbench.records.tuning import Basis, HeadTuning
from contextbench.report.figures.style import (
    BODY,
    INK,
    ONE_COLUMN,
    SMALL,
    TWO_COLUMNS,
    Picture,
    data_uri,
    new_figure,
    style_axes,
)
from contextbench.report.looks import head_style, shortened
from contextbench.report.tuning import axis_values, tuned_keys
from contextbench.report.words import fixed

PANELS = 2  # in a row
LONGEST = 14  # characters of a name in the legend
HEIGHT = 2.3  # inches of a row
OUTER = 0.35  # free part at both ends, of the distance between two values


def tuning_figure(
    basis: Basis, heads: Mapping[str, HeadTuning], title: str, *, width: float | None = None
) -> Figure | None:
    """A panel for each key. None where no trial has a score.

    Lines join the best score at each value, whatever the other keys were; dots are all trials.
    """
    scored = {n: h for n, h in heads.items() if any(t.score is not None for t in h.trials)}
    if not scored:
        return None
    keys = tuned_keys(scored)
    columns = min(PANELS, len(keys))
    rows = -(-len(keys) // columns)
    wide = width or (ONE_COLUMN if columns == 1 else TWO_COLUMNS)
    figure = new_figure(wide, 0.3 + HEIGHT * rows, title, _caption(basis, keys))
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in panels.flat[len(keys) :]:
        axes.set_visible(False)
    for number, (axes, key) in enumerate(zip(panels.flat, keys, strict=False)):
        label = f"mIoU (%), {basis.images} images of {basis.split}" if number % columns == 0 else ""
        _draw_panel(axes, key, scored, label)
    handles = {text: line for axes in panels.flat for line, text in _legend(axes)}
    figure.legend(
        handles.values(), handles, loc="outside right upper", frameon=False, fontsize=SMALL
    )
    return figure


def tuning_picture(basis: Basis, heads: Mapping[str, HeadTuning], title: str) -> Picture | None:
    """For a page. None where `tuning_figure` gives none."""
    figure = tuning_figure(basis, heads, title, width=TWO_COLUMNS)
    chosen = ", ".join(
        f"{name} {fixed(100 * head.score)} % with "
        + ", ".join(f"{key} {value_text(value)}" for key, value in head.values.items())
        for name, head in heads.items()
        if head.score is not None
    )
    return None if figure is None else Picture(data_uri(figure), f"{title}. Chosen: {chosen}")


def envelope(head: HeadTuning, key: str) -> list[tuple[Any, float]]:
    """Each value of a key with the best score that a trial with it has, of those that have one."""
    found = []
    for value in axis_values(head, key):
        scores = [t.score for t in head.trials if t.score is not None and t.values[key] == value]
        if scores:
            found.append((value, max(scores)))
    return found


def _draw_panel(axes: Axes, key: str, heads: Mapping[str, HeadTuning], label: str) -> None:
    values = _ordered([value for head in heads.values() for value in axis_values(head, key)])
    style_axes(axes, key, label)
    for name, head in heads.items():
        if axis_values(head, key):
            _draw_head(axes, name, head, key, values)
    axes.set_xticks(range(len(values)), [shortened(value_text(v), LONGEST) for v in values])
    axes.tick_params(axis="x", labelsize=BODY, labelcolor=INK)
    axes.set_xlim(-OUTER, len(values) - 1 + OUTER)
    axes.grid(visible=False, axis="x")


def _draw_head(axes: Axes, name: str, head: HeadTuning, key: str, values: Sequence[Any]) -> None:
    style = head_style(name)
    trials = [(t.values[key], t.score) for t in head.trials if t.score is not None]
    places = [values.index(value) for value, _ in trials]
    if len(trials) > len(envelope(head, key)):
        axes.plot(
            places, [100 * score for _, score in trials], ".", color=style.colour, markersize=3,
            alpha=0.5, markeredgewidth=0,
        )  # fmt: skip
    line = envelope(head, key)
    axes.plot(
        [values.index(value) for value, _ in line], [100 * score for _, score in line],
        color=style.colour, linestyle=style.line, linewidth=1.2, label=shortened(name, LONGEST),
        marker=style.marker, markersize=3.5, markerfacecolor="white", markeredgewidth=0.8,
    )  # fmt: skip
    if head.score is not None:
        axes.plot(
            values.index(head.values[key]), 100 * head.score, color=style.colour,
            marker=style.marker, markersize=5.5, markeredgewidth=0.4, markeredgecolor="white",
            zorder=4,
        )  # fmt: skip


def _legend(axes: Axes) -> list[tuple[Any, str]]:
    handles, texts = axes.get_legend_handles_labels()
    return list(zip(handles, texts, strict=True))


def _ordered(values: Sequence[Any]) -> list[Any]:
    """Each once: numbers by size, others as they come."""
    distinct = [value for number, value in enumerate(values) if value not in values[:number]]
    try:
        return sorted(distinct)
    except TypeError:
        return distinct


def _caption(basis: Basis, keys: Sequence[str]) -> str:
    seeds = "one training" if len(basis.seeds) == 1 else f"mean of {len(basis.seeds)} trainings"
    others = " Lines join the best at each value; dots are all trials." if len(keys) > 1 else ""
    return (
        f"Every trial ({seeds}) in view {basis.view}, which is not reported.{others} Filled: the "
        "chosen ones."
    )
