"""Geometry, statements and files of figures of attention."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from contextbench.records.attention import AttentionMap, cell_box, cell_of
from contextbench.report.attention import CLIP, RANGE, clipped_at
from contextbench.report.figures.attention import attention_figure, write_attention
from contextbench.report.figures.style import save

HEIGHT, WIDTH = 30, 44
PIXEL = (13, 40)
IMAGE = np.arange(HEIGHT * WIDTH * 3, dtype=np.uint8).reshape(HEIGHT, WIDTH, 3)


def a_map(
    head: str, kind: str = "influence", label: str = "road", **changes: object
) -> AttentionMap:
    values = np.random.default_rng(len(kind)).random((4, 6)).astype(np.float32)
    each = AttentionMap(
        head=head,
        kind=kind,
        image="street",
        pixel=PIXEL,
        cell=cell_of(PIXEL, (HEIGHT, WIDTH), (4, 6)),
        values=values,
        meaning=f"Meaning of {kind}; sum 1",
        labels=(label,) if label else (),
    )
    return dataclasses.replace(each, **changes)


def a_vector(head: str, kind: str, values: list[float]) -> AttentionMap:
    labels = tuple(f"part {i}" for i in range(len(values)))
    return a_map(head, kind, values=np.float32(values), labels=labels)


def texts(figure: Figure) -> str:
    """All that is printed, on one line."""
    parts = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        parts += [axes.get_title(), axes.get_xlabel(), *(text.get_text() for text in axes.texts)]
    return " ".join(" ".join(parts).split())


@pytest.mark.parametrize(("length", "count"), [(64, 8), (65, 9), (30, 4), (7, 7), (5, 1), (3, 5)])
def test_a_pixel_is_in_the_cell_whose_box_has_its_centre(length: int, count: int) -> None:
    for at in range(length):
        cell, _ = cell_of((at, 0), (length, 1), (count, 1))
        assert 0 <= cell < count
        top, _, bottom, _ = cell_box((cell, 0), (length, 1), (count, 1))
        assert top <= at + 0.5 < bottom + 1e-9


def test_boxes_tile_the_image() -> None:
    area = 0.0
    for cell in itertools.product(range(4), range(6)):
        top, left, bottom, right = cell_box(cell, (HEIGHT, WIDTH), (4, 6))
        area += (bottom - top) * (right - left)
    assert area == pytest.approx(HEIGHT * WIDTH)
    assert cell_box((3, 5), (HEIGHT, WIDTH), (4, 6))[2:] == (HEIGHT, WIDTH)


def test_colours_are_clipped_at_the_percentile_of_positive_cells() -> None:
    values = np.zeros((20, 20), dtype=np.float32)
    values[0] = np.arange(1, 21)
    assert clipped_at(values) == pytest.approx(np.percentile(np.arange(1, 21), CLIP))
    values[:2] = 1e-9
    values[0, 0] = 5
    assert clipped_at(values) == pytest.approx(5 / RANGE)
    assert clipped_at(np.zeros((2, 2), dtype=np.float32)) == 1


def test_the_figure_says_cell_box_upsampling_and_clipping() -> None:
    influence = a_map("ocr")
    printed = texts(attention_figure([influence], IMAGE, "Title", notes=["A note."]))
    assert "Title" in printed
    assert "A note." in printed
    # 13 of 30 rows in 4 cells of 7.5 rows, 40 of 44 columns in 6 cells of 7.33 columns.
    assert "Pixel 13,40 falls in the feature cell (row 1, column 5) of 4x6, framed" in printed
    assert "rows 7.5 to 15, columns 36.6667 to 44 of the image" in printed
    assert "nearest upsampling" in printed
    assert f"full at the {CLIP}th percentile" in printed
    limit, highest = clipped_at(influence.values), influence.values.max()
    assert f"{limit:.2g} ({highest:.2g})" in printed
    assert "Influence: meaning of influence; sum 1." in printed
    assert "Without attention, so the influence stands alone: ocr." in printed


def test_one_head_is_the_image_and_a_panel_for_each_map() -> None:
    maps = [
        a_map("ocr"),
        a_map("ocr", "attention", ""),
        a_vector("ocr", "regions", [0.5, 0.2, 0.3]),
        a_map("ocr", "regions-1", "part 0"),
        a_vector("ocr", "gate", [0.9, 0.1, 0.6]),
    ]
    figure = attention_figure(maps, IMAGE, "Title")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["image", "influence", "attention", "regions", "regions-1", "gate"]
    shown = [text.get_text() for text in figure.axes[3].texts]
    assert shown == ["part 0", "0.50", "part 2", "0.30", "part 1", "0.20"]
    assert "all 3 sorted" in figure.axes[5].get_xlabel()
    assert "Without attention" not in texts(figure)


def test_several_heads_have_their_influence_side_by_side() -> None:
    heads = ["fcn", "ocr", "ocnet"]
    maps = [each for head in heads for each in (a_map(head), a_map(head, "attention", ""))][1:]
    maps = [a_map("fcn"), *maps[1:]]
    figure = attention_figure(maps, IMAGE, "Title")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["image", *heads, "attention", "attention"]
    rows = [round(axes.get_position().y0, 3) for axes in figure.axes]
    assert len(set(rows)) == 3
    assert rows == sorted(rows, reverse=True)
    assert "stands alone: fcn." in texts(figure)


def test_many_heads_wrap_and_nothing_overlaps() -> None:
    maps = [a_map(f"head {i}") for i in range(13)]
    figure = attention_figure(maps, IMAGE, "Title")
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    boxes = [axes.get_tightbbox(renderer) for axes in figure.axes]
    assert len(boxes) == 14
    for one, other in itertools.combinations(boxes, 2):
        assert not (one.overlaps(other) and min(one.width, one.height) > 0)
    width, height = figure.bbox.size
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width for box in boxes)
    assert all(box.y1 <= height for box in boxes)


def test_equal_kinds_of_different_meaning_are_told_apart() -> None:
    maps = [
        a_map("fcn"),
        a_map("ocr"),
        a_map("ocr", "attention", "", meaning="Of regions"),
        a_map("isa"),
        a_map("isa", "attention", "", meaning="Of groups"),
    ]
    printed = texts(attention_figure(maps, IMAGE, "Title"))
    assert "Attention of ocr: of regions." in printed
    assert "Attention of isa: of groups." in printed
    assert printed.count("meaning of influence") == 1


def test_maps_of_zeros_and_of_one_cell_are_drawn(tmp_path: Path) -> None:
    maps = [
        a_map("fcn", values=np.zeros((4, 6), dtype=np.float32)),
        a_map("fcn", "attention", "", values=np.ones((1, 1), dtype=np.float32), cell=(0, 0)),
    ]
    figure = attention_figure(maps, IMAGE, "Title")
    assert all(path.stat().st_size for path in save(figure, tmp_path, "figure"))
    assert [axes.get_xlabel() for axes in figure.axes[1:]] == ["road\n1 (0)", "1 (1)"]


def test_several_pixels_in_one_figure_are_refused() -> None:
    with pytest.raises(ValueError, match="one pixel of one image"):
        attention_figure([a_map("fcn"), a_map("ocr", pixel=(0, 0))], IMAGE, "Title")
    with pytest.raises(ValueError, match="one pixel of one image"):
        attention_figure([], IMAGE, "Title")


def test_raw_values_are_written_unclipped(tmp_path: Path) -> None:
    maps = [a_map("ocr"), a_vector("ocr", "regions", [0.25, 0.75])]
    arrays, described = write_attention(maps, tmp_path, "name")
    entries = json.loads(described.read_text())
    assert [entry["kind"] for entry in entries] == ["influence", "regions"]
    assert entries[1]["labels"] == ["part 0", "part 1"]
    with np.load(arrays) as stored:
        for each, entry in zip(maps, entries, strict=True):
            np.testing.assert_array_equal(stored[entry["array"]], each.values)
            assert entry["meaning"] == each.meaning
