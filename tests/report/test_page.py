"""The report page as text: complete, self-contained, escaped, and true to the records."""

import base64
import hashlib
import itertools
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.config.protocols import load_protocol
from contextbench.records.classes import LabelInfo
from contextbench.records.examples import Examples, write_examples
from contextbench.records.failures import Failure
from contextbench.records.runs import read_run
from contextbench.records.stored import write_model
from contextbench.report.collection import Collection
from contextbench.report.comparison import comparison_table
from contextbench.report.geometry import pareto_front
from contextbench.report.page import Comparison, render_page, write_page
from contextbench.report.page.gallery import gallery
from contextbench.report.page.marks import NARROW, SIZES, WIDE, band_of, line_of, marks_of, path_of
from contextbench.report.page.provenance import provenance
from contextbench.report.plots import Axis, Point, tradeoff
from contextbench.report.training import losses_of
from contextbench.report.verdicts import headline
from tests.cases import quick
from tests.report import pages, rankings, records

SCRIPT = "<script>alert(1)</script>"
EVILS = [SCRIPT, "\"><img src=x onerror='alert(2)'>", "</script><!--", "{{ 7 * 7 }}", "a & b <i>"]
VOID = {"meta", "img", "input", "br", "hr", "link"}


class Reader(HTMLParser):
    """All elements with their attributes, and all text outside of scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, name: str) -> list[str]:
        """Values of an attribute."""
        return [str(attrs[name]) for _, attrs in self.elements if name in attrs]

    def count(self, tag: str) -> int:
        return sum(each == tag for each, _ in self.elements)


def page_of(whole: Collection, shown: Examples | None = None) -> str:
    return render_page([(whole, shown)])


@pytest.fixture(scope="module")
def full() -> str:
    """Six heads, two seeds, costs, losses, examples and attention."""
    return page_of(pages.collection(), pages.examples())


@pytest.fixture(scope="module")
def read(full: str) -> Reader:
    return Reader(full)


def test_nothing_is_loaded_from_elsewhere(full: str, read: Reader) -> None:
    for name in ("src", "href", "srcset", "action", "poster", "xlink:href", "data"):
        assert all(value.startswith(("data:image/", "#")) for value in read.all(name)), name
    without_pictures = re.sub(r"data:image/\w+;base64,[\w+/=]+", "", full)
    assert not re.search(r"https?:|@import|@font-face|\bfetch\(|XMLHttpRequest", without_pictures)
    assert set(re.findall(r"url\((.{0,5})", full)) <= {"data:", "${ima", ""}
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in read.elements}


def test_the_policy_allows_this_script_and_no_connection(full: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', full)
    script = re.search(r"<script>(.*)</script>", full, re.DOTALL)
    assert policy
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy[1].replace("&#39;", "'")
    assert policy[1].startswith("default-src 'none'")
    assert "connect-src" not in policy[1]  # nor is anything else allowed to connect


def test_elements_are_closed_and_references_resolve(read: Reader) -> None:
    assert read.open == []
    ids = read.all("id")
    assert len(ids) == len(set(ids))
    targets = [value[1:] for value in read.all("href")]
    targets += itertools.chain(*(value.split() for value in read.all("aria-labelledby")))
    assert set(targets) <= set(ids)
    assert all("alt" in attrs for tag, attrs in read.elements if tag == "img")
    assert all(name[:2] != "on" for _, attrs in read.elements for name in attrs)
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_tables_say_what_rows_and_columns_are(read: Reader) -> None:
    assert read.count("table") == read.count("caption")
    assert all("scope" in attrs for tag, attrs in read.elements if tag == "th")


def test_every_part_is_there(read: Reader) -> None:
    parts = {value.removeprefix("comparison-1-") for value in read.all("id")}
    expected = "ranking table costs groups classes stability losses examples attention protocol"
    assert set(expected.split()) <= parts


@pytest.mark.parametrize("evil", quick(EVILS, EVILS[:1]))
def test_data_is_text_wherever_it_is_shown(evil: str) -> None:
    name = evil.replace("/", "")  # which no name of a folder has
    labels = LabelInfo(
        classes=[evil, *records.CLASSES[1:]], palette=records.PALETTE, groups={evil: [0, 1]}
    )
    whole = pages.collection(
        ("fcn", "ppm", "ocr"), names={"fcn": name, "ocr": f"{name}2"}, labels=labels,
        device=evil, protocol={**records.PROTOCOL, "name": name, evil: {evil: evil}},
        options={evil: evil},
    )  # fmt: skip
    whole = replace(pages.failed(whole, f"{name}2", evil), warnings=[evil])
    shown = pages.examples(1)
    shown = replace(
        shown, names=[evil], predictions={name: shown.predictions["fcn"]},
        attention=[
            replace(pages.attention(name, evil, np.eye(4, dtype=np.float32)), kind=evil),
            pages.attention(name, evil, np.array([1.0], np.float32), evil, [evil]),
        ],
    )  # fmt: skip
    harmless = Reader(page_of(pages.collection(("fcn",)), pages.examples(1)))
    read = Reader(page_of(whole, shown))
    assert read.open == []
    assert read.count("script") == 1
    assert {tag for tag, _ in read.elements} <= {tag for tag, _ in harmless.elements} | {
        "sup",
        "ol",
        "b",
    }
    assert all(name[:2] != "on" for _, attrs in read.elements for name in attrs)
    assert all(value.startswith("data:image/") for value in read.all("src"))
    assert sum(read.text.count(" ".join(text.split())) for text in {evil, name}) > 20
    tips = [attrs["aria-label"] for _, attrs in read.elements if "data-tip" in attrs]
    assert any(str(tip).startswith(name) for tip in tips)


@pytest.mark.slow
def test_six_heads_and_twelve_images_stay_below_five_megabytes() -> None:
    shown = pages.examples(12, (240, 320))
    html = page_of(pages.collection(), shown)
    assert len(html.encode()) < 5e6
    assert Reader(html).count("article") == 24  # an example and an attention view an image


@pytest.mark.slow
def test_images_beyond_twelve_are_counted_and_large_ones_made_smaller() -> None:
    html = page_of(pages.collection(("fcn", "ppm")), pages.examples(14, (48, 64)))
    assert "2 further images are not shown" in html
    large = page_of(pages.collection(("fcn",)), pages.examples(1, (960, 1280)))
    assert len(large) < 1.2e6


def test_equal_records_give_equal_pages(full: str) -> None:
    assert page_of(pages.collection(), pages.examples()) == full


@pytest.mark.slow
def test_two_comparisons_have_their_own_sections() -> None:
    other = pages.collection(("fcn", "ppm"), (0,), labels=_without_groups())
    html = render_page([(pages.collection(), None), (other, None)])
    read = Reader(html)
    sections = [a["id"] for t, a in read.elements if a.get("class") == "comparison"]
    assert sections == ["comparison-1", "comparison-2"]
    assert len(read.all("id")) == len(set(read.all("id")))
    assert "comparison-1-groups" in read.all("id")
    assert "comparison-2-groups" not in read.all("id")


def _without_groups() -> LabelInfo:
    return LabelInfo(classes=records.CLASSES, palette=records.PALETTE)


def test_one_comparison_has_its_title_once(full: str) -> None:
    titles = re.findall(r"<h([12])[^>]*?(?:class=\"([a-z]+)\")?>(.*?)</h", full)
    assert titles == [
        ("1", "quiet", "probe, protocol probe-small"),
        ("2", "hidden", "probe, protocol probe-small"),
    ]


@pytest.mark.slow
def test_missing_areas_are_told_and_the_rest_is_shown(tmp_path) -> None:
    folder = pages.store(pages.collection(("fcn", "ppm"), (0,)), tmp_path)
    (folder / "fcn" / "seed-0" / "areas.npz").unlink()
    (folder / "ppm" / "seed-0" / "areas.npz").write_bytes(b"no archive")
    text = Reader(write_page([folder], tmp_path / "page.html").read_text()).text
    assert "no interval for fcn seed 0" in text
    assert "no interval for ppm seed 0" in text
    assert "ppm has the highest mIoU" in text
    assert "there are no intervals to compare it with the others" in text
    assert "Rank stability" not in text


@pytest.mark.slow
def test_without_profile_there_are_no_costs() -> None:
    text = Reader(page_of(replace(pages.collection(), profile=None))).text
    # How long training took is in the records themselves.
    assert "Latency of a forward pass" not in text
    assert "Training time of one run" in text


@pytest.mark.slow
def test_without_examples_and_histories_there_is_no_such_section() -> None:
    read = Reader(page_of(replace(pages.collection(), histories={})))
    assert not {"comparison-1-examples", "comparison-1-attention"} & set(read.all("id"))
    assert "comparison-1-losses" not in read.all("id")


def test_a_failed_head_is_named_with_its_reason() -> None:
    text = Reader(page_of(pages.failed(pages.collection(), "ocr"))).text
    reason = "seed 0: failed at step 120 (LossError: loss is NaN)"
    assert f"ocr has no score: {reason}" in text
    assert f"ocr: {reason}" in text  # the footnote of its empty cells
    assert "Not shown, for want of numbers: ocr (failed)." in text


def test_a_page_of_failures_alone_says_so() -> None:
    whole = Collection([records.failed("fcn"), records.failed("ocr")])
    text = Reader(page_of(whole)).text
    assert "No head has a score yet." in text
    assert "there are no counts per image" in text


@pytest.mark.slow
def test_one_seed_has_no_spread() -> None:
    text = Reader(page_of(pages.collection(seeds=(0,)))).text
    assert "n = 1" in text
    assert "in this one training: nothing is said of heads" in text
    assert "Of these trained models, " in text
    assert "ingle seeds" not in text


# --- numbers ---


def test_the_table_holds_the_numbers_of_the_records(full: str) -> None:
    whole = pages.collection()
    assert whole.profile is not None
    parameters = whole.profile.heads["ocr"].counts["model"].parameters
    assert f'data-value="{float(parameters)}"' in full
    assert whole.ranking is not None
    for head in whole.ranking.heads:
        assert f'data-value="{head.miou.estimate}"' in full


def test_headlines_follow_from_the_ranking() -> None:
    table = comparison_table_of(rankings.RANKING)
    assert headline(table, rankings.RANKING) == [
        "ocr has the highest mIoU; not separated from it: ppm.",
        "ocr reaches 80.0 % (95 % interval 78.0–82.0).",
        "",
        "",
        # 0.01^2 (1 / 3 + 1 / 3) of trainings, more than 0.005^2 of images
        "Trainings add more to the uncertainty than images for every pair: more seeds help most.",
        "Smallest true difference that as many trainings and images show with a power of 0.8, "
        "corrected for 3 pairs (Holm): 2.0 to 7.0 points, by pair.",
    ]


def test_heads_without_counts_are_named_as_not_compared() -> None:
    whole = pages.collection(("fcn", "ppm", "ocr"))
    kept = {head: seeds for head, seeds in whole.areas.items() if head != "ocr"}
    text = Reader(page_of(replace(whole, areas=kept))).text
    assert "Not compared, for want of counts per image: ocr." in text
    assert "ocr has no score" not in text


def comparison_table_of(ranking):
    return comparison_table(rankings.ranked_runs(), None, ranking=ranking)


def test_places_are_where_the_axis_has_their_values() -> None:
    """The axis is linear: the share of the way between two ticks is that of their values."""
    shown = Comparison("one", pages.collection(), None).sections["ranking"].content
    axis, (first, *_, last) = shown.axis, shown.axis.ticks
    for each in shown.ranked:
        score = 100 * each.miou.estimate
        share = (score - first.value) / (last.value - first.value)
        expected = axis(first.value) + share * (axis(last.value) - axis(first.value))
        assert axis(score) == pytest.approx(expected, abs=0.11)  # rounded to 0.1
        assert axis(100 * each.miou.low) < axis(score) < axis(100 * each.miou.high)
    ranking = pages.collection().ranking
    assert ranking is not None
    assert [each.mark.name for each in shown.ranked] == [head.head for head in ranking.heads]


POINTS = {"a": (1.0, 50.0), "b": (10.0, 60.0), "c": (100.0, 55.0), "d": (1000.0, 70.0)}
DATA = [
    Point(name, cost, score, None, (score - 1, score + 1)) for name, (cost, score) in POINTS.items()
]


def test_a_logarithmic_axis_has_equal_ratios_equally_far_apart() -> None:
    x = tradeoff(DATA, "cost", WIDE, logarithmic=True).x
    gaps = [x(right) - x(left) for left, right in itertools.pairwise((1, 10, 100, 1000))]
    assert gaps == pytest.approx([gaps[0]] * 3, abs=0.11)
    x = tradeoff(DATA, "cost", WIDE, logarithmic=False).x
    assert x(1000) - x(100) == pytest.approx(100 * (x(10) - x(1)), rel=0.02)  # rounded to 0.1


@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.name)
def test_the_front_passes_through_the_best_points_and_no_others(size) -> None:
    plot = tradeoff(DATA, "cost", size, logarithmic=True)
    corners = [corner for step in plot.front for corner in step.corners]
    costs, scores = zip(*POINTS.values(), strict=True)
    best = [(costs[i], scores[i]) for i in pareto_front(costs, scores)]
    assert [point for point in POINTS.values() if point in corners] == best
    assert path_of(corners, plot.x, plot.y).endswith(f"{size.right:g},{plot.y(70.0):g}")


def test_the_front_of_the_page_is_dotted_where_the_split_cannot_tell() -> None:
    """`a` and `b` cannot be separated, `b` and `d` can."""
    plot = tradeoff(DATA, "cost", WIDE, logarithmic=True, alike={"a": ["b"], "b": ["a"]})
    assert [step.dotted for step in plot.front] == [True, False, False]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.name)
def test_names_lie_inside_and_not_over_each_other(size) -> None:
    """Heads of the comparison, whose points are close: boxes of 7 x 13 pixels a character."""
    plots = Comparison("one", pages.collection(), None).sections["costs"].content
    for plot in (p for cost in plots for p in cost.pictures if p.frame is size):
        boxes = [
            (label.x - 3.5 * len(label.text), label.y - 6.5,
             label.x + 3.5 * len(label.text), label.y + 6.5) for label in plot.labels
        ]  # fmt: skip
        for one, other in itertools.combinations(boxes, 2):
            across = min(one[2], other[2]) - max(one[0], other[0])
            along = min(one[3], other[3]) - max(one[1], other[1])
            assert min(across, along) <= 0, (plot.x.label, one, other)
        assert all(box[0] >= 0 and box[2] <= size.width for box in boxes)


def test_a_name_that_could_be_another_points_has_a_leader() -> None:
    """Two points almost at one place, and one far from both."""
    points = [Point("near", 1.0, 50.0), Point("beside", 1.01, 50.1), Point("far", 9.0, 90.0)]
    near, beside, far = tradeoff(points, "cost", WIDE, logarithmic=False).labels
    assert near.leader is not None
    assert beside.leader is not None
    assert far.leader is None


def test_axes_of_one_value_and_without_ticks_inside_a_decade() -> None:
    assert Axis.over([5.0], 0, 100)(5.0) == 50.0
    narrow = Axis.over([3.1, 3.3], 0, 100, logarithmic=True)
    assert len(narrow.ticks) >= 2
    assert all(0 <= narrow(tick.value) <= 100 for tick in narrow.ticks)


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_curves_are_means_over_seeds_in_a_band(size) -> None:
    """Constant losses of 1 and 3: the line is at 2, the band from 1 to 3."""
    entries = {
        seed: [{"step": step, "main": value} for step in range(1, 51)]
        for seed, value in ((0, 1.0), (1, 3.0))
    }
    losses = losses_of({"fcn": entries})
    assert losses is not None
    plot = losses.plot(size)
    (curve,) = plot.curves
    heights = {float(pair.split(",")[1]) for pair in line_of(curve, plot.x, plot.y)[1:].split("L")}
    band = band_of(curve, plot.x, plot.y)[1:-1]
    assert heights == {plot.y(2.0)}
    assert {float(pair.split(",")[1]) for pair in band.split("L")} == {plot.y(1.0), plot.y(3.0)}
    assert "final loss 2.00 (1.00–3.00 over 2 seeds)" in curve.tip


@pytest.mark.slow
def test_differences_between_classes_refer_to_the_plain_head() -> None:
    """Of all heads with a score; where there is no fcn, to the lowest of them."""
    with_fcn = Comparison("one", pages.collection(), None).sections["classes"].content
    without = Comparison("one", pages.collection(("ppm", "ocr")), None).sections["classes"].content
    assert with_fcn is not None
    assert without is not None
    assert (with_fcn.baseline, without.baseline) == ("fcn", "ppm")
    column = with_fcn.columns.index("fcn")
    assert (with_fcn.differences[:, column] == 0).all()
    expected = with_fcn.values - with_fcn.values[:, [column]]
    np.testing.assert_array_equal(with_fcn.differences, expected)


@pytest.mark.slow
def test_groups_have_their_own_intervals() -> None:
    heat = Comparison("one", pages.collection(), None).sections["groups"].content
    assert heat is not None
    assert heat.columns == list(records.GROUPS)
    interval = heat.interval(heat.rows[0], heat.columns[0])
    assert interval is not None
    assert interval.low <= heat.values[0, 0] <= interval.high
    assert interval.high - interval.low < 0.02  # twelve images around it, deviation of one point


# --- examples and attention ---


def test_masks_have_the_colours_of_their_classes_and_disputes_those_of_the_key() -> None:
    shown = pages.examples(1)
    marks = marks_of(shown.predictions)
    view = gallery(shown, records.LABELS, marks)
    assert view is not None

    def pixels(uri: str) -> np.ndarray:
        return np.array(Image.open(BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGBA"))

    ((name, pictures),) = view.examples
    assert name == shown.names[0]
    kinds = ["plain", "plain", *["prediction"] * 6, "plain", *["error"] * 6]
    assert [each.kind for each in pictures] == kinds
    truth = pixels(pictures[1].uri)[..., :3]
    known = shown.truths[0] != 255
    palette = np.array(records.PALETTE, dtype=np.uint8)
    assert (truth[known] == palette[shown.truths[0][known]]).all()
    assert set(np.unique(truth[~known]).tolist()) == {0, 150}  # striped
    disputes = pixels(pictures[8].uri)[..., :3].reshape(-1, 3)
    keys = {bytes.fromhex(shade.colour[1:]) for shade in view.disputes["all heads"]}
    assert {bytes(colour) for colour in np.unique(disputes, axis=0)} <= keys
    true, predicted = shown.truths[0][known], shown.predictions["fcn"][0][known]
    ious = [
        ((true == k) & (predicted == k)).sum() / ((true == k) | (predicted == k)).sum()
        for k in np.union1d(true, predicted)
    ]
    assert pictures[2].mark == marks["fcn"]
    assert pictures[2].below == f"mIoU {100 * np.mean(ious):.1f} %"


def test_attention_says_where_the_pixel_is_and_what_was_clipped() -> None:
    shown = pages.examples(1)
    marks = marks_of(shown.predictions)
    view = gallery(shown, records.LABELS, marks)
    assert view is not None
    (pixel,) = view.attention
    assert pixel["at"] == pytest.approx((100 * 30.5 / 64, 100 * 20.5 / 48), abs=0.01)
    assert pixel["places"] == "row 2, column 3 of 6 × 8"
    influence, ocr = pixel["rows"]
    assert [panel["mark"].name for panel in influence["panels"]] == list(shown.predictions)
    first = influence["panels"][0]
    assert first["frame"] == (37.5, 33.333, 12.5, 16.667)  # cell (2, 3) of 6 x 8, in percent
    assert (first["highest"], first["limit"]) == ("1.0", "0.95")  # 95th percentile of those above 0
    (regions,) = ocr["panels"]
    assert [part.label for part in regions["parts"]] == ["b", "a", "c"]  # largest first
    assert [part.length for part in regions["parts"]] == pytest.approx([100, 28.6, 14.3])


def test_attention_of_an_image_that_is_not_an_example_is_shown_without_it() -> None:
    maps = [pages.attention("fcn", "elsewhere.png", np.eye(4, dtype=np.float32))]
    shown = Examples([], [], [], {}, maps)
    read = Reader(page_of(pages.collection(("fcn",)), shown))
    assert "elsewhere.png, pixel 20, 30" in read.text
    assert not any("--photo" in style for style in read.all("style"))


# --- provenance ---


def test_the_command_names_heads_seeds_and_what_was_changed() -> None:
    """`probe` is shipped with 480 steps; these runs had 7."""
    protocol = load_protocol("probe").model_dump(mode="json")
    protocol["train"]["steps"] = 7
    whole = pages.collection(("fcn", "ppm"), (0, 1), protocol=protocol)
    assert provenance(whole).commands[0] == (
        "contextbench compare --protocol probe --heads fcn,ppm --seeds 0,1 --set train.steps=7"
    )


def test_folders_of_data_are_nobody_elses_business() -> None:
    protocol = {**records.PROTOCOL, "dataset": {"name": "camvid", "root": "/home/someone/data"}}
    html = page_of(pages.collection(("fcn",), protocol=protocol))
    assert "/home/someone" not in html


def test_cautions_say_what_differs_between_runs_and_costs() -> None:
    whole = pages.collection(device="Another CPU")
    text = Reader(page_of(whole)).text
    assert "Costs were measured with device" in text
    assert "protocol fingerprint aaaa" in text


@pytest.mark.slow
def test_operators_that_nobody_counts_stand_with_the_costs() -> None:
    whole = pages.collection()
    assert whole.profile is not None
    counts = whole.profile.heads["ocr"].counts["model"]
    marked = counts.model_copy(update={"uncounted": ["an_operator"]})
    cost = whole.profile.heads["ocr"].model_copy(update={"counts": {"model": marked}})
    heads = {**whole.profile.heads, "ocr": cost}
    profile = whole.profile.model_copy(update={"heads": heads})
    html = page_of(replace(whole, profile=profile))
    (place,) = (found.start() for found in re.finditer("an_operator", html))
    sections = [found.group(1) for found in re.finditer(r'<section id="([^"]+)"', html[:place])]
    assert sections[-1].endswith("-costs")


@pytest.mark.slow
def test_a_class_that_some_draws_lack_is_told() -> None:
    whole = pages.collection(("fcn", "ppm"), (0,))
    for seeds in whole.areas.values():
        for each in seeds.values():
            for counts in (each.intersection, each.predicted, each.labelled):
                counts[1:, 3] = 0  # in the first image only, which every third draw lacks
    text = Reader(page_of(whole)).text
    assert whole.ranking is not None
    assert any(caution in text for caution in whole.ranking.cautions)
    assert whole.ranking.missing_classes[3] == pytest.approx(math.exp(-1), abs=0.02)


# --- the command ---


def run_report(*arguments) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["report", *map(str, arguments)])
    return result.exit_code, " ".join(result.output.split())


def test_one_command_writes_the_page_with_the_stored_examples(tmp_path) -> None:
    folder = pages.store(pages.collection(), tmp_path / "runs")
    write_examples(pages.examples(1), folder, palette=records.PALETTE)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    out = tmp_path / "new" / "report.html"
    assert run_report(folder, "-o", out) == (0, str(out))
    read = Reader(out.read_text())
    assert read.count("article") == 2
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_mixed_protocols_are_refused_with_their_difference(tmp_path) -> None:
    folder = pages.store(pages.collection(("fcn", "ppm"), (0,)), tmp_path)
    path = folder / "ppm" / "seed-0" / "record.json"
    record = read_run(path)
    protocol = {**record.protocol, "train": {**record.protocol["train"], "steps": 800}}
    write_model(path, record.model_copy(update={"protocol": protocol, "fingerprint": "bbbb"}))
    code, output = run_report(folder, "-o", tmp_path / "page.html")
    assert code == 2
    assert "train.steps: 400 / 800" in output
    assert not (tmp_path / "page.html").exists()


def test_records_of_another_version_are_refused(tmp_path) -> None:
    folder = pages.store(pages.collection(("fcn",), (0,)), tmp_path)
    path = folder / "fcn" / "seed-0" / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    code, output = run_report(folder)
    assert code == 2
    assert "schema version 99" in output


def test_a_page_that_cannot_be_written_is_an_error_without_traceback(tmp_path) -> None:
    folder = pages.store(pages.collection(("fcn",), (0,)), tmp_path)
    (tmp_path / "file").write_text("")
    code, output = run_report(folder, "-o", tmp_path / "file" / "page.html")
    assert code == 2
    assert output.startswith("error: cannot write")


def test_a_folder_without_records_is_refused(tmp_path) -> None:
    code, output = run_report(tmp_path)
    assert code == 2
    assert "there is no record.json below this folder" in output


def test_failure_messages_with_line_breaks_stay_in_their_place() -> None:
    whole = pages.collection(("fcn", "ocr"), (0,))
    broken = records.failed("ocr").model_copy(
        update={"failure": Failure(kind="E", message="one\n\n<p>two")}
    )
    html = page_of(replace(whole, runs=[whole.runs[0], broken], areas={"fcn": whole.areas["fcn"]}))
    assert "E: one &lt;p&gt;two" in html


def test_unknown_values_are_dashes_not_nan(full: str) -> None:
    assert not re.search(r"\bnan\b", re.sub(r"data:image[^\"')]+", "", full), re.IGNORECASE)
