"""The paper's table: ratios, base units and marks from numbers that are written out here."""

import csv
import io
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from contextbench.measure.counts import FeatureSize, count_head_scopes, meta_features
from contextbench.measure.counts import feature_channels as channels_of
from contextbench.papers.published import (
    FeatureShape,
    PublishedCost,
    TableRow,
    TableSpec,
    load_published,
    load_table,
)
from contextbench.records.profiles import FormCost, HeadProfileRecord, MemoryBytes, ScopeCounts
from contextbench.records.stored import RecordError
from contextbench.report.papers.complexity import (
    COLUMNS,
    paper_table,
    printed_paper,
)
from heads import HEADS, build_head
from tests.report.head_records import CONTEXT, WEIGHTS, failed, form, record

SHARED = "The paper counts something else."


def row(name: str, method: str | None, **changes: Any) -> TableRow:
    content = {"name": name, "label": name.upper(), "method": method, "head": name}
    return TableRow(**{**content, "counts": f"layers of {name}", "notes": (SHARED,), **changes})


SPEC = TableSpec(
    name="two",
    title="Two modules",
    published="figures.csv",
    features=FeatureShape(channels=8, height=4, width=4),
    classes=3,
    baseline="ocr",
    rows=(
        row("ppm", "PPM", notes=(SHARED, "PPM alone.")),
        row("ocr", "OCR"),
        row("fcn", None, notes=()),
    ),
)


def figures(method: str, params_m: float, memory_mb: float, flops_g: float, time_ms: float):
    return PublishedCost(
        method=method,
        params_m=params_m,
        memory_mb=memory_mb,
        flops_g=flops_g,
        time_ms=time_ms,
        input_feature_map="1x8x4x4",
        gpu="P40",
        status="unverified",
        source="A paper, Table 4",
    )


PUBLISHED = {"PPM": figures("PPM", 2, 3, 4, 90), "OCR": figures("OCR", 1, 1, 1, 45)}


def costs() -> list[FormCost]:
    """FLOPs are twice the MACs: PPM has 4.04 G (1 % above), OCR 1.02 G (2 % above)."""
    ppm = {CONTEXT: [30.0, 40.0, 400.0]}
    ocr = {CONTEXT: [10.0, 20.0, 100.0]}
    return [
        form("ppm", "reference", parameters=2_020_000, macs=2_020_000_000, activations=8000),
        form("ppm", "fast", parameters=2_020_000, macs=10**9, activations=4000, times=ppm),
        form("ocr", "reference", parameters=989_999, macs=510_000_000, activations=6000),
        form("ocr", "fast", parameters=989_999, macs=510_000_000, activations=6000, times=ocr),
        form("fcn", "reference"),
        form("fcn", "fast"),
    ]


def table(record_of: HeadProfileRecord | None = None) -> pd.DataFrame:
    return paper_table(SPEC, PUBLISHED, record_of or record(costs()))


def row_of(rows: pd.DataFrame, name: str) -> pd.Series:
    return rows.set_index("row").loc[name]


def test_rows_are_those_of_the_table_with_what_they_count_and_notes():
    rows = table()
    assert list(rows["row"]) == ["ppm", "ocr", "fcn"]
    assert list(rows["label"]) == ["PPM", "OCR", "FCN"]
    assert list(rows["counts"]) == ["layers of ppm", "layers of ocr", "layers of fcn"]
    assert list(rows["notes"]) == [(SHARED, "PPM alone."), (SHARED,), ()]
    assert set(rows["reason"]) == {""}


def test_counts_are_those_of_the_reference_form_in_scope_context():
    ppm = row_of(table(), "ppm")
    assert (ppm["published_parameters"], ppm["parameters"]) == (2_000_000, 2_020_000)
    assert (ppm["published_flops"], ppm["flops"]) == (4_000_000_000, 2 * 2_020_000_000)
    assert ppm["parameters_ratio"] == ppm["flops_ratio"] == 1.01
    assert ppm["fast_flops"] == 2 * 10**9


@pytest.mark.parametrize(
    ("parameters", "close"),
    [(990_000, True), (1_010_000, True), (989_999, False), (1_010_001, False)],
)
def test_within_1_percent_includes_its_ends(parameters: int, close: bool):
    ocr = form("ocr", "reference", parameters=parameters)
    assert bool(row_of(table(record([ocr])), "ocr")["parameters_within_1_percent"]) is close


