"""Example images with what the heads make of them, and what single pixels attend to."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from contextbench.records.attention import (
    INFLUENCE,
    AttentionMap,
    cell_box,
    no_attention,
    sums_to_one,
)
from contextbench.records.classes import LabelInfo
from contextbench.records.examples import Examples
from contextbench.report.figures.attention import clipped_at
from contextbench.report.figures.disagreement import (
    HEAD_SHADES,
    SHARED_SHADES,
    Shade,
    disagreement_image,
    head_image,
)
from contextbench.report.figures.predictions import IGNORE
from contextbench.report.page.images import FloatMap, colours, glow, mask, photograph
from contextbench.report.page.plots import Mark
from contextbench.report.page.text import percent, significant
from contextbench.statistics.disagreement import disagreement

ByteArray = npt.NDArray[np.uint8]

IMAGES = 12  # at most so many are shown
PARTS = 8  # at most so many parts of a vector are shown


@dataclass(frozen=True)
class HeadView:
    """What one head makes of an image."""

    mark: Mark
    prediction: str  # data URI
    errors: str  # data URI: where it is right and others are not, or the other way round
    accuracy: str  # of the labelled pixels
    won: str  # of the pixels that some heads have right and some wrong


@dataclass(frozen=True)
class ExampleView:
    """One image; pictures are data URIs."""

    name: str
    image: str
    truth: str
    agreement: str
    differing: str  # labelled pixels with different predictions
    heads: Sequence[HeadView]


class Part(NamedTuple):
    """A part of a vector, with the length of its bar in percent."""

    label: str
    text: str
    length: float


class Box(NamedTuple):
    """A part of a picture, in percent of its width and height."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class AttentionPanel:
    """One map over the image, or one vector: its largest parts, or all of its values sorted."""

    mark: Mark
    kind: str
    label: str  # what the map is of; may be empty
    glow: str  # data URI; empty for vectors
    frame: Box | None  # of the feature cell
    limit: str  # value in full colour, or how many values there are
    highest: str  # empty where nothing is clipped
    parts: Sequence[Part]
    profile: str  # SVG path in a box of 100 x 100


@dataclass(frozen=True)
class AttentionRow:
    """Panels that belong together: one kind of all heads, or all other kinds of one head."""

    kind: str  # empty for a row of one head
    mark: Mark | None
    panels: Sequence[AttentionPanel]
    meanings: Sequence[str]


@dataclass(frozen=True)
class AttentionView:
    """What one pixel of one image attends to in all heads."""

    name: str
    image: str  # data URI; empty where the image is not among the examples
    ratio: float  # width over height
    pixel: tuple[int, int]
    at: tuple[float, float] | None  # the pixel in percent from the left and from the top
    places: str  # which cells the pixel falls in
    rows: Sequence[AttentionRow]
    notes: Sequence[str]


@dataclass(frozen=True)
class ClassKey:
    """A class in the legend."""

    name: str
    colour: str


@dataclass(frozen=True)
class Gallery:
    """All examples, with the legends of their pictures."""

    examples: Sequence[ExampleView]
    attention: Sequence[AttentionView]
    classes: Sequence[ClassKey]
    ignored: bool
    agreement_key: Sequence[Shade]
    head_key: Sequence[Shade]
    left_out: int  # images that are not shown


def gallery(
    examples: Examples | None, labels: LabelInfo, marks: Mapping[str, Mark]
) -> Gallery | None:
    """At most `IMAGES` examples and all attention maps; None without any."""
    if examples is None or not (examples.images or examples.attention):
        return None
    shown = examples.spread(IMAGES)
    heads = [name for name in marks if name in examples.predictions]
    views = [_example(shown, index, heads, labels, marks) for index in range(len(shown.names))]
    masks = [*shown.truths, *(m for head in heads for m in shown.predictions[head])]
    ids = {int(value) for each in masks for value in np.unique(each)}
    return Gallery(
        examples=views,
        attention=_attention(examples, marks),
        classes=[
            ClassKey(labels.classes[k], "rgb({} {} {})".format(*labels.palette[k]))
            for k in sorted(ids - {IGNORE})
        ],
        ignored=IGNORE in ids,
        agreement_key=SHARED_SHADES,
        head_key=HEAD_SHADES,
        left_out=len(examples.names) - len(shown.names),
    )


def _example(
    examples: Examples,
    index: int,
    heads: Sequence[str],
    labels: LabelInfo,
    marks: Mapping[str, Mark],
) -> ExampleView:
    truth = examples.truths[index]
    predictions = {head: examples.predictions[head][index] for head in heads}
    agreement, differing = "", ""
    if len(heads) > 1:
        found = disagreement(truth, predictions)
        agreement = colours(disagreement_image(truth, predictions))
        differing = _share(found.distinct > 1, found.labelled)
    return ExampleView(
        name=examples.names[index],
        image=photograph(examples.images[index]),
        truth=mask(truth, labels),
        agreement=agreement,
        differing=differing,
        heads=[_head(head, truth, predictions, labels, marks[head]) for head in heads],
    )


def _head(
    head: str,
    truth: ByteArray,
    predictions: Mapping[str, ByteArray],
    labels: LabelInfo,
    mark: Mark,
) -> HeadView:
    found = disagreement(truth, predictions)
    right = found.right[found.heads.index(head)]
    return HeadView(
        mark=mark,
        prediction=mask(predictions[head], labels),
        errors=colours(head_image(truth, predictions, head)),
        accuracy=_share(right, found.labelled),
        won=_share(right & found.split, found.split),
    )


