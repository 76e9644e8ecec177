"""`contextbench table` as a user meets it: formats, columns, order, and unusable records."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from contextbench.cli import app
from contextbench.records.classes import LabelInfo
from contextbench.records.stored import write_model
from tests.report.head_records import form, record
from tests.report.rankings import areas, store
from tests.report.records import PROTOCOL, cost, failed, profile_of


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["table", *map(str, arguments)])


def refused(*arguments: object) -> str:
    """The message of a call that must end with exit code 2 and no traceback."""
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.output


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three heads, two seeds each, and costs."""
    for head, score in (("fcn", 0.5), ("ppm", 0.7), ("ocr", 0.72)):
        for seed in (0, 1):
            store(tmp_path, head, seed, areas(score + 0.01 * seed))
    costs = {
        head: cost(macs, macs, macs, [macs / 100])
        for head, macs in (("fcn", 100), ("ppm", 300), ("ocr", 200))
    }
    folder = tmp_path / "probe-small"
    write_model(folder / "profile.json", profile_of(costs))
    return folder


def first_cells(markdown: str) -> list[str]:
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [line.split("|")[1].strip() for line in lines[2:]]


def test_another_score_of_every_class_is_a_table_of_its_own(runs: Path):
    """F1 is 2 IoU / (1 + IoU), class by class, so that both orders of heads are one."""
    tables = {
        metric: list(
            csv.DictReader(io.StringIO(call(runs, "--classes", metric, "--format", "csv").stdout))
        )
        for metric in ("iou", "f1")
    }
    for one, other in zip(*tables.values(), strict=True):
        assert one["class"] == other["class"]
    means = {
        m: [sum(float(row[h]) for row in rows) / len(rows) for h in ("ocr", "ppm", "fcn")]
        for m, rows in tables.items()
    }
    assert all(a > b > c for a, b, c in means.values())
    assert all(f1 > iou for iou, f1 in zip(means["iou"], means["f1"], strict=True))
    shown = call(runs, "--classes", "recall", "--columns", "ocr", "--sort", "ocr")
    assert shown.exit_code == 0, shown.output
    assert "recall" in shown.stdout
    assert "fcn" not in shown.stdout
    assert "F1" in call(runs, "--columns", "miou,F1,precision").stdout
    assert "Dice" not in refused(runs, "--classes", "dice")
    assert "--classes is for folders" in refused("ocr-complexity", "--classes", "f1")


def test_the_console_shows_scores_and_notes(runs: Path):
    result = call(runs)
    assert result.exit_code == 0, result.output
    assert "± " in result.stdout
    assert "[" in result.stdout
    assert "Brackets of mIoU: 95 % interval" in " ".join(result.stdout.split())


@pytest.mark.parametrize(("form", "start"), [("markdown", "| head |"), ("latex", "% Needs ")])
def test_texts_are_printed_as_they_are(runs: Path, form: str, start: str):
    result = call(runs, "--format", form, "--columns", "miou,macs")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(start)


def test_columns_and_order_may_be_called_as_the_table_heads_them(runs: Path):
    asked = ("--columns", "macs g,MIOU", "--sort", "-MACs")
    result = call(runs, "--format", "markdown", *asked)
    assert result.stdout.startswith("| head | MACs G | mIoU % |")
    assert first_cells(result.stdout) == ["ppm", "ocr", "fcn"]  # 300, 200, 100: dear first
    rows = json.loads(call(runs, "--json", *asked).stdout)
    assert [list(row) for row in rows] == [["head", "macs", "miou"]] * 3


def test_json_has_integers_where_things_are_counted(runs: Path):
    """Also where another head lacks the number, which makes fractions of a whole column."""
    write_model(runs / "isa" / "seed-0" / "record.json", failed("isa"))
    rows = {row["head"]: row for row in json.loads(call(runs, "--json").stdout)}
    counts = (
        "seeds parameters macs flops context_parameters context_macs inference_memory_bytes "
        "training_memory_bytes latency_rounds interval_resamples interval_images interval_block"
    )
    for name in counts.split():
        assert type(rows["ppm"][name]) is int, name
    assert rows["isa"]["macs"] is None
    assert type(rows["ppm"]["miou"]) is float


