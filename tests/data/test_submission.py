"""Predictions go back to each benchmark in its own numbers: labels read from the file are equal."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from contextbench.data import DATASETS, DataError, dataset_source
from contextbench.data.pictures import read_colours, read_indices
from contextbench.data.submission import Submission
from tests.data import trees

OPTIONS = {"coco_stuff": {"release": "164k"}, "pascal_context": {"classes": 59}}
SENT = {"cityscapes", "ade20k", "voc", "coco_stuff", "lip"}


def source(name: str, **options: object):
    given = options or OPTIONS.get(name, {})
    return dataset_source(SimpleNamespace(name=name, root="nowhere", options=given))


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"folder"}))
def test_datasets_with_a_server_say_how(name: str) -> None:
    assert (source(name).facts.submission is not None) == (name in SENT)


@pytest.mark.parametrize("name", sorted(SENT))
def test_written_predictions_are_read_back_as_the_same_labels(name: str, tmp_path: Path) -> None:
    dataset = source(name)
    submission = dataset.facts.submission
    labels = np.arange(len(dataset.facts.labels.classes), dtype=np.uint8)[None]
    path = tmp_path / submission.file_name("city/one.two")
    submission.picture(labels).save(path)
    assert path.name == "one.two.png"
    read = dataset.table.apply(read_indices(path), path)
    np.testing.assert_array_equal(read, labels)


@pytest.mark.parametrize(
    ("name", "options", "train_ids", "raw"),
    [
        ("cityscapes", {}, [0, 1, 18], [7, 8, 33]),
        ("cityscapes", {"masks": "labelTrainIds"}, [0, 1, 18], [7, 8, 33]),
        ("ade20k", {}, [0, 149], [1, 150]),
        ("voc", {}, [0, 20], [0, 20]),
        ("lip", {}, [0, 19], [0, 19]),
        ("coco_stuff", {"release": "10k"}, [0, 11, 170], [1, 13, 182]),
        ("coco_stuff", {"release": "164k"}, [0, 11, 170], [0, 12, 181]),
    ],
)
def test_raw_values_are_those_of_the_benchmark(
    name: str, options: dict[str, str], train_ids: list[int], raw: list[int]
) -> None:
    submission = dataset_source(
        SimpleNamespace(name=name, root=None, options=options)
    ).facts.submission
    encoded = submission.encode(np.array([train_ids], dtype=np.uint8))
    assert encoded.dtype == np.uint8
    assert encoded.tolist() == [raw]


def test_voc_predictions_are_palette_pictures_in_the_colours_of_voc(tmp_path: Path) -> None:
    picture = source("voc").facts.submission.picture(np.array([[0, 15]], dtype=np.uint8))
    picture.save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as file:
        assert file.mode == "P"
        colours = np.asarray(file.convert("RGB"))
    assert colours.tolist() == [[[0, 0, 0], [192, 128, 128]]]


def test_what_is_no_train_id_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="255 is no train id: there are 2 classes"):
        Submission((3, 4)).encode(np.array([[0, 255]], dtype=np.uint8))


def test_files_may_keep_folders_and_have_a_suffix_of_their_own() -> None:
    assert Submission((0,)).file_name("monday/1.a") == "1.a.png"
    own = Submission((0,), folders=True, suffix="_labels.png")
    assert own.file_name("monday/1.a") == "monday/1.a_labels.png"


def test_colours_are_written_as_they_are(tmp_path: Path) -> None:
    submission = Submission(((1, 2, 3), (4, 5, 6)))
    submission.picture(np.array([[1, 0]], dtype=np.uint8)).save(tmp_path / "x.png")
    assert read_colours(tmp_path / "x.png").tolist() == [[[4, 5, 6], [1, 2, 3]]]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("cityscapes", "leftImg8bit/test/berlin/berlin_0_1_leftImg8bit.png"),
        ("ade20k", "release_test/testing/ADE_test_00000001.jpg"),
        ("ade20k", "images/testing/ADE_test_00000001.jpg"),
        ("ade20k", "ADEChallengeData2016/images/testing/ADE_test_00000001.jpg"),
        ("lip", "testing_images/1_2.jpg"),
        ("lip", "Testing_images/testing_images/1_2.jpg"),
        ("lip", "Testing_images/Testing_images/testing_images/1_2.jpg"),
    ],
)
def test_images_to_be_predicted_need_no_masks(name: str, place: str, tmp_path: Path) -> None:
    trees.write_image(tmp_path / place, (6, 8))
    with pytest.warns(UserWarning, match=f"{name} test: 1 images"):
        [picture] = DATASETS[name](tmp_path).images("test")
    assert picture.name.rpartition("/")[2] == Path(place).stem.removesuffix("_leftImg8bit")
    assert picture.read().shape == (3, 6, 8)


@pytest.mark.parametrize("name", ["cityscapes", "ade20k", "voc", "lip"])
def test_missing_images_to_be_predicted_are_the_users_mistake(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist; expected .*--data-root"):
        DATASETS[name](tmp_path).images("test")


def test_images_of_a_split_with_labels_are_those_that_are_scored() -> None:
    probe = source("probe", size=64, eval_images=2)
    assert [each.name for each in probe.images("val")] == ["val-000000", "val-000001"]
    sample = probe.open("val")[1]
    assert torch.equal(probe.images("val")[1].read(), sample.image)
