"""Verdicts from counts that are made to deserve them; the page, the figure and the command."""

import json
import math
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from rich.console import Console
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.config.protocols import DatasetConfig
from contextbench.data import DATASETS, dataset_source
from contextbench.records.classes import LabelInfo
from contextbench.records.counts import Areas, write_areas
from contextbench.records.runs import cell_folder
from contextbench.records.stored import RecordError, write_model
from contextbench.report.bundle import write_insight
from contextbench.report.collection import Collection
from contextbench.report.figures.insight import insight_figure
from contextbench.report.insight import GROUPED_DATASETS, InsightError, judge
from contextbench.report.tables.insight import insight_json, insight_markdown, insight_sheet
from contextbench.statistics.draws import Draws, Resampling
from contextbench.statistics.groups import holm
from contextbench.statistics.intervals import rank
from contextbench.statistics.methods import Parts
from contextbench.statistics.scores import METRIC_NAMES, group_iou, scores
from contextbench.system.errors import UserError
from contextbench.system.files import OutputError
from tests.cases import quick
from tests.report import records

FEW = Resampling(resamples=1000)
IMAGES = 40
LABELS = LabelInfo(
    classes=["background", "a", "b", "c"],
    palette=[(0, 0, 0), (90, 0, 0), (0, 90, 0), (0, 0, 90)],
    groups={"easy": [1], "hard": [2, 3]},
)
# head -> seed -> correct share of the classes of each group; misses count as background
SHARES = {
    "fcn": {0: (0.9, 0.40), 1: (0.901, 0.42), 2: (0.899, 0.41)},
    "solver": {0: (0.9, 0.90), 1: (0.901, 0.92), 2: (0.899, 0.91)},
    "better": {0: (0.95, 0.50), 1: (0.951, 0.52), 2: (0.949, 0.51)},
    "moody": {0: (0.9, 0.30), 1: (0.901, 0.95), 2: (0.899, 0.70)},
    "worse": {0: (0.8, 0.30), 1: (0.801, 0.32), 2: (0.799, 0.31)},
}


def areas_of(shares, head, images=IMAGES):
    """Counts around the shares of a head and seed, the labels the same for all."""
    labelled = np.random.default_rng(7).integers(100, 200, (images, 4))
    noise = np.random.default_rng([*head.encode()]).uniform(-0.02, 0.02, (images, 3))
    easy, hard = shares
    missed = labelled[:, 1:] - np.int64(labelled[:, 1:] * (np.array([easy, hard, hard]) + noise))
    predicted = labelled - np.column_stack([-missed.sum(axis=1), missed])
    correct = np.column_stack([labelled[:, 0], predicted[:, 1:]])
    return Areas([f"{i:04}" for i in range(images)], correct, predicted, labelled)


def collection_of(shares=SHARES, labels=LABELS, **changes):
    areas = {
        head: {seed: areas_of(each, head) for seed, each in seeds.items()}
        for head, seeds in shares.items()
    }
    runs = [
        records.run(head, seed, totals=each.totals(), labels=labels, images=IMAGES)
        for head, seeds in areas.items()
        for seed, each in seeds.items()
    ]
    return replace(Collection(runs, areas=areas), **changes)


@pytest.fixture(scope="module")
def judged():
    return judge(collection_of(), resampling=FEW)


def iou_of(areas, group, rows=slice(None)):
    counts = (array[rows] for array in (areas.intersection, areas.predicted, areas.labelled))
    return group_iou(scores(*counts).iou_per_class, LABELS.groups)[group]


def test_scores_are_the_mean_iou_of_the_groups_classes(judged):
    areas = collection_of().areas
    for (head, group), cell in judged.cells.items():
        by_seed = {seed: iou_of(each, group) for seed, each in areas[head].items()}
        assert {seed: iou.estimate for seed, iou in cell.seeds.items()} == pytest.approx(by_seed)
        assert cell.iou.estimate == pytest.approx(fmean(by_seed.values()))
        assert all(iou.low < iou.estimate < iou.high for iou in cell.seeds.values())


