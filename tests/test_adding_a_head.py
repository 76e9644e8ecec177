"""docs/adding-a-head.md, followed: its package installed, its head in a copy of the checkout."""

import json
import os
import re
import shutil
import site
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from contextbench.models.heads import head_class, named_head
from tests import small
from tests.plugged import packages

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "adding-a-head.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "docs" / "examples" / "strip-pooling"
HEAD, TEST = "contextbench_strip_pooling.py", "tests/test_strip_pooling.py"


def written(page: str) -> Iterator[tuple[str, str]]:
    """Path and content of each file that the page shows: the path is the last one named before."""
    pattern = r"^( *)```(?:python|yaml|toml)\n(.*?)^ *```"
    for block in re.finditer(pattern, page, re.DOTALL | re.MULTILINE):
        paths = re.findall(r"`([\w/]+\.(?:py|yaml|toml))`", page[: block.start()])
        yield paths[-1], textwrap.dedent(block[2])


def run(*command: object, cwd: Path, **variables: str) -> str:
    """Output of a process, which must succeed and knows nothing of this checkout's folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**environment, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_page_shows_the_files_of_the_example() -> None:
    package, _, _ = PAGE.partition("## 5. ")
    shown = {name: block for name, block in written(package) if "narrow_strips" not in block}
    assert set(shown) == {HEAD, TEST, "pyproject.toml"}
    for name, block in shown.items():
        assert block == (EXAMPLE / name).read_text(encoding="utf-8"), name


def test_the_head_is_found_by_the_entry_point_that_its_package_states(tmp_path: Path) -> None:
    """As pip would install it; the slow stage has pip do it."""
    [(name, place)] = re.findall(r'^(\w+) = "(\w+:\w+)"$', PAGE, re.MULTILINE)
    with packages(tmp_path) as found:
        found.module(HEAD, (EXAMPLE / HEAD).read_text(encoding="utf-8"))
        found.install("contextbench-strip-pooling", {name: place})
        head = named_head(name)
        assert head.plugin is not None
        assert head.plugin.distribution == "contextbench-strip-pooling"
        assert head_class(head).__name__ == "StripPoolingHead"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a new environment with the example's package, installed by pip without a network."""
    folder = tmp_path_factory.mktemp("environment")
    shutil.copytree(EXAMPLE, folder / "source")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    found = folder / "env" / "bin" / "python"
    [libraries] = (folder / "env").glob("lib/*/site-packages")
    lines = [str(ROOT), *site.getsitepackages()]
    (libraries / "requirements.pth").write_text("\n".join(lines) + "\n")
    pip = (sys.executable, "-m", "pip", "--python", found, "install", "-q")
    run(*pip, "--no-index", "--no-deps", "--no-build-isolation", folder / "source", cwd=folder)
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_installed_head_is_compared_by_one_command(python: Path, tmp_path: Path) -> None:
    """In the number format that trials in other processes choose, and with a process that loads."""
    command = (python, "-m", "contextbench")
    assert "strip_pooling " in run(*command, "list", "heads", cwd=tmp_path)
    assert "22 of 22 promises" in run(*command, "check-head", "strip_pooling", cwd=tmp_path)
    settings = [part for setting in small.SETTINGS[:-1] for part in ("--set", setting)]
    compare = (*command, "compare", "--rounds", "2", "--device", "cpu", *settings)
    said = run(*compare, "--heads", "fcn,ocr,strip_pooling", "--workers", "1", cwd=tmp_path)
    assert "strip_pooling" in said
    rows = (tmp_path / "runs" / "probe" / "table.csv").read_text().splitlines()
    assert {row.split(",")[0] for row in rows[1:]} == {"fcn", "ocr", "strip_pooling"}
    folder = tmp_path / "runs" / "probe" / "strip_pooling" / "seed-0"
    record = json.loads((folder / "record.json").read_text())
    assert record["status"] == "done"
    plugin = record["head"]["plugin"]
    assert (plugin["distribution"], plugin["version"]) == ("contextbench-strip-pooling", "0.1.0")
    where = ("--image", "val:0", "--pixel", "3,3")
    assert "strip_pooling: pixel 3,3" in run(*command, "attend", folder, *where, cwd=tmp_path)


@pytest.mark.slow
def test_jobs_find_a_head_by_its_place(tmp_path: Path) -> None:
    """In the folder that they are submitted from, which is on no path."""
    shutil.copy(EXAMPLE / HEAD, tmp_path / "mine.py")
    settings = [part for setting in small.SETTINGS for part in ("--set", setting)]
    where = ("--heads", "mine:StripPoolingHead", "--launcher", "local", "--rounds", "2")
    command = (sys.executable, "-m", "contextbench", "compare", *where, *settings)
    run(*command, cwd=tmp_path, PYTHONPATH=str(ROOT))
    [record] = tmp_path.rglob("StripPoolingHead/seed-0/record.json")
    content = json.loads(record.read_text())
    assert content["status"] == "done", content["failure"]
    assert content["head"]["plugin"]["place"] == "mine:StripPoolingHead"


@pytest.mark.slow
def test_the_example_passes_its_own_tests(python: Path, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")
    output = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=tmp_path)
    assert "2 passed" in output


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code and its tests with the head in it, as section 5 says."""
    copy = tmp_path_factory.mktemp("copy") / "contextbench"
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for folder in ("contextbench", "heads", "configs", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", copy)
    shutil.copy(EXAMPLE / HEAD, copy / "heads" / "strip_pooling.py")
    test = (EXAMPLE / TEST).read_text(encoding="utf-8")
    test = test.replace(HEAD.removesuffix(".py"), "heads.strip_pooling")
    (copy / "tests" / "heads" / "test_strip_pooling.py").write_text(test, encoding="utf-8")
    for name, block in written(PAGE.partition("## 5. ")[2]):
        path = copy / name
        content = _inserted(path.read_text(encoding="utf-8"), block) if path.exists() else block
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


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_head_passes_the_tests_of_heads_here(checkout: Path) -> None:
    chosen = ["tests/heads", "tests/test_layers.py", "tests/test_configs.py"]
    command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "strip_pooling")
    output = run(*command, *chosen, cwd=checkout)
    passed = re.search(r"(\d+) passed", output)
    assert passed
    assert int(passed[1]) > 50
    assert "skipped" not in output


@pytest.mark.slow
def test_the_head_is_formatted_and_typed_here_and_known_to_the_commands(checkout: Path) -> None:
    shown = "heads/strip_pooling.py"
    for tool in (("ruff", "check"), ("ruff", "format", "--check"), ("mypy",)):
        run(sys.executable, "-m", *tool, shown, cwd=checkout)
    said = run(sys.executable, "-m", "contextbench", "list", "heads", cwd=checkout)
    assert "strip_pooling" in said
