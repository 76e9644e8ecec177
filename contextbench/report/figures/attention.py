"""What a pixel attends to, over the image: panels for the maps and vectors of one or more heads.

Axes: (H, W) image pixels, (h, w) feature pixels, called cells, height first.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from contextbench.records.attention import (
    AttentionMap,
    cell_box,
    no_attention,
    sums_to_one,
)
from contextbench.records.examples import ByteArray
from contextbench.report.attention import (
    CLIP,
    OPAQUE,
    RANGE,
    cells_of,
    clipped_at,
    largest_parts,
    map_rows,
    meanings,
)
from contextbench.report.figures.style import (
    BODY,
    INK,
    LINE_HEIGHT,
    SMALL,
    TITLE,
    TWO_COLUMNS,
    label_panel,
    new_figure,
    text_height,
    wrapped,
)
from contextbench.report.looks import BLUE, CHARACTER, RED, SKY, shortened
from contextbench.system.files import write_atomic, write_json

COLUMNS, COLUMNS_ALONE = 7, 4  # of panels, and where there is one head
CELL, MARGIN, NAME, GAP = 1.72, 0.05, 0.16, 0.06  # inches: widest panel, edge, row's name, between
ABOVE, BELOW = 0.17, 0.27  # inches of text above and below a panel
TITLE_TOP = 0.98  # where the title begins, as a share of the height
CHARACTER_SIZE = CHARACTER * BODY / 72  # inches
BARS, BAR = 6, LINE_HEIGHT * SMALL / 72  # of a vector: how many at most, height in inches at least
PALE = 0.5  # how far the image behind a map is towards white

HOW_DRAWN = (
    "Cells are drawn as they are (nearest upsampling), over the image in pale grey. The colour of "
    f"a map runs from nothing at 0 to full at the {CLIP}th percentile of its positive cells, or at "
    f"1/{RANGE} of its maximum if that is more: the number below the map. Cells above it are "
    "clipped, up to the maximum, in parentheses. Bars: "
    "the largest parts of a vector that sums to 1; a curve: all values of another, sorted."
)


def attention_figure(
    maps: Sequence[AttentionMap], image: ByteArray, title: str, *, notes: Sequence[str] = ()
) -> Figure:
    """The image with the pixel, then all maps over it. Two columns wide.

    `maps` are of one pixel of `image` (H, W, 3), those of a head next to each other; `notes` are
    sentences below. Of several heads, the influence comes first, side by side, then a row for each
    that has more. Raises ValueError without maps and for maps of several pixels.
    """
    if len({(each.image, each.pixel) for each in maps}) != 1:
        raise ValueError("a figure of attention shows one pixel of one image, and at least one map")
    size = (image.shape[0], image.shape[1])
    captions = [*_where(maps, size), *no_attention(maps), *notes, HOW_DRAWN, *meanings(maps)]
    rows = _rows(maps)
    figure, grid = _grid(rows, size, title, " ".join(captions))
    for panels, row in zip(grid, rows, strict=True):
        for axes, each, panel in zip(panels, row.maps, row.titles, strict=True):
            label_panel(axes, panel, _drawn(axes, each, image, maps[0]))
    return figure


def write_attention(maps: Sequence[AttentionMap], folder: Path, name: str) -> list[Path]:
    """Write the raw values as `name.npz` and what they are as `name.json`; return the paths.

    `name.json` is a list with an object a map; its `array` names the values in `name.npz`.
    """
    keys = [f"{number}-{each.head}-{each.kind}" for number, each in enumerate(maps)]
    described = [
        {
            "array": key,
            "head": each.head,
            "kind": each.kind,
            "image": each.image,
            "pixel": list(each.pixel),
            "cell": list(each.cell),
            "shape": list(each.values.shape),
            "meaning": each.meaning,
            "labels": list(each.labels),
        }
        for key, each in zip(keys, maps, strict=True)
    ]
    buffer = io.BytesIO()
    values: dict[str, Any] = {key: each.values for key, each in zip(keys, maps, strict=True)}
    np.savez_compressed(buffer, allow_pickle=False, **values)
    arrays, texts = folder / f"{name}.npz", folder / f"{name}.json"
    write_atomic(arrays, lambda file: file.write(buffer.getvalue()))
    write_json(texts, described)
    return [arrays, texts]


def _where(maps: Sequence[AttentionMap], size: tuple[int, int]) -> Iterator[str]:
    """A sentence on pixel and cell; one for each size of feature map."""
    found = list(cells_of(maps, size))
    y, x = maps[0].pixel
    for heads, (row, column), (h, w) in found:
        top, left, bottom, right = cell_box((row, column), size, (h, w))
        of = f" of {', '.join(heads)}" if len(found) > 1 else ""
        yield (
            f"Pixel {y},{x} falls in the feature cell (row {row}, column {column}) of {h}x{w}{of}, "
            f"framed: rows {top:g} to {bottom:g}, columns {left:g} to {right:g} of the image."
        )


class _Row(NamedTuple):
    name: str
    titles: Sequence[str]
    maps: Sequence[AttentionMap | None]  # None: the image


def _rows(maps: Sequence[AttentionMap]) -> list[_Row]:
    """As `map_rows`, the image first, long rows broken; of one head all in one."""
    if len({each.head for each in maps}) == 1:
        rows, length = [_Row("", [each.kind for each in maps], maps)], COLUMNS_ALONE
    else:
        length = COLUMNS
        rows = [
            _Row(row.name, [m.kind if row.head else m.head for m in row.maps], row.maps)
            for row in map_rows(maps)
        ]
    rows[0] = _Row(rows[0].name, ["image", *rows[0].titles], [None, *rows[0].maps])
    return [
        _Row(name, titles[i : i + length], row[i : i + length])
        for name, titles, row in rows
        for i in range(0, len(row), length)
    ]


def _grid(
    rows: Sequence[_Row], size: tuple[int, int], title: str, caption: str
) -> tuple[Figure, list[list[Axes]]]:
    """Axes for each map of each row, laid out in inches, with the rows' names before them."""
    edge = MARGIN + (NAME if any(row.name for row in rows) else 0)
    columns = max(len(row.maps) for row in rows)
    cell = min(CELL, (TWO_COLUMNS - edge - MARGIN) / columns - GAP)
    tall = cell * size[0] / size[1]
    pitch = ABOVE + tall + BELOW
    figure = new_figure(TWO_COLUMNS, (pitch * len(rows) + GAP) / (TITLE_TOP - 0.01), title, caption)
    figure.set_layout_engine("none")
    width, height = figure.get_size_inches()
    top = TITLE_TOP * height - text_height(wrapped(title, width, TITLE), TITLE)
    grid = []
    for number, row in enumerate(rows):
        y = top - (number + 1) * pitch + BELOW
        lefts = edge + (cell + GAP) * np.arange(len(row.maps))
        boxes = [(x / width, y / height, cell / width, tall / height) for x in lefts]
        grid.append([figure.add_axes(box) for box in boxes])
        name = shortened(row.name, int(pitch / CHARACTER_SIZE))
        figure.text(
            MARGIN / width, (y + tall / 2) / height, name,
            rotation=90, ha="left", va="center", size=BODY, weight="bold", color=INK,
        )  # fmt: skip
    return figure, grid