def test_marks_are_missing_where_nothing_was_published():
    rows = table()
    assert list(rows["flops_within_1_percent"])[:2] == [True, False]
    fcn = row_of(rows, "fcn")
    assert fcn["parameters_within_1_percent"] is pd.NA
    assert math.isnan(fcn["published_flops"])
    assert math.isnan(fcn["flops_ratio"])
    assert fcn["method"] == ""


def test_memory_is_weights_and_activations_without_the_input():
    ppm = row_of(table(), "ppm")
    assert ppm["published_memory_bytes"] == 3 * 2**20
    assert ppm["memory_bytes"] == WEIGHTS + 8000
    assert ppm["fast_memory_bytes"] == WEIGHTS + 4000
    assert ppm["memory_ratio"] == (WEIGHTS + 8000) / (3 * 2**20)


def test_times_are_ratios_to_the_baseline_of_the_same_round():
    """Within rounds 3, 2 and 4; the ratio of medians would be 2."""
    rows = table()
    assert row_of(rows, "ppm")["published_time_ratio"] == 2.0
    assert row_of(rows, "ppm")["latency_ratio"] == 3.0
    assert row_of(rows, "ocr")["latency_ratio"] == 1.0
    assert math.isnan(row_of(rows, "fcn")["latency_ratio"])
    assert not [name for name in rows.columns if str(name).endswith("_ms")]


def test_heads_that_failed_or_are_missing_are_rows_with_their_reason():
    """A form that ran out of memory while it was timed keeps its predicted numbers."""
    partly = form("ocr", "fast").model_copy(update={"failure": failed("ocr").failure})
    rows = table(record([failed("ppm", "reference"), form("ocr", "reference"), partly]))
    assert row_of(rows, "ppm")["reason"] == (
        "reference: MemoryError: no room; fast: not in the record"
    )
    assert row_of(rows, "ocr")["reason"] == "fast: MemoryError: no room"
    assert row_of(rows, "ocr")["fast_memory_bytes"] == WEIGHTS + 2000
    assert row_of(rows, "fcn")["reason"] == "not in the record"
    assert math.isnan(row_of(rows, "fcn")["flops"])
    markdown = printed_paper(SPEC, rows).markdown()
    assert "[^1]: reference: MemoryError: no room; fast: not in the record" in markdown
    assert "[^5]: not in the record" in markdown
    assert "| FCN [^5] | – |" in markdown


def test_costs_at_other_sizes_are_not_taken():
    rows = table(record([form("ppm", "reference", (4, 5))]))
    assert row_of(rows, "ppm")["reason"] == "not in the record"


@pytest.mark.parametrize("changes", [{"channels": 16}, {"classes": 4}])
def test_a_record_of_other_features_is_refused(changes: dict[str, int]):
    with pytest.raises(RecordError, match="table 'two' is about 8 channels and 3 classes"):
        table(record(costs(), **changes))


