"""Shipped ablations load, build and refer to the published scores they mean; mistakes are named."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.config.files import ConfigError, names_in
from contextbench.config.heads import load_head
from contextbench.config.protocols import load_protocol
from contextbench.models.precision import Precision
from contextbench.papers.ablations import load_ablation, variants
from contextbench.papers.published import find_score, load_scores, published_folder
from contextbench.records.runs import find_runs
from contextbench.report.collection import collect
from contextbench.report.papers.runs import read_rows
from contextbench.runs import run as runner
from contextbench.runs.ablations import Plan, run_ablation
from contextbench.runs.cells import open_setting
from contextbench.runs.grid import run_grid
from heads import HEADS, Channels, build_head
from tests import small
from tests.cases import quick

ABLATIONS = names_in("ablations")
FILES = sorted(path.name for path in published_folder().glob("*_ablation.csv"))
ROW: dict[str, Any] = {
    "label": "A",
    "head": "fcn",
    "published": {"ade": {"method": "ResNet50-Baseline"}},
}
OTHER: dict[str, Any] = {"label": "B", "name": "b", "head": "ppm", "options": {"bins": [1]}}
SCORES = {"file": "pspnet_ablation.csv", "keys": {"table": "Table 1"}}
FILE: dict[str, Any] = {
    "title": "Two rows",
    "paper": "nobody",
    "baseline": "A",
    "published": {"ade": SCORES},
    "rows": [ROW, OTHER],
}

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes `FILE` with some keys changed and gives the path as a user types it."""

    def written(**changes: Any) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({**FILE, **changes}), encoding="utf-8")
        return str(path)

    return written


def test_what_the_papers_vary_is_shipped() -> None:
    assert set(ABLATIONS) >= {
        "ocr-supervision", "ocr-relation", "ocr-context", "ocr-ground-truth", "ocnet", "encnet",
        "encnet-codewords", "encnet-se-weight", "pspnet-bins", "pspnet-aux", "deeplabv3",
        "deeplabv3-multi-grid", "deeplabv3-output-stride", "danet",
    }  # fmt: skip


@pytest.mark.parametrize("name", quick(ABLATIONS, list(ABLATIONS)[:4]))
def test_shipped_ablations_load_and_their_heads_build(name: str) -> None:
    ablation = load_ablation(name, HEADS)
    for protocol in names_in("protocols"):
        assert len(variants(ablation, load_protocol(protocol))) == len(ablation.rows)
    for row in ablation.rows:
        with torch.device("meta"):
            head = build_head(row.head.head, Channels(8, 16, 32, 64), 3, **row.head.options)
        assert set(row.head.loss_weights) <= set(head.loss_weights)


@pytest.mark.parametrize("name", ABLATIONS)
def test_rows_with_options_change_shipped_heads_and_nothing_else(name: str) -> None:
    """A row states what it changes of a registered head; so its defaults must be the file's."""
    for row in load_ablation(name, HEADS).rows:
        shipped = load_head(row.head.head, HEADS)
        parameters = inspect.signature(HEADS[row.head.head]).parameters
        defaults = {key: parameters[key].default for key in shipped.options}
        assert json.loads(json.dumps(defaults)) == shipped.options
        assert shipped.loss_weights == dict(HEADS[row.head.head].loss_weights)


