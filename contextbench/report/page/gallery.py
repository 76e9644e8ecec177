"""Example images with what the heads make of them, and what single pixels attend to.

Pictures are data URIs; parts of them are in percent of their width and height.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from contextbench.records.attention import AttentionMap, cell_box, no_attention, sums_to_one
from contextbench.records.classes import LabelInfo
from contextbench.records.examples import Examples
from contextbench.report.attention import (
    cells_of,
    clipped_at,
    finite,
    largest_parts,
    map_rows,
    meanings,
)
from contextbench.report.examples import (
    ALL_HEADS,
    HEAD_SHADES,
    SHARED_SHADES,
    Panel,
    Shade,
    class_shades,
    dispute_panels,
    prediction_panels,
)
from contextbench.report.page.images import colours, glow, photograph
from contextbench.report.page.marks import Mark, heights_of
from contextbench.report.words import significant

IMAGES = 12  # at most so many are shown
PARTS = 8  # at most so many parts of a vector are shown

Entry = Mapping[str, Any]  # what a template calls by name


class Part(NamedTuple):
    """A part of a vector, with the length of its bar in percent."""

    label: str
    text: str
    length: float


class Box(NamedTuple):
    """A part of a picture."""

    left: float
    top: float
    width: float
    height: float


class Picture(NamedTuple):
    """A panel of an example."""

    uri: str
    name: str
    below: str
    mark: Mark | None  # of the head that it is of
    kind: str  # with what it is shown: plain (always), prediction or error


@dataclass(frozen=True)
class Gallery:
    """All examples, with the legends of their pictures."""

    examples: Sequence[tuple[str, Sequence[Picture]]]  # names of images, and what there is of them
    attention: Sequence[Entry]
    classes: Sequence[Shade]
    left_out: int  # images that are not shown
    disputes: Mapping[str, Sequence[Shade]]  # legends of where heads differ


def gallery(
    examples: Examples | None, labels: LabelInfo, marks: Mapping[str, Mark]
) -> Gallery | None:
    """At most `IMAGES` examples and all attention maps; None without any."""
    if examples is None or not (examples.images or examples.attention):
        return None
    predictions = {h: examples.predictions[h] for h in marks if h in examples.predictions}
    shown = replace(examples, predictions=predictions).spread(IMAGES)
    several = len(predictions) > 1
    disputes = dispute_panels(shown) if several else [[]] * len(shown.names)
    return Gallery(
        examples=[
            (
                image.below,
                [
                    Picture(photograph(image.pixels), image.name, "", None, "plain"),
                    *(_picture(each, marks, "prediction") for each in panels),
                    *(_picture(each, marks, "error") for each in own[1:]),
                ],
            )
            for (image, *panels), own in zip(
                prediction_panels(shown, labels), disputes, strict=True
            )
        ],
        attention=_attention(examples, marks),
        classes=class_shades(shown, labels),
        left_out=len(examples.names) - len(shown.names),
        disputes={ALL_HEADS: SHARED_SHADES, "each head": HEAD_SHADES} if several else {},
    )


def _picture(panel: Panel, marks: Mapping[str, Mark], kind: str) -> Picture:
    mark = marks[panel.name] if panel.of_head else None
    return Picture(colours(panel.pixels), panel.name, panel.below, mark, kind if mark else "plain")


def _attention(examples: Examples, marks: Mapping[str, Mark]) -> list[Entry]:
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


def _view(maps: Sequence[AttentionMap], examples: Examples, marks: Mapping[str, Mark]) -> Entry:
    """All maps of one pixel; without the image where this is not among the examples."""
    name, (y, x) = maps[0].image, maps[0].pixel
    known = name in examples.names
    image = examples.images[examples.names.index(name)] if known else None
    shape = next((each.values.shape for each in maps if each.values.ndim == 2), (1, 1))
    height, width = shape if image is None else image.shape[:2]
    at = (round(100 * (x + 0.5) / width, 2), round(100 * (y + 0.5) / height, 2))
    places = dict.fromkeys(
        f"row {row}, column {column} of {h} × {w}"
        for _, (row, column), (h, w) in cells_of(maps, None)
    )
    return {
        "name": name,
        "image": "" if image is None else photograph(image),
        "ratio": round(width / height, 4),
        "pixel": (y, x),
        "at": None if image is None else at,
        "places": " and ".join(places),
        "rows": [
            {
                "kind": row.name,
                "mark": marks.get(row.head),
                "panels": [_panel(each, marks[each.head]) for each in row.maps],
                "meanings": meanings(row.maps),
            }
            for row in map_rows(maps)
        ],
        "notes": no_attention(maps),
    }


def _panel(found: AttentionMap, mark: Mark) -> Entry:
    """A map over the image, or a vector: its largest parts, or all of its values sorted."""
    values = finite(found.values)
    panel: dict[str, Any] = dict.fromkeys(("label", "highest", "glow", "parts", "profile"), "")
    panel |= {"mark": mark, "kind": found.kind}
    if values.ndim == 2:
        limit, highest = clipped_at(values), float(values.max(initial=0.0))
        top, left, bottom, right = cell_box(found.cell, (100, 100), values.shape)
        return panel | {
            "label": found.labels[0] if found.labels else "",
            "glow": glow(np.clip(values / limit, 0, 1)),
            "frame": Box(*(round(v, 3) for v in (left, top, right - left, bottom - top))),
            "limit": significant(limit, 2),
            "highest": significant(highest, 2) if highest > limit else "",
        }
    panel["limit"] = f"{values.size} values"
    if not sums_to_one(values):
        return panel | {"profile": heights_of(values.astype(np.float64))}
    parts = largest_parts(found, PARTS)
    largest = max(float(values.max()), 1e-9)
    return panel | {
        "parts": [
            Part(label, significant(value, 2), round(100 * value / largest, 1))
            for label, value in parts
        ]
    }