def test_columns_and_order_are_those_asked_for(runs: Path):
    result = call(runs, "--format", "markdown", "--columns", "macs,miou", "--sort", "macs")
    assert result.stdout.startswith("| head | MACs G | mIoU % |")
    assert first_cells(result.stdout) == ["fcn", "ocr", "ppm"]  # 100, 200, 300: cheap first
    turned = call(runs, "--format", "markdown", "--sort", "-macs")
    assert first_cells(turned.stdout) == ["ppm", "ocr", "fcn"]


def test_csv_has_base_units_and_notes_go_elsewhere(runs: Path):
    store(runs.parent, "ppm", 2, areas(0.7))  # seeds differ in number, which is worth a note
    result = call(runs, "--format", "csv", "--columns", "miou,miou_low,macs")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [list(row) for row in rows] == [["head", "miou", "miou_low", "macs"]] * 3
    assert {row["head"]: row["macs"] for row in rows} == {"ocr": "200", "ppm": "300", "fcn": "100"}
    assert 0 < float(rows[0]["miou_low"]) < float(rows[0]["miou"]) < 1
    assert "note: The number of scored seeds differs" in result.stderr


def test_json_has_every_column_in_full_precision(runs: Path):
    rows = json.loads(call(runs, "--json").stdout)
    assert [row["head"] for row in rows] == ["ocr", "ppm", "fcn"]
    table = list(csv.DictReader(io.StringIO(call(runs, "--format", "csv").stdout)))
    assert [row["miou"] for row in rows] == [float(row["miou"]) for row in table]
    assert set(rows[0]) == set(table[0])


def test_files_are_written_to_a_folder(runs: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert call(runs, "--out", out, "--columns", "miou", "--sort", "-miou").exit_code == 0
    assert {path.name for path in out.iterdir()} == {"table.csv", "table.md", "table.tex"}
    assert first_cells((out / "table.md").read_text()) == ["fcn", "ppm", "ocr"]
    assert "latency_ms" in (out / "table.csv").read_text()


def test_a_folder_needs_no_torch(runs: Path):
    program = (
        "import sys; from contextbench.cli import app; "
        f"app(['table', {str(runs)!r}], standalone_mode=False); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_tables_of_papers_have_the_same_options(tmp_path: Path):
    """Of the paper's rows only PPM is in the record; the others are sorted below it."""
    costs = [form("ppm", kind, (128, 128), parameters=23_000_000) for kind in ("reference", "fast")]
    path = tmp_path / "costs.json"
    write_model(path, record(costs, channels=2048, classes=19))
    options = ["--record", path, "--columns", "parameters,published_parameters"]
    markdown = call("ocr-complexity", *options, "--sort", "parameters", "--format", "markdown")
    assert markdown.exit_code == 0, markdown.output
    assert markdown.stdout.startswith("| method | params ours M | params published M |")
    assert first_cells(markdown.stdout)[0].startswith("PPM")
    latex = call("ocr-complexity", *options, "--format", "latex", "--out", tmp_path / "out")
    assert r"\multicolumn{3}{c}{params}" in latex.stdout
    written = {path.suffix for path in (tmp_path / "out").iterdir()}
    assert written == {".csv", ".md", ".tex", ".json"}
    rows = csv.DictReader(io.StringIO(call("ocr-complexity", *options, "--format", "csv").stdout))
    assert next(rows)["parameters"] == "23000000"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--columns", "miou,parmeters"], "did you mean 'parameters'? allowed: "),
        (["--columns", "miou,parmeters", "--format", "csv"], "did you mean 'parameters'? allowed:"),
        (["--sort", "latency"], "name one of latency_ms, latency_ratio"),
        (["--columns", "miou,miou"], "--columns"),
        (["--json", "--format", "csv"], "exclude each other"),
        (["--rounds", "3"], "are for tables of papers"),
        (["--format", "word"], "word"),
    ],
)
def test_options_that_cannot_be(runs: Path, arguments: list[str], message: str):
    assert message in refused(runs, *arguments)


def test_what_is_neither_a_folder_nor_a_table():
    message = refused("ocr-complexty")
    assert "neither a folder, a file nor a paper's table; did you mean 'ocr-complexity'?" in message


