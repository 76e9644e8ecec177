"""Imports point one way: heads know nothing of the benchmark, reports nothing of torch."""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = ("heads.interface", "heads.blocks", "heads.attention", "heads.regions")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(package: str) -> dict[str, str]:
    """Source text of every module of a package, by dotted name."""
    paths = sorted((ROOT / package).rglob("*.py"))
    return {module_name(path): path.read_text(encoding="utf-8") for path in paths}


def at_import_time(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements that run when the module does: those of functions run later."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from at_import_time(child)


def everywhere(source: str) -> Iterator[ast.Import | ast.ImportFrom]:
    """All import statements, those inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node


def imported(
    statements: Iterable[ast.Import | ast.ImportFrom], modules: Iterable[str] = ()
) -> set[str]:
    """Modules that the statements name; `from a import b` is `a.b` where that is in `modules`."""
    names = set()
    for statement in statements:
        if isinstance(statement, ast.Import):
            names |= {alias.name for alias in statement.names}
        else:
            assert statement.level == 0, f"relative import in line {statement.lineno}"
            inside = {f"{statement.module}.{alias.name}" for alias in statement.names}
            names |= (inside & set(modules)) or {str(statement.module)}
    return names


def graph(modules: Mapping[str, str]) -> dict[str, set[str]]:
    """Which of `modules` each of them imports when it is imported."""
    return {
        name: imported(at_import_time(ast.parse(source)), modules) & set(modules)
        for name, source in modules.items()
    }


def cycle(modules: Mapping[str, str]) -> list[str] | None:
    """The modules of one import cycle, or None."""
    try:
        TopologicalSorter(graph(modules)).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


HEADS_SOURCES = sources("heads")
BENCH_SOURCES = sources("contextbench")
METHODS = sorted(set(HEADS_SOURCES) - {"heads", *SHARED})


@pytest.mark.parametrize("name", HEADS_SOURCES)
def test_heads_need_torch_and_nothing_else(name: str) -> None:
    roots = {module.partition(".")[0] for module in imported(everywhere(HEADS_SOURCES[name]))}
    assert roots - sys.stdlib_module_names <= {"torch", "heads"}


def test_shared_parts_know_no_head() -> None:
    internal = {
        name: imported(everywhere(HEADS_SOURCES[name]), HEADS_SOURCES) & set(HEADS_SOURCES)
        for name in SHARED
    }
    assert internal == {
        "heads.interface": set(),
        "heads.blocks": {"heads.interface"},
        "heads.attention": {"heads.interface", "heads.blocks"},
        "heads.regions": {"heads.interface", "heads.blocks", "heads.attention"},
    }


@pytest.mark.parametrize("name", METHODS)
def test_methods_never_import_each_other(name: str) -> None:
    internal = imported(everywhere(HEADS_SOURCES[name]), HEADS_SOURCES) & set(HEADS_SOURCES)
    assert internal <= set(SHARED)


@pytest.mark.parametrize("package", ["heads", "contextbench"])
def test_no_import_cycles(package: str) -> None:
    assert cycle(sources(package)) is None


def test_the_cycle_check_follows_packages_but_not_functions() -> None:
    two = {"p": "from p.a import x", "p.a": "from p import b", "p.b": "import p.a"}
    assert set(cycle(two) or ()) == {"p.a", "p.b"}
    assert set(cycle({"p": "from p.a import x", "p.a": "from p import x"}) or ()) == {"p", "p.a"}
    assert cycle({"p.a": "if True:\n import p.b", "p.b": "def f():\n from p import a"}) is None


def test_only_the_command_line_is_on_top() -> None:
    importers = {
        name
        for name, source in BENCH_SOURCES.items()
        if "contextbench.cli" in imported(everywhere(source), BENCH_SOURCES)
    }
    assert importers <= {"contextbench.__main__"}


def without_torch(modules: Iterable[str]) -> subprocess.CompletedProcess[str]:
    code = f"import {', '.join(modules)}, sys; assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_results_and_reports_do_not_import_torch() -> None:
    names = ["", ".config", ".results", ".files", ".metrics", ".stats"]
    reports = [name for name in BENCH_SOURCES if name.startswith("contextbench.report")]
    assert len(reports) > 1
    process = without_torch([*(f"contextbench{name}" for name in names), *reports])
    assert process.returncode == 0, process.stderr


def test_the_command_line_does_not_import_torch() -> None:
    process = without_torch(["contextbench.cli"])
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("folder", ["heads", "contextbench", "tests"])
def test_no_module_is_a_catch_all(folder: str) -> None:
    vague = {"util", "utils", "helper", "helpers", "misc", "common"}
    assert [path for path in (ROOT / folder).rglob("*.py") if vague & {*path.stem.split("_")}] == []
