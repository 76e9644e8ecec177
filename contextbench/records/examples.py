"""Some images of the evaluated split, with what each head makes of them, and their files.

<folder>/examples/index.json     names, heads, attention; the files follow from the positions in it:
    0-image.png                  the first image, RGB
    0-truth.png                  its train ids as an index PNG, 255 where not labelled
    0-head-2.png                 the third head's prediction for it, likewise
    attention.npz                values of the first, second ... attention map as `0`, `1` ...

The files hold images of the dataset: whether they may be passed on is said by its licence.
"""

import io
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from contextbench.records.attention import AttentionMap
from contextbench.records.stored import RecordError, write_model
from contextbench.system.files import ensure_writable, write_atomic
from contextbench.system.npz import read_arrays
from contextbench.system.reading import exists, read_json, why

SCHEMA_VERSION: Literal[1] = 1
FOLDER, INDEX, ATTENTION = "examples", "index.json", "attention.npz"
WRITTEN = re.compile(r"\d+-(image|truth|head-\d+)\.png|attention\.npz")

IGNORE = 255

ByteArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
Colour = tuple[int, int, int]
Place = Annotated[int, Field(ge=0, lt=2**16)]


@dataclass(frozen=True)
class Examples:
    """Some images with what each head predicts for them; all lists have one item an image."""

    names: list[str]
    images: list[ByteArray]  # (H, W, 3)
    truths: list[ByteArray]  # (H, W) train ids, 255 where not labelled
    predictions: Mapping[str, list[ByteArray]]  # head -> (H, W) train ids
    attention: Sequence[AttentionMap] = ()

    def spread(self, count: int) -> "Examples":
        """At most `count` of the images, evenly spread, with all that belongs to them."""
        kept = spread(len(self.names), count)
        names = [self.names[i] for i in kept]
        return Examples(
            names=names,
            images=[self.images[i] for i in kept],
            truths=[self.truths[i] for i in kept],
            predictions={head: [m[i] for i in kept] for head, m in self.predictions.items()},
            attention=[each for each in self.attention if each.image in names],
        )


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _AttentionEntry(_Stored):
    """An `AttentionMap` without its values."""

    head: str
    kind: str
    image: str
    pixel: tuple[Place, Place]
    cell: tuple[Place, Place]
    meaning: str
    labels: tuple[str, ...]


class _Index(_Stored):
    schema_version: Literal[1] = SCHEMA_VERSION
    names: list[str]  # of images
    heads: list[str]
    classes: Annotated[int, Field(ge=1, le=IGNORE)]
    attention: list[_AttentionEntry]

    @model_validator(mode="after")
    def _refers_to_what_is_there(self) -> "_Index":
        if len(set(self.heads)) < len(self.heads):
            raise ValueError(f"a head occurs twice in {self.heads}")
        for each in self.attention:
            if each.image not in self.names or each.head not in self.heads:
                raise ValueError(f"attention of {each.head!r} on {each.image!r}: not an example")
        return self