def test_an_output_folder_that_cannot_be_written(runs: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    assert f"cannot write {tmp_path / 'file' / 'table.csv'}" in refused(
        runs, "--out", tmp_path / "file"
    )


def test_records_of_different_protocols_are_refused_with_what_differs(runs: Path):
    other = {**PROTOCOL, "train": {"steps": 900, "crop": [192, 192]}}
    store(runs.parent, "danet", 0, areas(0.6), protocol=other, fingerprint="bbbb")
    message = refused(runs)
    assert "different protocols" in message
    assert "train.steps: 900 / 400" in message


def test_a_record_of_an_unknown_schema_version_is_refused_by_name(runs: Path):
    path = runs / "ppm" / "seed-0" / "record.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "schema_version": 99}))
    message = refused(runs)
    assert str(path) in message
    assert "schema version 99, this release reads 1" in message


@pytest.mark.parametrize("content", [None, b"no archive", b""])
def test_without_usable_areas_the_table_is_made_and_says_what_is_missing(
    runs: Path, content: bytes | None
):
    path = runs / "ppm" / "seed-1" / "areas.npz"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    rows = json.loads(call(runs, "--json").stdout)
    assert {row["head"]: row["miou_low"] is None for row in rows} == {
        "ocr": False,
        "ppm": True,
        "fcn": False,
    }
    notes = " ".join(call(runs).stdout.split())
    assert "note: no interval for ppm seed 1" in notes
    assert "areas.npz: cannot be read" in notes


def test_areas_of_another_evaluation_are_not_used(runs: Path):
    other = store(runs.parent / "elsewhere", "ppm", 1, areas(0.3))
    (runs / "ppm" / "seed-1" / "areas.npz").write_bytes((other / "areas.npz").read_bytes())
    assert "do not add up to those of record.json" in call(runs).stdout


def test_without_any_areas_there_are_scores_and_one_reason(runs: Path):
    for path in runs.rglob("areas.npz"):
        path.unlink()
    result = call(runs, "--format", "markdown")
    assert result.exit_code == 0, result.output
    assert "group" not in result.stdout.splitlines()[0]
    assert "no intervals: there are no counts per image" in result.stdout


def test_one_seed_has_no_spread(tmp_path: Path):
    store(tmp_path, "fcn", 0, areas(0.5))
    text = " ".join(call(tmp_path).stdout.split())
    assert "n = 1: one training, whose spread is unknown." in text
    assert "±" not in text


def test_failed_heads_are_rows_with_a_footnote(runs: Path):
    write_model(
        runs / "danet" / "seed-0" / "record.json",
        failed("danet").model_copy(
            update={"labels": LabelInfo(classes=["road", "sky"], palette=[(0, 0, 0), (9, 9, 9)])}
        ),
    )
    result = call(runs, "--format", "markdown", "--columns", "miou,macs")
    assert "| danet | – [^1] | – [^2] |" in result.stdout
    assert "[^1]: danet: seed 0: failed at step 120" in result.stdout
    assert "[^2]: danet: cost not measured" in result.stdout


def test_a_class_that_is_nowhere_is_left_out_and_named(tmp_path: Path):
    counts = areas(0.5)
    for array in (counts.intersection, counts.labelled):
        array[:, 1] = 0
    store(tmp_path, "fcn", 0, counts)
    result = call(tmp_path, "--format", "markdown")
    assert result.exit_code == 0, result.output
    assert "left out of mIoU: sky." in result.stdout


@pytest.mark.slow
def test_names_with_special_characters_are_text_in_every_format(tmp_path: Path):
    labels = LabelInfo(
        classes=["a|b & c_d", "sky"],
        palette=[(0, 0, 0), (9, 9, 9)],
        groups={"x|y & z_1": [0]},
    )
    store(tmp_path, "h_1", 0, areas(0.5), labels=labels)
    assert r"| IoU x\|y & z_1 % |" in call(tmp_path, "--format", "markdown").stdout
    latex = call(tmp_path, "--format", "latex").stdout
    assert r"x$|$y \& z\_1" in latex
    assert r"h\_1 &" in latex
    header = next(csv.reader(io.StringIO(call(tmp_path, "--format", "csv").stdout)))
    assert "iou_x|y & z_1" in header
    assert "z_1" in call(tmp_path).stdout
