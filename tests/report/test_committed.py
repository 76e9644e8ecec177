"""The committed tables are those that the committed records give."""

import itertools
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
RECIPE = re.compile(r"^results:.*\n((?:\t.*\n)+)", re.MULTILINE)
TABLES = {".md", ".csv", ".tex"}  # figures depend on the fonts of a machine
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from contextbench.cli import app; app()"


# Columns of the README's table, and their names in the table that `plot` makes.
COLUMNS = {
    "head": "head",
    "mIoU %": "mIoU %",
    "over seeds": "over seeds",
    "letters of heads": "letters of heads",
    "difference": "difference points",
    "local %": "IoU local %",
    "scene %": "IoU scene %",
    "size %": "IoU size %",
    "recall %": "IoU recall %",
    "params M": "params M",
    "MACs G": "MACs G",
    "memory MiB": "memory MiB",
    "latency × FCN": "latency ×FCN",
}


def commands() -> list[list[str]]:
    """Arguments of the commands that `make results` runs."""
    found = RECIPE.search((ROOT / "Makefile").read_text(encoding="utf-8"))
    assert found is not None
    lines = [line.strip().split() for line in found[1].splitlines()]
    assert {line[0] for line in lines} == {"$(BIN)/contextbench"}
    return [line[1:] for line in lines]


def tables(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.suffix in TABLES)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_make_results_gives_the_committed_tables(tmp_path: Path) -> None:
    """From a copy without its tables, so that each one is made; records are only read."""
    copy = tmp_path / "results"
    shutil.copytree(ROOT / "results", copy)
    made = {Path(argument) for command in commands() for argument in command}
    for name in tables(copy):
        if made & {Path("results", name), *Path("results", name).parents}:
            (copy / name).unlink()
    records = {path: path.read_bytes() for path in copy.rglob("*.json")}
    for arguments in commands():
        command = [sys.executable, "-c", WITHOUT_TORCH, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert tables(copy) == tables(ROOT / "results")
    assert {path: path.read_bytes() for path in copy.rglob("*.json")} == records


def first_table(text: str) -> list[list[str]]:
    """Cells of each line of the first table of a Markdown text, without marks of bold."""
    lines = itertools.dropwhile(lambda line: not line.startswith("|"), text.splitlines())
    table = itertools.takewhile(lambda line: line.startswith("|"), lines)
    cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in table]
    return [[cell.replace("**", "") for cell in row] for row in (cells[0], *cells[2:])]


def test_the_readmes_comparison_is_that_of_the_records() -> None:
    """Each cell of it; the difference of the highest head to itself is not written."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8").split("<!-- demo -->")[1]
    heading, *rows = first_table(readme)
    names, *made = first_table((ROOT / "results/probe/table.md").read_text(encoding="utf-8"))
    assert heading == list(COLUMNS)
    columns = [names.index(COLUMNS[name]) for name in heading]
    expected = [[row[column] for column in columns] for row in made]
    expected[0][heading.index("difference")] = "–"
    assert rows == expected


def test_the_readmes_ablation_is_that_of_the_records() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8").split("## Papers' tables again")[1]
    table = ROOT / "results/ablations/probe/ablations/encnet.md"
    made = first_table(table.read_text(encoding="utf-8"))
    assert first_table(readme)[1:] == [row[:-1] for row in made[1:]]  # without `separated`


def forms_as_written(row: "pd.Series[Any]") -> list[str]:
    """Ratios and times of a line of `forms.csv`, as both READMEs write them."""
    ratios = [
        row[f"{scope}_{direction}_speedup"]
        for scope in ("core", "context")
        for direction in ("forward", "forward_backward")
    ]
    times = [row["context_forward_fast_ms"], row["context_floor_ms"]]
    peaks = [row[f"context_{form}_activation_peak_bytes"] for form in ("reference", "fast")]
    return [
        row["head"],
        *("–" if math.isnan(ratio) else f"{ratio:.2f}" for ratio in ratios),
        *(f"{time:.0f}" for time in times),
        f"{1 / row['context_floor_fraction']:.2f}",
        *(f"{peak / 2**20:.0f}" for peak in peaks),
    ]


@pytest.mark.parametrize("document", ["README.md", "results/complexity/README.md"])
def test_the_readmes_forms_are_those_of_the_record(document: str) -> None:
    """The first table after the command that measured them."""
    text = (ROOT / document).read_text(encoding="utf-8").split("--scopes core,context")[1]
    made = pd.read_csv(ROOT / "results/complexity/forms/forms.csv")
    assert first_table(text)[1:] == [forms_as_written(row) for _, row in made.iterrows()]
