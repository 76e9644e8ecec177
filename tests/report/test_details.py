"""Calibration, bands and robustness of counts whose scores are known; tables, figures, command."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.evaluation.counters import Seen, count
from contextbench.records.counters import BINS
from contextbench.records.counts import Areas
from contextbench.report.boundaries import boundary_bands, calibration_of, trimap_bands
from contextbench.report.bundle import write_report
from contextbench.report.collection import Collection, collect
from contextbench.report.page import render_page
from contextbench.report.robustness import robustness_of
from contextbench.report.tables.details import calibration_sheet, robustness_sheets
from contextbench.statistics.counted import calibrated
from contextbench.statistics.scores import class_iou, scores
from tests.report import counted
from tests.report.printed import sheet_markdown

WHOLE = counted.collection()


def miou(counts: Any) -> float:
    return float(np.nanmean(class_iou(*counts)))


def test_boundary_iou_is_that_of_the_summed_bands() -> None:
    bands = boundary_bands(WHOLE)
    assert list(bands.rankings) == ["2 %", "3 px"]
    for band, ranking in enumerate(bands.rankings.values()):
        for each in ranking.heads:
            totals = [
                WHOLE.areas[each.head][seed].further["boundary"].dense().sum(axis=0)[band]
                for seed in (0, 1, 2)
            ]
            assert each.miou.estimate == pytest.approx(np.mean([miou(t) for t in totals]))
            assert each.miou.low < each.miou.estimate < each.miou.high
        assert {each.groups for each in ranking.heads} == {"a", "b", "c"}


def test_a_trimap_has_a_score_for_every_width() -> None:
    bands = trimap_bands(WHOLE)
    assert bands.widths == (1, 2, 4)
    widest = bands.rankings["4 px"].heads[0]
    totals = WHOLE.areas[widest.head][1].further["trimap"].dense().sum(axis=0)
    assert widest.seeds.values[1] == pytest.approx(miou(totals[-1]))


def test_ece_is_the_gap_of_confidence_and_accuracy() -> None:
    """All pixels are in one bin, at a confidence of 0.95."""
    found = calibration_of(WHOLE)
    for each in found.ranking.heads:
        totals = [WHOLE.areas[each.head][seed].totals() for seed in (0, 1, 2)]
        accuracy = [sum(t.intersection) / sum(t.labelled) for t in totals]
        expected = np.mean([0.95 - right for right in accuracy])
        assert 1 - each.miou.estimate == pytest.approx(expected, abs=1e-6)  # parts of 2^-20
        assert found.overconfidence(each.head) == pytest.approx(expected, abs=1e-6)
    assert [each.head for each in found.ranking.heads] == ["ocr", "ppm", "fcn"]
    assert "ECE" in sheet_markdown(calibration_sheet(found))


def test_ece_agrees_with_torchmetrics() -> None:
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.classification")
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(4000, 5, generator=generator).mul(2).softmax(dim=1)
    labels = torch.randint(0, 5, (4000,), generator=generator)
    labels[probabilities[:, 0] > 0.4] = 0
    labels[::7] = 255
    expected = functional.multiclass_calibration_error(
        probabilities, labels, 5, n_bins=BINS, norm="l1", ignore_index=255
    )
    sure, guess = (each.view(40, 100) for each in probabilities.max(dim=1))
    seen = Seen(torch.zeros(5, 5), guess, labels.view(40, 100), sure, counted.CONFIG)
    found = calibrated(*count("calibration", seen).numpy())
    assert 1 - found[0] == pytest.approx(expected.item(), rel=1e-4)  # which is summed in float32


# Robustness


def views(head: str, seed: int) -> dict[str, tuple[Areas, Mapping[str, Any]]]:
    plain = {"mode": "whole", "scales": [1.0]}
    clean = counted.SHARES[head]
    worse = {
        f"noise-{n}": (
            replace(counted.areas(head, seed, clean + 0.05 * n), further={}),
            {**plain, "corrupt": {"kind": "noise", "strength": n}},
        )
        for n in (1, 3, 5)
    }
    other = {**plain, "scales": [1.0, 2.0], "corrupt": {"kind": "blur", "strength": 2}}
    full = counted.areas(head, seed)
    return {
        "single": (replace(full, further={}), plain),
        **worse,
        "blur-2-ms": (replace(full, further={}), other),
        "details": (full, {**plain, **counted.SETTINGS}),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("robust")
    for head in counted.SHARES:
        for seed in (0, 1, 2):
            run = counted.store(out, head, seed, views(head, seed))
    return out / run.protocol_name


@pytest.fixture(scope="module")
def stored(folder: Path) -> Collection:
    return collect(folder)


def test_the_loss_is_the_difference_of_the_scores_of_the_same_models(stored: Collection) -> None:
    found = robustness_of(stored)
    assert found is not None
    assert [(p.kind, p.strength) for p in found.points] == [("noise", n) for n in (1, 3, 5)]
    for point in found.points:
        for head in counted.SHARES:
            both = [
                [scores(*(getattr(a, n) for n in ("intersection", "predicted", "labelled"))).miou
                 for a in (views(head, seed)[view][0] for view in ("single", point.view))]
                for seed in (0, 1, 2)
            ]  # fmt: skip
            change = np.mean([worse - clean for clean, worse in both])
            own = point.of(head)
            assert own.miou.estimate == pytest.approx(change)
            assert own.miou.low < change < own.miou.high < 0
            assert point.miou(head) == pytest.approx(np.mean([worse for _, worse in both]))
    assert "blur-2-ms: it differs from single in scales too" in found.left_out


def test_a_view_that_a_run_lacks_is_left_out_and_named(tmp_path: Path) -> None:
    for head in ("fcn", "ocr"):
        kept = views(head, 0)
        if head == "ocr":
            del kept["noise-3"]
        run = counted.store(tmp_path, head, 0, kept)
    found = robustness_of(collect(tmp_path / run.protocol_name))
    assert found is not None
    assert [point.strength for point in found.points] == [1, 5]
    assert "noise-3: ocr seed 0 was not evaluated so" in found.left_out
    assert "noise-3: ocr seed 0" in sheet_markdown(robustness_sheets(found)[-1])


def test_nothing_is_said_where_nothing_is_corrupted(stored: Collection) -> None:
    assert robustness_of(WHOLE) is None
    assert robustness_of(collect_view(stored, "noise-3")) is None


def collect_view(stored: Collection, view: str) -> Collection:
    return replace(stored, runs=[run.seen(view) for run in stored.runs])


@pytest.mark.slow
def test_the_page_and_the_figures_have_what_was_counted(
    folder: Path, stored: Collection, tmp_path: Path
) -> None:
    details = collect(folder, "details")
    page = render_page([(details, None)])
    for heading in ("Confusions", "Calibration", "Boundaries", "Trimaps", "Robustness"):
        assert f"{heading}</h3>" in page
    plain = render_page([(stored, None)])
    assert "Robustness</h3>" in plain
    assert "Calibration</h3>" not in plain
    written = write_report(details, None, tmp_path, formats=("svg",))
    names = {path.stem for path in written}
    assert {"confusion-fcn", "reliability", "trimap", "robustness"} <= names


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["details", *map(str, arguments)])


@pytest.mark.slow
def test_the_command_shows_everything_that_any_view_counted(folder: Path) -> None:
    rows = json.loads(call(folder, "--json").stdout)
    assert set(rows) == {"calibration", "boundary", "trimap", "robustness"}
    assert rows["robustness"][0]["kind"] == "noise"
    shown = call(folder).stdout
    for text in ("expected calibration error", "Boundary IoU", "noise: mIoU"):
        assert text in shown


def test_runs_that_counted_nothing_say_how_to_count(tmp_path: Path) -> None:
    plain = {"single": (replace(counted.areas("fcn", 0), further={}), {})}
    run = counted.store(tmp_path, "fcn", 0, plain)
    result = call(tmp_path / run.protocol_name)
    assert result.exit_code == 2
    assert "evaluate RUN --view details" in result.output
