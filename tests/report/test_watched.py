"""Curves of watched trainings, and the sentence on the weights that are scored."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from contextbench.records.classes import ClassTotals
from contextbench.records.failures import Failure
from contextbench.records.runs import RunRecord
from contextbench.records.watched import WATCHED, Watched, write_watched
from contextbench.report.bundle import write_report
from contextbench.report.collection import Collection, collect
from contextbench.report.comparison import comparison_table
from contextbench.report.figures.plots import course_figure
from contextbench.report.page import render_page
from contextbench.report.tables.comparison import printed_comparison
from contextbench.report.training import watched_of
from contextbench.report.weights import weights_sentence, weights_text
from tests.report.records import comparison

PIXELS = 1000


def entry(step: int, correct: int, **changes: Any) -> Watched:
    """One class, correct in so many of 1000 pixels that are all predicted as it: IoU is the share.

    The pixels that are wrong belong to a second class: its IoU is 0.
    """
    totals = ClassTotals(
        intersection=[correct, 0],
        predicted=[PIXELS, 0],
        labelled=[correct, PIXELS - correct],
    )
    content = {"step": step, "split": "val", "images": 20, "seconds": 1.0, "totals": totals}
    return Watched.model_validate({**content, **changes})


def curve(*scores: int, **changes: Any) -> list[Watched]:
    """Watched every hundred steps."""
    return [entry(100 * (i + 1), score, **changes) for i, score in enumerate(scores)]


def lines(watched: Any) -> list[tuple[list[float], list[float], float]]:
    """Steps, mIoU and width of every line of the figure."""
    course = watched_of(watched)
    assert course is not None
    [axes] = course_figure(course, "title").axes
    return [([*line.get_xdata()], [*line.get_ydata()], line.get_linewidth()) for line in axes.lines]


def test_each_seed_is_a_thin_line_and_their_mean_a_bold_one() -> None:
    """IoU of the two classes is c / 1000 and 0, so their mean in percent c / 20."""
    first, second, mean = lines({"ocr": {0: curve(200, 400), 1: curve(400, 800)}})
    assert first[:2] == ([100, 200], [10, 20])
    assert second[:2] == ([100, 200], [20, 40])
    assert mean[:2] == ([100, 200], [15, 30])
    assert mean[2] > 2 * first[2]


def test_one_seed_is_one_line() -> None:
    assert [line[1] for line in lines({"ocr": {0: curve(200, 400)}})] == [[10, 20]]


def test_the_mean_is_over_steps_that_all_seeds_have() -> None:
    first, second = curve(200, 400, 900), curve(400, 0, 700)
    *_, mean = lines({"ocr": {0: first, 1: [second[0], second[2]]}})
    assert mean[:2] == ([100, 300], [15, 40])


def test_axes_and_caption_name_what_was_watched() -> None:
    course = watched_of({"ocr": {0: curve(200, 300), 1: curve(300, 400)}})
    assert course is not None
    figure = course_figure(course, "mIoU while training: probe")
    [axes] = figure.axes
    assert axes.get_xlabel() == "Training step"
    assert axes.get_ylabel() == "mIoU (%), 20 images of val"
    caption = " ".join(figure.get_supxlabel().split())
    assert caption.startswith("20 evenly spaced images of val, scored during training.")
    assert "Thin: each seed; bold: their mean" in caption
    assert [text.get_text() for text in axes.texts] == ["ocr"]


def test_other_images_and_failed_steps_are_named_and_not_drawn() -> None:
    failure = Failure(kind="E", message="no")
    watched = {
        "ocr": {0: [*curve(200), entry(200, 0, totals=None, failure=failure)]},
        "fcn": {0: curve(200), 1: curve(900, images=5)},
    }
    course = watched_of(watched)
    assert course is not None
    assert "Watched on other images, or without a score: fcn seed 1." in course.sentences
    assert "Not counted: ocr seed 0 at step 200." in course.sentences
    assert max(max(line[1]) for line in lines({"fcn": watched["fcn"]})) == 10


def test_seeds_without_a_step_in_common_are_named_and_not_drawn() -> None:
    watched = {"fcn": {0: curve(200)}, "ocr": {0: curve(200), 1: [entry(200, 400)]}}
    course = watched_of(watched)
    assert course is not None
    assert [each.head for each in course.curves] == ["fcn"]
    missing = "Watched on other images, or without a score: ocr seed 0, ocr seed 1."
    assert missing in course.sentences


def test_nothing_is_drawn_where_nothing_was_watched() -> None:
    assert watched_of({}) is None
    assert watched_of({"ocr": {0: []}}) is None


def watched_collection() -> Collection:
    runs = comparison()
    curves = {run.head_name: {run.seed: curve(100, 600)} for run in runs}
    return Collection(runs, watched=curves)


@pytest.mark.slow
def test_a_report_and_a_page_have_the_curves_of_watched_runs(tmp_path: Path) -> None:
    plain = dataclasses.replace(watched_collection(), watched={})
    names = {path.name for path in write_report(watched_collection(), None, tmp_path)}
    assert {"watched.png", "watched.svg"} <= names
    page = render_page([(watched_collection(), None)])
    assert "Scores while training" in page
    assert re.search(r'aria-label="ocr\s+30\.0 % at step 200"', page)
    assert "Scores while training" not in render_page([(plain, None)])


def test_a_curve_that_cannot_be_read_is_a_caution(tmp_path: Path) -> None:
    [run, *_] = comparison()
    folder = tmp_path / "seed-0"
    folder.mkdir()
    (folder / "record.json").write_text(run.model_dump_json())
    write_watched(folder / WATCHED, [])
    assert collect(tmp_path).watched == {run.head_name: {run.seed: []}}
    (folder / WATCHED).write_text("{}\n")
    assert any("no watched scores of" in warning for warning in collect(tmp_path).warnings)


def changed(run: RunRecord, **changes: Any) -> RunRecord:
    return run.model_copy(update=changes)


def test_a_table_says_which_weights_are_scored() -> None:
    runs = [changed(run, steps=400) for run in comparison()]
    table = comparison_table(runs, None)
    assert set(table["weights"]) == {"those of the last step, 400"}
    printed = printed_comparison(table)
    assert "- Weights: those of the last step, 400." in printed.markdown()
    assert "Weights: those of the last step, 400." in printed.sheet().explanations
    assert "Weights: those of the last step, 400." in printed.latex()


def test_weights_that_were_kept_are_told_with_their_score() -> None:
    first, *_ = comparison()
    run = changed(first, steps=400, kept=entry(300, 600))
    kept = "those of step 300 of 400, with the highest mIoU, 30.0 %, on 20 images of val"
    assert weights_text([run]) == kept
    other = changed(first, steps=400, seed=1)
    assert weights_text([run, other]) == f"seed 0: {kept}; seed 1: those of the last step, 400"
    assert weights_sentence({"ocr": kept, "fcn": kept, "ppm": ""}) == f"Weights: {kept}."
    assert weights_sentence({"ocr": kept, "fcn": "x"}) == f"Weights: ocr: {kept}. fcn: x."
    assert weights_sentence({"ppm": ""}) == ""


def test_averaged_weights_are_called_so() -> None:
    first, *_ = comparison()
    protocol = {**first.protocol, "train": {"ema": 0.99}}
    averaged = changed(first, steps=400, protocol=protocol)
    assert weights_text([averaged]) == "those of the last step, 400, averaged with decay 0.99"


def test_a_run_that_is_not_scored_has_no_weights_to_speak_of() -> None:
    first, *_ = comparison()
    assert weights_text([changed(first, views={})]) == ""
