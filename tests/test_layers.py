"""Imports point one way: packages in one order, heads and reports without the rest."""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from contextbench.cli import COMMANDS

ROOT = Path(__file__).parents[1]
# From top to bottom: a package imports those below it, never one above.
ORDER = (
    "cli",
    "cluster",
    "runs",
    "interop",
    "measure",
    "report",
    "evaluation",
    "training",
    "statistics",
    "papers",
    "records",
    "models",
    "data",
    "config",
    "system",
)
HEAVY = {"torch", "pandas", "matplotlib"}  # each takes longer to import than `--help` may
OPTIONAL = {
    "submitit": "of the extra `slurm`: nobody without a cluster has it",
    "onnxruntime": "of the extra `export`",
}
TORCH_FREE = ("report", "statistics", "papers", "records", "config", "system")
SHARED = ("heads.interface", "heads.blocks", "heads.attention", "heads.regions")
CHECKS = ("heads.small", "heads.contract")  # of heads, which import none of them
# By their papers another method with a decoder behind it.
BUILT_ON = {"heads.deeplabv3plus": {"heads.aspp"}, "heads.upernet": {"heads.ppm"}}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(package: str) -> dict[str, str]:
    """Source text of every module of a package, by dotted name."""
    paths = sorted((ROOT / package).rglob("*.py"))
    return {module_name(path): path.read_text(encoding="utf-8") for path in paths}


parsed = cache(ast.parse)  # most tests here read all modules