@pytest.mark.parametrize("head", quick(["solver", "worse"], ("solver",)))
def test_differences_are_head_minus_baseline_over_trainings_and_draws(judged, head):
    areas = collection_of().areas
    differences = []
    for _, weights in Draws(IMAGES, 1, FEW):
        for weight in weights.astype(int):
            rows = np.repeat(np.arange(IMAGES), weight)
            own, base = (
                fmean(iou_of(each, "hard", rows) for each in areas[name].values())
                for name in (head, "fcn")
            )
            differences.append(own - base)
    difference = judged.cells[head, "hard"].comparison.difference
    spreads = [judged.cells[name, "hard"].spread.deviation for name in (head, "fcn")]
    parts = Parts(tuple(spreads), (3, 3), np.std(differences, ddof=1) * (40 / 39) ** 0.5, 40)
    reach = parts.reach(0.95)
    assert difference[1:] == pytest.approx(
        (difference.estimate - reach, difference.estimate + reach)
    )
    estimates = [judged.cells[name, "hard"].iou.estimate for name in (head, "fcn")]
    assert difference.estimate == pytest.approx(estimates[0] - estimates[1])


def test_p_values_are_corrected_for_every_comparison(judged):
    collection = collection_of()
    raw = {
        (head, group): rank(collection.areas, resampling=FEW, classes=members)
        .pair(head, "fcn")
        .p_value
        for group, members in LABELS.groups.items()
        for head in SHARES
        if head != "fcn"
    }
    expected = {}
    for group in LABELS.groups:  # each is a family of its own
        keys = [key for key in raw if key[1] == group]
        expected.update(zip(keys, holm([raw[key] for key in keys]), strict=True))
    found = {k: c.comparison.holm_p_value for k, c in judged.cells.items() if c.comparison}
    assert found == pytest.approx(expected)
    assert judged.comparisons == 4 * 2


def test_verdicts_follow_the_rule(judged):
    hard = {head: judged.cells[head, "hard"].comparison for head in judged.heads}
    assert hard["fcn"] is None
    verdicts = {head: each.verdict for head, each in hard.items() if each}
    assert verdicts == {
        "solver": "solves", "better": "better", "moody": "undecided", "worse": "worse",
    }  # fmt: skip
    # IoU is about the share itself: the baseline lacks 0.59, and the solver adds 0.5 of it.
    lacking = 1 - judged.cells["fcn", "hard"].iou.estimate
    assert hard["solver"].difference.low > lacking / 2 > hard["better"].difference.high
    # The images are sure of the mean of moody, but its trainings are not alike.
    moody = rank(collection_of().areas, resampling=FEW, classes=[2, 3]).pair("moody", "fcn")
    assert moody.models.separated
    assert (hard["moody"].seed_wins, hard["moody"].seed_losses) == (6, 3)
    assert (hard["worse"].seed_wins, hard["worse"].seed_losses) == (0, 9)
    # On easy classes seeds agree, but images do not: solver differs from fcn by noise alone.
    easy = judged.cells["solver", "easy"].comparison
    assert easy.holm_p_value > 0.05
    assert easy.verdict == "undecided"
    assert judged.heads_with("worse", "easy") == ["worse"]


@pytest.mark.parametrize(("lacking_closed", "verdict"), [(0.45, "better"), (0.55, "solves")])
def test_a_group_is_solved_from_half_of_what_the_baseline_lacks(lacking_closed, verdict):
    base = iou_of(areas_of((0.9, 0.4), "fcn"), "hard")
    share = base + lacking_closed * (1 - base)
    heads = {"fcn": (0.9, 0.4), "new": (0.9, share)}
    shares = {head: dict.fromkeys(range(3), each) for head, each in heads.items()}
    judged = judge(collection_of(shares), resampling=FEW)
    assert judged.cells["new", "hard"].comparison.verdict == verdict


