"""What figures show: labels apart, bars and numbers as given, stable looks and bytes."""

import itertools
import math
import re
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from contextbench.report import plots
from contextbench.report.style import KNOWN_HEADS
from contextbench.report.tables import comparison_table
from contextbench.results import LabelInfo
from tests.report.records import (
    CLASSES,
    HEADS,
    LABELS,
    class_iou,
    comparison,
    cost,
    examples,
    failed,
    histories,
    profile,
    profile_of,
    run,
)


def texts(figure: Figure) -> str:
    """All that is written on a figure, line breaks removed."""
    found = figure.findobj(lambda artist: hasattr(artist, "get_text"))
    return " ".join(" ".join(artist.get_text().split()) for artist in found)


def names_on(axes) -> list[Annotation]:
    return [child for child in axes.get_children() if isinstance(child, Annotation)]


@pytest.fixture(scope="module")
def table():
    return comparison_table(comparison(), profile())


@pytest.fixture(scope="module")
def grid(table) -> Figure:
    return plots.tradeoff_grid(table, "Title: probe, protocol small")


def test_every_head_is_named_in_every_panel_and_names_do_not_overlap(grid):
    renderer = FigureCanvasAgg(grid).get_renderer()
    assert len(grid.axes) == len(plots.COSTS)
    for axes in grid.axes:
        names = names_on(axes)
        assert {name.get_text() for name in names} == set(HEADS)
        for name in names:
            name.arrow_patch.set_visible(False)  # its box would count as the name's
        boxes = [name.get_window_extent(renderer) for name in names]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_a_tradeoff_says_what_it_shows_on_which_device(grid):
    written = texts(grid)
    assert "Title: probe, protocol small" in written
    assert "Pareto front" in written
    assert "Example CPU @ 2.50GHz, 2 threads" in written
    for unit in ("mIoU (%)", "(G)", "(ms)", "(MiB)", "(M)"):
        assert unit in written


def test_points_lie_at_their_values_in_the_units_of_the_axes(table):
    figure = plots.tradeoff(table, "macs", "Title")
    points = {name.get_text(): name.xy for name in names_on(figure.axes[0])}
    for head, miou in zip(table["head"], table["miou"], strict=True):
        assert points[head] == pytest.approx((HEADS[head][2] / 1e9, 100 * miou), rel=1e-12)


def vertical_bars(axes) -> list[np.ndarray]:
    segments = [
        s for c in axes.collections if isinstance(c, LineCollection) for s in c.get_segments()
    ]
    return [segment for segment in segments if segment[0, 0] == segment[1, 0]]


def test_bars_reach_from_the_lowest_to_the_highest_seed(table):
    axes = plots.tradeoff(table, "macs", "Title").axes[0]
    drawn = sorted((bar[0, 1], bar[1, 1]) for bar in vertical_bars(axes))
    expected = sorted(zip(100 * table["miou_min"], 100 * table["miou_max"], strict=True))
    np.testing.assert_allclose(drawn, expected, rtol=1e-12)


def test_a_single_seed_has_no_bars():
    table = comparison_table(comparison(seeds=[0]), profile())
    assert vertical_bars(plots.tradeoff(table, "macs", "Title").axes[0]) == []


@pytest.mark.parametrize(("factor", "scale"), [(9, "linear"), (11, "log")])
def test_an_axis_is_logarithmic_beyond_a_factor_of_ten(factor, scale):
    heads = {"fcn": cost(1, 10**9, 1, []), "ppm": cost(1, factor * 10**9, 1, [])}
    runs = [run(head, iou=class_iou(head, 0)) for head in heads]
    figure = plots.tradeoff(comparison_table(runs, profile_of(heads)), "macs", "Title")
    assert figure.axes[0].get_xscale() == scale


def test_heads_without_numbers_are_named_below_the_figure():
    table = comparison_table([run(iou=class_iou("fcn", 0)), failed("ocr")], profile())
    assert "Not shown, for want of numbers: ocr (failed)." in texts(
        plots.tradeoff(table, "macs", "Title")
    )


def test_a_cost_that_nobody_measured_is_an_empty_panel():
    table = comparison_table([run(iou=class_iou("fcn", 0))], profile_of({"fcn": cost(1, 1, 1, [])}))
    assert "not measured" in texts(plots.tradeoff_grid(table, "Title"))


def test_known_heads_differ_in_marker_and_almost_in_colour():
    styles = list(KNOWN_HEADS.values())
    assert len({style.marker for style in styles}) == len(styles)
    assert len({style.colour for style in styles[:6]}) == 6


def test_the_style_of_an_unknown_head_is_the_same_in_every_process():
    program = "from contextbench.report.style import head_style; print(head_style('my-head'))"
    command = [sys.executable, "-c", program]
    other = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    assert other == str(plots.head_style("my-head"))


def test_group_cells_print_the_percentages_of_the_table(table):
    figure = plots.group_table_plot(table, "Title")
    drawn = {text.get_text() for text in figure.axes[0].texts}
    groups = table[["iou_local", "iou_scene", "iou_size", "iou_recall"]]
    assert drawn == {f"{100 * value:.1f}" for value in groups.to_numpy().flat}


def test_the_best_of_each_group_is_bold(table):
    figure = plots.group_table_plot(table, "Title")
    bold = {
        round(text.get_position()[0] - 0.5): text.get_text()
        for text in figure.axes[0].texts
        if text.get_weight() == "bold"
    }
    highest = table[["iou_local", "iou_scene", "iou_size", "iou_recall"]].max()
    assert bold == {column: f"{100 * value:.1f}" for column, value in enumerate(highest)}


