"""Stored examples come back as they were, open nothing but their own files, and fail by name."""

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contextbench.records.attention import AttentionMap
from contextbench.records.examples import (
    Examples,
    read_examples,
    remove_examples,
    spread,
    write_examples,
)
from contextbench.records.stored import RecordError
from contextbench.system.errors import UserError
from contextbench.system.files import write_atomic
from tests.report import records

ODD_HEADS = ("../../up", "<b>", "a/b", "")


def attention(**changes) -> AttentionMap:
    """A map with values that PNGs could not hold."""
    values = np.array([[1e-30, -2.5, np.inf], [0.1, np.float32(1 / 3), 7]], dtype=np.float32)
    content = {
        "head": "fcn", "kind": "influence", "image": "0000", "pixel": (3, 5), "cell": (0, 1),
        "values": values, "meaning": "what <it> means", "labels": ("scene_a",),
    }  # fmt: skip
    return AttentionMap(**{**content, **changes})


def examples(count: int = 2) -> Examples:
    vector = attention(kind="codewords", values=np.arange(2, dtype=np.float32), labels=("a", "b"))
    return replace(records.examples(count), attention=[attention(), vector])


def stored(folder, given: Examples | None = None) -> Examples:
    write_examples(given or examples(), folder, palette=records.PALETTE)
    found = read_examples(folder)
    assert found is not None
    return found


def assert_same(one: Examples, two: Examples) -> None:
    assert one.names == two.names
    assert list(one.predictions) == list(two.predictions)
    pairs = [(one.images, two.images), (one.truths, two.truths)]
    pairs += [(one.predictions[head], two.predictions[head]) for head in one.predictions]
    for left, right in pairs:
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            assert a.dtype == b.dtype == np.uint8
            np.testing.assert_array_equal(a, b)
    assert len(one.attention) == len(two.attention)
    for first, second in zip(one.attention, two.attention, strict=True):
        assert first.values.dtype == second.values.dtype == np.float32
        np.testing.assert_array_equal(first.values, second.values)
        assert replace(first, values=None) == replace(second, values=None)


def test_everything_comes_back(tmp_path):
    assert_same(stored(tmp_path), examples())


def test_no_folder_or_no_index_means_no_examples(tmp_path):
    assert read_examples(tmp_path) is None
    stored(tmp_path)
    (tmp_path / "examples" / "index.json").unlink()
    assert read_examples(tmp_path) is None


def test_examples_without_heads_or_attention_come_back(tmp_path):
    bare = replace(examples(), predictions={}, attention=())
    found = stored(tmp_path, bare)
    assert (found.predictions, list(found.attention)) == ({}, [])
    assert not (tmp_path / "examples" / "attention.npz").exists()


def test_returned_paths_are_the_files_that_lie_there(tmp_path):
    paths = write_examples(examples(), tmp_path, palette=records.PALETTE)
    assert paths[0].name == "index.json"
    assert sorted(paths) == sorted(p for p in tmp_path.rglob("*") if p.is_file())
    assert len(paths) == 1 + 2 * (2 + len(records.HEADS)) + 1


def test_writing_replaces_more_examples_and_leaves_foreign_files(tmp_path):
    stored(tmp_path)
    foreign = tmp_path / "examples" / "seed-0" / "record.json"
    foreign.parent.mkdir()
    foreign.write_text("{}")
    (tmp_path / "examples" / "notes.txt").write_text("mine")
    fewer = replace(records.examples(1), predictions={"fcn": records.examples(1).truths})
    assert_same(stored(tmp_path, fewer), fewer)
    left = {p.name for p in (tmp_path / "examples").iterdir()}
    assert left == {
        "index.json", "0-image.png", "0-truth.png", "0-head-0.png", "notes.txt", "seed-0",
    }  # fmt: skip


def test_removal_takes_only_what_was_written(tmp_path):
    remove_examples(tmp_path)  # nothing there: nothing to do
    stored(tmp_path)
    (tmp_path / "examples" / "notes.txt").write_text("mine")
    remove_examples(tmp_path)
    assert [p.name for p in (tmp_path / "examples").iterdir()] == ["notes.txt"]
    assert read_examples(tmp_path) is None


def test_equal_examples_give_equal_bytes_whatever_the_time(tmp_path):
    one = write_examples(examples(), tmp_path / "one", palette=records.PALETTE)
    two = write_examples(examples(), tmp_path / "two", palette=records.PALETTE)
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]
    with zipfile.ZipFile(tmp_path / "one" / "examples" / "attention.npz") as file:
        assert {member.date_time[0] for member in file.infolist()} == {1980}


def test_masks_are_index_pngs_in_the_colours_of_the_classes(tmp_path):
    given = examples(1)
    stored(tmp_path, given)
    with Image.open(tmp_path / "examples" / "0-truth.png") as file:
        assert file.mode == "P"
        colours = np.array(file.convert("RGB"))
    truth = given.truths[0]
    labelled = truth != 255
    expected = np.array(records.PALETTE, dtype=np.uint8)[truth[labelled]]
    np.testing.assert_array_equal(colours[labelled], expected)
    assert (colours[~labelled] == 0).all()


