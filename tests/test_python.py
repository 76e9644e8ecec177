"""The public names: what they load, that they do what the commands do, and what they refuse."""

import ast
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import ExifTags, Image
from torch.nn.functional import interpolate

import contextbench
from contextbench.config.files import ConfigError
from contextbench.config.heads import HeadConfig, load_head
from contextbench.config.sampling import Sampling
from contextbench.data.pictures import read_image, read_indices
from contextbench.measure.counts import FeatureSize
from contextbench.measure.head_profile import HeadTiming, profile_heads
from contextbench.measure.passes import Workload, predicted
from contextbench.models.precision import Precision
from contextbench.records.comparability import MixedProtocolsError
from contextbench.records.counts import Areas
from contextbench.records.runs import cell_folder, read_run
from contextbench.records.stored import RecordError, write_model
from contextbench.report.collection import collect
from contextbench.report.frames import ImageCounts
from contextbench.runs import comparison
from contextbench.runs.attending import attend
from contextbench.runs.cells import open_setting
from contextbench.runs.grid import run_grid
from contextbench.runs.predicting import Wanted, predict_files
from contextbench.runs.trained import Changes
from contextbench.statistics import intervals
from contextbench.statistics.draws import Draws, Resampling
from contextbench.system.interrupt import Interrupted
from heads import HEADS, Channels
from tests import small
from tests.data import trees

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "python.md"
PUBLIC: dict[str, str] = contextbench._PUBLIC


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two heads with two seeds on the probe; they predict several classes."""
    protocol = small.protocol(loss={"class_weights": "median_frequency"})
    out = tmp_path_factory.mktemp("runs")
    heads = [small.head("fcn"), small.head("ocr")]
    setting = open_setting(protocol, None)
    done = run_grid(setting, heads, [0, 1], Precision(), small.execution(out))
    assert {run.status for run in done} == {"done"}
    return out


@pytest.fixture(scope="module")
def run(runs: Path) -> Path:
    return cell_folder(runs, "tiny", "ocr", 0)


@pytest.fixture(scope="module")
def model(run: Path) -> contextbench.Model:
    return contextbench.load(run, device="cpu")


def pixels(height: int = 40, width: int = 56) -> np.ndarray[Any, np.dtype[np.uint8]]:
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


def in_new_process(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_importing_and_listing_load_nothing_else() -> None:
    """Not even pydantic: what takes longer than Python itself comes with the first name."""
    in_new_process(
        "import sys; before = set(sys.modules); import contextbench\n"
        "assert set(contextbench.__all__) <= set(dir(contextbench))\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "assert new - sys.stdlib_module_names == {'contextbench'}, new\n"
    )


def test_reading_results_loads_no_torch() -> None:
    in_new_process(
        "import sys, contextbench as c; c.read_results, c.read_counts, c.rank, c.UserError\n"
        "assert 'torch' not in sys.modules"
    )


def test_every_public_name_is_listed_typed_described_and_there() -> None:
    tree = ast.parse((ROOT / "contextbench" / "__init__.py").read_text("utf-8"))
    [checked] = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {
        alias.name: node.module
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == PUBLIC
    assert contextbench.__all__ == sorted(PUBLIC)
    for name in PUBLIC:
        assert getattr(contextbench, name).__doc__
        assert re.search(rf"^\| .*`{name}\b", PAGE.read_text("utf-8"), re.MULTILINE), name


def test_other_names_do_not_exist() -> None:
    with pytest.raises(AttributeError, match="'contextbench' has no attribute 'laod'"):
        contextbench.laod  # type: ignore[attr-defined]  # noqa: B018
    from contextbench import records  # a package that is no public name

    assert records.__name__ == "contextbench.records"


@pytest.mark.slow
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks in order, in one folder."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)


# A run as a model.


@pytest.mark.parametrize(
    "views",
    [{}, {"scales": (0.5, 1.0), "flip": True}, {"window": (32, 32)}],
    ids=["as evaluated", "scales and flip", "windows"],
)
def test_predictions_are_those_of_the_command(
    run: Path, model: contextbench.Model, tmp_path: Path, views: dict[str, Any]
) -> None:
    image, array = tmp_path / "x.png", pixels()
    Image.fromarray(array).save(image)
    [written] = predict_files(
        run,
        [image],
        tmp_path / "out",
        small.execution(tmp_path),
        wanted=Wanted(changes=Changes(**views)),
    )
    expected = read_indices(written.paths[0])
    assert len(np.unique(expected)) > 1
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    with Image.open(image) as opened:
        for given in (image, str(image), Image.fromarray(array), opened, array, tensor):
            labels = model.predict(given, **views)
            assert labels.dtype == np.uint8
            np.testing.assert_array_equal(labels, expected)


def test_the_largest_resized_logit_is_the_label(model: contextbench.Model) -> None:
    array = pixels()
    logits = model.logits(array)
    assert (logits.shape, logits.dtype) == ((len(model.classes), 5, 7), np.float32)
    resized = interpolate(torch.from_numpy(logits)[None], (40, 56), mode="bilinear")
    np.testing.assert_array_equal(resized.argmax(dim=1)[0].numpy(), model.predict(array))
    np.testing.assert_array_equal(model.logits(array), logits)


def test_attention_is_that_of_the_command(
    run: Path, model: contextbench.Model, tmp_path: Path
) -> None:
    image = trees.write_image(tmp_path / "x.png", (40, 56))
    name = model.classes[2]
    scene = attend([run], str(image), (13, 50), small.execution(tmp_path), class_name=name)
    found = model.attend(image, (13, 50), class_name=name)
    assert [each.kind for each in found] == [each.kind for each in scene.sights[0].maps]
    for one, other in zip(found, scene.sights[0].maps, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
        assert (one.image, one.head, list(one.labels)) == ("x.png", "ocr", list(other.labels))


def test_a_model_knows_its_classes(model: contextbench.Model) -> None:
    assert model.classes[:2] == ("background", "local_brick")
    assert model.palette.shape == (len(model.classes), 3)
    assert model.record.head_name == "ocr"
    assert not model.segmenter.training


def test_mistakes_with_pixels_and_classes_are_named(model: contextbench.Model) -> None:
    with pytest.raises(contextbench.UserError, match=r"pixel 40,0 .* allowed are 0,0 to 39,55"):
        model.attend(pixels(), (40, 0))
    with pytest.raises(contextbench.UserError, match="unknown class 'local_brik': did you mean"):
        model.attend(pixels(), (0, 0), class_name="local_brik")
    for pixel in ((1.5, 2), (1,), 7, None):
        with pytest.raises(contextbench.UserError, match=r"pixel .*: row and column are expected"):
            model.attend(pixels(), pixel)  # type: ignore[arg-type]
    options: dict[str, Any]
    for options, said in (
        ({"scales": [0.0]}, "key 'scales"),
        ({"scales": 2}, "key 'scales"),
        ({"window": 32}, "key 'window"),
        ({"window": ("a", "b")}, "key 'window"),
        ({"window": (32, 32), "stride": (64, 32)}, "stride .* must not exceed window"),
    ):
        with pytest.raises(ConfigError, match=f"evaluation options: .*{said}"):
            model.predict(pixels(), **options)


BAD: Mapping[str, tuple[Any, str]] = {
    "range": (pixels() / 255, r"an array \(40, 56, 3\) of float64"),
    "signed": (pixels().astype(np.int64), r"an array \(40, 56, 3\) of int64"),
    "grey": (pixels()[..., 0], r"an array \(40, 56\) of uint8"),
    "order": (pixels().transpose(2, 0, 1), r"an array \(3, 40, 56\) of uint8"),
    "alpha": (np.zeros((4, 4, 4), np.uint8), r"an array \(4, 4, 4\)"),
    "batch": (pixels()[None], r"an array \(1, 40, 56, 3\)"),
    "empty": (np.zeros((0, 4, 3), np.uint8), r"an array \(0, 4, 3\)"),
    "float tensor": (torch.zeros(3, 8, 8), r"a tensor \(3, 8, 8\) of float32"),
    "tensor's order": (torch.zeros(8, 8, 3, dtype=torch.uint8), r"a tensor \(8, 8, 3\) of uint8"),
    "list": ([[0]], "of type list"),
    "nothing": (None, "of type NoneType"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("use", ["predict", "logits", "attend"])
def test_what_is_no_image_is_refused(model: contextbench.Model, case: str, use: str) -> None:
    given, said = BAD[case]
    call = partial(model.attend, pixel=(0, 0)) if use == "attend" else getattr(model, use)
    with pytest.raises(
        contextbench.UserError, match=f"the image is {said}.*; allowed are the path"
    ):
        call(given)


def test_pictures_of_pillow_are_read_like_their_files(
    model: contextbench.Model, tmp_path: Path
) -> None:
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(pixels()).save(turned, exif=exif)
    grey = tmp_path / "grey.png"
    Image.fromarray(pixels()[..., 0]).save(grey)
    for path in (turned, grey):
        with Image.open(path) as picture:
            np.testing.assert_array_equal(model.predict(picture), model.predict(path))
        assert model.predict(path).shape == tuple(read_image(path).shape[-2:])
    memory = io.BytesIO()
    Image.fromarray(pixels()).save(memory, "WEBP", lossless=True)
    with Image.open(memory) as picture:
        np.testing.assert_array_equal(model.predict(picture), model.predict(pixels()))


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (Image.new("RGBA", (8, 8), (1, 2, 3, 9)), r"the picture: has transparent pixels"),
        (Image.new("I;16", (8, 8)), r"the picture: has 16 bits a sample"),
        (Image.new("HSV", (8, 8)), r"the picture: images of mode HSV are not read"),
    ],
)
def test_pictures_that_would_be_changed_are_refused(
    model: contextbench.Model, picture: Image.Image, said: str
) -> None:
    with pytest.raises(contextbench.UserError, match=said):
        model.predict(picture)


def test_a_changed_prediction_changes_no_input(model: contextbench.Model) -> None:
    array = pixels()
    array.setflags(write=False)
    model.predict(array)[:] = 0
    np.testing.assert_array_equal(array, pixels())


def test_runs_without_a_model_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"not the folder of a run: it has no record\.json"):
        contextbench.load(tmp_path)
    folder = cell_folder(tmp_path, "tiny", "ocr", 0)
    shutil.copytree(run, folder)
    record = read_run(folder / "record.json")
    for status in ("interrupted", "failed", "out_of_memory"):
        write_model(folder / "record.json", record.model_copy(update={"status": status}))
        with pytest.raises(RecordError, match=f"recorded as {status}, it has no model"):
            contextbench.load(str(folder), device="cpu")
    with pytest.raises(ConfigError, match="'abacus' cannot be used here"):
        contextbench.load(run, device="abacus")


# Building and costs.


def test_a_model_is_that_of_a_training(tmp_path: Path) -> None:
    protocol = small.protocol()
    built = contextbench.build_model(protocol, "ocr", seed=3)
    again = contextbench.build_model(protocol, load_head("ocr", HEADS), classes=13, seed=3)
    for one, other in zip(built.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    file = tmp_path / "narrow.yaml"
    file.write_text("head: ocr\noptions: {width: 64}\n")
    wide = contextbench.build_model("probe", "ocr", classes=5, overrides=["head_width_factor=1"])
    narrow = contextbench.build_model("probe", file, classes=5, overrides=["head_width_factor=1"])
    assert sum(p.numel() for p in narrow.parameters()) < sum(p.numel() for p in wide.parameters())
    assert narrow.eval()(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 5, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("prob", "ocr"), {}, "unknown protocol 'prob'; did you mean 'probe'"),
        (("probe", "ocrr"), {}, "unknown head 'ocrr'; did you mean 'ocr'"),
        (("nowhere.yaml", "ocr"), {}, "there is no file nowhere.yaml"),
        (("probe", "ocr"), {"overrides": ["train.stepz=1"]}, "unknown key 'train.stepz'"),
        (
            (small.protocol(), "ocr"),
            {"overrides": ["train.lr=-1"]},
            "protocol tiny: key 'train.lr'",
        ),
        (("probe", "ocr"), {"classes": 1}, "classes 1: whole numbers from 2 to 255"),
        (("probe", "ocr"), {"seed": -1}, "seed -1: whole numbers from 0"),
    ],
)
def test_models_that_cannot_be_built(
    arguments: tuple[Any, ...], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        contextbench.build_model(*arguments, **options)


@pytest.mark.slow
def test_costs_are_those_of_the_profile(model: contextbench.Model) -> None:
    """Of the pass of one image, without the scores that an evaluation keeps."""
    segmenter = model.segmenter.train()
    modes = [part.training for part in segmenter.modules()]
    costs = contextbench.profile(model, (64, 96))
    assert [part.training for part in segmenter.modules()] == modes
    segmenter.eval()
    work = Workload(small.protocol(), len(model.classes), (64, 96), images=None)
    expected = predicted(work, small.head("ocr"))
    assert list(costs) == ["context", "head", "model"]
    for scope, counts in expected.counts.items():
        found = costs[scope]
        assert (found.parameters, found.macs) == (counts.parameters, counts.macs)
        assert (found.flops, found.uncounted) == (2 * counts.macs, counts.uncounted)
    assert costs["model"].memory_bytes + work.kept_bytes == expected.inference_bytes


def test_costs_of_a_head_are_those_of_the_profile() -> None:
    head = contextbench.build_head("ocr", Channels(4, 8, 16, 32), 5, width=8, key_channels=4)
    config = HeadConfig(name="ocr", head="ocr", options={"width": 8, "key_channels": 4})
    timing = HeadTiming(0, 0, torch.device("cpu"))
    record = profile_heads([FeatureSize(32, 6, 10)], [config], ["fast"], 5, timing)
    [cost] = record.costs
    found = contextbench.profile(head, (32, 6, 10))
    assert {scope: each.macs for scope, each in found.items()} == {
        scope: counts.macs for scope, counts in cost.counts.items()
    }
    assert {scope: each.memory_bytes for scope, each in found.items()} == {
        scope: memory.peak_bytes for scope, memory in cost.memory.items()
    }


@pytest.mark.parametrize("size", [(64,), (64, 0), (64.0, 64), "64x64", (3, 64, 64), None])
def test_sizes_of_no_image_are_refused(model: contextbench.Model, size: Any) -> None:
    with pytest.raises(ConfigError, match=r"size .*; allowed are \(height, width\) of an image"):
        contextbench.profile(model, size)


def test_sizes_of_no_features_are_refused() -> None:
    head = contextbench.build_head("fcn", Channels(4, 8, 16, 32), 5, width=8)
    for size, said in (
        ((6, 10), "channels, height, width"),
        ((33, 6, 10), "multiple of 8"),
        ((64, 6, 10), r"size \(64, 6, 10\) does not fit the model"),
    ):
        with pytest.raises(ConfigError, match=said):
            contextbench.profile(head, size)
    with pytest.raises(ConfigError, match="dtype 'float64' is unknown"):
        contextbench.profile(head, (32, 6, 10), dtype="float64")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a Linear has no profile; allowed are what load"):
        contextbench.profile(torch.nn.Linear(2, 2), (32, 6, 10))  # type: ignore[arg-type]


# Comparisons and results.


def compare_tiny(out: Path, **options: Any) -> pd.DataFrame:
    settings = {"heads": ["fcn"], "rounds": 1, "examples": 0, "figures": False, "quiet": True}
    return contextbench.compare(small.protocol(), out=out, device="cpu", **{**settings, **options})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"heads": ["fcn", "fcn"]}, "heads fcn, fcn: one or more different ones"),
        ({"heads": []}, "heads none: one or more"),
        ({"heads": ["fcn", "nowhere"]}, "unknown head 'nowhere'"),
        ({"seeds": [0, 0]}, "seeds 0, 0: one or more different"),
        ({"seeds": [-1]}, "seed -1: whole numbers"),
        ({"seeds": ["0"]}, "seed '0': whole numbers"),
        ({"rounds": 0}, "rounds 0: whole numbers from 1"),
        ({"overrides": ["train.stepz=1"]}, "unknown key 'train.stepz'"),
    ],
)
def test_comparisons_that_cannot_be(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compare_tiny(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_comparison_is_a_keyboard_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise Interrupted

    monkeypatch.setattr(comparison, "compare", stopped)
    with pytest.raises(KeyboardInterrupt):
        compare_tiny(tmp_path)


def test_results_are_those_of_the_committed_table() -> None:
    """Read anew from the records, with the intervals; files have all digits."""
    folder = ROOT / "results" / "probe"
    table = contextbench.read_results(folder)
    written = pd.read_csv(folder / "table.csv")
    for name in ("head", "miou", "miou_low", "miou_high", "groups", "parameters", "latency_ms"):
        assert table[name].tolist() == written[name].tolist()
    assert table.attrs["notes"] == collect(folder).notes != []


def test_counts_sum_to_the_records(runs: Path) -> None:
    counts = contextbench.read_counts(runs)
    assert {head: sorted(seeds) for head, seeds in counts.items()} == {"fcn": [0, 1], "ocr": [0, 1]}
    frame = counts.frame()
    assert len(frame) == 2 * 2 * 3 * len(counts.classes)
    record = read_run(cell_folder(runs, "tiny", "ocr", 1) / "record.json")
    assert record.totals is not None
    own = frame[(frame["head"] == "ocr") & (frame["seed"] == 1)]
    summed = own.groupby("class", sort=False)[["intersection", "predicted", "labelled"]].sum()
    assert summed.index.tolist() == list(counts.classes)
    for name in summed.columns:
        assert summed[name].tolist() == getattr(record.totals, name)
    row = own[(own["image"] == counts["ocr"][1].names[2]) & (own["class"] == counts.classes[3])]
    assert row["labelled"].tolist() == [counts["ocr"][1].labelled[2, 3]]


@pytest.fixture
def two_protocols(runs: Path, tmp_path: Path) -> Path:
    shutil.copytree(runs / "tiny", tmp_path / "tiny")
    protocol = small.protocol(steps=1).model_copy(update={"name": "other"})
    setting = open_setting(protocol, None)
    run_grid(setting, [small.head()], [0], Precision(), small.execution(tmp_path))
    return tmp_path


def test_mixed_protocols_are_refused(two_protocols: Path) -> None:
    for read in (contextbench.read_results, contextbench.read_counts, contextbench.rank):
        with pytest.raises(MixedProtocolsError, match=r"train\.steps"):
            read(str(two_protocols))


def test_counts_that_are_missing_are_named(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no record\.json below"):
        contextbench.read_counts(tmp_path)
    shutil.copytree(runs / "tiny", tmp_path / "tiny")
    (cell_folder(tmp_path, "tiny", "ocr", 1) / "areas.npz").unlink()
    with pytest.raises(
        RecordError, match=r"no counts per image: no interval for ocr seed 1: .*npz"
    ):
        contextbench.read_counts(tmp_path)


def test_a_ranking_is_that_of_the_table(runs: Path) -> None:
    ranking = contextbench.rank(runs)
    assert contextbench.rank(contextbench.read_counts(runs)) == ranking
    table = contextbench.read_results(runs).set_index("head")
    for each in ranking.heads:
        written = table.loc[each.head, ["miou", "miou_low", "miou_high"]].to_numpy(float)
        np.testing.assert_array_equal(written, each.miou)


def test_a_ranking_keeps_to_what_runs_declare() -> None:
    """Images that belong together are drawn together, unless the caller says otherwise."""
    generator = np.random.default_rng(0)
    labelled = np.full((40, 2), 50)
    slow = np.repeat(generator.integers(0, 50, (8, 2)), 5, axis=0)  # five frames alike
    areas = {
        head: {0: Areas([f"{i // 5}_{i:02}" for i in range(40)], correct, labelled, labelled)}
        for head, correct in (("a", slow), ("b", slow // 2))
    }
    declared = Sampling(cluster="^[^_]+")
    counts = ImageCounts(areas, ("x", "y"), declared)
    assert contextbench.rank(counts) == intervals.rank(areas, sampling=declared)
    assert contextbench.rank(counts).clusters == 8
    assert contextbench.rank(areas).clusters is None
    assert contextbench.rank(areas, cluster="^[^_]+") == contextbench.rank(counts)
    assert contextbench.rank(counts, frames="ordered").clusters is None


def values(number: int = 30) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    parts = [
        pd.DataFrame(
            {
                "head": head,
                "seed": seed,
                "image": [f"{image:02}" for image in range(number)],
                "value": offset + 10 * generator.standard_normal(number),
            }
        )
        for head, offset in (("NA", 100.0), ("b", 120.0))
        for seed in (0, 1)
    ]
    return pd.concat(parts, ignore_index=True)


def test_values_are_ranked_by_their_mean(tmp_path: Path) -> None:
    """Interval: the error of means over the same draws, times t, written out."""
    table = values()
    path = tmp_path / "values.csv"
    table.sample(frac=1, random_state=0).to_csv(path, index=False)  # in any order
    ranking = contextbench.rank(path, resamples=500, seed=3)
    assert [each.head for each in ranking.heads] == ["b", "NA"]
    assert ranking.pairs[0].models.separated
    cells = {key: part["value"].to_numpy() for key, part in table.groupby(["head", "seed"])}
    draws = Draws(30, 1, Resampling(500, seed=3))
    weights = np.concatenate([drawn for _, drawn in draws])
    for each in ranking.heads:
        own = [cells[each.head, seed] for seed in (0, 1)]
        means = np.mean([weights @ one / 30 for one in own], axis=0)
        reach = 2.0452296421327 * np.std(means, ddof=1) * np.sqrt(30 / 29)  # t of 29 degrees
        expected = np.mean(own) + reach * np.array([0, -1, 1])
        np.testing.assert_allclose(each.miou, expected, rtol=1e-12)
        np.testing.assert_allclose(each.seeds.values, [one.mean() for one in own], rtol=1e-12)
    assert contextbench.rank(table, resamples=500, seed=3) == ranking


def bad_values() -> Iterator[tuple[pd.DataFrame, str]]:
    table = values(3)
    yield table.drop(columns="image"), "column 'image' is missing; needed are head, image, value"
    yield table.iloc[:0], "there are no values"
    yield table.iloc[1:], "NA seed 0 has no value of image 00, which others have"
    yield pd.concat([table, table.iloc[-1:]]), "image 02 of b seed 1 occurs twice"
    yield table.drop(columns="seed"), "image 00 of NA seed 0 occurs twice"
    for value in (np.nan, np.inf, 2e6):
        yield table.assign(value=value), r"value .* of NA, image 00: numbers up to 1,000,000"
    yield table.assign(value="much"), "value 'much' of NA, image 00"


@pytest.mark.parametrize(("table", "said"), list(bad_values()))
def test_values_that_cannot_be_ranked(table: pd.DataFrame, said: str, tmp_path: Path) -> None:
    path = tmp_path / "values.csv"
    table.to_csv(path, index=False)
    for given, source in ((table, "the values"), (path, str(path))):
        with pytest.raises(RecordError, match=f"{re.escape(source)}: {said}"):
            contextbench.rank(given)


def test_rankings_that_cannot_be(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"nowhere\.csv: cannot be read as CSV"):
        contextbench.rank(tmp_path / "nowhere.csv")
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "binary.csv").write_bytes(b"\xff\x00\xfe")
    for name in ("empty.csv", "binary.csv"):
        with pytest.raises(RecordError, match=f"{name}: cannot be read as CSV"):
            contextbench.rank(tmp_path / name)
    for options, said in (
        ({"frames": "random"}, "rank: key 'frames' is 'random'"),
        ({"frames": "ordered", "cluster": "x"}, "either 'frames' or 'cluster'"),
        ({"resamples": 10}, "resamples must be at least 100"),
        ({"level": 1.0}, "level between 0 and 1"),
    ):
        with pytest.raises(ConfigError, match=said):
            contextbench.rank(runs, **options)
    with pytest.raises(RecordError, match="cluster 'x' does not match val-000000"):
        contextbench.rank(runs, cluster="x")
