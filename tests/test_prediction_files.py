"""What `predict` writes: files that are read back as the prediction, under the right names."""

import struct
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.config.evaluation import EvaluateConfig
from contextbench.config.protocols import Protocol
from contextbench.data import DATASETS, build_dataset, dataset_source
from contextbench.data.pictures import read_colours, read_image, read_indices
from contextbench.data.transforms import normalise
from contextbench.evaluation.prediction import Predictor
from contextbench.models.precision import Precision
from contextbench.models.segmenter import resize_logits
from contextbench.records.runs import cell_folder
from contextbench.runs.cells import open_setting
from contextbench.runs.grid import run_grid
from contextbench.runs.loaded import load
from contextbench.runs.predicting import Wanted, predict_files
from contextbench.runs.trained import Changes, open_run
from contextbench.system.interrupt import Interrupted
from contextbench.training.execution import Execution
from tests import small
from tests.cases import quick
from tests.data import trees

pytestmark = pytest.mark.filterwarnings("ignore:[\\s\\S]*the official split has")

Names = dict[str, tuple[str, ...]]  # split -> names of the files that a server expects
COLOURS = """
classes: [road, kerb, wall]
colours: [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
ignored: [[0, 0, 0]]
splits: [train, val]
unlabelled: [new]
"""


def cityscapes(root: Path) -> Names:
    trees.cityscapes(root)
    stem = "berlin_000000_000019"
    trees.write_image(root / "leftImg8bit/test/berlin" / f"{stem}_leftImg8bit.png")
    return {"val": ("lindau_000000_000019.png",), "test": (f"{stem}.png",)}


def ade20k(root: Path) -> Names:
    trees.ade20k(root)
    trees.write_image(root / "release_test/testing/ADE_test_00000001.jpg", (10, 16))
    found = ("ADE_val_00000001.png", "ADE_val_00000002.png")
    return {"val": found, "test": ("ADE_test_00000001.png",)}


def voc(root: Path) -> Names:
    trees.voc(root)
    trees.write_list(root / "VOC2012/ImageSets/Segmentation/test.txt", ["2008_000006"])
    trees.write_image(root / "VOC2012/JPEGImages/2008_000006.jpg")
    return {"val": ("2007_000033.png",), "test": ("2008_000006.png",)}


def lip(root: Path) -> Names:
    trees.lip(root)
    trees.write_image(root / "Testing_images/testing_images/100_12.jpg")
    return {"val": ("100034_483681.png",), "test": ("100_12.png",)}


def coco_10k(root: Path) -> Names:
    trees.coco_stuff_10k(root)
    return {"test": ("x_3.png",)}


def coco_164k(root: Path) -> Names:
    trees.coco_stuff_164k(root)
    return {"val": ("139.png",)}


def folder(root: Path) -> Names:
    """Named and placed as masks are, so that two images of one stem do not meet."""
    trees.folder(root, trees.FOLDER + "unlabelled: [new]\n")
    trees.write_image(root / "images/new/monday/1_photo.jpg")
    stems = ("0102", "monday/0101", "tuesday/0101")
    return {"val": tuple(f"{s}_labels.png" for s in stems), "new": ("monday/1_labels.png",)}


def coloured(root: Path) -> Names:
    trees.write_list(root / "dataset.yaml", COLOURS.strip().splitlines())
    for split in ("train", "val", "new"):
        trees.write_image(root / f"images/{split}/a.jpg")
    pixels = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], dtype=np.uint8)[np.arange(48) % 3]
    for split in ("train", "val"):
        trees.write_mask(root / f"masks/{split}/a.png", pixels.reshape(6, 8, 3))
    return {"val": ("a.png",), "new": ("a.png",)}


LAYOUTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "cityscapes": (cityscapes, {"name": "cityscapes"}),
    "ade20k": (ade20k, {"name": "ade20k"}),
    "voc": (voc, {"name": "voc"}),
    "lip": (lip, {"name": "lip"}),
    "coco_stuff 10k": (coco_10k, {"name": "coco_stuff", "options": {"release": "10k"}}),
    "coco_stuff 164k": (coco_164k, {"name": "coco_stuff", "options": {"release": "164k"}}),
    "folder": (folder, {"name": "folder"}),
    "folder in colours": (coloured, {"name": "folder"}),
}
MODES = {"voc": "P", "folder in colours": "RGB"}
each_layout = pytest.mark.parametrize(
    "case", quick(LAYOUTS, ("cityscapes", "voc", "coco_stuff 10k", "folder in colours"))
)


def trained(out: Path, **dataset: Any) -> Path:
    """The folder of a run of one step on a dataset."""
    content = small.protocol(crop=(6, 8), steps=1).model_dump()
    content["dataset"] = {"evaluate": "train", **dataset}
    protocol = Protocol.model_validate(content)
    [record] = run_grid(
        open_setting(protocol, None), [small.head()], [0], Precision(), small.execution(out)
    )
    assert record.status == "done", record.failure
    return cell_folder(out, "tiny", "fcn", 0)


def execution_in(root: Path | None, tmp_path: Path) -> Any:
    return Execution(**{**vars(small.execution(tmp_path)), "data_root": root})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the probe that predicts several classes, since all of them weigh the same."""
    protocol = small.protocol(loss={"class_weights": "median_frequency"})
    out = tmp_path_factory.mktemp("runs")
    [record] = run_grid(
        open_setting(protocol, None), [small.head()], [0], Precision(), small.execution(out)
    )
    assert record.status == "done"
    return cell_folder(out, "tiny", "fcn", 0)


@each_layout
def test_submissions_are_read_back_as_the_prediction(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All classes are predicted, by a stub; its maps come back through the official table.

    A model of one step predicts few of them: `test_submissions_are_what_the_model_predicts`.
    """
    make, config = LAYOUTS[case]
    root = tmp_path / "data"
    expected = make(root)
    folder = trained(tmp_path / "runs", root=str(root), **config)
    source = dataset_source(
        Protocol(**{**small.protocol().model_dump(), "dataset": config}).dataset, root
    )
    classes = len(source.facts.labels.classes)
    seen: list[Tensor] = []

    def predicted(_self: Predictor, images: Tensor) -> Tensor:
        seen.append(images[0])
        return torch.from_numpy(trees.filled(range(classes), images.shape[2:]))[None]

    monkeypatch.setattr(Predictor, "labels", predicted)
    for split, names in expected.items():
        out = tmp_path / "sent" / split
        seen.clear()
        done = predict_files(
            folder,
            (),
            out,
            execution_in(root, tmp_path),
            split=split,
            wanted=Wanted(submission=True),
        )
        written = sorted(
            path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()
        )
        assert written == sorted(names)
        assert [path for each in done for path in each.paths] == sorted(out / n for n in names)
        for image, each in zip(seen, done, strict=True):
            [path] = each.paths
            with Image.open(path) as file:
                assert (file.format, file.mode) == ("PNG", MODES.get(case, "L"))
            raw = read_colours(path) if case == "folder in colours" else read_indices(path)
            labels = source.table.apply(raw, path)
            np.testing.assert_array_equal(labels, trees.filled(range(classes), image.shape[1:]))
            assert len(np.unique(labels)) == classes


@each_layout
def test_submissions_are_what_the_model_predicts(case: str, tmp_path: Path) -> None:
    """A submission read through the official table, and the index masks of the same images."""
    make, config = LAYOUTS[case]
    root = tmp_path / "data"
    split = next(iter(make(root)))
    folder = trained(tmp_path / "runs", root=str(root), **config)
    content = {**small.protocol().model_dump(), "dataset": config}
    table = dataset_source(Protocol.model_validate(content).dataset, root).table
    sent, plain = (
        predict_files(
            folder,
            (),
            tmp_path / name,
            execution_in(root, tmp_path),
            split=split,
            wanted=Wanted(submission=sent),
        )
        for name, sent in (("sent", True), ("plain", False))
    )
    read = read_colours if case == "folder in colours" else read_indices
    for one, other in zip(sent, plain, strict=True):
        [path], mask = one.paths, other.paths[0]
        np.testing.assert_array_equal(table.apply(read(path), path), read_indices(mask))


