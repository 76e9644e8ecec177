"""Confusions that are made to be there; the table, the page, the files and the command."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.config.files import ConfigError
from contextbench.records.runs import cell_folder
from contextbench.report.bundle import write_confusion
from contextbench.report.confusion import OTHERS, confusion_of
from contextbench.report.counted import UncountedError
from contextbench.report.page import render_page
from contextbench.report.tables.confusion import confusion_rows, confusion_sheet
from tests.report import counted
from tests.report.printed import sheet_markdown

WHOLE = counted.collection()


def share(head: str, label: int, guess: int) -> float:
    """Mean over seeds of the share of all pixels of `label`, from the tables themselves."""
    tables = [counted.tables(head, seed, counted.SHARES[head]).sum(axis=0) for seed in (0, 1, 2)]
    return float(np.mean([table[label, guess] / table[label].sum() for table in tables]))


def test_the_largest_confusion_is_the_one_that_was_made() -> None:
    found = confusion_of(WHOLE, top=3)
    first = found.largest[0]
    assert (first.label, first.prediction) == ("rail", "road")
    for head in counted.SHARES:
        assert first.of(head).miou.estimate == pytest.approx(share(head, 1, 0))
        assert first.of(head).miou.low < share(head, 1, 0) < first.of(head).miou.high
    assert {first.of(head).groups for head in counted.SHARES} == {"a", "b", "c"}
    assert found.pairs == 12  # of 4 x 4 without the diagonal


def test_two_heads_differ_most_where_they_were_made_to_with_a_corrected_p_value() -> None:
    found = confusion_of(WHOLE, heads=["ocr", "fcn"], top=2)
    first, second = found.largest
    assert (first.label, first.prediction) == ("rail", "road")
    gap = first.difference("ocr", "fcn")
    assert gap.estimate == pytest.approx(share("ocr", 1, 0) - share("fcn", 1, 0))
    assert gap.high < 0
    assert found.p_value(first) == pytest.approx(12 * first.ranking.pairs[0].p_value)
    assert found.p_value(first) < 0.05 < found.p_value(second)


def test_groups_of_classes_are_confused_as_sums_of_their_classes() -> None:
    found = confusion_of(WHOLE, groups=True)
    assert list(found.units) == ["ground", "above", OTHERS]
    table = np.mean([counted.tables("fcn", s, 0.5).sum(axis=0) for s in (0, 1, 2)], axis=0)
    assert found.pixels["fcn"][0, 0] == table[:2, :2].sum()
    assert found.pixels["fcn"][2, 1] == table[3, 2]
    largest = max(found.largest, key=lambda each: each.of("fcn").miou.estimate)
    assert ("rail", "road") not in [(each.label, each.prediction) for each in found.largest]
    of_group = {(0, 1): ("ground", "above"), (0, 2): ("ground", OTHERS)}
    for (label, guess), names in of_group.items():
        each = next(e for e in found.largest if (e.label, e.prediction) == names)
        expected = found.pixels["fcn"][label, guess] / found.pixels["fcn"][label].sum()
        assert each.of("fcn").miou.estimate == pytest.approx(expected)
    assert largest.of("fcn").miou.estimate < 0.1


def test_one_training_gives_no_verdict_on_a_difference() -> None:
    single = confusion_of(counted.collection(("fcn", "ocr"), (0,)), top=1)
    assert np.isnan(single.p_value(single.largest[0]))
    assert "fewer than 3 trainings" in sheet_markdown(confusion_sheet(single))
    assert confusion_rows(single)[0]["p_value"] is None


def test_heads_and_groups_that_there_are_not_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no head 'ocx'.*ocr"):
        confusion_of(WHOLE, heads=["ocx"])
    bare = [run.model_copy(update={"labels": counted.LABELS.model_copy(update={"groups": {}})})
            for run in WHOLE.runs]  # fmt: skip
    with pytest.raises(ConfigError, match="no groups of classes"):
        confusion_of(replace(WHOLE, runs=bare), groups=True)


def test_a_run_that_did_not_count_them_says_how_to_get_them() -> None:
    plain = {
        head: {seed: replace(each, further={}) for seed, each in seeds.items()}
        for head, seeds in WHOLE.areas.items()
    }
    with pytest.raises(UncountedError, match=r"fcn seed 0, .* and 6 more.*evaluate RUN --view det"):
        confusion_of(replace(WHOLE, areas=plain))


def test_the_page_shows_confusions_of_classes_heads_and_groups() -> None:
    page = render_page([(WHOLE, None)])
    for text in ("Confusions", "Where ocr and ppm differ most", "Between groups of classes"):
        assert text in page
    assert "Confusions" not in render_page([(replace(WHOLE, areas={}), None)])


def test_files_hold_every_pair(tmp_path: Path) -> None:
    written = write_confusion(confusion_of(WHOLE, heads=["ocr", "fcn"]), tmp_path)
    assert {path.name for path in written} == {
        "confusion.csv", "confusion.md", "confusion-difference.png", "confusion-difference.svg",
    }  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "confusion.csv").read_text().splitlines()))
    assert len(rows) == 2 * 16
    wrong = [r for r in rows if (r["head"], r["label"], r["prediction"]) == ("fcn", "rail", "road")]
    assert float(wrong[0]["share"]) == pytest.approx(share("fcn", 1, 0))


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["confusion", *map(str, arguments)])
    assert result.exit_code in (0, 2), result.output
    assert "Traceback" not in result.output
    return result.output


def test_the_command_finds_the_view_that_counted(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        full = counted.areas("fcn", seed)
        plain = replace(full, further={})
        views = {"single": (plain, {}), "details": (full, counted.SETTINGS)}
        run = counted.store(tmp_path, "fcn", seed, views)
    folder = tmp_path / run.protocol_name
    rows = json.loads(call(folder, "--top", 2, "--json"))
    assert rows[0]["heads"]["fcn"]["estimate"] == pytest.approx(share("fcn", 1, 0))
    one = cell_folder(tmp_path, run.protocol_name, "fcn", 1)
    assert "rail" in call(one)
    refused = call(folder, "--view", "single")
    assert "view single did not count confusion" in refused
    assert "View details of some runs does" in refused
