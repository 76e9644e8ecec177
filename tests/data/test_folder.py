"""The generic dataset: what a description file means, and what is said about mistakes in it."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from contextbench.config.sampling import Sampling
from contextbench.data.base import IGNORE, DataError
from contextbench.data.folder import FolderDataset, read_description
from contextbench.data.labels import ColourTable, ignored_colour
from contextbench.data.paired import MissingFiles
from contextbench.system.errors import UserError
from tests.data import trees

COLOURS = {
    "classes": ["road", "car"],
    "colours": [[128, 64, 128], [0, 0, 142]],
    "ignored": [[0, 0, 0]],
    "splits": ["train"],
}


def written(root: Path, **changes: Any) -> Path:
    """A description of two classes with values 0 and 1; None removes a key."""
    content = {"classes": ["a", "b"], "values": [0, 1], "splits": ["train"], **changes}
    kept = {key: value for key, value in content.items() if value is not None}
    root.mkdir(exist_ok=True)
    (root / "dataset.yaml").write_text(yaml.safe_dump(kept))
    return root


def test_values_merge_suffixes_subfolders_and_swap(tmp_path: Path) -> None:
    source = FolderDataset(trees.folder(tmp_path))
    dataset = source.open("train")
    assert [s.name for s in dataset] == ["0002", "monday/0001", "tuesday/0001"]
    raw = trees.filled([0, 1, 2, 3, 7])
    meaning = np.array([IGNORE, 0, 1, 1, 0, 0, 0, 2], dtype=np.uint8)
    np.testing.assert_array_equal(dataset[0].labels.numpy(), meaning[raw])
    assert source.facts.labels.swap == ((1, 2),)
    assert source.facts.splits == {"train": None, "val": None}


def test_the_description_may_have_another_name(tmp_path: Path) -> None:
    trees.folder(tmp_path)
    (tmp_path / "dataset.yaml").rename(tmp_path / "mine.yaml")
    with pytest.raises(UserError, match=r"dataset\.yaml"):
        FolderDataset(tmp_path)
    assert len(FolderDataset(tmp_path, description="mine.yaml").open("val")) == 3


def test_colour_masks_are_read_by_their_colours(tmp_path: Path) -> None:
    written(tmp_path, **COLOURS, values=None)
    trees.write_image(tmp_path / "images/train/x.jpg", (2, 2))
    path = tmp_path / "masks/train/x.png"
    pixels = np.array([[[128, 64, 128], [0, 0, 142]], [[0, 0, 0], [0, 0, 142]]], dtype=np.uint8)
    trees.write_mask(path, pixels)
    source = FolderDataset(tmp_path)
    assert source.open("train")[0].labels.tolist() == [[0, 1], [IGNORE, 1]]
    assert source.facts.labels.palette == ((128, 64, 128), (0, 0, 142))
    assert source.facts.submission is not None
    assert source.facts.submission.encode(np.array([[1, 0]], dtype=np.uint8)).tolist() == [
        [[0, 0, 142], [128, 64, 128]]
    ]
    pixels[0, 0] = (128, 64, 127)
    trees.write_mask(path, pixels)
    with pytest.raises(DataError, match=r"x\.png: undeclared colour.* #80407f; .*, #804080"):
        source.open("train")[0]
    trees.write_mask(path, trees.filled([0], (2, 2)))  # grey: black is declared as ignored
    assert source.open("train")[0].labels.tolist() == [[IGNORE] * 2] * 2


def test_colours_are_told_apart_as_by_a_dictionary() -> None:
    """Also below the first, beyond the last and between two declared colours."""
    declared = {(0, 0, 9): 0, (0, 9, 0): 1, (9, 0, 0): 2}
    table = ColourTable(declared, ignored=[(1, 2, 3)])
    shown = [*declared, (1, 2, 3)] * 2
    pixels = np.array(shown, dtype=np.uint8).reshape(2, 4, 3)
    expected = [{**declared, (1, 2, 3): IGNORE}[colour] for colour in shown]
    assert table.apply(pixels, Path("m.png")).flatten().tolist() == expected
    for colour in ((0, 0, 0), (0, 0, 10), (255, 255, 255)):
        pixels[1, 1] = colour
        with pytest.raises(DataError, match=f"#{bytes(colour).hex()};"):
            table.apply(pixels, Path("m.png"))
    assert table.histogram(pixels)[0x090000] == 2


def test_two_class_masks_need_255_declared_as_foreground(tmp_path: Path) -> None:
    values = trees.filled([0, 255])
    for root, declared in ((tmp_path / "right", [0, 255]), (tmp_path / "wrong", [0, 1])):
        written(root, values=declared)
        trees.write_image(root / "images/train/x.jpg")
        trees.write_mask(root / "masks/train/x.png", values)
    right = FolderDataset(tmp_path / "right").open("train")[0].labels
    assert set(right.unique().tolist()) == {0, 1}
    wrong = FolderDataset(tmp_path / "wrong").open("train")[0].labels
    assert set(wrong.unique().tolist()) == {0, IGNORE}  # check-data tells of this, see there


def test_nothing_is_ignored_where_the_description_says_so(tmp_path: Path) -> None:
    source = FolderDataset(written(tmp_path, ignored=[]))
    assert source.table.train_id(255) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clases": ["a"]}, r"unknown key 'clases'; did you mean 'classes'"),
        ({"splits": None}, "key 'splits' is missing"),
        ({"splits": []}, "key 'splits' is"),
        ({"splits": ["a/b"]}, "key 'splits' .*folder names"),
        ({"splits": [".."]}, "key 'splits' .*folder names"),
        ({"unlabelled": ["../a"]}, "key 'unlabelled' .*folder names"),
        ({"unlabelled": ["train"]}, r"key 'unlabelled' has \['train'\], which 'splits' has"),
        ({"classes": ["a", "a"]}, "key 'classes' has a name twice"),
        ({"classes": ["crack"], "values": [1]}, "key 'classes' has 1 names: from 2 to 255"),
        ({"classes": [], "values": []}, "key 'classes' has 0 names"),
        ({"classes": [str(k) for k in range(256)]}, r"key 'classes' has 256 names: [^\n]{,150}$"),
        ({"frames": "sorted"}, "key 'frames'"),
        ({"cluster": "("}, "key 'cluster'.*no regular expression"),
        ({"cluster": "a" * 201}, "key 'cluster'"),
        ({"frames": "ordered", "cluster": "a"}, "keys 'frames' and 'cluster' exclude"),
        ({"orientation": "left"}, "key 'orientation'"),
        ({"values": None}, "either 'values' or 'colours'"),
        ({"colours": [[0, 0, 0], [1, 1, 1]]}, "either 'values' or 'colours'"),
        ({"values": [0]}, "key 'values' has 1 entries for 2 classes"),
        ({"values": [0, 256]}, r"key 'values\.1"),
        ({"values": [0, []]}, r"key 'values\.1"),
        ({"values": [0, True]}, r"key 'values\.1"),
        ({"values": [3, 3]}, r"key 'values' has \[3\] more than once"),
        ({"values": [0, [1, 0]]}, r"key 'values' has \[0\] more than once"),
        ({"ignored": [1, 7]}, r"key 'ignored' has \[1\], which a class has"),
        ({"ignored": [[0, 0, 0]]}, "key 'ignored' must hold values"),
        ({**COLOURS, "values": None, "ignored": [0]}, "key 'ignored' must hold colours"),
        ({**COLOURS, "values": None, "ignored": [[0, 0, 142]]}, "which a class has"),
        ({"palette": [[0, 0, 0]]}, "key 'palette' has 1 entries"),
        ({"palette": [[0, 0], [1, 1, 1]]}, r"key 'palette\.0"),
        ({"swap": [["a", "c"]]}, r"key 'swap' names \['c'\]; classes are a, b"),
        ({"swap": [["a", "a"]]}, "key 'swap': .*none of them twice"),
        ({"swap": [["a", "b"], ["b", "a"]]}, "key 'swap': .*none of them twice"),
    ],
)
def test_mistakes_name_the_file_and_the_key(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    written(tmp_path, **changes)
    with pytest.raises(UserError, match=rf"dataset\.yaml: .*{message}"):
        FolderDataset(tmp_path)


def test_no_class_of_a_default_palette_is_black_or_the_colour_of_ignored(tmp_path: Path) -> None:
    palette = FolderDataset(written(tmp_path)).facts.labels.palette
    assert len(set(palette)) == 2
    assert not {(0, 0, 0), ignored_colour(palette)} & set(palette)


def test_a_missing_description_is_missing_files_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingFiles, match=r"dataset\.yaml does not exist; expected .* hold this"):
        FolderDataset(tmp_path)


def test_what_belongs_together_is_declared(tmp_path: Path) -> None:
    def declared(name: str, **keys: str) -> Sampling:
        return FolderDataset(written(tmp_path / name, **keys)).facts.labels.sampling

    assert declared("plain") == Sampling()
    assert declared("video", frames="ordered") == Sampling(frames="ordered")
    assert declared("patients", cluster="^(p[0-9]+)/") == Sampling(cluster="^(p[0-9]+)/")


@pytest.mark.parametrize(("orientation", "labels"), [("applied", 1), ("stored", 0)])
def test_photographs_are_turned_as_their_masks_show(
    tmp_path: Path, orientation: str, labels: int
) -> None:
    """A camera's picture on its side, with a mask drawn in a viewer, which shows it upright."""
    written(tmp_path, orientation=orientation, image_suffix=".png")
    stored = np.zeros((6, 8, 3), dtype=np.uint8)
    stored[:, :4] = 200  # left half; shown turned clockwise, it is the upper one
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "images/train/x.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(stored).save(path, exif=exif)
    upright = (np.rot90(stored, -1)[..., 0] > 0).astype(np.uint8)
    trees.write_mask(tmp_path / "masks/train/x.png", upright)
    dataset = FolderDataset(tmp_path).open("train")
    if labels:
        sample = dataset[0]
        assert ((sample.image[0] > 0) == (sample.labels == 1)).all()
        assert dataset.image_size(0) == tuple(sample.labels.shape) == (8, 6)
        return
    assert dataset.image_size(0) == (6, 8)
    with pytest.raises(DataError, match=r"8x6 but its image .* 6x8 .*`orientation` in"):
        dataset[0]


def test_how_orientations_are_read_is_part_of_the_identity(tmp_path: Path) -> None:
    prints = set()
    for orientation in ("applied", "stored"):
        written(tmp_path, orientation=orientation)
        trees.write_image(tmp_path / "images/train/x.jpg")
        trees.write_mask(tmp_path / "masks/train/x.png", trees.filled([0, 1]))
        prints.add(FolderDataset(tmp_path).open("train").fingerprint())
    assert len(prints) == 2


def test_the_example_of_the_documentation_is_read(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/datasets.md").read_text(encoding="utf-8")
    (block,) = [b for b in text.split("```yaml\n")[1:] if b.startswith("# dataset.yaml")]
    (tmp_path / "dataset.yaml").write_text(block.partition("```")[0])
    about = read_description(tmp_path / "dataset.yaml")
    assert len(about.classes) == len(about.values or ())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert FolderDataset(tmp_path).facts.labels.swap