PUBLISHED = {
    "ocr-supervision": {"cityscapes": [77.31, 79.58]},
    "ocr-relation": {"cityscapes": [79.01, 78.02, 79.58]},
    "ocr-context": {
        "cityscapes": [80.3, 81.0, 81.1, 81.2, 81.4, 81.5, 81.8],
        "ade20k": [44.50, 44.60, 44.75, 44.81, 45.22, None, 45.28],
        "lip": [54.76, 55.01, 55.15, 55.12, None, None, 55.60],
    },
    "ocr-ground-truth": {
        "cityscapes": [None, 79.58, None],
        "ade20k": [None, 45.28, None],
        "lip": [None, 55.60, None],
    },
    "ocnet": {
        "cityscapes": [75.69, 77.60, 77.84, 78.65, 78.80, 78.78, 79.58],
        "ade20k": [34.35, 41.17, 41.34, 42.53, 40.66, 42.28, 42.63],
    },
    "encnet": {"pascal-context": [41.0, 47.6, 49.2], "ade20k": [34.38, None, 41.11]},
    "encnet-codewords": {"pascal-context": [45.9, 47.3, 47.6]},
    "encnet-se-weight": {"pascal-context": [47.6, 49.01, 49.2, 49.19, 49.05]},
    "pspnet-bins": {"ade20k": [37.23, 39.94, 40.07, 40.18, 41.07, 40.87, 41.68]},
    "pspnet-aux": {"ade20k": [35.82, 37.01, 37.23, 37.09, 36.99]},
    "deeplabv3": {"voc": [76.58, 76.46, 77.21]},
    "deeplabv3-multi-grid": {"aspp": [75.36, 75.93, 76.58], "block4": [68.39, 70.23, 73.45]},
    "deeplabv3-output-stride": {
        "cascade": [75.18, 73.88, 70.06],
        "aspp-voc": [77.72, 76.86, None],
        "aspp-ade20k": [42.39, 41.41, None],
    },
    "danet": {
        "cityscapes-50": [70.03, 75.74, 74.28, 76.34],
        "cityscapes-101": [72.54, 77.03, 76.55, 77.57],
        "pascal-context": [44.3, None, None, 50.1],
        "coco-stuff": [31.9, None, None, 37.2],
    },
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_references_are_the_numbers_that_the_papers_print(name: str) -> None:
    """Copied from the papers' tables, row by row, and not through the references."""
    rows = load_ablation(name, HEADS).rows
    found = {
        column: [
            row.published[column].miou_percent if column in row.published else None for row in rows
        ]
        for column in load_ablation(name, HEADS).columns
    }
    assert found == PUBLISHED[name]


@pytest.mark.parametrize("file", FILES)
def test_published_files_state_status_and_source(file: str) -> None:
    for score in load_scores(file):
        assert score.source
        assert score.miou_percent is None or 0 < score.miou_percent < 100
        assert score.miou is None or score.miou == pytest.approx(score.miou_percent / 100)


def test_published_files_are_described() -> None:
    text = (published_folder() / "README.md").read_text(encoding="utf-8")
    assert all(f"`{file}`" in text for file in FILES)


def test_weights_and_shared_folders_of_rows() -> None:
    ablation = load_ablation("encnet-se-weight", HEADS)
    named = {row.label: row.head for row in ablation.rows}
    assert named["0.2"] == load_head("encnet", HEADS)  # runs shared with comparisons
    assert named["0.4"].loss_weights == {"presence": 0.4}
    no_loss = {row.head.name: row.head for row in load_ablation("encnet", HEADS).rows}
    assert named["0"] == no_loss["encnet-no-se-loss"]  # and with the other ablation


def test_rows_that_change_the_protocol_have_one_of_their_own() -> None:
    protocol = load_protocol("probe")
    eight, sixteen, _ = variants(load_ablation("deeplabv3-output-stride", HEADS), protocol)
    assert (eight.protocol, eight.changed) == (protocol, {})  # the protocol's own stride
    assert sixteen.protocol.name == "probe+output_stride-16"
    assert sixteen.changed == {"backbone.output_stride": (8, 16)}
    assert sixteen.protocol.backbone.output_stride == 16
    back = sixteen.protocol.model_copy(update={"backbone": protocol.backbone, "name": "probe"})
    assert back == protocol  # nothing else changed
    wide = variants(load_ablation("deeplabv3-multi-grid", HEADS), protocol)[2].protocol
    assert wide.name == "probe+multi_grid-1-2-4"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"titel": "x"}, "unknown key 'titel'; did you mean 'title'?"),
        ({"baseline": "C"}, "baseline 'C' is no row"),
        ({"rows": [ROW]}, "key 'rows'"),
        ({"rows": [{**ROW, "published": {}}, OTHER]}, "published.ade: no row refers to it"),
        ({"rows": [ROW, {**OTHER, "label": "A"}]}, "the labels of rows must differ, got A, A"),
        ({"rows": [ROW, {**OTHER, "lable": "B"}]}, "row 2: unknown key 'lable'; did you mean"),
        ({"rows": [ROW, "fcn"]}, "row 2: must hold a mapping of keys, found str"),
        ({"rows": [ROW, {**OTHER, "head": "pmp"}]}, "row 'B': head 'pmp' is unknown; did you mean"),
        ({"rows": [ROW, {"label": "B", "head": "pmp"}]}, "row 'B': unknown head 'pmp'; did you"),
        ({"rows": [ROW, {**OTHER, "name": None}]}, "row 'B': a row has a name if it has options"),
        ({"rows": [ROW, {**OTHER, "name": "ppm"}]}, "name 'ppm' is that of a shipped head's file"),
        (
            {"rows": [ROW, {**OTHER, "name": "../b"}]},
            "row 2: key 'name' is '../b': String should match",
        ),
        (
            {"rows": [ROW, OTHER, {**OTHER, "label": "C", "options": {"bins": [2]}}]},
            "rows with the name 'b' are different heads",
        ),
        ({"rows": [ROW, {**OTHER, "loss_weights": {"aux": -1}}]}, "key 'loss_weights.aux' is -1"),
        (
            {"rows": [ROW, {**OTHER, "published": {"voc": {}}}]},
            "row 'B': published has no column 'voc'",
        ),
        (
            {"rows": [ROW, {**OTHER, "published": {"ade": {"metod": "x"}}}]},
            "row 'B': published.ade: pspnet_ablation.csv has no column 'metod'; did you mean",
        ),
        (
            {"rows": [ROW, {**OTHER, "published": {"ade": {"method": "ResNet50-Basline"}}}]},
            "no line of pspnet_ablation.csv with these keys has 'method' 'ResNet50-Basline'; did",
        ),
        (
            {"rows": [ROW, {**OTHER, "published": {"ade": {"dataset": "ADE20K"}}}]},
            "all have these keys; add another key",
        ),
        (
            {"published": {"ade": {**SCORES, "file": "nothing.csv"}}},
            "nothing.csv: cannot be read",
        ),
    ],
)
def test_mistakes_in_an_ablation_are_named(
    write: Write, changes: dict[str, Any], message: str
) -> None:
    path = write(**changes)
    with pytest.raises(ConfigError) as error:
        load_ablation(path, HEADS)
    assert message in str(error.value)
    assert path in str(error.value) or "nothing.csv" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone.output_strid": 16}, "unknown key 'backbone.output_strid'; did you mean 'outpu"),
        ({"backbone.output_stride": 5}, "key 'backbone.output_stride' is 5"),
        ({"dataset.name": "camvid"}, "a row cannot change 'dataset'; allowed: backbone, evaluate"),
        ({"precision": "bfloat16"}, "a row cannot change 'precision'"),
        ({"backbone.name.x": 1}, "'name' in 'backbone.name.x' holds a value, not keys"),
    ],
)
def test_mistakes_in_changes_of_the_protocol_are_named(
    write: Write, changes: dict[str, Any], message: str
) -> None:
    path = write(rows=[ROW, {**OTHER, "protocol": changes}])
    with pytest.raises(ConfigError) as error:
        variants(load_ablation(path, HEADS), load_protocol("probe"))
    assert str(error.value).startswith(f"{path}: row 'B': protocol: ")
    assert message in str(error.value)


