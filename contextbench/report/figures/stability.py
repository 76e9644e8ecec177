"""What resampled test images say of a ranking: places of the heads, and differences between them.

Both vary the images only. How much another training would change is shown by the seeds that were
run, as dots, and is no part of any interval.
"""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from contextbench.report.figures.heatmaps import SHADES, Cells, draw_cells, name_width
from contextbench.report.figures.style import (
    BODY,
    GREY,
    INK,
    RULE,
    SMALL,
    column_width,
    new_figure,
    style_axes,
    text_width,
)
from contextbench.report.looks import head_style, shortened
from contextbench.report.verdicts import LETTERS, draws_of, verdict_sentence
from contextbench.report.words import ends, level_text, percent, signed_points
from contextbench.statistics.intervals import HeadStatistics, Interval, Ranking

PLACE, ROW = 0.34, 0.2  # inches: width of a place, height of a head
SHADED = (
    "Shaded: true differences that as many trainings and images miss more often than one time in "
    "five."
)


def rank_stability(ranking: Ranking, title: str, *, width: float | None = None) -> Figure:
    """Heads against places: the share of the draws in which a head takes a place, and its letters.

    Raises ValueError for fewer than two heads.
    """
    if len(ranking.heads) < 2:
        raise ValueError("one head has no rank")
    names = [shortened(each.head) for each in ranking.heads]
    shares = np.array([each.rank_shares for each in ranking.heads])
    places = [_ordinal(place) for place in range(1, len(names) + 1)]
    judged = ranking.claims == "heads"
    letters = [each.groups if judged else each.models_groups for each in ranking.heads]
    caption = (
        f"Share (%) of {draws_of(ranking)} in which a head takes a place. "
        f"{_letters_sentence(ranking)}{verdict_sentence(ranking)} {_training(ranking.heads)}"
    )
    needed = name_width(names) + PLACE * len(places) + name_width(["letters", *letters])
    figure = new_figure(column_width(needed, width), 0.35 + ROW * len(names), title, caption)
    axes = figure.subplots()
    cells = Cells(
        texts=[[_percentage(share) for share in row] for row in shares.tolist()],
        faces=SHADES(np.where(shares > 0, 0.08 + 0.8 * shares, 0.0)),
        bold=shares == shares.max(axis=1, keepdims=True),
    )
    draw_cells(axes, names, places, cells)
    for row, text in enumerate(letters):
        axes.text(len(places) + 0.3, row + 0.5, text, va="center", size=BODY, color=INK)
    axes.text(len(places) + 0.3, -0.3, "letters", va="baseline", size=BODY, color=INK)
    return figure


def paired_differences(
    ranking: Ranking, title: str, *, reference: str | None = None, width: float | None = None
) -> Figure:
    """Every head minus the `reference`, the best head if None: interval, verdict, seeds.

    Raises ValueError for an unknown reference and without another head that has a score.
    """
    known = {each.head: each for each in ranking.heads if not math.isnan(each.miou.estimate)}
    base = known.get(ranking.heads[0].head if reference is None else reference)
    if base is None or len(known) < 2:
        raise ValueError(f"no differences to {reference or 'the best head'}: it needs another head")
    names = [shortened(head) for head in known]
    models = ranking.claims == "models"
    differences = [ranking.difference(head, base.head, models=models) for head in known]
    texts = [_described(each) for each in differences]
    needed = name_width(names) + text_width(texts, SMALL) + 1.3
    caption = _difference_caption(ranking, base, len(ranking.heads) - len(known))
    figure = new_figure(column_width(needed, width), 0.55 + ROW * len(known), title, caption)
    axes = figure.subplots()
    style_axes(axes, "Difference in mIoU (percentage points)", "")
    for row, head in enumerate(known.values()):
        _draw_difference(axes, row, head, base, ranking)
        axes.annotate(
            texts[row], (1, row), xytext=(4, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", va="center", size=SMALL, color=INK, annotation_clip=False,
        )  # fmt: skip
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=2)
    axes.set_yticks(range(len(names)), names, size=BODY)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    return figure


def _draw_difference(
    axes: Axes, row: int, head: HeadStatistics, base: HeadStatistics, ranking: Ranking
) -> None:
    """The seeds as dots, the interval as a bar, a marker that is hollow where not separated."""
    style = head_style(head.head)
    if head.seeds.n > 1:
        seeds = [100 * (value - base.miou.estimate) for value in head.seeds.values]
        axes.plot(seeds, [row] * head.seeds.n, ".", color=GREY, markersize=4, markeredgewidth=0)
    if head is base:
        return
    pair = ranking.pair(head.head, base.head)
    models = ranking.claims == "models"
    judged = pair.models if models else pair
    limit = 100 * judged.smallest_difference
    if not math.isnan(limit):
        box = Rectangle((-limit, row - 0.42), 2 * limit, 0.84, facecolor=RULE, zorder=1)
        axes.add_patch(box)
    difference = ranking.difference(head.head, base.head, models=models)
    estimate, low, high = (100 * value for value in difference)
    axes.plot([low, high], [row, row], color=style.colour, linewidth=1.4, zorder=3)
    axes.plot(
        [estimate], [row], marker=style.marker, markersize=4.5, color=style.colour, zorder=4,
        markerfacecolor=style.colour if judged.separated else "white", markeredgewidth=1,
    )  # fmt: skip


def _difference_caption(ranking: Ranking, base: HeadStatistics, missing: int) -> str:
    sentences = [
        f"mIoU minus that of {base.head}.",
        verdict_sentence(ranking),
        f"Bars: {level_text(ranking.resampling.level)} interval over {_over(ranking)}, one "
        "comparison at a time; filled markers: separated after Holm's correction for all pairs, "
        "hollow: not.",
        SHADED if ranking.claims == "heads" else "",
        _training(ranking.heads, f" minus the mean of {base.head}"),
    ]
    if missing:
        sentences.append(f"{missing} without a score not shown.")
    return " ".join(sentence for sentence in sentences if sentence)


def _over(ranking: Ranking) -> str:
    if ranking.claims == "models":
        return f"the same {draws_of(ranking)}, of these trained models"
    return "other trainings and other images"


def _letters_sentence(ranking: Ranking) -> str:
    if ranking.claims == "heads":
        return f"{LETTERS} "
    return "Letters: of these trained models over images alone, which say nothing of heads. "


def _training(heads: Sequence[HeadStatistics], dots: str | None = None) -> str:
    """What the figure says of other trainings."""
    several = max(head.seeds.n for head in heads)
    if several == 1:
        return "One seed a head: what another training would change is not known."
    if dots is not None:
        return f"Dots: single seeds{dots}."
    return f"Images vary, the trained models (up to {several} seeds a head) do not."


def _described(difference: Interval) -> str:
    if difference == (0, 0, 0):
        return "reference"
    return f"{signed_points(difference.estimate)} {ends(difference, write=signed_points)}"


def _percentage(share: float) -> str:
    """Whole percent, never rounded to none or all."""
    if share in (0, 1):
        return "100" if share else ""
    if share < 0.005:
        return "<1"
    return ">99" if share >= 0.995 else percent(share, 0)


def _ordinal(place: int) -> str:
    ending = (
        "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    )
    return f"{place}{ending}"
