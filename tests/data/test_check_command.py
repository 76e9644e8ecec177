"""What `check-data` prints, and its exit codes."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.cli.inspection import SHOWN_PROBLEMS
from tests.data import trees


@pytest.fixture
def protocol(tmp_path: Path) -> Path:
    """A protocol of a folder dataset, whose data are below the same folder."""
    trees.folder(tmp_path / "mine")
    content = {
        "dataset": {"name": "folder", "root": str(tmp_path / "mine")},
        "backbone": {"name": "resnet10"},
        "train": {"crop": [6, 8], "batch": 2, "steps": 1, "lr": 0.1},
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def check(protocol: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["check-data", "--protocol", str(protocol), *arguments])
    return result.exit_code, result.stdout


def test_a_sound_dataset_ends_with_0_and_shows_its_shares(protocol: Path) -> None:
    code, output = check(protocol)
    assert code == 0
    assert "train: 3 of 3 images, 6x8 (height x width), masks L, 20.83% of the pixels" in output
    raw = trees.filled([0, 1, 2, 3, 7])
    share = 100 * (raw == 1).sum() / (raw != 0).sum()
    assert f"{share:.3f}" in next(line for line in output.splitlines() if line.startswith("road "))
    assert "raw values 0 (20.83%), 1 (20.83%)" in output
    assert "problem" not in output


def test_long_lists_of_problems_are_cut_and_counted(protocol: Path) -> None:
    masks = protocol.parent / "mine/masks/val"
    for number in range(SHOWN_PROBLEMS + 4):
        trees.write_mask(masks / f"more{number:02}_labels.png", trees.filled([1]))
    code, output = check(protocol)
    assert code == 1
    lines = [line for line in output.splitlines() if line.startswith("problem in val: ")]
    assert lines[0].endswith("more00: has no image")
    assert len(lines) == SHOWN_PROBLEMS + 1
    assert "and 4 more" in lines[-1]
    code, output = check(protocol, "--json")
    assert code == 1
    assert len(json.loads(output)["splits"][1]["problems"]) == SHOWN_PROBLEMS + 4


def test_a_missing_dataset_is_the_users_mistake(protocol: Path, tmp_path: Path) -> None:
    (tmp_path / "mine/dataset.yaml").unlink()
    assert check(protocol)[0] == 2


def test_a_limit_and_a_sheet(protocol: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    code, output = check(protocol, "--limit", "2", "--sheet", str(sheet))
    assert code == 0
    assert "val: 2 of 3 images" in output
    assert sheet.stat().st_size > 0


def test_names_from_data_are_shown_as_they_are(protocol: Path) -> None:
    """Square brackets are markup of the console, which must not swallow them."""
    path = protocol.parent / "mine/dataset.yaml"
    path.write_text(trees.FOLDER.strip().replace("left kerb", "'[bold]kerb'"))
    assert "[bold]kerb" in check(protocol)[1]


def test_the_names_of_classes_are_whole_in_a_narrow_terminal() -> None:
    result = CliRunner(env={"COLUMNS": "32"}).invoke(app, ["check-data", "--limit", "1"])
    assert result.exit_code == 0, result.output
    names = {line.split()[0] for line in result.stdout.splitlines() if line.strip()}
    assert {"background", "recall_checked"} <= names
    assert "Left out for want of width: " in result.stdout