@pytest.mark.parametrize("metric", ["f1", "precision", "recall"])
def test_heads_are_judged_by_another_metric_with_the_same_code(metric):
    judged = judge(collection_of(), resampling=FEW, metric=metric)
    for (head, group), cell in judged.cells.items():
        for seed, found in cell.seeds.items():
            areas = collection_of().areas[head][seed]
            i, p, t = (a.sum(axis=0) for a in (areas.intersection, areas.predicted, areas.labelled))
            formula = {"f1": 2 * i / (p + t), "precision": i / p, "recall": i / t}[metric]
            assert found.estimate == pytest.approx(formula[LABELS.groups[group]].mean())
    assert judged.cells["solver", "hard"].comparison.holm_p_value < 0.05 or metric == "precision"
    page = insight_markdown(judged)
    assert METRIC_NAMES[metric] in page
    assert "IoU" not in page
    assert insight_json(judged)["cells"][0][metric]["estimate"] > 0


def test_heads_are_the_baseline_then_the_best_first(judged):
    assert judged.heads[0] == "fcn"
    assert judged.heads[1:] == ["solver", "moody", "better", "worse"]
    turned = judge(collection_of(), baseline="worse", resampling=FEW)
    assert turned.heads[0] == "worse"
    assert turned.cells["fcn", "hard"].comparison.verdict == "better"


def test_one_seed_is_said_to_be_one(judged):
    single = judge(collection_of({h: {0: s[0]} for h, s in SHARES.items()}), resampling=FEW)
    assert any("No verdict on every head: one training" in each for each in single.cautions)
    page = insight_markdown(single)
    assert "Fewer than 3 seeds of the head or of fcn" in page
    assert "| n = 1 |" in page
    assert {each.comparison.verdict for each in single.cells.values() if each.comparison} == {
        "no verdict"
    }
    assert "Fewer than 3 seeds" not in insight_markdown(judged)
    assert not any("No verdict" in caution for caution in judged.cautions)


def test_heads_that_only_guess_are_said_to_be_at_chance(judged):
    # Two classes of 50 and 50 %: one everywhere scores 25 %, each with half the chance 33 %.
    level = judged.chance["hard"]
    assert (level.constant, level.random) == pytest.approx((0.25, 1 / 3), abs=0.02)
    at_chance = {head for head in judged.heads if judged.cells[head, "hard"].at_chance}
    assert at_chance == {"worse"}  # 30 to 32 %; one training of moody is at 95 %
    page = insight_markdown(judged)
    assert "worse, at chance" in page
    assert "| random answer | – | " in page
    assert insight_json(judged)["chance"]["hard"]["random"] == level.random


def test_heads_without_counts_are_named_and_the_others_judged():
    collection = collection_of(warnings=["no interval for lost seed 0: no file"])
    runs = [*collection.runs, records.failed("failed"), records.run("lost", labels=LABELS)]
    judged = judge(replace(collection, runs=runs), resampling=FEW)
    assert judged.cautions == [
        "no interval for lost seed 0: no file",
        "Not judged, for want of counts per image: failed, lost.",
    ]
    assert set(judged.heads) == set(SHARES)


def test_limits_of_one_group_name_it():
    # Class `a` is in one image only, so that 0.975^40 of the draws have no IoU of it.
    collection = collection_of()
    areas = {
        head: {seed: _in_one_image(each) for seed, each in seeds.items()}
        for head, seeds in collection.areas.items()
    }
    judged = judge(replace(collection, areas=areas), resampling=FEW)
    (caution,) = [each for each in judged.cautions if "Classes" in each]
    assert caution.startswith("Group easy: Classes without a label in some draws")


def _in_one_image(areas):
    kept = np.ones((IMAGES, 4), np.int64)
    kept[1:, 1] = 0
    counts = (areas.intersection, areas.predicted, areas.labelled)
    return Areas(areas.names, *(array * kept for array in counts))


def test_records_without_groups_are_refused_with_datasets_that_have_some():
    labels = LABELS.model_copy(update={"groups": {}})
    with pytest.raises(InsightError, match=r"probe-small have no groups .* these have: probe"):
        judge(collection_of(labels=labels))