def test_a_folders_predictions_can_be_read_as_its_masks(tmp_path: Path) -> None:
    """By the description as it is: the folder of predictions in the place of the masks."""
    root = tmp_path / "mine"
    folder(root)
    run_folder = trained(tmp_path / "runs", name="folder", root=str(root))
    out = root / "masks/predicted"
    wanted = Wanted(submission=True)
    predict_files(run_folder, (), out, execution_in(root, tmp_path), split="val", wanted=wanted)
    (root / "images/val").rename(root / "images/predicted")
    description = root / "dataset.yaml"
    description.write_text(description.read_text().replace("[train, val]", "[train, predicted]"))
    config = SimpleNamespace(name="folder", root=str(root), options={})
    dataset = build_dataset(config, "predicted", None)
    assert [dataset[k].name for k in range(3)] == ["0102", "monday/0101", "tuesday/0101"]


def test_files_hold_what_the_model_predicts(run: Path, tmp_path: Path) -> None:
    """Against the model called on each image, with views that the protocol does not have."""
    changes = Changes(scales=(0.5, 1.0), flip=True, window=(48, 48))
    execution = small.execution(tmp_path)
    wanted = Wanted(changes=changes)
    done = predict_files(run, (), tmp_path / "out", execution, split="test", wanted=wanted)
    record, protocol, model = open_run(run, execution)
    config = EvaluateConfig(
        mode="slide", scales=(0.5, 1.0), flip=True, window=(48, 48), stride=(32, 32)
    )
    predictor = Predictor([model], torch.device("cpu"), Precision(), config)
    images = dataset_source(protocol.dataset).images("test")
    assert [image.name for image in images] == ["test-000000", "test-000001", "test-000002"]
    palette = np.array(record.labels.palette, dtype=np.uint8)
    seen = set()
    for image, each in zip(images, done, strict=True):
        expected = predictor(image.read(), (64, 64)).numpy()
        seen |= set(np.unique(expected))
        mask, colour, overlay = each.paths
        assert [path.name for path in each.paths] == [
            f"{image.name}_{kind}.png" for kind in ("mask", "colour", "overlay")
        ]
        np.testing.assert_array_equal(read_indices(mask), expected)
        np.testing.assert_array_equal(read_colours(colour), palette[expected])
        mean = (palette[expected].astype(int) + image.read().permute(1, 2, 0).numpy()) // 2
        np.testing.assert_array_equal(read_colours(overlay), mean)
    assert len(seen) > 1, "a model that predicts one class everywhere"


