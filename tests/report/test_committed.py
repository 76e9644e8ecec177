"""The committed tables are those that the committed records give."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECIPE = re.compile(r"^results:.*\n((?:\t.*\n)+)", re.MULTILINE)
TABLES = {".md", ".csv", ".tex"}  # figures depend on the fonts of a machine
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from contextbench.cli import app; app()"


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
