"""The command line as a user meets it: outputs, messages, exit codes."""

import dataclasses
import inspect
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

import contextbench
from contextbench.cli import COMMANDS, _formatted, app
from contextbench.cli.clusters import JobOptions
from contextbench.cli.inventory import INVENTORY
from contextbench.cli.runs import FAMILIES
from contextbench.config.files import names_in
from heads import HEADS
from tests import small

SETTINGS = [part for setting in small.SETTINGS for part in ("--set", setting)]


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments):
    """The message of a call that must end with exit code 2 and no traceback."""
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    result = call("compare", "--heads", "fcn,ocr", "--rounds", 2, "--out", out, *SETTINGS)
    assert result.exit_code == 0, result.output
    return out


def test_compare_writes_the_table_and_the_figures(runs):
    table = pd.read_csv(runs / "probe" / "table.csv")
    assert set(table["head"]) == {"fcn", "ocr"}
    promised = (
        "head seeds miou pixel_accuracy mean_accuracy parameters macs flops "
        "inference_memory_bytes training_memory_bytes latency_ms latency_ratio"
    )
    assert set(promised.split()) <= set(table.columns)
    assert table[promised.split()].notna().all(axis=None)
    assert (table["flops"] == 2 * table["macs"]).all()
    assert table.set_index("head").loc["fcn", "latency_ratio"] == 1
    assert "| ocr |" in (runs / "probe" / "table.md").read_text().lower().replace("*", "")
    figures = {path.name for path in (runs / "probe" / "figures").iterdir()}
    for name in ("tradeoff-macs", "tradeoff-latency", "groups", "loss", "predictions"):
        assert {f"{name}.png", f"{name}.svg"} <= figures


@pytest.mark.slow
def test_compare_again_runs_nothing_and_writes_the_same_table(runs):
    before = (runs / "probe" / "table.csv").read_bytes()
    record = runs / "probe" / "ocr" / "seed-0" / "record.json"
    written = record.stat().st_mtime_ns
    result = call(
        "compare", "--heads", "fcn,ocr", "--rounds", 2, "--out", runs, *SETTINGS, "--json"
    )
    assert result.exit_code == 0, result.output
    assert record.stat().st_mtime_ns == written
    assert (runs / "probe" / "table.csv").read_bytes() == before


@pytest.mark.slow
def test_plot_makes_the_same_table_from_records(runs, tmp_path):
    result = call("plot", runs / "probe", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "table.csv").read_bytes() == (runs / "probe" / "table.csv").read_bytes()
    assert (tmp_path / "figures" / "tradeoff.svg").exists()


@pytest.mark.slow
def test_plot_has_a_folder_of_its_own_beside_the_default_of_report(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in ("plot", "report"):
        result = call(command, runs / "probe")
        assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == {"report", "report.html"}
    assert (tmp_path / "report" / "table.md").exists()


def test_evaluate_gives_the_recorded_score_at_the_recorded_setting(runs):
    result = call("evaluate", runs / "probe" / "fcn" / "seed-0", "--json")
    assert result.exit_code == 0, result.output
    scores = json.loads(result.stdout)
    table = pd.read_csv(runs / "probe" / "table.csv").set_index("head")
    assert scores["miou"] == pytest.approx(table.loc["fcn", "miou"], rel=1e-12)
    flipped = call("evaluate", runs / "probe" / "fcn" / "seed-0", "--flip", "--scales", "1,1.5")
    assert flipped.exit_code == 0, flipped.output
    assert "miou" in flipped.stdout


def test_predict_writes_masks_of_the_size_of_the_image(runs, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "street.png")
    run = runs / "probe" / "ocr" / "seed-0"
    result = call("predict", run, tmp_path / "street.png", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "out" / "street_mask.png") as picture:
        mask = np.array(picture)
    assert mask.shape == (37, 53)
    assert mask.max() < 13
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"street_{kind}.png" for kind in ("mask", "colour", "overlay")
    }


def test_train_records_one_cell(tmp_path):
    result = call("train", "--head", "aspp", "--seed", 3, "--out", tmp_path, *SETTINGS)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "probe" / "aspp" / "seed-3" / "record.json").exists()


