"""What is tested is what ships: no test gives the product another threshold than users have.

A test may take the place of a function, to break it, to count its calls or to spare its time. It
may not change a constant, since a branch would then be tested at sizes at which nobody runs it; a
test that needs both sides of a threshold chooses sizes on both sides. And what is replaced, is so
by the test that says it, not by a fixture that acts on a whole file.
"""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("contextbench", "heads")
FILES = sorted((ROOT / "tests").rglob("*.py"))

# Constants that tests change all the same: "file: module.NAME", and why this hides nothing.
ALLOWED: Mapping[str, str] = {
    "tests/test_configs.py: contextbench.config.averaging.RULE": (
        "a version in fingerprints, no threshold"
    ),
}


def is_product(name: str) -> bool:
    return name.split(".")[0] in PRODUCT


def imports(tree: ast.AST) -> dict[str, str]:
    """Names of a file that stand for parts of the product, and their full names."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.split(".")[0]
                found[bound] = alias.name if alias.asname else bound
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return {bound: name for bound, name in found.items() if is_product(name)}


def full_name(node: ast.AST, names: Mapping[str, str]) -> str | None:
    """Of an expression like `module.Class`, where it begins with a part of the product."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = full_name(node.value, names)
        return owner and f"{owner}.{node.attr}"
    return None


def literal(node: ast.AST) -> str:
    """A text; "*" where it is computed."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "*"


def last_name(node: ast.AST) -> str | None:
    """`c` of `a.b.c`."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)


def replaced(tree: ast.AST, names: Mapping[str, str]) -> Iterator[str]:
    """Full names of what is replaced: `setattr` of any kind, `patch`, assignment, deletion."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            called = last_name(node.func)
            first = literal(node.args[0])
            if called in ("setattr", "delattr", "patch", "dict", "multiple") and is_product(first):
                yield first
            elif called in ("setattr", "delattr", "object", "setitem", "delitem"):
                owner = full_name(node.args[0], names)
                if owner and len(node.args) > 1:
                    yield f"{owner}.{literal(node.args[1])}"
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store | ast.Del)
            and (name := full_name(node, names))
        ):
            yield name


def is_constant(name: str) -> bool:
    """By its spelling, which those of the product have; entries of a constant count as it does."""
    return any(part.isupper() and len(part) > 1 for part in name.split("."))


def changed_constants(source: str) -> list[str]:
    tree = ast.parse(source)
    return [name for name in replaced(tree, imports(tree)) if is_constant(name)]


def is_autouse(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and any(
        keyword.arg == "autouse" and ast.unparse(keyword.value) != "False"
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call)
        for keyword in decorator.keywords
    )


def replaced_everywhere(source: str) -> list[str]:
    """What fixtures replace without being asked for by a test."""
    if "autouse" not in source:
        return []
    tree = ast.parse(source)
    fixtures = filter(is_autouse, ast.walk(tree))
    return [name for fixture in fixtures for name in replaced(fixture, imports(tree))]


def test_no_test_changes_a_constant() -> None:
    found = {
        f"{path.relative_to(ROOT).as_posix()}: {name}"
        for path in FILES
        for name in changed_constants(path.read_text(encoding="utf-8"))
    }
    assert found == ALLOWED.keys()


def test_no_fixture_replaces_parts_of_the_product_unasked() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): names
        for path in FILES
        if (names := replaced_everywhere(path.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from heads import attention\nm.setattr(attention, 'SMALL', 0)", "heads.attention.SMALL"),
        ("import heads.ocr as o\nsetattr(o, 'LIMIT', 0)", "heads.ocr.LIMIT"),
        ("import heads.ocr\nheads.ocr.LIMIT = 0", "heads.ocr.LIMIT"),
        (
            "m.setattr('contextbench.models.segmenter.LIMIT', 0)",
            "contextbench.models.segmenter.LIMIT",
        ),
        ("mock.patch.object(C, 'LIMIT')", None),
        ("from heads.x import C\nmock.patch.object(C, 'LIMIT')", "heads.x.C.LIMIT"),
        ("from heads import HEADS\nm.setitem(HEADS, 'fcn', f)", "heads.HEADS.fcn"),
        ("from heads import ocr\nm.setattr(ocr, 'resize', f)", None),
        ("import torch\nm.setattr(torch, 'LIMIT', 0)", None),
        ("from heads.ocr import LIMIT\nassert LIMIT == 3", None),
    ],
)
def test_a_changed_constant_is_found(source: str, expected: str | None) -> None:
    assert changed_constants(source) == ([expected] if expected else [])


def test_a_fixture_that_acts_on_every_test_is_found() -> None:
    body = "(monkeypatch):\n    monkeypatch.setattr(ocr, 'resize', None)\n"
    source = f"from heads import ocr\n@pytest.fixture(autouse=True)\ndef a{body}"
    assert replaced_everywhere(source) == ["heads.ocr.resize"]
    assert replaced_everywhere(source.replace("autouse=True", "scope='module'")) == []
    assert replaced_everywhere(source.replace("heads", "elsewhere")) == []


SKIPPING = """
import pytest

def test_runs():
    pass

@pytest.mark.skip(reason="no browser")
def test_skips():
    pass

@pytest.mark.xfail
def test_is_known_to_fail():
    raise ValueError
"""


@pytest.mark.slow
def test_no_skip_makes_skips_failures_and_leaves_what_is_known_to_fail(tmp_path: Path) -> None:
    """Also of a whole file, when it is collected."""
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_one.py").write_text(SKIPPING)
    (tmp_path / "test_file.py").write_text("import pytest\npytest.importorskip('absent_package')")

    def closing(*arguments: str) -> str:
        command = [sys.executable, "-m", "pytest", "-q", *arguments, str(tmp_path)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout

    assert "1 passed, 2 skipped, 1 xfailed" in closing()
    strict = closing("--no-skip", "--continue-on-collection-errors")
    assert "1 passed, 1 xfailed, 2 errors" in strict
    assert "skipped, which --no-skip forbids" in strict
    assert "no browser" in strict
    assert "absent_package" in strict
