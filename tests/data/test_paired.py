"""What all datasets of files share: partners, lists, fingerprints."""

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contextbench.config import fingerprints
from contextbench.config.sampling import Sampling
from contextbench.data.base import DataError, Facts, LabelSet
from contextbench.data.folders import read_list
from contextbench.data.labels import LabelTable
from contextbench.data.paired import IncompleteSplit, Matches, PairedSource, by_stem, match
from contextbench.data.pascal_context import PascalContext
from tests.data import trees


class Small(PairedSource):
    """images/ and masks/, and a list where there is one."""

    layout = "images/ and masks/"
    table = LabelTable({0: 0, 1: 1})

    def __init__(self, root: Path, swap: tuple[tuple[int, int], ...] = ()) -> None:
        super().__init__(root)
        labels = LabelSet(("a", "b"), ((0, 0, 0), (1, 1, 1)), swap=swap)
        self.facts = Facts("small", labels, {"train": None})

    def find(self, split: str) -> Matches:
        has_list = (self.root / f"{split}.txt").is_file()
        listed = self.listed(f"{split}.txt") if has_list else None
        images = self.files("images", (".png", ".jpg"))
        return match(images, self.files("masks", (".png",), without="_x.png"), listed)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("b/1", "a/1", "c"):
        trees.write_image(tmp_path / "images" / f"{name}.png")
        trees.write_mask(tmp_path / "masks" / f"{name}.png", trees.filled([0, 1]))
    return tmp_path


def names(root: Path) -> list[str]:
    return [pair.name for pair in Small(root).open("train").pairs]


def test_files_in_folders_are_paired_by_their_paths(root: Path) -> None:
    assert names(root) == ["a/1", "b/1", "c"]
    assert Small(root).open("train")[1].name == "b/1"


def test_pairs_do_not_depend_on_the_order_in_folders(root: Path) -> None:
    """Zipping two sorted folders would pair c with d and b with c."""
    (root / "images/b/1.png").rename(root / "images/d.png")
    with pytest.raises(IncompleteSplit) as caught:
        Small(root).open("train")
    assert [pair.name for pair in caught.value.complete.pairs] == ["a/1", "c"]
    assert caught.value.missing == ["b/1: has no image", "d: has no mask"]


def test_hidden_files_and_left_out_endings_are_no_files(root: Path) -> None:
    (root / "images/._c.png").write_bytes(b"resource fork")
    (root / "masks/c_x.png").write_bytes(b"another kind of mask")
    (root / "images/Thumbs.db").write_bytes(b"")
    assert names(root) == ["a/1", "b/1", "c"]


def test_linked_folders_are_followed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("disk") / "a"
    (root / "images/a").rename(elsewhere)
    (root / "images/a").symlink_to(elsewhere)
    assert names(root) == ["a/1", "b/1", "c"]


def test_two_images_of_one_name_are_an_error(root: Path) -> None:
    trees.write_image(root / "images/c.jpg")
    with pytest.raises(DataError, match=r"c\.png and c\.jpg have the same stem"):
        Small(root).open("train")


def test_files_of_one_stem_in_two_folders_clash_where_only_stems_count(root: Path) -> None:
    files = Small(root).files("images", (".png",))
    with pytest.raises(DataError, match="same stem"):
        by_stem(files)
    del files["a/1"]
    assert sorted(by_stem(files)) == ["1", "c"]


def test_lists_count_by_the_name_of_the_first_file_in_a_line(root: Path) -> None:
    trees.write_image(root / "images/v1.5.png")
    trees.write_mask(root / "masks/v1.5.png", trees.filled([0]))
    (root / "train.txt").write_text("/home/author/images/c.jpg /home/author/masks/c.png\n\nv1.5\n")
    assert names(root) == ["c", "v1.5"]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("im 1", "im 1"),
        ("im 1 train", "im 1 train"),
        ("/my data b/im 1.png", "im 1"),
        ("/my data b/im 1.jpg /my data b annot/im 1.png", "im 1"),
        ("a.JPG\tb.png", "a"),
        ("v1.5", "v1.5"),
        ("  2007_000032  ", "2007_000032"),
    ],
)
def test_blanks_belong_to_a_name_unless_a_second_path_follows(
    tmp_path: Path, line: str, name: str
) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"{line}\r\n\n", encoding="utf-8-sig")  # with a byte-order mark
    assert read_list(path) == {name}