def test_the_named_datasets_are_those_with_groups():
    grouped = set()
    for name in DATASETS:
        try:
            labels = dataset_source(DatasetConfig(name=name)).facts.labels
        except UserError:  # it has no classes before an option or a file says which
            continue
        grouped |= {name} if labels.groups else set()
    assert grouped == set(GROUPED_DATASETS)


def test_a_missing_baseline_is_refused_with_the_nearest_name():
    with pytest.raises(InsightError, match=r"baseline 'slover' .* did you mean 'solver'"):
        judge(collection_of(), baseline="slover")
    with pytest.raises(InsightError, match="no head to compare with the baseline fcn"):
        judge(collection_of({"fcn": SHARES["fcn"]}))


def test_other_images_are_refused():
    collection = collection_of()
    areas = {**collection.areas, "worse": {0: areas_of((0.5, 0.5), "worse", images=39)}}
    with pytest.raises(RecordError, match=r"worse seed 0 and fcn seed 0 .* 39 and 40 images"):
        judge(replace(collection, areas=areas))


def test_the_page_has_every_number_and_the_rule(judged):
    page = insight_markdown(judged, "page.png")
    assert "![IoU of every head, seed and group, with intervals](<page.png>)" in page
    assert "solved by solver; better with better; undecided for moody (seeds " in page
    cell = judged.cells["better", "hard"]
    low, high = (f"{100 * end:.1f}" for end in cell.comparison.difference[1:])
    assert f"+{100 * cell.comparison.difference.estimate:.1f} [{low}, {high}]" in page
    assert "| better | 3 | " in page
    assert "after Holm's correction for the heads of a group" in page
    assert "begins above 50 % of what fcn lacks" in page
    assert "- hard: b, c" in page


def test_names_from_data_are_text_on_the_page():
    groups = {"<script>|x": [1], "hard": [2, 3]}
    labels = LABELS.model_copy(update={"groups": groups, "classes": ["_", "<b>a", "b", "c"]})
    page = insight_markdown(judge(collection_of(labels=labels), resampling=FEW))
    table = next(line for line in page.splitlines() if line.startswith("| head | seeds"))
    assert "\\<script>\\|x" in table
    assert "\\<b>a" in page
    assert page.replace("\\<", "").count("<") == 0


def test_the_terminal_shows_scores_and_verdicts(judged):
    console = Console(width=100)
    with console.capture() as captured:
        console.print(insight_sheet(judged))
    text = captured.get()
    value = 100 * judged.cells["solver", "hard"].iou.estimate
    assert f"{value:.1f} solves" in text
    assert "baseline" in text


def test_json_has_raw_fractions_and_null_without_a_number():
    labels = LABELS.model_copy(update={"groups": {"none": [0], "hard": [2, 3]}})
    collection = collection_of(labels=labels)
    empty = {
        head: {seed: _without_background(each) for seed, each in seeds.items()}
        for head, seeds in collection.areas.items()
    }
    judged = judge(replace(collection, areas=empty), resampling=FEW)
    content = json.loads(json.dumps(insight_json(judged), allow_nan=False))
    cells = {(cell["head"], cell["group"]): cell for cell in content["cells"]}
    assert cells["fcn", "none"]["iou"] == {"estimate": None, "low": None, "high": None}
    assert cells["fcn", "hard"]["comparison"] is None
    assert cells["solver", "none"]["comparison"]["verdict"] == "no verdict"
    exact = judged.cells["solver", "hard"].comparison.difference
    assert cells["solver", "hard"]["comparison"]["difference"] == exact._asdict()
    assert [each["seed"] for each in cells["solver", "hard"]["seeds"]] == [0, 1, 2]
    assert "| – | – |" in insight_markdown(judged)
    assert insight_figure(judged).get_axes()


def _without_background(areas):
    counts = (areas.intersection, areas.predicted, areas.labelled)
    return Areas(areas.names, *(array * np.array([0, 1, 1, 1]) for array in counts))


