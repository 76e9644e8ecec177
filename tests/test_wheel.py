"""The wheel, installed where no checkout is: what users of `pip install contextbench` run."""

import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests import small
from tests.interop import frozen
from tests.interop.test_command import DATA

ROOT = Path(__file__).parents[1]


def run(*command: object, cwd: Path) -> str:
    """Output of a command that knows nothing of this checkout. A failure shows all it said."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a new environment with the wheel; what it requires is read from the one of the tests.

    A line of a .pth file adds a folder to the path without the .pth files in it, and it is by one
    of these that a checkout is installed.
    """
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip")
    run(*pip, "wheel", "-q", "--no-deps", "-w", folder, ROOT, cwd=folder)
    [wheel] = folder.glob("contextbench-*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    scripts = folder / "env" / "bin"
    run(*pip, "--python", scripts / "python", "install", "-q", "--no-deps", wheel, cwd=folder)
    [packages] = (folder / "env").glob("lib/*/site-packages")
    (packages / "requirements.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return scripts


@pytest.mark.slow
def test_a_wheel_compares_heads_in_an_empty_folder(scripts: Path, tmp_path: Path) -> None:
    where = "import contextbench, heads; print(contextbench.__file__, heads.__file__)"
    for path in run(scripts / "python", "-c", where, cwd=tmp_path).split():
        assert Path(path).is_relative_to(scripts.parent)
        assert Path(path).with_name("py.typed").exists()
    settings = [part for setting in small.SETTINGS for part in ("--set", setting)]
    command = ("contextbench", "compare", "--heads", "fcn,ocr", "--rounds", "2", "--device", "cpu")
    said = run(scripts / command[0], *command[1:], *settings, cwd=tmp_path)
    assert "fcn" in said
    [table] = tmp_path.rglob("table.csv")
    rows = [line.split(",")[0] for line in table.read_text().splitlines()]
    assert (rows[0], sorted(rows[1:])) == ("head", ["fcn", "ocr"])


@pytest.mark.slow
def test_a_wheel_has_the_configurations_and_the_published_figures(
    scripts: Path, tmp_path: Path
) -> None:
    for kind in ("ablations", "heads", "protocols", "tables"):
        said = run(scripts / "contextbench", "list", kind, "--json", cwd=tmp_path)
        names = [path.stem for path in (ROOT / "configs" / kind).glob("*.yaml")]
        assert [name for name in names if f'"{name}"' not in said] == []
    [published] = scripts.parent.glob("lib/*/site-packages/contextbench/published")
    tables = {path.name for path in (ROOT / "results" / "published").glob("*.csv")}
    assert {path.name for path in published.glob("*.csv")} == tables != set()


@pytest.mark.slow
def test_a_wheel_takes_models_over_and_hands_them_on(scripts: Path, tmp_path: Path) -> None:
    """A checkpoint of mmsegmentation's names becomes a run, predicts, and is exported."""
    command, folder = scripts / "contextbench", tmp_path / "runs" / "published"
    file = frozen.saved(tmp_path / "pspnet.pth")
    settings = [part for setting in DATA for part in ("--set", setting)]
    arguments = ("--from", "mmseg", "--protocol", "probe", *settings, "-o", folder)
    said = run(command, "import", file, *arguments, cwd=tmp_path)
    assert "ppm of mmsegmentation on resnet18 with 13 classes" in said
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (57, 41), "grey").save(tmp_path / "photos" / "street.png")
    run(command, "predict", folder, "photos", "-o", "predicted", "--device", "cpu", cwd=tmp_path)
    with Image.open(tmp_path / "predicted" / "street_mask.png") as mask:
        assert (mask.size, mask.mode) == ((57, 41), "L")
    for format, name in (("torch-export", "model.pt2"), ("safetensors", "model.safetensors")):
        size = ("--size", "64x64") if format == "torch-export" else ()
        said = run(command, "export", folder, "--format", format, *size, "-o", name, cwd=tmp_path)
        assert "largest difference over spread" in said


@pytest.mark.slow
def test_a_wheel_compares_a_head_of_another_package(scripts: Path, tmp_path: Path) -> None:
    """That of docs/examples, built and installed from a copy, beside one of the suite."""
    package = tmp_path / "strip-pooling"
    shutil.copytree(ROOT / "docs" / "examples" / "strip-pooling", package)
    pip = (sys.executable, "-m", "pip", "--python", scripts / "python")
    run(*pip, "install", "-q", "--no-deps", package, cwd=tmp_path)
    settings = [part for setting in small.SETTINGS for part in ("--set", setting)]
    command = ("compare", "--heads", "fcn,strip_pooling", "--rounds", "2", "--device", "cpu")
    run(scripts / "contextbench", *command, *settings, cwd=tmp_path)
    [table] = tmp_path.rglob("table.csv")
    rows = [line.split(",")[0] for line in table.read_text().splitlines()]
    assert sorted(rows[1:]) == ["fcn", "strip_pooling"]
    folder = next(tmp_path.rglob("strip_pooling/seed-0"))
    arguments = ("--format", "torch-export", "--size", "64x64", "-o", "strips.pt2")
    said = run(scripts / "contextbench", "export", folder, *arguments, cwd=tmp_path)
    assert "largest difference over spread" in said
