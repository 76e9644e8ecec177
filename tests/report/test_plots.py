"""What figures show: labels apart, bars and numbers as given, stable looks and bytes."""

import itertools
import math
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import rgb_to_hsv, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation, Text

from contextbench.records.classes import ClassTotals, LabelInfo
from contextbench.records.counts import Areas
from contextbench.records.examples import Examples
from contextbench.report.collection import Collection
from contextbench.report.comparison import comparison_table, per_class_table
from contextbench.report.figures.examples import prediction_grid
from contextbench.report.figures.heatmaps import DIVERGING, class_figure, gain_figure, group_figure
from contextbench.report.figures.plots import course_figure, tradeoff, tradeoff_grid
from contextbench.report.figures.stability import paired_differences, rank_stability
from contextbench.report.figures.style import ONE_COLUMN, TWO_COLUMNS, column_width, save
from contextbench.report.heat import Heat, class_heat, group_heat
from contextbench.report.looks import KNOWN_HEADS, head_style, shortened
from contextbench.report.tradeoffs import MAIN, WIDE_QUARTILES
from contextbench.report.training import losses_of
from contextbench.report.words import signed
from contextbench.statistics.intervals import (
    HeadStatistics,
    Interval,
    ModelsTest,
    PairStatistics,
    Ranking,
    Resampling,
    SeedSpread,
    rank,
)
from contextbench.statistics.methods import Parts
from tests.report.rankings import RANKING
from tests.report.records import (
    CLASSES,
    GROUPS,
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

FEW = Resampling(200)


def areas(iou: list[float], images: int = 20) -> Areas:
    """Images around the IoU of each class: P = L = 1000, so IoU = I / (2000 - I)."""
    noise = 0.03 * np.sin(np.arange(images * len(iou))).reshape(images, -1)
    around = np.clip(np.array(iou) + noise, 0, 1)
    correct = np.rint(2000 * around / (1 + around)).astype(np.int64)
    pixels = np.full_like(correct, 1000)
    return Areas([f"{i:03}" for i in range(images)], correct, pixels, pixels)


@pytest.fixture(scope="module")
def ranking() -> Ranking:
    counts = {h: {seed: areas(class_iou(h, seed)) for seed in range(3)} for h in HEADS}
    return rank(counts, resampling=FEW)


def pair(first: str, second: str, difference: Interval, *, separated: bool) -> PairStatistics:
    p = 0.001 if separated else 0.4
    models = ModelsTest(difference, p, p, separated, 0.01)
    parts = Parts((0.01, 0.01), (3, 3), 0.005, 7)
    return PairStatistics(first, second, difference, p, p, separated, 0.02, 9, 9, models, parts)


def head(name: str, miou: float, *shares: float, groups: str = "a") -> HeadStatistics:
    interval = Interval(miou, miou - 0.02, miou + 0.03)
    return HeadStatistics(name, interval, SeedSpread((miou - 0.01, miou + 0.01)), groups, shares)


THREE = Ranking(  # the first two are not separated
    heads=(
        head("ocr", 0.80, 0.998, 0.002, 0.0),
        head("fcn", 0.79, 0.002, 0.9, 0.098, groups="ab"),
        head("ppm", 0.70, 0.0, 0.098, 0.902, groups="b"),
    ),
    pairs=(
        pair("ocr", "fcn", Interval(0.01, -0.01, 0.02), separated=False),
        pair("ocr", "ppm", Interval(0.10, 0.08, 0.11), separated=True),
        pair("fcn", "ppm", Interval(0.09, 0.07, 0.12), separated=True),
    ),
    images=50,
    block=7,
    resampling=Resampling(1000),
    missing_classes={},
)


def texts(figure: Figure) -> str:
    """All that is written on a figure, line breaks removed."""
    found = figure.findobj(lambda artist: hasattr(artist, "get_text"))
    return " ".join(" ".join(artist.get_text().split()) for artist in found)


def names_on(axes) -> list[Annotation]:
    return [child for child in axes.get_children() if isinstance(child, Annotation)]


def loss_curves(histories, title, **look) -> Figure:
    losses = losses_of(histories)
    assert losses is not None
    return course_figure(losses, title, **look)


def heat_of(runs) -> Heat:
    heat = class_heat(per_class_table(runs))
    assert heat is not None
    return heat


def class_plot(runs, title, **look) -> Figure:
    return class_figure(heat_of(runs), title, **look)


def gain_plot(runs, title, **look) -> Figure:
    return gain_figure(heat_of(runs), title, **look)


def group_plot(runs, rankings=None, **look) -> Figure:
    """With intervals and seeds of `rankings`, by group."""
    heat = group_heat(Collection(runs))
    assert heat is not None
    found = {(e.head, group): e for group, r in (rankings or {}).items() for e in r.heads}
    first = next(iter((rankings or {}).values()), None)
    return group_figure(replace(heat, statistics=found), first, "Title", **look)


@pytest.fixture(scope="module")
def table():
    return comparison_table(comparison(), profile())


@pytest.fixture(scope="module")
def grid(table) -> Figure:
    return tradeoff_grid(table, "Title: probe, protocol small")


def test_every_head_is_named_in_every_panel_and_names_do_not_overlap(grid):
    renderer = FigureCanvasAgg(grid).get_renderer()
    grid.draw_without_rendering()  # puts names into their places
    assert len(grid.axes) == len(MAIN)
    for axes in grid.axes:
        names = names_on(axes)
        assert {name.get_text() for name in names} == set(HEADS)
        boxes = [Text.get_window_extent(name, renderer) for name in names]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_a_tradeoff_says_what_it_shows_on_which_device(grid):
    written = texts(grid)
    assert "Title: probe, protocol small" in written
    assert "Pareto front" in written
    assert "Example CPU @ 2.50GHz, 2 threads" in written
    for unit in ("mIoU (%)", "(G)", "(ms)", "(MiB)", "(M)"):
        assert unit in written


def test_points_lie_at_their_values_in_the_units_of_the_axes(table):
    figure = tradeoff(table, "macs", "Title")
    points = {name.get_text(): name.xy for name in names_on(figure.axes[0])}
    for head, miou in zip(table["head"], table["miou"], strict=True):
        assert points[head] == pytest.approx((HEADS[head][2] / 1e9, 100 * miou), rel=1e-12)


def bars(axes, marker: str) -> list[tuple[list[float], list[float]]]:
    """Places of the lines of two points with this marker at their ends."""
    lines = [line for line in axes.get_lines() if line.get_marker() == marker]
    ends = [(np.ravel(line.get_xdata()).tolist(), np.ravel(line.get_ydata()).tolist())
            for line in lines]  # fmt: skip
    return [(x, y) for x, y in ends if len(x) == 2]


def vertical(axes, marker: str) -> list[list[float]]:
    return sorted(y for x, y in bars(axes, marker) if x[0] == x[1] and y[0] != y[1])


def test_dots_lie_at_the_lowest_and_highest_seed(table):
    axes = tradeoff(table, "macs", "Title").axes[0]
    expected = sorted(zip(100 * table["miou_min"], 100 * table["miou_max"], strict=True))
    np.testing.assert_allclose(vertical(axes, "."), expected, rtol=1e-12)
    assert "Small dots: lowest and highest of the seeds." in texts(axes.figure)


def test_a_single_seed_has_no_dots():
    table = comparison_table(comparison(seeds=[0]), profile())
    figure = tradeoff(table, "macs", "Title")
    assert bars(figure.axes[0], ".") == []
    assert "Small dots" not in texts(figure)


def test_bars_are_the_intervals_of_the_ranking(table, ranking):
    axes = tradeoff(table, "macs", "Title", ranking=ranking).axes[0]
    drawn = [y for y in vertical(axes, "None") if y[0] not in 100 * table["miou"].to_numpy()]
    expected = sorted((100 * each.miou.low, 100 * each.miou.high) for each in ranking.heads)
    np.testing.assert_allclose(drawn, expected, rtol=1e-12)
    assert "95 % interval of mIoU over 200 draws of 20 images" in texts(axes.figure)


def test_only_latency_has_horizontal_bars_and_they_end_at_the_quartiles(table, grid):
    quartiles = sorted(zip(table["latency_q1_ms"], table["latency_q3_ms"], strict=True))
    drawn = dict(zip(MAIN, [sorted(x for x, _ in bars(a, "|")) for a in grid.axes], strict=True))
    np.testing.assert_allclose(drawn.pop("latency_ms"), quartiles, rtol=1e-12)
    assert not any(drawn.values())
    assert "Memory: predicted, so without a spread. Counts are exact." in texts(grid)


def rising(ranking: Ranking | None) -> Figure:
    """Each of the three heads costs more than a worse one, so that all are on the front."""
    heads = {name: cost(1, n * 10**9, 1, []) for n, name in enumerate(["ppm", "fcn", "ocr"], 1)}
    runs = [run(each.head, iou=[each.miou.estimate] * 9) for each in THREE.heads]
    table = comparison_table(runs, profile_of(heads))
    return tradeoff(table, "macs", "Title", ranking=ranking)


def steps(figure: Figure) -> list[tuple[float, bool]]:
    """Where each step of the front begins, and whether it is dotted."""
    found = [line for line in figure.axes[0].get_lines() if line.get_zorder() == 2]
    return sorted((float(line.get_xdata()[0]), line.get_linestyle() != "-") for line in found)


def test_the_front_is_dotted_between_heads_that_cannot_be_separated():
    assert steps(rising(THREE)) == [(1, False), (2, True), (3, False)]
    assert steps(rising(None)) == [(1, False), (2, False), (3, False)]


def test_a_tradeoff_names_the_heads_that_cannot_be_separated_from_the_best():
    assert "ocr has the highest mIoU; not separated from it: fcn." in texts(rising(THREE))
    one = replace(THREE, pairs=tuple(replace(p, separated=True) for p in THREE.pairs))
    assert "ocr is better than every other head, over other trainings" in texts(rising(one))
    none = replace(THREE, pairs=tuple(replace(p, separated=False) for p in THREE.pairs))
    assert "No head is separated from ocr, which has the highest mIoU." in texts(rising(none))


@pytest.mark.parametrize(("factor", "scale"), [(9, "linear"), (11, "log")])
def test_an_axis_is_logarithmic_beyond_a_factor_of_ten(factor, scale):
    heads = {"fcn": cost(1, 10**9, 1, []), "ppm": cost(1, factor * 10**9, 1, [])}
    runs = [run(head, iou=class_iou(head, 0)) for head in heads]
    figure = tradeoff(comparison_table(runs, profile_of(heads)), "macs", "Title")
    assert figure.axes[0].get_xscale() == scale


@pytest.mark.parametrize(("width", "named"), [(0.9, False), (1.1, True)])
def test_latencies_that_vary_much_are_named_below(width, named):
    """Quartiles of 10 - 2 x, 10, 10 + 2 x are 10 - x and 10 + x, 0.2 x of the median apart."""
    x = 5 * WIDE_QUARTILES * width
    times = {"fcn": [10 - 2 * x, 10.0, 10 + 2 * x], "ppm": [10.0, 10.0, 10.0]}
    heads = {head: cost(1, 10**9, 1, each) for head, each in times.items()}
    table = comparison_table([run(h, iou=class_iou(h, 0)) for h in heads], profile_of(heads))
    written = texts(tradeoff(table, "latency_ms", "Title"))
    assert (f"Wide quartiles, in % of the median: fcn {20 * x:.0f};" in written) == named
    assert "Wide quartiles" not in texts(tradeoff(table, "macs", "Title"))


def test_names_have_the_colours_of_their_markers(table):
    """A name is darker than its marker, so that it can be read, and of the same hue."""
    figure = tradeoff(table, "macs", "Title")
    for name in names_on(figure.axes[0]):
        marker = rgb_to_hsv(to_rgb(KNOWN_HEADS[name.get_text()].colour))
        text = rgb_to_hsv(to_rgb(name.get_color()))
        assert text[2] < 0.7
        assert text[0] == pytest.approx(marker[0], abs=0.02)


def test_heads_without_numbers_are_named_below_the_figure():
    table = comparison_table([run(iou=class_iou("fcn", 0)), failed("ocr")], profile())
    assert "Not shown, for want of numbers: ocr (failed)." in texts(
        tradeoff(table, "macs", "Title")
    )


def test_a_cost_that_nobody_measured_is_an_empty_panel():
    table = comparison_table([run(iou=class_iou("fcn", 0))], profile_of({"fcn": cost(1, 1, 1, [])}))
    assert "not measured" in texts(tradeoff_grid(table, "Title"))


def test_known_heads_differ_in_marker_and_colour_and_the_six_in_each():
    """There are sixteen filled markers and seven colours: nineteen heads need both."""
    styles = list(KNOWN_HEADS.values())
    assert len({(style.marker, style.colour) for style in styles}) == len(styles)
    assert len({style.marker for style in styles[:13]}) == 13
    assert len({style.colour for style in styles[:6]}) == 6


def test_the_style_of_an_unknown_head_is_the_same_in_every_process():
    program = "from contextbench.report.looks import head_style; print(head_style('my-head'))"
    command = [sys.executable, "-c", program]
    other = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    assert other == str(head_style("my-head"))


def test_group_cells_print_the_percentages_of_the_table(table):
    figure = group_plot(comparison())
    drawn = {text.get_text() for text in figure.axes[0].texts}
    groups = table[["iou_local", "iou_scene", "iou_size", "iou_recall"]]
    assert drawn == {f"{100 * value:.1f}" for value in groups.to_numpy().flat}


def test_bold_in_a_group_are_heads_that_share_a_letter_with_its_best_unless_all_do():
    letters = {"local": ("a", "ab", "b"), "scene": ("a", "a", "a"), "size": ("", "", "")}
    values = np.array([[0.9, 0.9, 0.9], [0.8, 0.8, 0.8], [0.7, 0.7, 0.7]])
    names = [each.head for each in RANKING.heads]
    statistics = {
        (head.head, group): replace(head, groups=own[row])
        for group, own in letters.items()
        for row, head in enumerate(RANKING.heads)
    }
    heat = Heat(names, [*letters], values, values - values[2], "fcn", statistics=statistics)
    bold = {
        tuple(round(place - 0.5) for place in text.get_position())
        for text in group_figure(heat, RANKING, "Title").axes[0].texts
        if text.get_weight() == "bold"
    }
    assert {column for column, _ in bold} == {0}
    assert len(bold) == 2


def test_without_a_test_no_head_of_a_group_is_bold():
    figure = group_plot(comparison())
    assert not [text for text in figure.axes[0].texts if text.get_weight() == "bold"]


def test_a_table_without_groups_has_no_group_figure():
    labels = LabelInfo(classes=["a"], palette=[(0, 0, 0)])
    assert group_heat(Collection([run(iou=[0.5], labels=labels)])) is None


@pytest.mark.parametrize(("count", "blocks"), [(60, 1), (61, 2), (150, 3)])
def test_many_classes_are_split_into_even_blocks(count, blocks):
    labels = LabelInfo(classes=[f"c{k}" for k in range(count)], palette=[(0, 0, 0)] * count)
    figure = class_plot([run(iou=[0.5] * count, labels=labels)], "Title")
    assert len(figure.axes) == blocks
    written = [t.get_text() for axes in figure.axes for t in axes.get_yticklabels()]
    assert written == labels.classes


def curve(entries) -> tuple[np.ndarray, np.ndarray]:
    (line,) = loss_curves({"fcn": {0: entries}}, "Title").axes[0].get_lines()
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


def entries(*losses: float, first: int = 1) -> list[dict[str, float]]:
    return [{"step": step, "main": loss} for step, loss in enumerate(losses, first)]


def drawn_loss(seeds: dict[int, list]) -> tuple[np.ndarray, list[tuple[float, float]], str]:
    """The line of the only head, the corners of its band, and all texts."""
    figure = loss_curves({"fcn": seeds}, "Title")
    (line,) = figure.axes[0].get_lines()
    bands = [c for c in figure.axes[0].collections if isinstance(c, PolyCollection)]
    corners = {tuple(v) for c in bands for path in c.get_paths() for v in path.vertices.tolist()}
    return line.get_ydata(), sorted(corners), texts(figure)


def test_a_line_is_the_mean_over_seeds_in_a_band_from_lowest_to_highest():
    seeds = {0: entries(2.0, 1.0), 1: entries(3.0, 3.0), 2: entries(4.0, 1.5)}
    line, corners, written = drawn_loss(seeds)
    np.testing.assert_allclose(line, [3.0, 5.5 / 3])
    assert corners == [(1, 2), (1, 4), (2, 1), (2, 3)]
    assert "Line: mean over the seeds; band: lowest to highest." in written


def test_one_seed_has_no_band():
    _, corners, written = drawn_loss({0: entries(2.0, 1.0)})
    assert corners == []
    assert "band" not in written


def test_seeds_that_end_early_leave_the_mean_and_are_named():
    line, _, written = drawn_loss({0: entries(4.0, 3.0, 2.0), 1: entries(2.0, 1.0)})
    np.testing.assert_allclose(line, [3.0, 2.0, 2.0])
    assert "Ended early, then left out of the mean: fcn seed 1 at step 2." in written


def test_seeds_that_logged_other_steps_are_met_between_their_own():
    odd = [{"step": 1, "main": 1.0}, {"step": 3, "main": 3.0}]
    line, _, _ = drawn_loss({0: odd, 1: entries(4.0, 4.0, 4.0)})
    np.testing.assert_allclose(line, [2.5, (2.0 + 4.0) / 2, 3.5])  # 2 is midway on the first


def test_without_a_main_loss_there_is_no_curve():
    without = {0: [], 1: [{"step": 1, "loss": 2.0}]}
    assert losses_of({"fcn": without}) is None
    assert losses_of({"fcn": without, "ppm": {0: entries(1.0)}}).curves[0].head == "ppm"


def test_loss_curves_name_each_head_once_in_the_order_of_the_final_loss():
    figure = loss_curves(histories(seeds=(0, 1)), "Title")
    axes = figure.axes[0]
    last = {line.get_color() + line.get_linestyle(): line.get_ydata()[-1]
            for line in axes.get_lines()}  # fmt: skip
    styles = {name: KNOWN_HEADS[name] for name in HEADS}
    final = {name: last[style.colour + style.line] for name, style in styles.items()}
    # Places of names are offsets in points from the ends of their curves.
    to_points = axes.transData.transform
    scale = 72 / figure.dpi
    heights = {
        name.get_text(): scale * to_points(name.xy)[1] + name.xyann[1] for name in names_on(axes)
    }
    assert sorted(heights, key=heights.__getitem__) == sorted(final, key=final.__getitem__)


def cells(axes) -> dict[tuple[int, int], str]:
    """Row and column -> what is printed there, the first line where there are several."""
    return {
        (int(text.get_position()[1]), int(text.get_position()[0])): text.get_text()
        for text in reversed(axes.texts)
    }


def gains(*runs) -> Figure:
    return gain_plot(runs, "Title")


TWO = LabelInfo(classes=["a", "b"], palette=[(0, 0, 0), (1, 1, 1)])


def scored(name: str, *iou: float):
    return run(name, iou=list(iou), labels=TWO)


def test_gains_are_points_over_the_baseline_whose_own_iou_comes_first():
    figure = gains(scored("ppm", 0.6, 0.4), scored("fcn", 0.5, 0.5), scored("ocr", 0.5, 0.2))
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["fcn", "ppm", "ocr"]
    assert cells(axes) == {
        (0, 0): "50.0", (0, 1): "+10.0", (0, 2): "0.0",
        (1, 0): "50.0", (1, 1): "−10.0", (1, 2): "−30.0",
    }  # fmt: skip
    assert "−30 to +30" in texts(figure)


def test_shades_of_gains_are_symmetric_about_none():
    figure = gains(scored("fcn", 0.5, 0.5), scored("ocr", 0.5, 0.5), scored("ppm", 0.7, 0.3))
    faces = np.asarray(figure.axes[0].collections[0].get_array())
    np.testing.assert_allclose(faces[:, 1], [DIVERGING(0.5)] * 2)
    np.testing.assert_allclose(faces[:, 2], [DIVERGING(1.0), DIVERGING(0.0)], atol=0.02)


def test_without_fcn_gains_are_over_the_worst_head():
    runs = [scored("ppm", 0.6, 0.6), scored("ocr", 0.5, 0.5), failed("aspp")]
    runs[-1] = runs[-1].model_copy(update={"labels": TWO})
    assert "IoU (%) of ocr," in texts(gains(*runs))


def test_one_head_has_no_gains():
    with pytest.raises(ValueError, match="another head needs scores"):
        gains(scored("fcn", 0.5, 0.5))


def test_a_class_that_is_absent_is_a_dash():
    totals = ClassTotals(intersection=[5, 0], predicted=[9, 0], labelled=[9, 0])
    runs = [run(name, totals=totals, labels=TWO) for name in ("fcn", "ppm")]
    assert cells(gains(*runs).axes[0])[1, 1] == "–"
    assert cells(class_plot(runs, "Title").axes[0])[1, 0] == "–"


@pytest.mark.parametrize("figure_of", [class_plot, gain_plot])
def test_numbers_stand_out_from_their_cells(figure_of):
    """At least 4 : 1, which is more than the 3 : 1 that WCAG asks of graphics."""
    iou = np.linspace(0, 1, 9)
    runs = [run("fcn", iou=[0.5] * 9), run("ppm", iou=iou), run("ocr", iou=iou[::-1])]
    axes = figure_of(runs, "Title").axes[0]
    faces = np.asarray(axes.collections[0].get_array())
    for text in axes.texts:
        column, row = (int(place) for place in text.get_position())
        assert contrast(to_hex(text.get_color()), to_hex(faces[row, column])) > 4


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two hexadecimal colours, WCAG 2.1."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("width", [3.5, 7.16])
def test_group_cells_have_half_the_interval_and_the_range_of_the_seeds(width):
    counts = {h: {seed: areas(class_iou(h, seed)) for seed in range(3)} for h in HEADS}
    rankings = {g: rank(counts, resampling=FEW, classes=k) for g, k in GROUPS.items()}
    figure = group_plot(comparison(), rankings, width=width)
    written = {" ".join(text.get_text().split()) for text in figure.axes[0].texts}
    for group in rankings.values():
        for each in group.heads:
            half = 100 * (each.miou.high - each.miou.low) / 2
            low, high = 100 * min(each.seeds.values), 100 * max(each.seeds.values)
            assert f"±{half:.1f} {low:.1f}–{high:.1f}" in written
    assert "half the 95 % interval over 200 draws of 20 images" in texts(figure)


def test_rank_cells_are_shares_never_rounded_to_none_or_all():
    figure = rank_stability(THREE, "Title")
    axes = figure.axes[0]
    shown = cells(axes)
    assert [[shown[row, place] for place in range(3)] for row in range(3)] == [
        [">99", "<1", ""],
        ["<1", "90", "10"],
        ["", "10", "90"],
    ]
    assert [text.get_text() for text in axes.texts][-4:] == ["a", "ab", "b", "letters"]
    assert "Share (%) of 1 000 draws of 50 images in blocks of 7 neighbours" in texts(figure)


def test_one_head_has_neither_ranks_nor_differences():
    alone = replace(THREE, heads=THREE.heads[:1], pairs=())
    with pytest.raises(ValueError, match="no rank"):
        rank_stability(alone, "Title")
    with pytest.raises(ValueError, match="needs another head"):
        paired_differences(alone, "Title")


def differences(reference: str | None) -> dict[str, tuple[float, list[float], bool]]:
    """Head -> estimate, ends of the interval, whether its marker is hollow."""
    axes = paired_differences(THREE, "Title", reference=reference).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    found = {}
    for row, name in enumerate(names):
        own = [line for line in axes.get_lines() if set(np.ravel(line.get_ydata())) == {row}]
        points = [x for x in own if len(np.ravel(x.get_xdata())) == 1]
        lines = [x for x in own if x.get_marker() == "None"]
        if points:
            hollow = points[0].get_markerfacecolor() == "white"
            found[name] = (float(points[0].get_xdata()[0]), list(lines[0].get_xdata()), hollow)
    return found


def test_differences_are_those_to_the_best_head_and_hollow_where_not_separated():
    assert differences(None) == {
        "fcn": (pytest.approx(-1), pytest.approx([-2, 1]), True),
        "ppm": (pytest.approx(-10), pytest.approx([-11, -8]), False),
    }


def test_differences_to_another_head_turn_sign_and_ends_around():
    assert differences("fcn") == {
        "ocr": (pytest.approx(1), pytest.approx([-1, 2]), True),
        "ppm": (pytest.approx(-9), pytest.approx([-12, -7]), False),
    }


def test_differences_shade_what_the_split_can_miss_and_dot_the_seeds():
    axes = paired_differences(THREE, "Title").axes[0]
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [(b.get_x(), b.get_width()) for b in boxes] == [pytest.approx((-2, 4))] * 2
    dots = [line.get_xdata() for line in axes.get_lines() if line.get_marker() == "."]
    # each seed is a point from the mean of its head; the best has 80 %
    np.testing.assert_allclose(dots, [[-1, 1], [-2, 0], [-11, -9]])
    written = texts(axes.figure)
    assert "−1.0 [−2.0, +1.0]" in written
    assert "Dots: single seeds minus the mean of ocr." in written


def test_an_unknown_reference_is_refused():
    with pytest.raises(ValueError, match="no differences to nobody"):
        paired_differences(THREE, "Title", reference="nobody")


def test_a_head_without_a_score_has_no_row_among_differences():
    unknown = replace(THREE.heads[2], miou=Interval(math.nan, math.nan, math.nan))
    figure = paired_differences(replace(THREE, heads=(*THREE.heads[:2], unknown)), "Title")
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["ocr", "fcn"]
    assert "1 without a score not shown." in texts(figure)


LONG = "a_name_of_a_head_that_has_$x_1$_in_it"
MANY = [*list(KNOWN_HEADS)[:11], "$a$_{b}", LONG]
LONG_LABELS = LabelInfo(
    classes=["$cost$", "a class whose name does not end for a while", "under_score_{x}"],
    palette=[(0, 0, 0)] * 3,
    groups={"first": [0, 1], "a longer group": [2]},
)


def thirteen(width: float) -> dict[str, Figure]:
    """Every figure for 13 heads with three seeds and names that could be read as formulas."""
    generator = np.random.default_rng(0)
    values = {h: [generator.uniform(0.4, 0.9, 3).tolist() for _ in range(3)] for h in MANY}
    counts = {h: {s: areas(iou) for s, iou in enumerate(seeds)} for h, seeds in values.items()}
    runs = [
        run(h, s, totals=each.totals(), labels=LONG_LABELS)
        for h, seeds in counts.items() for s, each in seeds.items()
    ]  # fmt: skip
    costs = {h: cost(*generator.integers(10**6, 2 * 10**6, 3).tolist(), [9 + i, 10 + i])
             for i, h in enumerate(MANY)}  # fmt: skip
    table = comparison_table(runs, profile_of(costs))
    ranking = rank(counts, resampling=FEW)
    groups = {g: rank(counts, resampling=FEW, classes=k) for g, k in LONG_LABELS.groups.items()}
    curves = {h: {0: entries(2.0, 1.0 + 0.01 * i)} for i, h in enumerate(MANY)}
    shown = examples(1)
    maps = {h: next(iter(shown.predictions.values())) for h in MANY}
    labels = LABELS.model_copy(update={"classes": [*CLASSES[:-1], LONG_LABELS.classes[1]]})
    return {
        "macs": tradeoff(table, "macs", "Title", ranking=ranking, width=width),
        "latency": tradeoff(table, "latency_ms", "Title", ranking=ranking, width=width),
        "loss": loss_curves(curves, "Title", width=width),
        "ranks": rank_stability(ranking, "Title", width=width),
        "differences": paired_differences(ranking, "Title", reference=LONG, width=width),
        "groups": group_plot(runs, groups, width=width),
        "classes": class_plot(runs, "Title", width=width),
        "gains": gain_plot(runs, "Title", width=width),
        "predictions": prediction_grid(
            replace(shown, predictions=maps), labels, "Title", width=width
        ),
    }  # fmt: skip


@pytest.fixture(scope="module", params=[ONE_COLUMN, TWO_COLUMNS])
def crowded(request) -> dict[str, Figure]:
    figures = thirteen(request.param)
    for figure in figures.values():
        figure.draw_without_rendering()
    return figures


def printed(figure: Figure) -> list:
    """Boxes of all texts that are to be seen, with what they say."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                unseen = {tick.label1, tick.label2}
                if low <= tick.get_loc() <= high:
                    unseen = {label for label in unseen if not label.get_visible()}
                hidden |= unseen
    found = figure.findobj(lambda artist: hasattr(artist, "get_parse_math"))
    shown = [t for t in found if t.get_visible() and t.get_text().strip() and t not in hidden]
    # Of annotations without their arrows, whose boxes may cover others.
    return [(text.get_text(), Text.get_window_extent(text, renderer)) for text in shown]


@pytest.mark.slow
def test_with_thirteen_heads_nothing_is_cut_off_and_no_text_covers_another(crowded):
    for name, figure in crowded.items():
        texts = printed(figure)
        assert len(texts) > 13, name
        for text, box in texts:
            assert min(box.x0, box.y0) >= -1, (name, text)
            assert box.x1 <= figure.bbox.x1 + 1, (name, text)
            assert box.y1 <= figure.bbox.y1 + 1, (name, text)
        for (one, a), (two, b) in itertools.combinations(texts, 2):
            width = min(a.x1, b.x1) - max(a.x0, b.x0)
            height = min(a.y1, b.y1) - max(a.y0, b.y0)
            assert width < 0.5 or height < 1.0, (name, one, two)


@pytest.mark.slow
def test_names_are_never_read_as_formulas(crowded):
    for figure in crowded.values():
        found = figure.findobj(lambda artist: hasattr(artist, "get_parse_math"))
        assert not any(text.get_parse_math() for text in found)


@pytest.mark.slow
def test_figures_are_as_wide_as_a_column_unless_that_is_too_narrow(crowded):
    widths = {name: float(figure.get_size_inches()[0]) for name, figure in crowded.items()}
    assert set(widths.values()) <= {ONE_COLUMN, TWO_COLUMNS, widths["predictions"]}
    assert widths["classes"] == TWO_COLUMNS  # 13 columns do not fit into one


def test_the_narrowest_column_that_fits_is_chosen_if_none_is_asked_for():
    assert [column_width(inches, None) for inches in (1, 3.5, 3.6, 9)] == [3.5, 3.5, 7.16, 9]
    assert [column_width(inches, 3.5) for inches in (1, 5)] == [3.5, 7.16]
    assert column_width(1, 7.16) == 7.16


@pytest.mark.parametrize("characters", [3, 8, 9, 40])
def test_a_shortened_name_keeps_its_ends(characters):
    short = shortened("abcdefghijklmnop", characters)
    assert len(short) == min(16, characters)
    assert (short[0], short[-1]) == ("a", "p")


def test_differences_are_printed_with_a_sign_except_none_at_all():
    assert [signed(x) for x in (1.26, -1.26, 0.04, -0.04, math.nan)] == [
        "+1.3", "−1.3", "0.0", "0.0", "–",
    ]  # fmt: skip


def shown_as(image, truth, predictions) -> Examples:
    return Examples(["one"], [image], [truth], predictions)


def test_a_prediction_is_scored_on_labelled_pixels_of_its_image():
    truth = np.array([[0, 0, 1, 255]], dtype=np.uint8)
    predicted = np.array([[0, 1, 1, 1]], dtype=np.uint8)
    image = np.zeros((1, 4, 3), dtype=np.uint8)
    figure = prediction_grid(shown_as(image, truth, {"fcn": [predicted]}), LABELS, "Title")
    # background: 1 / (1 + 2 - 1), local_brick: 1 / (2 + 1 - 1); no other class is there
    assert figure.axes[2].get_xlabel() == "mIoU 50.0 %"


def test_an_image_without_labels_has_no_score():
    ignored = np.full((2, 2), 255, dtype=np.uint8)
    image, predicted = np.zeros((2, 2, 3), dtype=np.uint8), np.zeros((2, 2), dtype=np.uint8)
    figure = prediction_grid(shown_as(image, ignored, {"fcn": [predicted]}), LABELS, "Title")
    assert figure.axes[2].get_xlabel() == "–"


def test_a_prediction_grid_has_a_row_an_image_and_names_the_classes_it_shows():
    shown = examples(2)
    figure = prediction_grid(shown, LABELS, "Title")
    assert len(figure.axes) == 2 * (2 + len(HEADS))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*CLASSES, "not labelled"]
    titles = [axes.get_title() for axes in figure.axes[: 2 + len(HEADS)]]
    assert titles == ["image", "ground truth", *HEADS]


def test_ignored_pixels_are_striped_and_others_have_their_colour():
    truth = np.full((48, 48), 255, dtype=np.uint8)
    truth[0] = 2
    image = np.zeros((48, 48, 3), dtype=np.uint8)
    figure = prediction_grid(shown_as(image, truth, {}), LABELS, "Title")
    drawn = np.asarray(figure.axes[1].get_images()[0].get_array())
    assert (drawn[0] == LABELS.palette[2]).all()
    assert set(np.unique(drawn[1:]).tolist()) == {0, 150}


def test_a_grid_without_images_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        prediction_grid(Examples([], [], [], {}), LABELS, "Title")


def test_saving_gives_png_and_svg_and_equal_figures_equal_bytes(tmp_path):
    def drawn() -> Figure:
        return group_plot(comparison())

    first = save(drawn(), tmp_path / "a", "groups")
    second = save(drawn(), tmp_path / "b", "groups")
    assert [path.name for path in first] == ["groups.png", "groups.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    svg = first[1].read_text()
    assert not re.search(r"<dc:date>", svg)
    assert math.isclose(float(re.search(r'width="([\d.]+)pt"', svg)[1]), 3.5 * 72)


def test_pdf_files_have_no_fonts_of_type_3_and_no_date(tmp_path):
    for name in "ab":
        figure = group_plot(comparison())
        assert save(figure, tmp_path, name, ["pdf"]) == [tmp_path / f"{name}.pdf"]
    content = (tmp_path / "a.pdf").read_bytes()
    assert b"/Type3" not in content
    assert b"/CreationDate" not in content
    assert content == (tmp_path / "b.pdf").read_bytes()