def test_a_failed_cell_gives_exit_code_1_and_a_row(tmp_path):
    settings = [*SETTINGS, "--set", "train.lr=1.0e+30", "--set", "train.steps=20"]
    result = call("compare", "--heads", "fcn", "--rounds", 1, "--out", tmp_path, *settings)
    assert result.exit_code == 1, result.output
    table = pd.read_csv(tmp_path / "probe" / "table.csv")
    assert table.loc[0, "status"] == "failed"
    assert "not finite" in table.loc[0, "note"]


def test_train_runs_a_failed_cell_again_only_when_told(tmp_path):
    settings = [*SETTINGS, "--set", "train.lr=1.0e+30", "--set", "train.steps=20"]
    arguments = ["train", "--head", "fcn", "--out", tmp_path, *settings]
    told = [call(*arguments, *more) for more in ([], [], ["--retry-failed"])]
    assert [each.exit_code for each in told] == [1, 1, 1]
    assert ["failed already" in each.output for each in told] == [False, True, False]


def test_profile_predicts_heads_without_running_them():
    result = call("profile", "--features", "64x9x7", "--predict", "--json", "--heads", "fcn,ppm")
    assert result.exit_code == 0, result.output
    fcn, ppm = json.loads(result.stdout)["costs"]
    context = fcn["counts"]["context"]
    assert context["macs"] == 9 * 7 * 64 * 512 * 9
    assert context["parameters"] == 64 * 512 * 9 + 512 + 2 * 512
    assert ppm["timings"] == []


def test_profile_times_models_at_an_image_size(tmp_path):
    arguments = ["--image", "64x96", "--rounds", 2, "--heads", "fcn", "-o", tmp_path]
    result = call("profile", *arguments, *SETTINGS)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "profile.json").read_text())
    assert record["input"] == "1x3x64x96"
    assert len(record["heads"]["fcn"]["latency_ms"]) == 2


@pytest.mark.slow
def test_profile_of_heads_writes_record_tables_and_curves_that_plot_makes_again(tmp_path):
    arguments = ["--sizes", "8,16", "--features", "64x8x8", "--rounds", 2, "--heads", "fcn,ppm"]
    first = call("profile", *arguments, "--implementation", "both", "-o", tmp_path / "a")
    assert first.exit_code == 0, first.output
    again = call("plot", tmp_path / "a", "-o", tmp_path / "b")
    assert again.exit_code == 0, again.output
    made = {path.name for path in (tmp_path / "a").iterdir()}
    assert {"profile.json", "forms.md", "scaling.csv", "break_even.csv"} < made
    for name in made:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


@pytest.mark.slow
def test_table_puts_published_and_measured_side_by_side(tmp_path):
    result = call("table", "ocr-complexity", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "ocr-complexity.csv").set_index("label")
    assert table.loc["PPM", "parameters"] == 23_073_792
    assert table.loc["PPM", "published_flops"] == 619e9
    assert table["parameters"].notna().all()
    again = call("table", "ocr-complexity", "--record", tmp_path / "ocr-complexity.json", "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)[0]["parameters"] == 23_073_792


def test_check_data_reports_every_split_and_draws_a_sheet(tmp_path):
    sheet = tmp_path / "sheet.png"
    result = call("check-data", "--sheet", sheet, "--json", *SETTINGS)
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["splits"]) == 3  # train, val and test
    with Image.open(sheet) as picture:
        assert picture.size[0] >= 3 * 64


@pytest.mark.parametrize(
    "kind", ["heads", "protocols", "datasets", "backbones", "tables", "ablations"]
)
def test_list(kind):
    result = call("list", kind, "--json")
    assert result.exit_code == 0, result.output
    lines = json.loads(result.stdout)
    assert lines
    assert all(lines.values())


def test_list_alone_shows_its_kinds():
    result = call("list")
    assert result.exit_code == 0, result.output
    named = [line.split()[0] for line in result.output.splitlines()]
    assert named == list(INVENTORY) == list(json.loads(call("list", "--json").output))
    assert all(len(line.split()) > 2 for line in result.output.splitlines())


def test_protocols_that_share_a_training_are_told_apart():
    lines = json.loads(call("list", "protocols", "--json").output)
    pairs = [(lines[name], lines[f"{name}-ms"]) for name in lines if f"{name}-ms" in lines]
    assert all(one != other for one, other in pairs)