def test_small_masks_stay_small(tmp_path):
    """Blocks of one class compress: far below a byte a pixel, palette included."""
    write_examples(examples(1), tmp_path, palette=records.PALETTE)
    assert (tmp_path / "examples" / "0-head-0.png").stat().st_size < 48 * 64 / 2


@pytest.mark.parametrize("name", ODD_HEADS)
def test_names_are_data_and_never_paths(tmp_path, name):
    masks = examples().predictions["fcn"]
    given = replace(
        examples(),
        names=[name, "two"],
        predictions={name: masks},
        attention=[attention(head=name, image=name)],
    )
    folder = tmp_path / "results"
    assert_same(stored(folder, given), given)
    assert [p.name for p in tmp_path.iterdir()] == ["results"]
    assert [p.name for p in folder.iterdir()] == ["examples"]


def edit_index(folder, **changes) -> None:
    path = folder / "examples" / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"heads": ["fcn", "fcn"]}, "a head occurs twice"),
        ({"heads": ["fcn"], "attention": [{}]}, "Field required"),
        ({"images": ["/etc/passwd"]}, "Extra inputs"),
        ({"names": ["x", "y"]}, "'0000': not an example"),
    ],
)
def test_an_index_that_is_wrong_is_refused_by_name(tmp_path, changes, reason):
    stored(tmp_path)
    edit_index(tmp_path, **changes)
    with pytest.raises(RecordError, match=reason) as refusal:
        read_examples(tmp_path)
    assert str(refusal.value).startswith(str(tmp_path / "examples" / "index.json"))


def as_png(array: np.ndarray, mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def as_npz(*arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{str(i): array for i, array in enumerate(arrays)})
    return buffer.getvalue()


TINY, MAP = np.zeros((2, 2), dtype=np.uint8), np.zeros((2, 3), dtype=np.float32)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("index.json", b"\xff{", "not an index"),
        ("0-image.png", b"", "cannot be read"),
        ("0-image.png", as_png(TINY, "L"), "has mode L, expected RGB"),
        ("1-truth.png", b"GIF89a", "cannot be read"),
        ("1-truth.png", as_png(TINY, "RGB"), "has mode RGB, expected P"),
        ("0-head-1.png", as_png(TINY, "P"), r"is \(2, 2\), its image \(48, 64\)"),
        ("0-head-1.png", None, "cannot be read"),
        ("attention.npz", b"PK\x03\x04", "cannot be read"),
        ("attention.npz", as_npz(MAP), "cannot be read"),
        ("attention.npz", as_npz(MAP, MAP[0]), r"array 1 is float32 \(3,\)"),
        ("attention.npz", as_npz(MAP.astype(np.float64), MAP), "array 0 is float64"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, name, content, reason):
    stored(tmp_path)
    path = tmp_path / "examples" / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(RecordError, match=reason) as refusal:
        read_examples(tmp_path)
    assert str(path) in str(refusal.value)


def test_a_cut_off_image_is_refused(tmp_path):
    stored(tmp_path)
    path = tmp_path / "examples" / "0-image.png"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(RecordError, match=r"0-image\.png: cannot be read"):
        read_examples(tmp_path)


def test_an_id_beyond_the_classes_is_refused(tmp_path):
    stored(tmp_path)
    edit_index(tmp_path, classes=3)
    with pytest.raises(RecordError, match="there are 3 classes"):
        read_examples(tmp_path)


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_loading_executes_nothing(tmp_path):
    stored(tmp_path)
    target = tmp_path / "touched"
    evil = np.array([Touch(target)], dtype=object)
    path = tmp_path / "examples" / "attention.npz"
    np.savez(path, **{"0": evil, "1": evil})
    with np.load(path, allow_pickle=True) as file:
        _ = file["0"]
    assert target.exists()  # so the payload works where pickle is allowed
    target.unlink()
    with pytest.raises(RecordError, match="Object arrays are not read"):
        read_examples(tmp_path)
    assert not target.exists()


def test_an_interrupted_write_leaves_none_rather_than_a_mixture(tmp_path, monkeypatch):
    stored(tmp_path)
    written = []

    def stop_at_the_third(path, write) -> None:
        written.append(path)
        if len(written) == 3:
            raise KeyboardInterrupt
        write_atomic(path, write)

    monkeypatch.setattr("contextbench.records.examples.write_atomic", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        write_examples(examples(), tmp_path, palette=records.PALETTE)
    assert read_examples(tmp_path) is None


def test_a_file_in_the_way_is_a_users_error(tmp_path):
    (tmp_path / "examples").write_text("")
    with pytest.raises(UserError, match="examples"):
        write_examples(examples(), tmp_path, palette=records.PALETTE)


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [(8, 4, [1, 3, 5, 7]), (3, 9, [0, 1, 2]), (5, 1, [2]), (0, 4, []), (4, 0, [])],
)
def test_positions_are_spread_evenly(total, count, expected):
    assert spread(total, count) == expected


def test_a_selection_keeps_what_belongs_to_its_images():
    few = examples(3).spread(1)
    whole = examples(3)
    assert few.names == ["0001"]
    assert few.images[0] is not whole.images[1]
    np.testing.assert_array_equal(few.images[0], whole.images[1])
    np.testing.assert_array_equal(few.predictions["ocr"][0], whole.predictions["ocr"][1])
    assert few.attention == []  # that of image 0000
    assert len(whole.spread(9).attention) == 2