def _drawn(
    axes: Axes, each: AttentionMap | None, image: ByteArray, about: AttentionMap
) -> list[str]:
    """Draws the image, a map or a vector; the lines that stand below."""
    if each is None:
        return _draw_image(axes, image, about)
    if each.values.ndim == 2:
        return _draw_map(axes, each, image)
    return _draw_bars(axes, each) if sums_to_one(each.values) else _draw_profile(axes, each)


def _draw_image(axes: Axes, image: ByteArray, about: AttentionMap) -> list[str]:
    axes.imshow(image, extent=_extent(image), aspect="auto")
    y, x = about.pixel
    for colour, width in (("white", 2.2), (INK, 0.9)):
        axes.plot(
            [x + 0.5], [y + 0.5], marker="o", markersize=7, markerfacecolor="none",
            markeredgecolor=colour, markeredgewidth=width,
        )  # fmt: skip
    axes.set_xlim(0, image.shape[1])
    axes.set_ylim(image.shape[0], 0)
    return [about.image, f"pixel {y},{x}"]


def _draw_map(axes: Axes, each: AttentionMap, image: ByteArray) -> list[str]:
    """The pale image, the values as the opacity of one colour, and a frame around the cell."""
    grey = image.mean(axis=2) / 255
    pale = np.repeat((PALE + (1 - PALE) * grey)[..., None], 3, axis=2)
    extent = _extent(image)
    axes.imshow(pale, extent=extent, aspect="auto")
    limit, highest = clipped_at(each.values), float(each.values.max())
    heat = np.empty((*each.values.shape, 4))
    heat[..., :3] = to_rgb(RED)
    heat[..., 3] = OPAQUE * np.clip(each.values / limit, 0, 1)
    axes.imshow(heat, extent=extent, aspect="auto", interpolation="nearest")
    size = (image.shape[0], image.shape[1])
    top, left, bottom, right = cell_box(each.cell, size, each.values.shape)
    for colour, width in (("white", 1.6), (INK, 0.7)):
        axes.add_patch(
            Rectangle(
                (left, top), right - left, bottom - top, fill=False, edgecolor=colour,
                linewidth=width,
            )
        )  # fmt: skip
    return [each.labels[0] if each.labels else "", f"{limit:.2g} ({highest:.2g})"]


def _draw_bars(axes: Axes, each: AttentionMap) -> list[str]:
    """The largest parts, each with its name and its value in its bar's row."""
    count = max(1, min(BARS, int(axes.bbox.height / axes.figure.dpi / BAR)))
    parts = largest_parts(each, count)
    axes.barh(np.arange(len(parts)), [value for _, value in parts], height=0.85, color=SKY)
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_xlim(0, max(1e-9, parts[0][1]) * 1.02)
    room = _room(axes) - 5  # the number has the rest
    for row, (name, value) in enumerate(parts):
        place: dict[str, Any] = {"va": "center", "size": SMALL, "color": INK}
        place["transform"] = axes.get_yaxis_transform()
        axes.text(0.02, row, shortened(name, room), ha="left", **place)
        axes.text(0.98, row, f"{value:.2f}", ha="right", **place)
    return [f"{len(parts)} largest of {len(each.values)}"]


def _draw_profile(axes: Axes, each: AttentionMap) -> list[str]:
    """All values from the largest to the smallest."""
    values = np.sort(each.values)[::-1]
    axes.fill_between(np.arange(len(values)), values, step="mid", color=SKY, edgecolor=BLUE)
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set_ylim(0, max(1e-9, float(values.max())) * 1.02)
    return [f"all {len(values)} sorted", f"{values[0]:.2g} to {values[-1]:.2g}"]


def _room(axes: Axes) -> int:
    """Small characters that fit the width of a panel."""
    return max(6, int(axes.get_position().width * TWO_COLUMNS * 72 / (CHARACTER * SMALL)))


def _extent(image: ByteArray) -> tuple[float, float, float, float]:
    """Image pixels as coordinates: (left, right, bottom, top)."""
    return 0, image.shape[1], image.shape[0], 0