@pytest.mark.slow
def test_the_figure_has_a_marker_a_seed_and_a_bar_at_the_mean(judged):
    panels = insight_figure(judged).get_axes()
    assert [axes.get_title(loc="left") for axes in panels] == ["easy", "hard"]
    names = [label.get_text() for label in panels[0].get_yticklabels()]
    assert names == judged.heads
    for group, axes in zip(judged.groups, panels, strict=True):
        markers = [line.get_xdata()[0] for line in axes.lines if line.get_marker() != "None"]
        expected = [
            100 * iou.estimate
            for h in judged.heads
            for iou in judged.cells[h, group].seeds.values()
        ]
        assert markers == pytest.approx(expected)
        segments = [c.get_segments()[0] for c in axes.collections if isinstance(c, LineCollection)]
        upright = [segment[0, 0] for segment in segments if segment[0, 0] == segment[1, 0]]
        means = [100 * judged.cells[head, group].iou.estimate for head in judged.heads]
        assert upright == pytest.approx(means)
        assert axes.get_xlim() == (0, 100)
        texts = [text.get_text() for text in axes.texts]
        assert texts[1] == f"{means[1]:.1f}\n{judged.cells[names[1], group].comparison.verdict}"


def test_no_bar_hides_the_marker_of_a_single_seed():
    single = judge(collection_of({h: {0: s[0]} for h, s in SHARES.items()}), resampling=FEW)
    for axes in insight_figure(single).get_axes():
        ends = [c.get_segments()[0][:, 0] for c in axes.collections]
        assert all(low < high for low, high in ends)


@pytest.mark.slow
def test_five_groups_take_two_rows_of_panels():
    groups = {f"g{i}": [1 + i % 3] for i in range(5)}
    labels = LABELS.model_copy(update={"groups": groups})
    figure = insight_figure(judge(collection_of(labels=labels), resampling=FEW))
    assert [axes.get_visible() for axes in figure.get_axes()] == [True] * 5 + [False] * 3


def test_page_and_figure_are_written_side_by_side(judged, tmp_path):
    page = tmp_path / "new" / "what helps.md"
    paths = write_insight(judged, page)
    assert paths == [page, page.with_suffix(".png"), page.with_suffix(".svg")]
    assert "(<what helps.png>)" in page.read_text()
    assert sorted(path.name for path in page.parent.iterdir()) == sorted(p.name for p in paths)
    with pytest.raises(InsightError, match=r"page.html: the page is Markdown"):
        write_insight(judged, tmp_path / "page.html")
    with pytest.raises(OutputError, match="cannot write"):
        write_insight(judged, page / "under-a-file.md")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    collection = collection_of()
    for run in collection.runs:
        cell = cell_folder(out, "probe-small", run.head_name, run.seed)
        write_model(cell / "record.json", run)
        write_areas(cell / "areas.npz", collection.areas[run.head_name][run.seed])
    return out


def call(*arguments):
    return CliRunner().invoke(app, ["insight", *map(str, arguments)])


@pytest.mark.slow
def test_one_command_makes_the_page_from_records(folder, tmp_path):
    page = tmp_path / "insight.md"
    result = call(folder, "-o", page)
    assert result.exit_code == 0, result.output
    assert "# Which head solves which group: probe, protocol probe-small" in page.read_text()
    assert page.with_suffix(".svg").read_text().startswith("<?xml")
    shown = call(folder)
    assert "solves" in shown.output
    content = json.loads(call(folder, "--json", "--baseline", "better").output)
    assert content["baseline"] == "better"
    assert not any(math.isnan(cell["iou"]["low"]) for cell in content["cells"])


def test_mistakes_end_with_one_message(folder, tmp_path):
    for arguments, message in (
        ((folder, "--baseline", "fnc"), "did you mean 'fcn'?"),
        ((folder, "-o", tmp_path / "page.pdf"), "ends in .md"),
        ((tmp_path,), "no record.json"),
    ):
        result = call(*arguments)
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())
        assert "Traceback" not in result.output