def _share(part: npt.NDArray[np.bool_], whole: npt.NDArray[np.bool_]) -> str:
    return percent(part.sum() / whole.sum() if whole.any() else math.nan)


def _attention(examples: Examples, marks: Mapping[str, Mark]) -> list[AttentionView]:
    """One view a pixel, in the order in which they come; its maps in the order of the heads."""
    views = []
    for name, pixel in dict.fromkeys((each.image, each.pixel) for each in examples.attention):
        maps = [
            each
            for head in marks
            for each in examples.attention
            if (each.image, each.pixel, each.head) == (name, pixel, head)
        ]
        if maps:
            views.append(_view(maps, examples, marks))
    return views


def _view(
    maps: Sequence[AttentionMap], examples: Examples, marks: Mapping[str, Mark]
) -> AttentionView:
    """All maps of one pixel."""
    name, (y, x) = maps[0].image, maps[0].pixel
    known = name in examples.names
    image = examples.images[examples.names.index(name)] if known else None
    shape = next((each.values.shape for each in maps if each.values.ndim == 2), (1, 1))
    height, width = shape if image is None else image.shape[:2]
    at = (round(100 * (x + 0.5) / width, 2), round(100 * (y + 0.5) / height, 2))
    return AttentionView(
        name=name,
        image="" if image is None else photograph(image),
        ratio=round(width / height, 4),
        pixel=(y, x),
        at=None if image is None else at,
        places=_places(maps),
        rows=_rows(maps, marks),
        notes=no_attention(maps),
    )


def _places(maps: Sequence[AttentionMap]) -> str:
    """The feature cells that the pixel falls in, one for each size of feature map."""
    cells = dict.fromkeys((each.cell, each.values.shape) for each in maps if each.values.ndim == 2)
    return " and ".join(
        f"row {cell[0]}, column {cell[1]} of {shape[0]} \N{MULTIPLICATION SIGN} {shape[1]}"
        for cell, shape in cells
    )


def _rows(maps: Sequence[AttentionMap], marks: Mapping[str, Mark]) -> list[AttentionRow]:
    """What every head has side by side, then a row for each head that has more."""
    others = [each for each in maps if each.kind != INFLUENCE]
    rows = [_row([each for each in maps if each.kind == INFLUENCE], marks, INFLUENCE)]
    for head in dict.fromkeys(each.head for each in others):
        rows.append(_row([each for each in others if each.head == head], marks))
    return [row for row in rows if row.panels]


def _row(maps: Sequence[AttentionMap], marks: Mapping[str, Mark], kind: str = "") -> AttentionRow:
    """A row of one kind, or without `kind` of one head."""
    panels = [_panel(each, marks[each.head]) for each in maps]
    return AttentionRow(kind, None if kind else panels[0].mark, panels, _meanings(maps))


def _meanings(maps: Sequence[AttentionMap]) -> list[str]:
    """What the kinds mean; maps of several parts have labels that say it."""
    said = [m for m in maps if m.kind == INFLUENCE or m.values.ndim == 1 or not m.labels]
    return list(
        dict.fromkeys(
            f"{m.kind[:1].upper()}{m.kind[1:]}: {m.meaning[:1].lower()}{m.meaning[1:]}."
            for m in said
        )
    )


def _panel(found: AttentionMap, mark: Mark) -> AttentionPanel:
    values = np.nan_to_num(found.values, nan=0.0, posinf=0.0, neginf=0.0)
    limit, highest = clipped_at(values), float(values.max(initial=0.0))
    spatial, weights = values.ndim == 2, sums_to_one(values)
    frame = None
    if spatial:
        top, left, bottom, right = cell_box(found.cell, (100, 100), values.shape)
        frame = Box(round(left, 3), round(top, 3), round(right - left, 3), round(bottom - top, 3))
    return AttentionPanel(
        mark=mark,
        kind=found.kind,
        label=found.labels[0] if spatial and found.labels else "",
        glow=glow(np.clip(values / limit, 0, 1)) if spatial else "",
        frame=frame,
        limit=significant(limit, 2) if spatial else f"{values.size} values",
        highest=significant(highest, 2) if spatial and highest > limit else "",
        parts=_parts(found, values) if weights and not spatial else [],
        profile="" if spatial or weights else _profile(values),
    )


def _parts(found: AttentionMap, values: FloatMap) -> list[Part]:
    """The largest parts of a vector, largest first."""
    order = np.argsort(-values, kind="stable")[:PARTS].tolist()
    labels = found.labels or [str(n) for n in range(len(values))]
    lengths = 100 * values / max(float(values.max()), 1e-9)
    return [
        Part(labels[i], significant(float(values[i]), 2), round(float(lengths[i]), 1))
        for i in order
    ]


def _profile(values: FloatMap) -> str:
    """All values from the largest to the smallest, as an area above zero."""
    ordered = np.sort(values)[::-1].clip(0)
    heights = 100 - 100 * ordered / max(float(ordered[0]), 1e-9)
    edges = np.linspace(0, 100, len(values) + 1)
    steps = "".join(
        f"L{left:.4g},{top:.4g}H{right:.4g}"
        for left, right, top in zip(edges[:-1], edges[1:], heights.tolist(), strict=True)
    )
    return f"M0,100{steps}V100Z"
