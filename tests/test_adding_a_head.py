"""docs/adding-a-head.md, followed: its files in a copy of the checkout, and the tests run there."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "adding-a-head.md"


def written(page: str) -> Iterator[tuple[str, str]]:
    """Path and content of each file that the page shows: the path is the last one named before."""
    for block in re.finditer(r"```(?:python|yaml)\n(.*?)```", page, re.DOTALL):
        paths = re.findall(r"`([\w/]+\.(?:py|yaml))`", page[: block.start()])
        yield paths[-1], block[1]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code and its tests with the page's files in it."""
    copy = tmp_path_factory.mktemp("copy") / "contextbench"
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for folder in ("contextbench", "heads", "configs", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", copy)
    shown = dict(written(PAGE.read_text(encoding="utf-8")))
    new = [name for name in shown if not (copy / name).exists()]
    assert len(new) == 3
    for name, block in shown.items():
        path = copy / name
        content = block if name in new else _inserted(path.read_text(encoding="utf-8"), block)
        path.write_text(content, encoding="utf-8")
    return copy


def _inserted(text: str, block: str) -> str:
    """`text` with the imports and the entry of a mapping that a block shows beside its `...`."""
    imports = "".join(re.findall(r"^from .*\n", block, re.MULTILINE))
    found = re.search(r"^([^\n]* = \{\n)    \.\.\.\n(.*)^\}\n", block, re.MULTILINE | re.DOTALL)
    assert found
    opening, entry = found.groups()
    assert text.count(opening) == 1
    return text.replace(opening, f"{imports}{opening}{entry}")


def python(checkout: Path, *arguments: str) -> str:
    """Output of a Python process in the copy, which must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=checkout, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_example_passes_the_tests_of_heads(checkout: Path) -> None:
    chosen = ["tests/heads", "tests/test_layers.py", "tests/test_configs.py"]
    output = python(checkout, "pytest", "-p", "no:cacheprovider", "-k", "parsenet", *chosen)
    passed = re.search(r"(\d+) passed", output)
    assert passed
    assert int(passed[1]) > 50
    assert "skipped" not in output


@pytest.mark.slow
def test_the_example_is_formatted_typed_and_known_to_the_commands(checkout: Path) -> None:
    files = [name for name, _ in written(PAGE.read_text(encoding="utf-8")) if name[-3:] == ".py"]
    shown = [name for name in files if "parsenet" in name]
    python(checkout, "ruff", "check", *shown)
    python(checkout, "ruff", "format", "--check", *shown)
    python(checkout, "mypy", *shown)
    assert "parsenet" in python(checkout, "contextbench", "list", "heads")