class Stopping:
    """A stop request that comes after so many images."""

    requested: ClassVar[bool] = False

    def __init__(self, images: int) -> None:
        self.left = images

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Interrupted


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for each prediction."""
    made: list[None] = []
    real = Predictor.labels

    def counted(self: Predictor, images: Tensor) -> Tensor:
        made.append(None)
        return real(self, images)

    monkeypatch.setattr(Predictor, "labels", counted)
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_interrupted_split_goes_on(run: Path, tmp_path: Path, calls: list[None]) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    execution = small.execution(tmp_path)
    predict_files(run, (), whole, execution, split="val")
    stopping = Execution(**{**vars(execution), "stop": Stopping(1)})
    with pytest.raises(Interrupted):
        predict_files(run, (), parts, stopping, split="val")
    assert len(contents(parts)) == 3
    (parts / "val-000000_colour.png").unlink()  # of an image whose files are not all there
    calls.clear()
    done = predict_files(run, (), parts, execution, split="val")
    assert ([each.kept for each in done], len(calls)) == ([False] * 3, 3)
    assert contents(parts) == contents(whole)
    again = predict_files(run, (), parts, execution, split="val")
    assert ([each.kept for each in again], len(calls)) == ([True] * 3, 3)


def test_another_image_of_one_name_is_predicted_anew(
    run: Path, tmp_path: Path, calls: list[None]
) -> None:
    execution, out = small.execution(tmp_path), tmp_path / "out"
    for number, place in enumerate(("a", "b"), 1):
        image = trees.write_image(tmp_path / place / "x.png", (64, 64))
        [each] = predict_files(run, [image], out, execution)
        assert (each.kept, len(calls)) == (False, number)
    overlay = read_colours(out / "x_overlay.png").astype(int)
    expected = read_image(tmp_path / "b/x.png").permute(1, 2, 0).numpy()
    assert np.abs(2 * overlay - read_colours(out / "x_colour.png") - expected).max() <= 1


def test_other_settings_and_other_files_are_in_the_way(run: Path, tmp_path: Path) -> None:
    execution, out = small.execution(tmp_path), tmp_path / "out"
    image = trees.write_image(tmp_path / "x.png", (64, 64))
    predict_files(run, [image], out, execution)
    before = contents(out)
    flipped = Wanted(changes=Changes(flip=True))
    with pytest.raises(OSError, match=r"x_mask\.png and 2 more: predicted by another run or with"):
        predict_files(run, [image], out, execution, wanted=flipped)
    assert contents(out) == before
    again = replace(flipped, fresh=True)
    [each] = predict_files(run, [image], out, execution, wanted=again)
    assert not each.kept
    assert contents(out).keys() == before.keys()
    assert contents(out) != before
    for content in (image.read_bytes(), b"no picture"):
        (out / "x_mask.png").write_bytes(content)
        with pytest.raises(OSError, match=r"x_mask\.png: not written by contextbench predict"):
            predict_files(run, [image], out, execution, wanted=Wanted(fresh=True))
        assert (out / "x_mask.png").read_bytes() == content


def test_another_run_is_told_by_its_weights(run: Path, tmp_path: Path) -> None:
    protocol = small.protocol(steps=3).model_copy(update={"name": "other"})
    execution, out = small.execution(tmp_path), tmp_path / "out"
    run_grid(open_setting(protocol, None), [small.head()], [0], Precision(), execution)
    image = trees.write_image(tmp_path / "x.png", (64, 64))
    predict_files(run, [image], out, execution)
    with pytest.raises(OSError, match="predicted by another run"):
        predict_files(cell_folder(tmp_path, "other", "fcn", 0), [image], out, execution)


def test_two_images_of_one_stem_are_refused(run: Path, tmp_path: Path) -> None:
    images = [trees.write_image(tmp_path / place / "x.png", (64, 64)) for place in ("a", "b")]
    with pytest.raises(OSError, match=r"x_mask\.png would be the prediction of two images") as met:
        predict_files(run, images, tmp_path / "out", small.execution(tmp_path))
    assert all(str(image) in str(met.value) for image in images)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images of two sizes in folders that hold the same names, and a file that is none."""
    root = tmp_path / "photos"
    trees.write_image(root / "a/1.png", (64, 64))
    trees.write_image(root / "a/2.JPG", (64, 64))
    trees.write_image(root / "b/1.png", (48, 80))
    (root / "notes.txt").write_text("no image")
    return root


