"""Whatever names and messages hold, no output of any command steers a terminal."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from rich.text import Text
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.records.counts import write_areas
from contextbench.records.runs import RunRecord, cell_folder, read_run
from contextbench.records.stored import write_model
from contextbench.report.figures.style import new_figure
from contextbench.system.console import Reporter, SafeConsole
from contextbench.system.text import one_line, printable
from tests.report import pages, records

EVIL = "\x1b[2J\x9b31m\u202eevil\u2066\r\n[red]x[/red]\x07\x00"
LABELS = records.LABELS.model_copy(
    update={
        "classes": [EVIL, *records.CLASSES[1:]],
        "groups": {EVIL: [1, 2], **dict(list(records.LABELS.groups.items())[1:])},
    }
)


def steering(text: str) -> list[str]:
    """What `text` holds of controls and bidirectional marks, but for line ends."""
    return [c for c in text if not c.isprintable() and c not in "\n\xa0"]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("größe – 漢字 🙂", "größe – 漢字 🙂"),
        ("a\x1b[2Jb", "a\\u001b[2Jb"),
        ("\x9b", "\\u009b"),
        ("a\u202eb\u2028", "a\\u202eb\\u2028"),
        ("\U000e0041", "\\udb40\\udc41"),
        ("\ud800", "\\ud800"),
        ("می‌خواهم", "می‌خواهم"),  # a joiner belongs to the word
    ],
)
def test_only_what_steers_is_spelled_out(given: str, shown: str) -> None:
    assert printable(given) == one_line(given) == shown
    assert printable(shown) == shown
    assert json.loads(json.dumps(given)) == json.loads(f'"{shown}"')  # escapes are those of JSON


def test_line_ends_stay_in_texts_and_not_in_names() -> None:
    assert (printable("a\n\tb"), one_line("a\n\tb")) == ("a\n\tb", "a\\u000a\\u0009b")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison whose classes, groups, dataset, device, images and failures are hostile."""
    out = tmp_path_factory.mktemp("runs")
    whole = pages.failed(
        pages.collection(["fcn", "ppm", "ocr"], labels=LABELS), "ocr", message=EVIL
    )
    folder = pages.store(whole, out)
    for run in whole.runs:
        cell = cell_folder(out, run.protocol_name, run.head_name, run.seed)
        write_model(cell / "record.json", _hostile(run))
        if run.totals is not None:
            counts = whole.areas[run.head_name][run.seed]
            counts.names[0] = EVIL if run.seed else "other"
            write_areas(cell / "areas.npz", counts)
    return folder


def _hostile(run: RunRecord) -> RunRecord:
    protocol = {**run.protocol, "dataset": {"name": EVIL, "options": {EVIL: EVIL}}}
    environment = {"device": EVIL, "commit": f"{EVIL}{run.seed}"}
    return run.model_copy(update={"protocol": protocol, "environment": environment})


def called(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code in (0, 1, 2), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output


def written(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".md", ".csv", ".tex", ".html", ".json", ".svg"}:
            yield path.name, path.read_text(encoding="utf-8")


COMMANDS: Mapping[str, list[str]] = {
    "console": ["table", "RUNS"],
    "json": ["table", "RUNS", "--json"],
    "csv": ["table", "RUNS", "--format", "csv"],
    "markdown": ["table", "RUNS", "--format", "markdown"],
    "latex": ["table", "RUNS", "--format", "latex"],
    "files": ["table", "RUNS", "-o", "OUT"],
    "page": ["report", "RUNS", "-o", "OUT/page.html"],
    "insight": ["insight", "RUNS"],
    "explain": ["explain", "RUNS/fcn/seed-0", "RUNS/fcn/seed-1"],
    "explain json": ["explain", "RUNS/fcn/seed-0", "RUNS/ocr/seed-1", "--json"],
    "evaluate": ["evaluate", "RUNS/fcn/seed-0"],  # has no weights
    "unknown": ["table", EVIL],
    "option": ["table", "RUNS", "--columns", EVIL],
    "set": ["compare", "--set", f"name={EVIL}"],
}


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_no_command_prints_what_steers(arguments: list[str], runs: Path, tmp_path: Path) -> None:
    given = [a.replace("RUNS", str(runs)).replace("OUT", str(tmp_path)) for a in arguments]
    output = called(*given)
    assert output or list(tmp_path.iterdir())
    assert steering(output) == []
    for name, text in written(tmp_path):
        assert (name, steering(text)) == (name, [])


@pytest.mark.slow
def test_no_figure_or_merged_file_has_what_steers(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures"
    assert steering(called("plot", runs, "-o", out, "--format", "svg")) == []
    assert {name for name, _ in written(out)} >= {"table.md", "table.csv", "tradeoff.svg"}
    assert [steering(text) for _, text in written(out)] == [[]] * len(list(written(out)))


def test_json_output_holds_the_names_as_they_are(runs: Path) -> None:
    rows = json.loads(called("table", runs, "--json").partition("\nnote: ")[0])
    assert any(EVIL in key for row in rows for key in row)  # the column of the group


def test_figures_spell_names_out() -> None:
    figure = new_figure(3, 1, "a\x1bb", "")
    figure.canvas.draw()
    assert figure.get_suptitle() == "a\\u001bb"


@pytest.mark.parametrize("terminal", [True, False])
def test_the_console_is_safe_for_text_tables_and_progress(terminal: bool, tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    with path.open("w", encoding="utf-8") as file:
        console = SafeConsole(file=file, force_terminal=terminal, width=80, color_system=None)
        reporter = Reporter(console)
        reporter.say(EVIL)
        console.print(Text(EVIL))
        with reporter.task(f"task {EVIL}", 2) as update:
            update(2, EVIL)
    text = path.read_text(encoding="utf-8")
    assert "[red]x[/red]" in text  # markup of data is text
    for code in ("\x1b[2J", "\x9b", "\u202e", "\u2066", "\x07", "\x00"):
        assert code not in text


def test_records_keep_what_they_were_given(runs: Path) -> None:
    found = read_run(runs / "fcn" / "seed-0" / "record.json")
    assert found.labels.classes[0] == EVIL
    assert found.environment["device"] == EVIL
    assert np.load(runs / "fcn" / "seed-1" / "areas.npz")["image"][0] == EVIL.rstrip("\0")