def test_an_unknown_ablation_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="unknown ablation 'encnett'; did you mean 'encnet'"):
        load_ablation("encnett", HEADS)


HEADER = "method,backbone,dataset,split,metric,value,status,source"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEADER, "A,R,D,val,mIoU,many,verified,p"], "line 2: key 'miou_percent' is 'many'"),
        ([HEADER, "A,R,D,val,mIoU,40,guessed,p"], "line 2: key 'status' is 'guessed'"),
        ([HEADER, "A,R,D,val,mIoU,40,verified"], "line 2: has not as many cells as the first"),
        ([HEADER, "A,R,D,val,pixAcc,40,verified,p"], "has no line with an mIoU"),
        (["method,value", "A,40"], "line 2: key 'dataset' is missing"),
    ],
)
def test_wrong_scores_are_named_with_their_line(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_scores(str(path))
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


def test_a_score_is_found_by_the_text_of_its_cells_and_an_empty_one_is_none() -> None:
    scores = load_scores("ocr_ablation.csv")
    keys = {"group": "upper_bound", "dataset": "LIP"}
    assert find_score(scores, keys, "here").miou is None
    fine = {"group": "multi_scale_context", "method": "OCR", "setting": "without coarse data"}
    found = find_score(scores, fine, "here")
    assert (found.miou_percent, found.split, found.status) == (81.8, "test", "verified")
    with pytest.raises(ConfigError, match=r"here: the lines \d+, \d+"):
        find_score(scores, {"group": "comparison", "dataset": "Cityscapes"}, "here")


def run(path: str, out: Path, *seeds: int, **options: Any) -> dict[str, str]:
    ablation = load_ablation(path, HEADS)
    return run_ablation(ablation, small.protocol(), Plan(seeds, **options), small.execution(out))


STRIDE = {"label": "C", "head": "fcn", "protocol": {"backbone.output_stride": 16}}
GRID = {"label": "D", "head": "fcn", "protocol": {"backbone.multi_grid": [1, 2, 4]}}


def test_rows_run_once_where_comparisons_look_for_them(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = write(rows=[ROW, STRIDE, GRID]), tmp_path / "runs"
    unsuitable = run(path, out, 0)
    assert list(unsuitable) == ["D"]
    assert "layer4 of three blocks; resnet10 has 1" in unsuitable["D"]
    cells = {cell.relative_to(out).as_posix() for cell in find_runs(out)}
    assert cells == {"tiny/fcn/seed-0", "tiny+output_stride-16/fcn/seed-0"}
    assert [run.head_name for run in collect(out / "tiny").runs] == ["fcn"]

    monkeypatch.setattr(runner, "train", None)  # calling it would fail
    assert run(path, out, 0) == unsuitable
    setting, head = open_setting(small.protocol(), None), load_head("fcn", HEADS)
    runs = run_grid(setting, [head], [0], Precision(), small.execution(out))
    assert [run.status for run in runs] == ["done"]  # a comparison takes the cell as its own


def test_a_failed_row_is_recorded_while_the_others_go_on(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = runner.train

    def fails_on_ppm(model: Any, *arguments: Any, **options: Any) -> Any:
        if type(model.head).__name__ == "PPMHead":
            raise RuntimeError("no luck")
        return train(model, *arguments, **options)

    monkeypatch.setattr(runner, "train", fails_on_ppm)
    path, out = write(rows=[ROW, OTHER]), tmp_path / "runs"
    run(path, out, 0)
    first, second = read_rows(out, variants(load_ablation(path, HEADS), small.protocol()), [0])
    assert first.runs[0].status == "done"
    assert "seed 0: failed at step 0 (RuntimeError: no luck)" in second.missing


@pytest.mark.slow
def test_cells_of_another_configuration_are_refused_before_anything_runs(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, last = tmp_path / "runs", {**OTHER, "protocol": STRIDE["protocol"]}
    run(write(rows=[ROW, last]), out, 0)
    monkeypatch.setattr(runner, "train", None)
    changed = {**last, "options": {"bins": [2]}}
    with pytest.raises(ConfigError, match=r"head\.options\.bins was \[1\], is \[2\]"):
        run(write(rows=[{**ROW, "head": "aspp"}, changed]), out, 0)
    assert not (out / "tiny" / "aspp").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**OTHER, "options": {"binz": [1]}}, "row 'B': .*has no option 'binz'; did you mean 'bin"),
        ({**OTHER, "loss_weights": {"oux": 1.0}}, r"row 'B': .*loss_weights\.oux.* mean 'aux'"),
    ],
)
def test_options_that_a_head_lacks_are_named(
    write: Write, tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(write(rows=[ROW, row]), tmp_path / "runs", 0)


def test_an_ablation_of_which_no_row_can_be_run_is_refused(write: Write, tmp_path: Path) -> None:
    rows = [{**ROW, "protocol": {"backbone.multi_grid": [1, 2, 1]}}, GRID]
    with pytest.raises(ConfigError, match="no row that runs under 'tiny': backbone: multi_grid"):
        run(write(rows=rows), tmp_path / "runs", 0)


def call(*arguments: Any) -> Any:
    settings = [part for each in small.SETTINGS for part in ("--set", each)]
    return CliRunner().invoke(app, ["ablate", *map(str, arguments), *settings])


def test_the_command_prints_both_sides_and_makes_the_table_again_from_records(
    write: Write, tmp_path: Path
) -> None:
    path, out = write(), tmp_path / "runs"
    result = call(path, "--seeds", "0", "--out", out)
    assert result.exit_code == 0, result.output
    assert "37.23" in result.stdout
    assert "baseline" in result.stdout
    table = (out / "probe" / "ablations" / "mine.md").read_bytes()
    again = call(path, "--seeds", "0", "--out", out, "--report-only", "--json")
    assert again.exit_code == 0, again.output
    assert (out / "probe" / "ablations" / "mine.md").read_bytes() == table
    first, second = json.loads(again.stdout)
    assert (first["label"], second["name"]) == ("A", "b")
    assert second["miou"] - first["miou"] == pytest.approx(second["difference"])


def test_the_command_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    result = call("encnett", "--out", tmp_path)
    assert result.exit_code == 2
    assert "did you mean 'encnet'?" in result.stderr
    other = call("encnet", "--out", tmp_path, "--report-only")
    assert other.exit_code == 0
    assert "No row has scores" in " ".join(other.stdout.split())