def test_names_with_blanks_are_two_images_and_not_one(root: Path) -> None:
    for name in ("im", "im 1", "im 2"):
        trees.write_image(root / f"images/{name}.png")
        trees.write_mask(root / f"masks/{name}.png", trees.filled([0]))
    trees.write_list(root / "train.txt", ["im 1", "im 2"])
    assert names(root) == ["im 1", "im 2"]


def test_images_that_the_declared_pattern_misses_are_named_when_a_split_is_opened(
    root: Path,
) -> None:
    source = Small(root)
    declared = dataclasses.replace(source.facts.labels, sampling=Sampling(cluster="^(.)/"))
    source.facts = dataclasses.replace(source.facts, labels=declared)
    with pytest.raises(DataError, match=r"small train in .*'\^\(\.\)/' does not match c"):
        source.open("train")


def test_a_list_that_is_no_text_is_an_error(root: Path) -> None:
    (root / "train.txt").write_bytes(b"\xff\xfe\x00c")
    with pytest.raises(DataError, match=r"train\.txt: cannot be read as a list"):
        names(root)


def test_a_dataset_goes_to_loader_workers(root: Path) -> None:
    dataset = Small(root).open("train")
    again = pickle.loads(pickle.dumps(dataset))
    assert again[0].labels.equal(dataset[0].labels)
    assert again.fingerprint() == dataset.fingerprint()


def differing(one: str, other: str) -> list[str]:
    """What differs between fingerprints of a split."""
    parts = fingerprints.differing(f"{one}/same", f"{other}/same")
    assert bool(parts) == (one != other)
    return [part.removesuffix(" of train") for part in parts]


def test_the_fingerprint_says_what_differs_and_does_not_hold_the_place(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    original = Small(root).open("train").fingerprint()
    moved = tmp_path_factory.mktemp("moved") / "copy"
    root.rename(moved)
    assert Small(moved).open("train").fingerprint() == original
    swapped = Small(moved, swap=((0, 1),)).open("train").fingerprint()
    assert differing(original, swapped) == ["labels"]
    noise = np.random.default_rng(0).integers(0, 2, trees.SIZE, dtype=np.uint8)
    trees.write_mask(moved / "masks/c.png", noise)
    changed = Small(moved).open("train").fingerprint()
    assert differing(original, changed) == ["masks"]
    for kind in ("images", "masks"):
        (moved / kind / "c.png").rename(moved / kind / "d.png")
    assert differing(changed, Small(moved).open("train").fingerprint()) == ["names"]
    clustered = Small(moved)
    labels = clustered.facts.labels
    declared = dataclasses.replace(labels, sampling=Sampling(cluster="^."))
    clustered.facts = dataclasses.replace(clustered.facts, labels=declared)
    last = Small(moved).open("train").fingerprint()
    assert differing(last, clustered.open("train").fingerprint()) == ["sampling"]


def test_black_images_with_the_same_masks_are_other_data(root: Path) -> None:
    before = Small(root).open("train").fingerprint()
    for path in (root / "images").rglob("*.png"):
        Image.new("RGB", (trees.SIZE[1], trees.SIZE[0])).save(path)
    assert differing(before, Small(root).open("train").fingerprint()) == ["images"]


def test_masks_of_one_file_are_hashed_as_that_file(tmp_path: Path) -> None:
    root = trees.pascal_context(tmp_path, "pth")
    with pytest.warns(UserWarning, match="official"):
        dataset = PascalContext(root, classes=59).open("train")
    assert {pair.mask_file for pair in dataset.pairs} == {root / "VOC2010/train.pth"}
    before = dataset.fingerprint()
    with (root / "VOC2010/train.pth").open("ab") as file:
        file.write(b"x")
    assert dataset.fingerprint() != before


def test_sizes_of_images_come_from_headers_alone(root: Path) -> None:
    """Height first; the pixels may be missing from the file."""
    path = trees.write_image(root / "images/c.png", (30, 50))
    trees.write_mask(root / "masks/c.png", trees.filled([0], (30, 50)))
    dataset = Small(root).open("train")
    assert dataset.image_size(2) == tuple(dataset[2].image.shape[1:]) == (30, 50)
    path.write_bytes(path.read_bytes()[:60])
    assert dataset.image_size(2) == (30, 50)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"c\.png"):
        dataset.image_size(2)
