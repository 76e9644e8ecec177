"""Ctrl-C: at the next safe point, or at once where nothing can be lost."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from contextbench.records.stored import write_model
from contextbench.runs import comparison
from contextbench.runs.grid import run_grid
from contextbench.system.interrupt import Interrupted, StopRequest, stop_on_signals
from tests import small
from tests.report.records import class_iou, run


def test_the_first_signal_waits_for_a_check_and_the_second_does_not() -> None:
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted):
            stop.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_work_that_may_end_at_once(number: signal.Signals) -> None:
    """Also where the work catches every `Exception`, as drawing libraries do."""
    went_on: list[str] = []

    def careless() -> None:
        try:
            signal.raise_signal(number)
        except Exception:
            went_on.append("caught")
        went_on.append("done")

    with stop_on_signals() as stop:
        with pytest.raises(Interrupted), stop.at_once():
            careless()
        assert went_on == []
        with pytest.raises(Interrupted):  # what comes after it does not begin
            stop.check()


def test_work_that_may_end_at_once_does_not_begin_after_a_request() -> None:
    stop = StopRequest()
    stop.requested = True
    with pytest.raises(Interrupted), stop.at_once():
        pytest.fail("began")


def test_afterwards_signals_wait_again() -> None:
    with stop_on_signals() as stop:
        with stop.at_once():
            pass
        signal.raise_signal(signal.SIGINT)
        assert stop.requested


@pytest.mark.parametrize("waiting", ["stop_on_signals() as stop, stop.at_once()", "nullcontext()"])
def test_the_exit_code_is_ours_wherever_the_signal_arrives(waiting: str, tmp_path: Path) -> None:
    """In `exec` too, by which dataclasses are made while modules are loaded."""
    (tmp_path / "program.py").write_text(
        "import signal\n"
        "from contextlib import nullcontext\n"
        "import typer\n"
        "import contextbench.cli\n"
        "from contextbench.cli.shared import guarded\n"
        "from contextbench.system.interrupt import stop_on_signals\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background\n"
        "def work():\n"
        f"    with guarded(), {waiting}:\n"
        "        exec('signal.raise_signal(signal.SIGINT)')\n"
        "contextbench.cli.app = typer.Typer()\n"
        "contextbench.cli.app.command()(work)\n"
        "contextbench.cli.main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "program"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    assert (ended.returncode, ended.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("waiting", ["stop_on_signals() as stop, stop.at_once()", "nullcontext()"])
def test_a_compiled_module_is_loaded_to_its_end(waiting: str, tmp_path: Path) -> None:
    """It makes an ImportError of whatever is raised in the Python that it calls meanwhile."""
    (tmp_path / "program.py").write_text(
        "import signal, time\n"
        "from contextlib import nullcontext\n"
        "from importlib.machinery import ExtensionFileLoader\n"
        "from contextbench.cli.shared import guarded\n"
        "from contextbench.system.interrupt import catch_ctrl_c, stop_on_signals\n"
        "class Compiled(ExtensionFileLoader):\n"
        "    def exec_module(self, module):\n"
        "        try:\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "        except BaseException as error:\n"
        "            raise ImportError('initialization failed') from error\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background\n"
        "catch_ctrl_c()\n"
        f"with guarded(), {waiting}:\n"
        "    Compiled('compiled', 'compiled.so').exec_module(None)\n"
        "    print('loaded', flush=True)\n"
        "    time.sleep(100)\n"
    )
    command = [sys.executable, "-m", "program"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=90)
    assert "interrupted\n" in ended.stderr
    assert ended.stdout == "loaded\n"


def interrupt_when(condition: Callable[[], bool], process: int) -> threading.Thread:
    """Sends one SIGINT as soon as the condition holds."""

    def watch() -> None:
        deadline = time.monotonic() + 200
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.001)
        os.kill(process, signal.SIGINT)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def drawn(folder: Path) -> list[Path]:
    """Finished figures, each whole; nothing else may lie beside them."""
    paths = sorted(folder.iterdir())
    assert {path.suffix for path in paths} <= {".png", ".svg"}
    for path in paths:
        if path.suffix == ".png":
            Image.open(path).load()
        else:
            assert path.read_text().rstrip().endswith("</svg>")
    return paths


@pytest.mark.slow
def test_a_comparison_stops_while_it_draws_and_draws_on_afterwards(tmp_path: Path) -> None:
    figures = tmp_path / "tiny" / "figures"
    plan = comparison.Plan(heads=[small.head()], seeds=[0], rounds=1, train_rounds=1, examples=0)
    setting = comparison.open_setting(small.protocol(steps=1), None)
    execution = small.execution(tmp_path)
    runs = run_grid(setting, plan.heads, [0], comparison.Precision(), execution)
    with stop_on_signals() as stop:
        execution = small.execution(tmp_path, stop=stop)
        watching = interrupt_when(
            lambda: figures.is_dir() and any(figures.glob("*.png")), os.getpid()
        )
        with pytest.raises(Interrupted):
            comparison.conclude(setting, plan, runs, comparison.Precision(), execution)
        watching.join()
    before = drawn(figures)
    assert (tmp_path / "tiny" / "table.csv").exists()
    comparison.conclude(setting, plan, runs, comparison.Precision(), small.execution(tmp_path))
    assert len(drawn(figures)) > len(before)


@pytest.mark.slow
@pytest.mark.parametrize("command", [["plot"], ["report"]])
def test_commands_that_draw_stop_at_one_signal(command: list[str], tmp_path: Path) -> None:
    for head in ("fcn", "ppm", "ocr"):
        folder = tmp_path / "runs" / "probe" / head / "seed-0"
        folder.mkdir(parents=True)
        write_model(folder / "record.json", run(head, iou=class_iou(head, 0)))
    out = tmp_path / "out"
    target = out if command == ["plot"] else out / "page.html"
    out.mkdir()
    (out / "figures").mkdir()
    arguments = [*command, str(tmp_path / "runs" / "probe"), "-o", str(target)]
    process = subprocess.Popen(
        [sys.executable, "-m", "contextbench", *arguments], stderr=subprocess.PIPE, text=True
    )
    began = Path(f"/proc/{process.pid}/maps")  # matplotlib is loaded when it draws
    interrupt_when(lambda: "_backend_agg" in began.read_text(), process.pid)
    _, message = process.communicate(timeout=200)
    assert process.returncode == 130, message
    assert message.strip() == "interrupted; the same command goes on from here"
    assert not (out / "page.html").exists()
    assert not list(out.rglob(".*"))
    drawn(out / "figures")