def test_doctor_tries_a_step():
    result = call("doctor", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["training_step"] == "ok"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name):
    result = call(name, "-h")
    assert result.exit_code == 0
    assert "contextbench " + name in " ".join(result.output.split())
    assert call(name, "--help").output == result.output


def test_help_of_compare_fits_a_screen_with_jobs_in_a_panel_of_their_own():
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["compare", "--help"])
    assert len(result.output.splitlines()) <= 50
    assert max(map(len, result.output.splitlines())) <= 80
    options, _, jobs = result.output.partition("─ Jobs, with --launcher ─")
    for option in ("launcher", *(field.name for field in dataclasses.fields(JobOptions))):
        assert f" --{option.replace('_', '-')} " in jobs
    assert " --protocol " in options
    assert " --json " in options


def test_help_says_of_each_command_what_its_own_help_says_first():
    for command in COMMANDS.values():
        first_lines, _, _ = inspect.getdoc(command.function).partition("\n\n")
        assert command.summary == " ".join(first_lines.split())


def test_short_help_and_completion_exist():
    assert call("-h").output == call("--help").output
    for option in ("--install-completion", "--show-completion"):
        assert option in call("--help").output


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("contextbench com", {"compare"}),
        ("contextbench profile", {"profile", "profile-data"}),
        ("contextbench report --o", {"--out"}),
    ],
)
def test_completion_offers_commands_and_options(words, offered):
    environment = {
        "_CONTEXTBENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    result = CliRunner(env=environment).invoke(app, [], prog_name="contextbench")
    assert set(result.output.split()) == offered


def test_unknown_names_are_answered_with_the_nearest():
    assert "'ocr'" in refused("compare", "--heads", "ocrr")
    assert "'probe'" in refused("compare", "--protocol", "prob")
    assert "'steps'" in refused("compare", "--set", "train.step=3")
    assert "'backbones'" in refused("list", "backbone")


def test_unknown_head_option_names_the_file_and_the_nearest(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("head: ocr\noptions: {key_chanels: 4}\n")
    message = refused("compare", "--heads", path, "--out", tmp_path, *SETTINGS)
    assert "mine" in message
    assert "'key_channels'" in message


def test_missing_dataset_folder_says_which_and_how_to_pass_it(tmp_path):
    arguments = ["--protocol", "camvid-small", "--data-root", tmp_path / "none"]
    message = refused("compare", *arguments, "--out", tmp_path)
    assert "none" in message
    assert "--data-root" in message


def test_crop_larger_than_the_image(tmp_path):
    message = refused("compare", "--out", tmp_path, *SETTINGS, "--set", "train.crop=[96,96]")
    assert "crop" in message
    assert "64" in message


def test_unwritable_output_folder(tmp_path):
    (tmp_path / "file").write_text("")
    assert "file" in refused("compare", "--out", tmp_path / "file", *SETTINGS)


@pytest.mark.parametrize(
    "arguments",
    [
        ("compare", "--device", "gpu"),
        ("compare", "--seeds", "a"),
        ("compare", "--seeds", "-1"),
        ("compare", "--heads", "fcn,fcn"),
        ("compare", "--set", "train.lr"),
        ("compare", "--set", "train.lr=fast"),
        ("profile", "--features", "2048x128"),
        ("profile", "--features", "2048x64x65537"),
        ("profile", "--features", f"2048x64x{'9' * 5000}"),
        ("profile", "--sizes", "32,x"),
        ("profile", "--sizes", "32,65537"),
        ("profile", "--sizes", "9" * 5000),
        ("profile", "--sizes", "32", "--scopes", "modle"),
        ("profile", "--floors"),
        ("profile", "--fits", "24"),
        ("profile", "--fits", "24GiB", "--sizes", "32"),
        ("table", "ocr"),
        ("profile", "--image", "big"),
        ("profile", "--image", "1_0x64"),
        ("profile", "--image", "64x0"),
        ("profile", "--image", "9" * 5000 + "x64"),
        ("profile", "--precision", "float8"),
        ("profile", "--features", "64x8x8", "--implementation", "fats"),
        ("evaluate", "/nowhere"),
        ("predict", "/nowhere", "a.png", "-o", "/nowhere/out"),
        ("plot", "/nowhere", "-o", "/nowhere/out"),
    ],
)
def test_wrong_usage_is_one_message_and_exit_code_2(arguments):
    assert "error: " in refused(*arguments)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--sizes", "32", "--image", "64x64"], "--image"),
        (["--features", "64x8x8", "--protocol", "cityscapes-r50"], "--protocol"),
        (["--features", "64x8x8", "--set", "train.batch=2"], "--set"),
        (["--scopes", "core", "--implementation", "both"], "--implementation, --scopes"),
        (["--backward", "--floors"], "--backward, --floors"),
    ],
)
def test_profile_ignores_no_option(arguments, options):
    """What is about models says nothing of heads alone, nor the other way round."""
    assert refused("profile", "--predict", *arguments).rstrip().endswith(f"leave out {options}")