def spread(total: int, count: int) -> list[int]:
    """At most `count` of `total` positions: the middles of equal parts."""
    count = min(count, total)
    return [(2 * n + 1) * total // (2 * count) for n in range(count)]


def write_examples(examples: Examples, folder: Path, *, palette: Sequence[Colour]) -> list[Path]:
    """Write `folder`/examples in place of those that are there; return the paths, index first.

    `palette` colours the index PNGs for viewers; other ids are black in them. Equal examples give
    equal bytes. An interrupted write leaves no index, so no examples, rather than a mixture.
    Raises `OutputError` when a file cannot be written.
    """
    target = folder / FOLDER
    contents = _encoded(examples, palette)
    index, others = target / INDEX, [target / name for name in contents]
    ensure_writable(target)
    index.unlink(missing_ok=True)
    for path in others:
        _write(path, contents[path.name])
    _remove(target, keep=contents)
    write_model(index, _described(examples, len(palette)))
    return [index, *others]


def remove_examples(folder: Path) -> None:
    """Remove what `write_examples` wrote to `folder`, and nothing else."""
    target = folder / FOLDER
    if target.is_dir():
        (target / INDEX).unlink(missing_ok=True)
        _remove(target, keep=())


def read_examples(folder: Path, classes: int | None = None) -> Examples | None:
    """The examples below `folder`, None where there are none; of `classes` where that is given.

    Raises `RecordError` naming the file and the reason where they cannot be used.
    """
    target = folder / FOLDER
    if not exists(target / INDEX):
        return None
    index = _read_index(target / INDEX)
    if classes not in (None, index.classes):
        raise RecordError(f"{target / INDEX}: is of {index.classes} classes, the runs of {classes}")
    images = [_read_png(target / f"{i}-image.png", "RGB") for i in range(len(index.names))]

    def masks(kind: str) -> list[ByteArray]:
        paths = [target / f"{i}-{kind}.png" for i in range(len(images))]
        return [
            _read_ids(p, x.shape[:2], index.classes) for p, x in zip(paths, images, strict=True)
        ]

    return Examples(
        names=index.names,
        images=images,
        truths=masks("truth"),
        predictions={head: masks(f"head-{h}") for h, head in enumerate(index.heads)},
        attention=_read_attention(target / ATTENTION, index.attention),
    )


def _described(examples: Examples, classes: int) -> _Index:
    entries = [
        _AttentionEntry(
            head=each.head,
            kind=each.kind,
            image=each.image,
            pixel=each.pixel,
            cell=each.cell,
            meaning=each.meaning,
            labels=tuple(each.labels),
        )
        for each in examples.attention
    ]
    return _Index(
        names=examples.names,
        heads=list(examples.predictions),
        classes=classes,
        attention=entries,
    )


def _encoded(examples: Examples, palette: Sequence[Colour]) -> dict[str, bytes]:
    """File name -> content, of all but the index."""
    contents = {}
    for i, (image, truth) in enumerate(zip(examples.images, examples.truths, strict=True)):
        contents[f"{i}-image.png"] = _png(Image.fromarray(image))
        contents[f"{i}-truth.png"] = _png(_indexed(truth, palette))
        for h, maps in enumerate(examples.predictions.values()):
            contents[f"{i}-head-{h}.png"] = _png(_indexed(maps[i], palette))
    if examples.attention:
        contents[ATTENTION] = _npz([each.values for each in examples.attention])
    return contents


def _indexed(ids: ByteArray, palette: Sequence[Colour]) -> Image.Image:
    """Ids as they are, with colours for viewers."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: len(palette)] = palette
    image = Image.fromarray(ids)
    image.putpalette(colours.tobytes())  # 256 entries keep 8 bits a pixel, and 255 in range
    return image


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _npz(arrays: Sequence[FloatArray]) -> bytes:
    """Values without pickle; numpy dates its members 1980, so equal values give equal bytes."""
    buffer = io.BytesIO()
    named = {str(number): array.astype(np.float32) for number, array in enumerate(arrays)}
    np.savez_compressed(buffer, allow_pickle=False, **named)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    write_atomic(path, lambda file: file.write(content))


def _remove(target: Path, *, keep: Collection[str]) -> None:
    for path in target.iterdir():
        if WRITTEN.fullmatch(path.name) and path.name not in keep:
            path.unlink()


def _read_index(path: Path) -> _Index:
    try:
        return _Index.model_validate(read_json(path))
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: not an index of examples: {why(error)}") from error


def _read_png(path: Path, mode: Literal["RGB", "P"]) -> ByteArray:
    try:
        with Image.open(path, formats=["PNG"]) as file:
            if file.mode != mode:
                raise RecordError(f"{path}: has mode {file.mode}, expected {mode}")
            return np.array(file)
    except RecordError:
        raise
    except Exception as error:  # Pillow raises nearly anything on damaged files
        raise RecordError(f"{path}: cannot be read: {why(error)}") from error


def _read_ids(path: Path, size: tuple[int, ...], classes: int) -> ByteArray:
    """Train ids of the image's size, below the number of classes or `IGNORE`."""
    ids = _read_png(path, "P")
    if ids.shape != size:
        raise RecordError(f"{path}: is {ids.shape}, its image {size} (height, width)")
    if ((ids >= classes) & (ids != IGNORE)).any():
        found = np.unique(ids).tolist()
        raise RecordError(f"{path}: has ids {found}, there are {classes} classes")
    return ids


def _read_attention(path: Path, entries: Sequence[_AttentionEntry]) -> list[AttentionMap]:
    if not entries:
        return []
    try:
        values = read_arrays(path, [str(number) for number in range(len(entries))])
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: cannot be read: {why(error)}") from error
    for number, (array, entry) in enumerate(zip(values, entries, strict=True)):
        vector = array.ndim == 1 and len(entry.labels) in (0, len(array))
        if array.dtype != np.float32 or not array.size or not (vector or array.ndim == 2):
            raise RecordError(
                f"{path}: array {number} is {array.dtype} {array.shape}, expected float32 of a "
                f"map or of {len(entry.labels)} parts"
            )
    return [AttentionMap(**dict(entry), values=v) for entry, v in zip(entries, values, strict=True)]