def cells(markdown: str) -> list[dict[str, str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    split = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [dict(zip(split[0], line, strict=True)) for line in split[2:]]


def test_markdown_has_units_marks_and_shared_footnotes():
    markdown = printed_paper(SPEC, table()).markdown()
    ppm, ocr, fcn = cells(markdown)
    assert [r["method"] for r in (ppm, ocr, fcn)] == ["PPM [^1] [^2]", "OCR [^1]", "FCN"]
    assert markdown.count(SHARED) == 1
    assert "[^2]: PPM alone." in markdown
    assert (ppm["params published M"], ppm["params ours M"]) == ("2.0", "2.02 ✓")
    assert (ppm["FLOPs published G"], ppm["FLOPs ours G"]) == ("4", "4.0 ✓")
    assert (ocr["FLOPs ours G"], ocr["FLOPs ratio ×"]) == ("1.0", "1.020")
    assert (ppm["time published ×OCR"], ppm["time ours, fast form ×OCR"]) == ("2.00", "3.00")
    assert (fcn["params published M"], fcn["time ours, fast form ×OCR"]) == ("–", "–")
    assert ppm["what is counted"] == "layers of ppm"


def test_every_header_has_a_unit():
    assert all(column.unit for column in COLUMNS)


def test_the_legend_names_forms_sources_and_the_device_of_the_times():
    markdown = printed_paper(SPEC, table()).markdown()
    assert "A paper, Table 4; unverified" in markdown
    assert "Published: on P40" in markdown
    assert "reference form" in markdown
    assert "3 interleaved rounds on Example CPU @ 2.50GHz, 2 threads, float32" in markdown


def test_without_times_there_is_neither_a_column_nor_a_device():
    untimed = record([cost.model_copy(update={"timings": []}) for cost in costs()])
    markdown = printed_paper(SPEC, table(untimed)).markdown()
    assert "ours, fast form ×OCR" not in markdown
    assert "Example CPU" not in markdown
    assert "time published ×OCR" in markdown


def printed(rows: pd.DataFrame, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(printed_paper(SPEC, rows).sheet())
    return console.file.getvalue()


def test_the_console_shows_published_beside_measured_in_100_characters():
    text = printed(table(), 100)
    assert "…" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("PPM")]
    assert line.split()[:4] == ["PPM¹,²", "2.0", "2.02", "✓"]
    assert "² PPM alone." in text


def test_csv_keeps_base_units_and_full_precision(tmp_path: Path):
    paths = printed_paper(SPEC, table()).write(tmp_path)
    assert [path.name for path in paths] == ["two.csv", "two.md", "two.tex"]
    ppm, _, fcn = csv.DictReader(paths[0].read_text().splitlines())
    assert (ppm["flops"], ppm["published_memory_bytes"]) == ("4040000000", str(3 * 2**20))
    assert float(ppm["memory_ratio"]) == (WEIGHTS + 8000) / (3 * 2**20)
    assert ppm["notes"] == f"{SHARED} PPM alone."
    assert (fcn["published_flops"], fcn["flops_within_1_percent"]) == ("", "")
    assert paths[1].read_text().startswith("# Two modules\n")


PAPER = load_table("ocr-complexity", HEADS)
SIZE = FeatureSize(PAPER.features.channels, PAPER.features.height, PAPER.features.width)


def counted(spec_row: TableRow) -> FormCost:
    """Counts from shapes alone; memory is not of interest here."""
    head = build_head(
        spec_row.head,
        channels_of(SIZE),
        PAPER.classes,
        implementation="reference",
        **spec_row.options,
    )
    counts = count_head_scopes(head, meta_features(SIZE))
    return FormCost(
        head=spec_row.name,
        implementation="reference",
        height=SIZE.height,
        width=SIZE.width,
        counts={scope: ScopeCounts(**count.as_dict()) for scope, count in counts.items()},
        memory={"context": MemoryBytes(**dict.fromkeys(MemoryBytes.model_fields, 0))},
    )


@pytest.fixture(scope="module")
def ocr_paper() -> pd.DataFrame:
    """Of the published rows and the one that is compared with one of them."""
    rows = [each for each in PAPER.rows if each.method is not None or each.name == "ocr"]
    costs_of_rows = [counted(spec_row) for spec_row in rows]
    of_paper = record(costs_of_rows, channels=SIZE.channels, classes=PAPER.classes)
    return paper_table(PAPER, load_published(PAPER), of_paper)


# Their FLOPs need heads of 23.9 M parameters; the paper prints 10.6 M.
CONTRADICTORY = {"danet", "ccnet"}


@pytest.mark.parametrize("name", [r.name for r in PAPER.rows if r.method is not None])
def test_counts_of_the_ocr_paper_are_met(ocr_paper: pd.DataFrame, name: str):
    ours = row_of(ocr_paper, name)
    assert ours["flops_within_1_percent"], ours["flops_ratio"]
    if name in CONTRADICTORY:
        assert ours["parameters"] == pytest.approx(23.92e6, rel=1e-3)
        assert not ours["parameters_within_1_percent"]
    else:
        assert ours["parameters_within_1_percent"], ours["parameters_ratio"]


def test_delta_on_regions_misses_the_printed_flops_by_what_the_note_says(ocr_paper: pd.DataFrame):
    regions, pixels = (row_of(ocr_paper, name)["flops"] for name in ("ocr", "ocr_pixels"))
    assert regions / 340e9 == pytest.approx(0.987, abs=5e-4)
    assert pixels - regions == pytest.approx(2 * 512 * 256 * 128 * 128, rel=0.04)
    assert regions == pytest.approx(335.65e9, rel=1e-4)
