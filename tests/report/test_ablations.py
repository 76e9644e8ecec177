"""Published beside measured: both sides' differences, what is missing, and what is said of it."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from contextbench.config.protocols import Protocol, load_protocol
from contextbench.papers.ablations import Ablation, load_ablation, variants
from contextbench.records.counts import Areas, write_areas
from contextbench.records.runs import cell_folder
from contextbench.records.stored import RecordError, write_model
from contextbench.report.papers.ablations import (
    AblationTable,
    ablation_markdown,
    ablation_sheet,
    ablation_table,
    write_ablation,
)
from contextbench.report.papers.runs import RowRuns, read_rows
from contextbench.statistics.intervals import Resampling
from contextbench.statistics.scores import scores
from tests.report import records

HEADS = ["aspp", "encnet", "fcn", "ocr", "ppm"]
FEW = Resampling(resamples=200)
IMAGES, CLASSES, PIXELS = 40, 9, 1000


def areas(share: float, seed: int = 0) -> Areas:
    """Images of which about `share` of the pixels of every class are right, the same in all."""
    noise = np.random.default_rng(0).integers(-60, 61, (IMAGES, CLASSES))  # shared: paired images
    right = np.clip(round(share * PIXELS) + noise + 5 * seed, 0, PIXELS).astype(np.int64)
    full = np.full((IMAGES, CLASSES), PIXELS, dtype=np.int64)
    return Areas([f"{i:03d}" for i in range(IMAGES)], right, full, full.copy())


def rows_of(
    name: str, shares: Sequence[Sequence[float]], protocol: Protocol | None = None
) -> tuple[Ablation, Protocol, list[RowRuns]]:
    """Rows of a shipped ablation whose seeds have these shares of right pixels."""
    settings = protocol or load_protocol("probe")
    ablation = load_ablation(name, HEADS)
    rows = [
        RowRuns(
            variant,
            {s: records.run(variant.row.head.name, s) for s in range(len(shares_of_row))},
            {s: areas(share, s) for s, share in enumerate(shares_of_row)},
        )
        for variant, shares_of_row in zip(variants(ablation, settings), shares, strict=True)
    ]
    return ablation, settings, rows


def table_of(name: str, shares: Sequence[Sequence[float]], **changes: Any) -> AblationTable:
    ablation, protocol, rows = rows_of(name, shares, **changes)
    return ablation_table(ablation, protocol, rows, FEW)


def shown(table: AblationTable) -> str:
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(ablation_sheet(table))
    return console.export_text()


def miou(share: float, seed: int = 0) -> float:
    each = areas(share, seed)
    return scores(each.intersection, each.predicted, each.labelled).miou


def test_both_sides_have_scores_and_differences_to_the_baseline() -> None:
    frame = table_of("encnet", [[0.5] * 3, [0.6] * 3, [0.7] * 3]).frame.set_index("label")
    published = frame["published_pascal-context_miou"]
    assert published.tolist() == pytest.approx([0.410, 0.476, 0.492])
    assert frame["published_pascal-context_difference"].tolist() == [0, 0.066, 0.082]
    assert math.isnan(frame.loc["+ encoding", "published_ade20k_miou"])
    for label, share in [("FCN", 0.5), ("+ encoding", 0.6), ("+ encoding + SE-loss", 0.7)]:
        seeds = [miou(share, seed) for seed in (0, 1, 2)]
        assert frame.loc[label, "miou"] == pytest.approx(np.mean(seeds))
        assert frame.loc[label, "miou_seed_sd"] == pytest.approx(np.std(seeds, ddof=1))
    expected = frame["miou"] - frame.loc["FCN", "miou"]
    rest = frame.drop(index="FCN")
    assert rest["difference"].tolist() == pytest.approx(expected.drop("FCN").tolist())
    assert (rest["difference_low"] < rest["difference"]).all()
    assert (rest["difference"] < rest["difference_high"]).all()
    assert rest["separated"].all()
    assert math.isnan(frame.loc["FCN", "difference"])


def test_a_row_below_the_baseline_has_a_negative_interval() -> None:
    frame = table_of("encnet", [[0.6] * 3, [0.5] * 3, [0.7] * 3]).frame
    worse = frame.loc[1]
    assert worse["difference_low"] < worse["difference"] < worse["difference_high"] < 0
    assert worse["separated"]


def test_rows_that_do_not_differ_are_not_separated() -> None:
    frame = table_of("encnet", [[0.6] * 3, [0.6] * 3, [0.6] * 3]).frame
    assert frame.loc[1, "difference"] == 0
    assert frame["separated"].tolist()[1:] == [False, False]


def test_the_text_has_printed_digits_signs_and_marks() -> None:
    table = table_of("encnet", [[0.5] * 3, [0.45] * 3, [0.7] * 3])
    text = ablation_markdown(table)
    line = next(line for line in text.splitlines() if line.startswith("| + encoding |"))
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[1:3] == ["47.6 (+6.6)", "–"]
    assert cells[3].startswith(f"{100 * table.frame.loc[1, 'miou']:.1f} [")
    assert cells[4].endswith("(3)")
    assert cells[5].startswith("−")
    assert cells[6] == "yes"
    (full,) = (line for line in text.splitlines() if line.startswith("| + encoding + SE-loss |"))
    assert "| 49.2 (+8.2) | 41.11 (+6.73) |" in full
    (baseline,) = (line for line in text.splitlines() if line.startswith("| FCN |"))
    assert "| 41.0 | 34.38 |" in baseline
    assert baseline.rstrip(" |").endswith("baseline")


def test_zeros_at_the_end_of_a_printed_score_are_kept() -> None:
    ablation, protocol, rows = rows_of("ocr-ground-truth", [[0.5], [0.6], [0.7]])
    assert "| 79.58 | 45.28 | 55.60 |" in ablation_markdown(
        ablation_table(ablation, protocol, rows, FEW)
    )


def test_one_seed_says_so() -> None:
    table = table_of("encnet", [[0.5], [0.6], [0.7]])
    assert "| – (1) |" in ablation_markdown(table)
    assert "No verdict on every head: one training" in ablation_markdown(table)
    assert table.frame["separated"].isna().all()
    assert table.frame["models_separated"].tolist()[1:] == [True, True]
    assert (table.frame["models_difference_low"][1:] > 0).all()


def test_the_legend_says_what_does_not_compare() -> None:
    text = " ".join(shown(table_of("encnet", [[0.5], [0.6], [0.7]])).split())
    differ = "published and measured differ in"
    assert f"PASCAL Context test, ResNet-50: {differ} data, split, backbone, recipe." in text
    assert f"ADE20K val, ResNet-50: {differ} data, backbone, recipe." in text
    assert "Absolute values of the two sides do not compare" in text
    assert "the difference to the row “FCN”" in text
    assert "probe val, resnet10, 480 steps of 8 images (protocol probe)" in text


@pytest.mark.parametrize(
    ("backbone", "same"), [("resnet101", True), ("resnet10", False), ("resnet50", False)]
)
def test_the_same_backbone_is_known_by_its_name(backbone: str, same: bool) -> None:
    """ResNet-101-D8 is resnet101 at output stride 8."""
    changes = [f"backbone.name={backbone}", "backbone.width=64"]
    protocol = load_protocol("probe", changes)
    table = table_of("ocr-supervision", [[0.5], [0.6]], protocol=protocol)
    (line,) = (line for line in table.legend if "published and measured differ" in line)
    assert ("backbone" not in line) == same
    assert "data, " in line


def test_unconfirmed_scores_are_marked_and_confirmed_ones_are_not() -> None:
    text = ablation_markdown(table_of("deeplabv3-multi-grid", [[0.5], [0.6], [0.7]]))
    assert "75.93‡ (+0.57)" in text
    assert "76.58 (+1.22)" in text
    assert "‡: not confirmed" in text
    assert "‡" not in ablation_markdown(table_of("encnet", [[0.5], [0.6], [0.7]]))


def test_rows_of_another_protocol_say_what_differs_and_why_they_are_compared() -> None:
    table = table_of("deeplabv3-output-stride", [[0.5], [0.6], [0.7]])
    assert table.notes[0] == []  # the protocol's own stride
    (note,) = table.notes[1]
    assert "probe+output_stride-16: backbone.output_stride 16, not 8" in note
    assert "what the table varies" in note
    assert table.frame["changes"].tolist()[1] == "backbone.output_stride=16"


def test_a_row_without_scores_is_empty_with_a_footnote() -> None:
    ablation, protocol, rows = rows_of("encnet", [[0.5], [0.6], [0.7]])
    rows[1] = RowRuns(rows[1].variant, {}, {}, ("not run: no room | here",))
    table = ablation_table(ablation, protocol, rows, FEW)
    text = ablation_markdown(table)
    assert "| + encoding [^1] | 47.6 (+6.6) | – | – | – | – | – |" in text
    assert "[^1]: not run: no room | here" in text
    assert "¹ not run: no room | here" in shown(table)


def test_without_the_baseline_there_are_no_measured_differences() -> None:
    ablation, protocol, rows = rows_of("encnet", [[0.5], [0.6], [0.7]])
    rows[0] = RowRuns(rows[0].variant, {}, {}, ("not run",))
    frame = ablation_table(ablation, protocol, rows, FEW).frame
    assert frame["difference"].isna().all()
    assert frame["miou"].notna().tolist() == [False, True, True]
    nothing = [RowRuns(row.variant, {}, {}, ("not run",)) for row in rows]
    empty = ablation_table(ablation, protocol, nothing, FEW)
    assert "No row has scores" in ablation_markdown(empty)


def test_rows_on_other_images_are_refused() -> None:
    ablation, protocol, rows = rows_of("encnet", [[0.5], [0.6], [0.7]])
    each = areas(0.6)
    other = Areas(
        [f"x{i}" for i in range(IMAGES)], each.intersection, each.predicted, each.labelled
    )
    rows[1] = RowRuns(rows[1].variant, rows[1].runs, {0: other})
    with pytest.raises(RecordError, match="not evaluated on the same images"):
        ablation_table(ablation, protocol, rows, FEW)


def test_files_have_every_number_and_every_source(tmp_path: Path) -> None:
    table = table_of("encnet", [[0.5, 0.5], [0.6, 0.6], [0.7, 0.7]])
    markdown, csv = write_ablation(table, tmp_path / "ablations")
    assert (markdown.name, csv.name) == ("encnet.md", "encnet.csv")
    frame = pd.read_csv(csv)
    assert frame["miou"].tolist() == pytest.approx(table.frame["miou"].tolist(), rel=1e-12)
    text = markdown.read_text(encoding="utf-8")
    assert "EncNet paper (arXiv 1803.08904, CVPR 2018) Table 1" in text
    assert "(verified)" in text
    assert "background left out" in text  # a note of the published line


def stored(out: Path, protocol: Protocol, rows: Mapping[str, float], **changes: Any) -> None:
    """Cells of seed 0 as a run leaves them, by name of the head."""
    for variant in variants(load_ablation("encnet", HEADS), protocol):
        head = variant.row.head
        if head.name not in rows:
            continue
        each = areas(rows[head.name])
        run = records.run(
            head.name,
            protocol=protocol.seen(),
            fingerprint=protocol.fingerprint("dddd"),
            totals=each.totals(),
        ).model_copy(update={"head": head.model_dump(mode="json"), **changes})
        folder = cell_folder(out, protocol.name, head.name, 0)
        write_model(folder / "record.json", run)
        write_areas(folder / "areas.npz", each)


def read(out: Path, protocol: Protocol, *seeds: int) -> list[RowRuns]:
    return read_rows(out, variants(load_ablation("encnet", HEADS), protocol), seeds)


def test_rows_are_read_from_the_cells_of_comparisons(tmp_path: Path) -> None:
    protocol = load_protocol("probe")
    stored(tmp_path, protocol, {"fcn": 0.5, "encnet": 0.7})
    fcn, encoding, encnet = read(tmp_path, protocol, 0, 1)
    assert fcn.areas[0].totals() == fcn.runs[0].totals
    assert fcn.missing == ("seed 1: not run",)
    assert (encoding.missing, encoding.runs) == (("not run",), {})
    assert list(encnet.areas) == [0]


def test_failed_cells_and_lost_areas_are_told(tmp_path: Path) -> None:
    protocol = load_protocol("probe")
    failure = records.failed("fcn").failure
    failed = {"status": "failed", "failure": failure, "views": {}, "steps": 7}
    stored(tmp_path, protocol, {"fcn": 0.5}, **failed)
    stored(tmp_path, protocol, {"encnet": 0.7})
    (cell_folder(tmp_path, "probe", "encnet", 0) / "areas.npz").unlink()
    fcn, _, encnet = read(tmp_path, protocol, 0)
    assert fcn.missing == ("seed 0: failed at step 7 (LossError: loss is NaN)",)
    assert "areas.npz: cannot be read" in encnet.missing[0]


def test_cells_of_another_configuration_are_refused(tmp_path: Path) -> None:
    protocol = load_protocol("probe")
    stored(tmp_path, protocol, {"fcn": 0.5})
    longer = load_protocol("probe", ["train.steps=500"])
    with pytest.raises(RecordError, match=r"protocol\.train\.steps was 480, is 500"):
        read(tmp_path, longer, 0)
    stored(tmp_path, protocol, {"fcn": 0.5}, head={"name": "fcn", "head": "fcn", "options": {}})
    with pytest.raises(RecordError, match=r"head\.options"):
        read(tmp_path, protocol, 0)


def test_rows_of_different_data_are_refused(tmp_path: Path) -> None:
    protocol = load_protocol("probe")
    stored(tmp_path, protocol, {"fcn": 0.5})
    changed = {"dataset_fingerprint": "eeee", "fingerprint": protocol.fingerprint("eeee")}
    stored(tmp_path, protocol, {"encnet": 0.5}, **changed)
    with pytest.raises(RecordError, match="different data and do not compare: probe/fcn seed 0"):
        read(tmp_path, protocol, 0)