def masks(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*_mask.png")}


def test_folders_and_patterns_keep_the_folders_of_their_images(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches as one by one; the folder of the images can be that of the predictions."""
    execution = small.execution(tmp_path)
    predict_files(run, [photos], tmp_path / "one", execution)
    expected = masks(tmp_path / "one")
    assert expected.keys() == {"a/1_mask.png", "a/2_mask.png", "b/1_mask.png"}
    wanted = Wanted(batch=2)
    predict_files(run, [str(photos / "**/*.*")], tmp_path / "two", execution, wanted=wanted)
    assert masks(tmp_path / "two") == expected
    monkeypatch.chdir(photos)
    for _ in range(2):
        done = predict_files(run, [".", "a/../a"], Path(), execution, wanted=wanted)
        assert len(done) == 5, "three below one folder, and two of them below the other"
        assert masks(photos).keys() == expected.keys() | {"1_mask.png", "2_mask.png"}
    assert all(each.kept for each in done)


def test_images_go_through_the_model_in_batches(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, ...]] = []
    real = Predictor.labels

    def noted(self: Predictor, images: Tensor) -> Tensor:
        sizes.append(tuple(images.shape))
        return real(self, images)

    monkeypatch.setattr(Predictor, "labels", noted)
    wanted = Wanted(batch=8)
    predict_files(run, [photos], tmp_path / "out", small.execution(tmp_path), wanted=wanted)
    assert sizes == [(2, 3, 64, 64), (1, 3, 48, 80)]


def test_a_bad_image_is_named_and_the_others_go_on(run: Path, photos: Path, tmp_path: Path) -> None:
    """Truncated, empty, of no size, and of more pixels than Pillow decodes."""
    whole = (photos / "a/1.png").read_bytes()
    bad = {"cut.png": whole[: len(whole) // 2], "empty.png": b"", "none.ppm": b"P6 0 0 255\n"}
    bad["huge.png"] = with_size(whole, 40_000, 40_000)
    for name, content in bad.items():
        (photos / name).write_bytes(content)
    code, output = call(run, photos, "--batch", "2", "-o", tmp_path / "out")
    assert code == 1
    assert masks(tmp_path / "out").keys() == {"a/1_mask.png", "a/2_mask.png", "b/1_mask.png"}
    assert output.count("failed: ") == len(bad)
    for name in bad:
        assert f"failed: {photos / name}: " in output
    assert "huge.png: has more than 178 million pixels, or says so; cut it into tiles" in output
    assert output.endswith("4 of 7 images failed, see above")


def with_size(png: bytes, height: int, width: int) -> bytes:
    """A PNG that says it has another size: the 13 bytes of its first chunk, and their checksum."""
    header = struct.pack(">II", width, height) + png[24:29]
    return png[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + png[33:]


def test_an_image_that_memory_does_not_suffice_for_is_named(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a batch that is too large every image is tried alone; other errors are the program's."""
    real = Predictor.labels

    def limited(self: Predictor, images: Tensor) -> Tensor:
        if len(images) > 1 or images.shape[-1] == 80:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, images)

    monkeypatch.setattr(Predictor, "labels", limited)
    execution, wanted = small.execution(tmp_path), Wanted(batch=2)
    done = predict_files(run, [photos], tmp_path / "out", execution, wanted=wanted)
    assert [each.failure is None for each in done] == [True, True, False]
    assert done[2].failure is not None
    assert f"{photos / 'b/1.png'}: memory does not suffice" in done[2].failure.message


def test_confidence_is_written_beside_predictions_that_are_there(run: Path, tmp_path: Path) -> None:
    image = trees.write_image(tmp_path / "x.png", (64, 64))
    out, execution = tmp_path / "out", small.execution(tmp_path)
    predict_files(run, [image], out, execution)
    before = contents(out)
    [each] = predict_files(run, [image], out, execution, wanted=Wanted(confidence=True))
    assert contents(out) == {**before, "x_confidence.png": each.paths[3].read_bytes()}
    model = load(run, device="cpu").segmenter
    with torch.inference_mode():
        logits = model(normalise(read_image(image))[None]).logits
    likely = resize_logits(logits, (64, 64)).softmax(dim=1).amax(dim=1)[0]
    with Image.open(each.paths[3]) as file:
        assert file.mode == "I;16"
        found = torch.from_numpy(np.asarray(file, dtype=np.float32) / 65535)
    torch.testing.assert_close(found, likely, rtol=0, atol=0.6 / 65535)


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    return result.exit_code, " ".join(result.output.split())


def test_the_command_counts_a_split_and_lists_files(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call(run, "--split", "val", "-o", out)[0] == 0
    code, output = call(run, "--split", "val", "-o", out)
    assert code == 0
    assert f"val: 0 images predicted, 3 were there already; {out}" in output
    image = trees.write_image(tmp_path / "x.png", (64, 64))
    code, output = call(run, image, "-o", out)
    assert code == 0
    assert output.endswith(" ".join(str(out / f"x_{k}.png") for k in ("mask", "colour", "overlay")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "images or --split, one of the two"),
        (("x.png", "--split", "val"), "images or --split, one of the two"),
        (("--split", "vall"), "unknown split 'vall'; allowed are train, val, test"),
        (("--split", "val", "--submission"), "probe has no submission format"),
        (("x.png", "--window", "8"), "--window '8'"),
        (("nowhere.png",), "there is no file, folder or pattern 'nowhere.png'"),
        (("configs",), "the folder 'configs' has no images: no files that end in .png, .jpg"),
        (("nowhere/*.png",), "the pattern 'nowhere/*.png' has no images"),
        (("--split", "val", "--submission", "--confidence"), "which is no --confidence"),
    ],
)
def test_mistakes_of_the_user(
    run: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, output = call(run, *arguments, "-o", tmp_path / "out")
    assert code == 2
    assert message in output
    assert not (tmp_path / "out").exists()


def test_a_dataset_whose_classes_changed_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "mine"
    folder(root)
    run_folder = trained(tmp_path / "runs", name="folder", root=str(root))
    description = root / "dataset.yaml"
    description.write_text(description.read_text().replace("road", "street"))
    arguments = ("--split", "val", "--data-root", root, "-o", tmp_path / "out")
    code, output = call(run_folder, *arguments, "--submission")
    assert code == 2
    assert "trained on the classes road, left kerb, right kerb; those of mine are now st" in output


def test_a_listed_image_that_does_not_exist_is_named(tmp_path: Path) -> None:
    root = tmp_path / "voc"
    voc(root)
    trees.write_list(root / "VOC2012/ImageSets/Segmentation/test.txt", ["2008_000006", "2008_9"])
    source = DATASETS["voc"](root)
    with pytest.raises(ValueError, match=r"voc test .*1 images of the list do not.*2008_9"):
        source.images("test")


def test_the_number_of_images_that_a_server_expects_is_known(tmp_path: Path) -> None:
    cityscapes(tmp_path)
    with pytest.warns(UserWarning, match="test: 1 images .* official split has 1525"):
        DATASETS["cityscapes"](tmp_path).images("test")


def test_the_data_are_looked_for_where_they_were(tmp_path: Path) -> None:
    """A record holds no path; with --data-root the data are found elsewhere."""
    root, moved = tmp_path / "mine", tmp_path / "elsewhere"
    folder(root)
    run_folder = trained(tmp_path / "runs", name="folder", root=str(root))
    assert call(run_folder, "--split", "new", "-o", tmp_path / "a")[0] == 0
    root.rename(moved)
    code, output = call(run_folder, "--split", "new", "-o", tmp_path / "b")
    assert code == 2
    assert "mine" in output
    assert call(run_folder, "--split", "new", "--data-root", moved, "-o", tmp_path / "b")[0] == 0


def test_a_record_without_weights_is_the_users_mistake(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "seed-0"
    copy.mkdir()
    (copy / "record.json").write_bytes((run / "record.json").read_bytes())
    image = trees.write_image(tmp_path / "x.png", (64, 64))
    code, output = call(copy, image, "-o", tmp_path / "out")
    assert code == 2
    assert "checkpoint.safetensors" in output