def test_missing_weights_say_how_to_pass_a_file(tmp_path):
    weights = tmp_path / "none.pth"
    message = refused(
        "compare", "--out", tmp_path, *SETTINGS, "--set", f"backbone.weights={weights}"
    )
    assert "none.pth" in message


@pytest.mark.slow
def test_interrupted_compare_exits_130_and_finishes_with_the_same_table(runs, tmp_path):
    arguments = ["compare", "--heads", "fcn,ocr", "--rounds", "2", *SETTINGS]
    command = [sys.executable, "-m", "contextbench", *arguments, "--out", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path / "probe" / "fcn" / "seed-0" / "config.yaml")
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=100)
    assert process.returncode == 130, message
    assert "goes on from here" in message
    assert not (tmp_path / "probe" / "table.csv").exists()
    assert call(*arguments, "--out", tmp_path).exit_code == 0
    pd.testing.assert_frame_equal(accuracy(tmp_path), accuracy(runs))


def wait_for(path, seconds=100):
    deadline = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.exists()


def accuracy(out):
    """The columns of the table that do not depend on the clock."""
    table = pd.read_csv(out / "probe" / "table.csv").sort_values("head", ignore_index=True)
    return table[["head", "miou", "pixel_accuracy", "mean_accuracy", "parameters", "macs"]]


def test_help_and_records_need_no_torch():
    code = "import sys, contextbench.cli, contextbench.report.bundle; print('torch' in sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "False"


def test_readme_names_the_heads_that_there_are():
    """Those that run unless told otherwise, then those that `--heads all` adds: each once."""
    text = " ".join(Path("README.md").read_text(encoding="utf-8").split())
    added = re.search(r"`--heads all` adds ([a-z0-9_, ]+?) and ([a-z0-9_]+)\.", text)
    assert added is not None
    named = [*FAMILIES.split(","), *added[1].split(", "), added[2]]
    assert sorted(named) == sorted(HEADS) == sorted(names_in("heads"))
    assert list(json.loads(call("list", "heads", "--json").output)) == list(HEADS)


def test_docs_name_every_head():
    """Where all heads are listed: what each attends to, and whether it can be exported."""
    for page in ("attention", "export"):
        text = Path(f"docs/{page}.md").read_text(encoding="utf-8")
        assert [name for name in HEADS if not re.search(rf"\b{name}\b", text)] == [], page


def test_warnings_about_data_come_without_lines_of_code():
    """And those of other packages with theirs."""
    own = str(Path(contextbench.__file__).parent / "data" / "paired.py")
    assert _formatted("3 images", UserWarning, own, 1) == "warning: 3 images\n"
    assert _formatted("old", FutureWarning, "/elsewhere.py", 7).startswith("/elsewhere.py:7: Fut")


def test_readme_commands_parse():
    """Every `contextbench ...` line of the README names a command and options that exist."""
    text = Path("README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^ *contextbench ([a-z-]+)(.*)$", text, re.MULTILINE)
    assert lines
    for command, rest in lines:
        result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [command, "--help"])
        assert result.exit_code == 0, command
        for option in re.findall(r"--[a-z-]+", rest.partition("#")[0]):
            assert option in result.output, f"{command} {option}"


def test_python_m_contextbench_is_the_same_command():
    output = subprocess.run(
        [sys.executable, "-m", "contextbench", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert output.stdout.startswith("contextbench 0.")
