"""Datasets of other packages, by entry point and by place, in fingerprints and records."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.config.files import ConfigError
from contextbench.config.protocols import DatasetConfig, Protocol, load_protocol
from contextbench.data import DataError, dataset_source
from contextbench.data.named import known_datasets
from contextbench.models.precision import Precision
from contextbench.runs.cells import Cell, open_setting
from contextbench.runs.named import protocol_of
from contextbench.runs.run import run_cell
from contextbench.runs.trained import open_run, source_of
from contextbench.system import plugins
from contextbench.system.plugins import PluginError
from tests import small
from tests.plugged import Packages

GROUP = "contextbench.datasets"
ALLEYS = '"""Alleys."""\nfrom contextbench.data.probe import ProbeSource as Alleys\n'


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return tmp_path / "mine.yaml"


def protocol(path: Path, name: str) -> Protocol:
    """The tiny one from a file, on another dataset."""
    content = small.protocol().model_dump(mode="json")
    content["dataset"]["name"] = name
    path.write_text(yaml.safe_dump(content))
    return load_protocol(str(path))


@pytest.mark.parametrize("name", ["alleys", "streets:Alleys"])
def test_a_dataset_of_others_is_opened_and_recorded(
    others: Packages, mine: Path, name: str
) -> None:
    others.module("streets.py", ALLEYS)
    others.install("street-package", {"alleys": "streets:Alleys"}, GROUP)
    found = protocol(mine, name)
    plugin = found.dataset.plugin
    assert plugin is not None
    assert (plugin.distribution, plugin.version) == ("street-package", "1.2")
    setting = open_setting(found, None)
    assert len(setting.train_set) == 8
    first = setting.fingerprint
    changed = f"{ALLEYS}# changed\n"
    others.module("streets.py", changed)
    assert open_setting(protocol(mine, name), None).fingerprint != first
    others.module("streets.py", ALLEYS)
    assert open_setting(protocol(mine, name), None).fingerprint == first
    others.module("streets.py", changed)
    with pytest.raises(PluginError, match=r"its dataset is streets:Alleys of .*Restore"):
        open_setting(found, None)


def test_overrides_and_python_state_the_code_too(others: Packages) -> None:
    others.module("streets.py", ALLEYS)
    named = load_protocol("probe", ["dataset.name=streets:Alleys"])
    assert named.dataset.plugin is not None
    tiny = small.protocol()
    dataset = tiny.dataset.model_copy(update={"name": "streets:Alleys"})
    made = protocol_of(tiny.model_copy(update={"dataset": dataset}))
    assert made.dataset.plugin == named.dataset.plugin
    assert protocol_of(made, ["dataset.name=probe"]).dataset.plugin is None


@pytest.mark.slow
def test_what_cannot_be_used_is_named_and_the_others_go_on(others: Packages, mine: Path) -> None:
    others.module(
        "streets.py",
        ALLEYS + "number = 1\nodd = lambda root, *, size, train_images, eval_images: 1\n"
        "def faulty(root, *, size, train_images, eval_images): 1 / 0\n",
    )
    others.module("streets_that_raise.py", "1 / 0\n")
    entries = {
        "alleys": "streets:Alleys",
        "raising": "streets_that_raise:Alleys",
        "number": "streets:number",
        "voc": "streets:Alleys",
        "a/b": "streets:Alleys",
    }
    others.install("street-package", entries, GROUP)
    others.install("other-package", {"number": "streets:Alleys"}, GROUP)
    makers, faults = known_datasets()
    assert {"alleys", "probe"} <= set(makers)
    assert set(faults) == {"raising", "number", "voc", "a/b"}
    assert "importing it raises ZeroDivisionError" in faults["raising"]
    assert "'voc' is the name of 2 datasets: contextbench's own dataset and" in faults["voc"]
    assert "of other-package 1.2 and streets:number of street-package 1.2" in faults["number"]
    assert "it becomes a folder" in faults["a/b"]
    result = CliRunner().invoke(app, ["list", "datasets"])
    assert result.exit_code == 0, result.output
    assert "raising" in result.output
    for name, message in {
        "raising": "raises ZeroDivisionError",
        "voc": "'voc' is the name of 2 datasets",
        "streets:number": "streets:number is a int: no class, no function",
        "streets:missing": "streets has no 'missing'",
        "../streets:Alleys": "write package.module:Class",
    }.items():
        with pytest.raises(PluginError, match=message):
            dataset_source(protocol(mine, name).dataset)
    with pytest.raises(DataError, match="a int has no facts, open, images"):
        dataset_source(protocol(mine, "streets:odd").dataset)
    with pytest.raises(DataError, match="making it raises ZeroDivisionError"):
        dataset_source(protocol(mine, "streets:faulty").dataset)


def test_a_file_cannot_state_which_code_it_is(mine: Path) -> None:
    content = small.protocol().model_dump(mode="json")
    content["dataset"]["plugin"] = {"place": "a:b"}
    mine.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="dataset: unknown key 'plugin', which records state"):
        load_protocol(str(mine))


def test_records_import_what_is_installed_or_named_alone(
    others: Packages, mine: Path, tmp_path: Path
) -> None:
    others.module("streets.py", ALLEYS)
    execution = small.execution(tmp_path / "runs")
    setting = open_setting(protocol(mine, "streets:Alleys"), None)
    cell = Cell(setting, small.head(), 0, Precision())
    record = run_cell(cell, execution)
    assert record.status == "done", record.failure
    assert record.protocol["dataset"]["plugin"]["place"] == "streets:Alleys"
    folder = cell.folder(execution.out)
    others.forget()
    open_run(folder, execution)  # a model needs no data
    with pytest.raises(PluginError, match="its dataset is streets:Alleys, which is not installed"):
        source_of(folder, record, execution)
    plugins.permit("streets:Alleys")
    assert source_of(folder, record, execution).facts.splits


def test_a_place_alone_imports_nothing() -> None:
    with pytest.raises(DataError, match="unknown dataset 'os:system'"):
        dataset_source(DatasetConfig(name="os:system"))
