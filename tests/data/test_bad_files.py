"""One bad file of many: found by `check-data`, else named by the run that meets it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.config.protocols import Protocol
from contextbench.data import DataError, dataset_source
from contextbench.data.stream import train_stream
from contextbench.models.precision import Precision
from contextbench.records.history import read_history
from contextbench.records.runs import cell_folder, read_run
from contextbench.runs.cells import open_setting
from contextbench.runs.grid import run_grid
from tests import small
from tests.data import trees

COUNT, BAD = 40, "0023"
DESCRIPTION = """
classes: [road, kerb]
values: [0, 1]
splits: [train, val]
"""


@pytest.fixture
def protocol(tmp_path: Path) -> Protocol:
    """A folder of many files, one of which has a value that no class has."""
    root = tmp_path / "mine"
    trees.write_list(root / "dataset.yaml", DESCRIPTION.strip().splitlines())
    for split, count in {"train": COUNT, "val": 2}.items():
        for number in range(count):
            name = f"{number:04}" if split == "train" else f"val{number}"
            trees.write_image(root / f"images/{split}/{name}.jpg")
            trees.write_mask(root / f"masks/{split}/{name}.png", trees.filled([0, 1]))
    trees.write_mask(root / f"masks/train/{BAD}.png", trees.filled([0] * 11 + [1, 0, 77, 1]))
    content = small.protocol(crop=(6, 8), steps=COUNT // 2, batch=2).model_dump()
    dataset = {"name": "folder", "root": str(root)}
    return Protocol.model_validate({**content, "dataset": dataset})


def test_check_data_names_the_file_and_the_value(protocol: Protocol) -> None:
    dataset = protocol.dataset.model_dump_json()
    result = CliRunner().invoke(app, ["check-data", "--set", f"dataset={dataset}"])
    assert result.exit_code == 1, result.output
    problems = [line for line in result.stdout.splitlines() if line.startswith("problem")]
    [problem] = problems
    assert problem.startswith("problem in train: ")
    assert f"masks/train/{BAD}.png: undeclared label value(s) 77; declared: 0, 1, 255" in problem


def test_a_run_fails_at_the_batch_with_the_file_and_the_value(
    protocol: Protocol, tmp_path: Path
) -> None:
    """Batches before it are trained: the epoch's order says which one has the file."""
    setting = open_setting(protocol, None)
    stream = train_stream(protocol.train, setting.train_set, seed=0)
    shown = [stream.image_index(item) for item in range(COUNT)]
    bad_step = shown.index(int(BAD)) // 2
    assert bad_step > 0
    out = tmp_path / "runs"
    [record] = run_grid(setting, [small.head()], [0], Precision(), small.execution(out))
    assert (record.status, record.steps) == ("failed", bad_step)
    assert record.failure is not None
    assert record.failure.kind == "DataError"
    assert f"masks/train/{BAD}.png: undeclared label value(s) 77" in record.failure.message
    folder = cell_folder(out, "tiny", "fcn", 0)
    assert read_run(folder / "record.json") == record
    assert len(read_history(folder / "history.jsonl")) <= bad_step


@pytest.mark.parametrize("lists", ["voc", "coco_stuff"])
def test_a_split_list_that_names_missing_files_is_refused(lists: str, tmp_path: Path) -> None:
    """Before anything is read, with the names; what has an image lacks only its mask."""
    if lists == "voc":
        path = trees.voc(tmp_path) / "VOC2012/ImageSets/Segmentation/val.txt"
        options, split, folder = {}, "val", "VOC2012/JPEGImages"
    else:
        path = trees.coco_stuff_10k(tmp_path) / "imageLists/test.txt"
        options, split, folder = {"release": "10k"}, "test", "images"
    trees.write_list(path, [*path.read_text().split(), "gone_1", "gone_2"])
    trees.write_image(tmp_path / folder / "gone_2.jpg")
    content = {"name": lists, "root": str(tmp_path), "options": options}
    config = Protocol.model_validate({**small.protocol().model_dump(), "dataset": content}).dataset
    expected = r"1 masks without image \(gone_1\); 2 images without mask \(gone_1, gone_2\)"
    with pytest.raises(DataError, match=expected):
        dataset_source(config).open(split)