def test_a_table_without_groups_has_no_group_figure():
    table = comparison_table(
        [run(iou=[0.5], labels=LabelInfo(classes=["a"], palette=[(0, 0, 0)]))], None
    )
    with pytest.raises(ValueError, match="no groups"):
        plots.group_table_plot(table, "Title")


@pytest.mark.parametrize(("count", "blocks"), [(60, 1), (61, 2), (150, 3)])
def test_many_classes_are_split_into_even_blocks(count, blocks):
    labels = LabelInfo(classes=[f"c{k}" for k in range(count)], palette=[(0, 0, 0)] * count)
    figure = plots.per_class_heatmap([run(iou=[0.5] * count, labels=labels)], "Title")
    assert len(figure.axes) == blocks
    written = [t.get_text() for axes in figure.axes for t in axes.get_yticklabels()]
    assert written == labels.classes


def curve(entries) -> tuple[np.ndarray, np.ndarray]:
    (line,) = plots.loss_curves({"fcn": {0: entries}}, "Title").axes[0].get_lines()
    return line.get_xdata(), line.get_ydata()


def test_loss_is_a_centred_moving_average_of_the_main_term():
    values = np.random.default_rng(0).uniform(1, 2, 60)
    entries = [{"step": i, "main": v, "aux": 9.0} for i, v in enumerate(values, start=1)]
    steps, losses = curve(entries)
    expected = [values[max(0, i - 1) : i + 2].mean() for i in range(60)]  # window 60 // 20 = 3
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
    np.testing.assert_array_equal(steps, np.arange(1, 61))


def test_a_step_logged_twice_counts_once_with_its_last_loss():
    steps, losses = curve(
        [{"step": 1, "main": 1.0}, {"step": 2, "main": 5.0}, {"step": 2, "main": 3.0}]
    )
    assert (list(steps), list(losses)) == ([1, 2], [1, 3])


def test_loss_curves_draw_every_seed_and_list_each_head_once():
    axes = plots.loss_curves(histories(seeds=(0, 1)), "Title").axes[0]
    assert len(axes.get_lines()) == 2 * len(HEADS)
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert sorted(legend) == sorted(HEADS)
    styles = {(line.get_linestyle(), line.get_marker()) for line in axes.get_lines()}
    assert len(styles) == len(HEADS)


def test_a_prediction_is_scored_on_labelled_pixels_of_its_image():
    truth = np.array([[0, 0, 1, 255]], dtype=np.uint8)
    predicted = np.array([[0, 1, 1, 1]], dtype=np.uint8)
    image = np.zeros((1, 4, 3), dtype=np.uint8)
    figure = plots.prediction_grid([image], [truth], {"fcn": [predicted]}, LABELS, "Title")
    # background: 1 / (1 + 2 - 1), local_brick: 1 / (2 + 1 - 1); no other class is there
    assert figure.axes[2].get_xlabel() == "mIoU 50.0 %"


def test_an_image_without_labels_has_no_score():
    ignored = np.full((2, 2), 255, dtype=np.uint8)
    image, predicted = np.zeros((2, 2, 3), dtype=np.uint8), np.zeros((2, 2), dtype=np.uint8)
    figure = plots.prediction_grid([image], [ignored], {"fcn": [predicted]}, LABELS, "Title")
    assert figure.axes[2].get_xlabel() == "–"


def test_a_prediction_grid_has_a_row_an_image_and_names_the_classes_it_shows():
    shown = examples(2)
    figure = plots.prediction_grid(
        shown.images, shown.truths, shown.predictions, LABELS, "Title", names=shown.names
    )
    assert len(figure.axes) == 2 * (2 + len(HEADS))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*CLASSES, "ignored"]
    titles = [axes.get_title() for axes in figure.axes[: 2 + len(HEADS)]]
    assert titles == ["image", "ground truth", *HEADS]


def test_ignored_pixels_are_striped_and_others_have_their_colour():
    truth = np.full((48, 48), 255, dtype=np.uint8)
    truth[0] = 2
    image = np.zeros((48, 48, 3), dtype=np.uint8)
    figure = plots.prediction_grid([image], [truth], {}, LABELS, "Title")
    drawn = np.asarray(figure.axes[1].get_images()[0].get_array())
    assert (drawn[0] == LABELS.palette[2]).all()
    assert set(np.unique(drawn[1:]).tolist()) == {0, 150}


def test_lists_of_different_lengths_are_refused():
    shown = examples(2)
    with pytest.raises(ValueError, match="'truths': 1"):
        plots.prediction_grid(shown.images, shown.truths[:1], {}, LABELS, "Title")


def test_saving_gives_png_and_svg_and_equal_figures_equal_bytes(tmp_path):
    def drawn() -> Figure:
        return plots.group_table_plot(comparison_table(comparison(), None), "Title")

    first = plots.save(drawn(), tmp_path / "a", "groups")
    second = plots.save(drawn(), tmp_path / "b", "groups")
    assert [path.name for path in first] == ["groups.png", "groups.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    svg = first[1].read_text()
    assert not re.search(r"<dc:date>", svg)
    assert math.isclose(float(re.search(r'width="([\d.]+)pt"', svg)[1]), 3.5 * 72)