def at_import_time(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements that run when the module does: those of functions run later, and those
    for type checkers never."""
    for child in _that_run(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from at_import_time(child)


def _that_run(node: ast.AST) -> Iterable[ast.AST]:
    """Children of a node, of `if TYPE_CHECKING` the other branch alone."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return node.orelse
    return ast.iter_child_nodes(node)


def everywhere(source: str) -> Iterator[ast.Import | ast.ImportFrom]:
    """All import statements, those inside functions too."""
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node


def inside_functions(tree: ast.Module) -> Iterator[tuple[str, ast.Import | ast.ImportFrom]]:
    """Name of a function and each import statement that runs when it does."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for statement in at_import_time(function):
                yield function.name, statement


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


def load_graph(modules: Mapping[str, str]) -> dict[str, set[str]]:
    """What each of `modules` imports when it is imported, be it among them or not."""
    return {
        name: imported(at_import_time(parsed(source)), modules) for name, source in modules.items()
    }


def graph(modules: Mapping[str, str]) -> dict[str, set[str]]:
    """Which of `modules` each of them imports when it is imported."""
    return {name: loaded & set(modules) for name, loaded in load_graph(modules).items()}


def cycle(modules: Mapping[str, str]) -> list[str] | None:
    """The modules of one import cycle, or None."""
    try:
        TopologicalSorter(graph(modules)).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


HEADS_SOURCES = sources("heads")
BENCH_SOURCES = sources("contextbench")
METHODS = sorted(set(HEADS_SOURCES) - {"heads", *SHARED, *CHECKS})


@pytest.mark.parametrize("name", HEADS_SOURCES)
def test_heads_need_torch_and_nothing_else(name: str) -> None:
    roots = {module.partition(".")[0] for module in imported(everywhere(HEADS_SOURCES[name]))}
    assert roots - sys.stdlib_module_names <= {"torch", "heads"}


def test_shared_parts_know_no_head() -> None:
    internal = {
        name: imported(everywhere(HEADS_SOURCES[name]), HEADS_SOURCES) & set(HEADS_SOURCES)
        for name in (*SHARED, *CHECKS)
    }
    assert internal == {
        "heads.interface": set(),
        "heads.blocks": {"heads.interface"},
        "heads.attention": {"heads.interface", "heads.blocks"},
        "heads.regions": {"heads.interface", "heads.blocks", "heads.attention"},
        "heads.small": {"heads.interface"},
        "heads.contract": {"heads.interface", "heads.blocks", "heads.small"},
    }


@pytest.mark.parametrize("name", METHODS)
def test_methods_never_import_each_other(name: str) -> None:
    internal = imported(everywhere(HEADS_SOURCES[name]), HEADS_SOURCES) & set(HEADS_SOURCES)
    assert internal <= {*SHARED, *BUILT_ON.get(name, ())}


@pytest.mark.parametrize("package", ["heads", "contextbench"])
def test_no_import_cycles(package: str) -> None:
    assert cycle(sources(package)) is None


def test_the_cycle_check_follows_packages_but_not_functions() -> None:
    two = {"p": "from p.a import x", "p.a": "from p import b", "p.b": "import p.a"}
    assert set(cycle(two) or ()) == {"p.a", "p.b"}
    assert set(cycle({"p": "from p.a import x", "p.a": "from p import x"}) or ()) == {"p", "p.a"}
    assert cycle({"p.a": "if True:\n import p.b", "p.b": "def f():\n from p import a"}) is None
    typed = "if TYPE_CHECKING:\n import p.b\nelse:\n import p.c"
    assert cycle({"p.a": typed, "p.b": "import p.a", "p.c": ""}) is None
    assert set(cycle({"p.a": typed, "p.b": "", "p.c": "import p.a"}) or ()) == {"p.a", "p.c"}


def package(module: str) -> str:
    """The package of the benchmark that a module is in; empty for those beside the packages."""
    first = module.split(".")[1:2]
    return first[0] if first and first[0] in ORDER else ""


def climbs(modules: Mapping[str, str]) -> list[str]:
    """Imports, those inside functions too, of a package that stands above the importing one."""
    found = []
    for name, source in modules.items():
        for other in sorted(imported(everywhere(source), modules) & set(modules)):
            here, there = package(name), package(other)
            if here and (not there or ORDER.index(there) < ORDER.index(here)):
                found.append(f"{name} imports {other}: {here} is below {there or 'the root'}")
    return found


def test_packages_import_only_packages_below_them() -> None:
    # The version is all that the root may be asked for.
    modules = {name: source for name, source in BENCH_SOURCES.items() if name != "contextbench"}
    assert climbs(modules) == []


def test_the_order_names_both_ends_of_a_climb() -> None:
    modules = {
        "contextbench.data.a": "def f():\n from contextbench.runs import b",
        "contextbench.runs.b": "import contextbench.data.a",
    }
    assert climbs(modules) == [
        "contextbench.data.a imports contextbench.runs.b: data is below runs"
    ]


def test_every_module_is_in_a_package_of_the_order() -> None:
    beside = {name for name in BENCH_SOURCES if not package(name)}
    assert beside == {"contextbench", "contextbench.__main__"}
    assert {package(name) for name in BENCH_SOURCES} - {""} <= set(ORDER)


def test_computing_never_imports_drawing() -> None:
    drawing = ("contextbench.report.figures", "contextbench.report.page", "matplotlib")
    computing = {n: s for n, s in BENCH_SOURCES.items() if package(n) not in ("report", "cli")}
    assert importing(computing, drawing) == set()


def importing(modules: Mapping[str, str], prefixes: tuple[str, ...]) -> set[str]:
    """Imports, those inside functions too, of what begins with one of `prefixes`."""
    return {
        f"{name} imports {other}"
        for name, source in modules.items()
        for other in imported(everywhere(source), BENCH_SOURCES)
        if other.startswith(prefixes)
    }


def test_facts_of_a_report_never_import_what_renders_them() -> None:
    rendering = tuple(
        f"contextbench.report.{part}" for part in ("tables", "figures", "page", "papers", "bundle")
    )
    facts = {
        name: source
        for name, source in BENCH_SOURCES.items()
        if name.startswith("contextbench.report.") and not name.startswith(rendering)
    }
    assert {"contextbench.report.collection", "contextbench.report.plots"} <= set(facts)
    assert importing(facts, rendering) == set()


def loaded_with(module: str, direct: Mapping[str, set[str]]) -> set[str]:
    """First names of all that is loaded when a module is."""
    seen: set[str] = set()
    waiting = {module}
    while waiting:
        name = waiting.pop()
        seen.add(name)
        parents = {name.rpartition(".")[0]} - {""}  # importing a.b imports a first
        waiting |= (direct.get(name, set()) | parents) - seen
    return {name.partition(".")[0] for name in seen}


def late(modules: Mapping[str, str], known: Mapping[str, str]) -> list[str]:
    """Imports inside functions that could stand at the head of their module."""
    direct = load_graph(known)
    return [
        f"{name}.{function} imports {target}: nothing heavy, so to the head of the module"
        for name, source in modules.items()
        for function, statement in inside_functions(parsed(source))
        for target in sorted(imported([statement], known))
        if not loaded_with(target, direct) & (HEAVY | set(OPTIONAL))
    ]


def test_imports_inside_functions_keep_something_heavy_out_of_help() -> None:
    assert late(BENCH_SOURCES, {**BENCH_SOURCES, **HEADS_SOURCES}) == []


def test_late_imports_are_judged_by_all_that_they_load() -> None:
    modules = {
        "p.a": "def f():\n from p import b\n from p import c\n import json\n import submitit",
        "p.b": "import p.d",
        "p.c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n import torch",
        "p.d": "import torch.nn",
    }
    assert [line.partition(":")[0] for line in late({"p.a": modules["p.a"]}, modules)] == [
        "p.a.f imports p.c",
        "p.a.f imports json",
    ]


def without_torch(modules: Iterable[str]) -> subprocess.CompletedProcess[str]:
    code = f"import {', '.join(modules)}, sys; assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_what_reads_records_does_not_import_torch() -> None:
    names = [name for name in BENCH_SOURCES if package(name) in TORCH_FREE]
    assert len(names) > 50
    process = without_torch(["contextbench", *names])
    assert process.returncode == 0, process.stderr


def test_the_help_of_no_command_imports_anything_heavy() -> None:
    modules = {place.partition(":")[0] for place, _ in COMMANDS.values()}
    names = ", ".join(f"contextbench.cli.{module}" for module in sorted(modules))
    code = f"import {names}, sys; print(*({HEAVY} & sys.modules.keys()))"
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert output.stdout.strip() == ""


def test_help_and_completion_of_names_load_no_command() -> None:
    code = """
import sys
from contextbench.cli import app
try:
    app(["--help"])
except SystemExit:
    heavy = {"numpy", "pydantic", "torch"}
    print(*(name for name in sys.modules if name.startswith("contextbench.cli.") or name in heavy))
"""
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "doctor" in output.stdout
    assert output.stdout.endswith("\n\n")


@pytest.mark.parametrize("folder", ["heads", "contextbench", "tests"])
def test_no_module_is_a_catch_all(folder: str) -> None:
    vague = {"util", "utils", "helper", "helpers", "misc", "common"}
    assert [path for path in (ROOT / folder).rglob("*.py") if vague & {*path.stem.split("_")}] == []
